"""Is the forecast power the power? Pilots of known populations, and verdicts over repeated draws of the size asked for.

A pilot of 1,000 samples says how many samples tell the true difference apart 4 times in 5; then as many are drawn over
and over, compared as a run compares, and counted; and all that with 20 pilots, whose own error is a part of it.
`python tests/helpers/power_simulation.py [--draws 2000]` prints the table of docs/power.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from coverage_simulation import FRECHET, Population, batch, scored, synthetic

from evalkit.metric import standard_error
from evalkit.results.power import Spread, forecast_power, paired_spread, prompts_needed, spread
from evalkit.results.stats import Estimate, align, difference

HEADING = (
    f"{'metric':22s} {'k':>3s} {'compared':>9s} {'N':>6s} {'prompts':>7s} {'forecast %':>10s} {'simulated %':>11s}"
)
PILOT = 1000
PILOTS = 20
Drawn = tuple[Estimate, Estimate]
Draw = Callable[[np.random.Generator, int], Drawn]  # (random numbers, prompts) -> both cells' scores


@dataclass(frozen=True)
class Case:
    """Two cells of known truth.

    Attributes:
        name, k: for the table; samples per prompt.
        delta: the true difference.
        moves: whether it moves with N: what counts is then the mean over the draws.
        draw: one set of samples of both.
    """

    name: str
    k: int
    delta: float
    draw: Draw
    moves: bool = False


@dataclass(frozen=True)
class Found:
    name: str
    k: int
    paired: bool
    prompts: int
    forecast: float
    simulated: float

    def line(self) -> str:
        kind = "paired" if self.paired else "unpaired"
        return (
            f"{self.name:22s} {self.k:3d} {kind:>9s} {self.k * self.prompts:6d} {self.prompts:7d}"
            f" {100 * self.forecast:10.1f} {100 * self.simulated:11.1f}"
        )


def mean_case(k: int, delta: float = 0.35, *, skewed: bool = False) -> Case:
    """A metric of single samples: prompts differ, alike in both cells but for a part; so do seeds."""

    def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
        return rng.exponential(size=shape) - 1 if skewed else rng.standard_normal(shape)

    def draw(rng: np.random.Generator, prompts: int) -> Drawn:
        of_prompt, of_seed = noise(rng, prompts, 1), 0.8 * noise(rng, prompts, k)
        ids = np.repeat(np.arange(prompts), k).tolist() if k > 1 else None
        cells = []
        for moved in (delta, 0.0):
            own = 0.5 * noise(rng, prompts, 1) + 0.7 * noise(rng, prompts, k)
            each = (moved + of_prompt + of_seed + own).ravel().tolist()
            cells.append(Estimate(float(np.mean(each)), standard_error(each, ids), len(each), each, ids))
        return cells[0], cells[1]

    return Case("mean, exponential" if skewed else "mean", k, delta, draw)


def frechet_case(d: int = 8, share: float = 0.15) -> Case:
    """FID of features of two models on common latents, the second a little off the first."""
    whole = synthetic(d)
    second = (1 - share) * whole.first["x/y"] + share * whole.second["x/y"]
    population = Population("", whole.first, {"x/y": second}, whole.reference)
    reference = FRECHET.observe(batch(population.reference))

    def draw(rng: np.random.Generator, prompts: int) -> Drawn:
        rows = torch.from_numpy(rng.integers(len(second), size=prompts))
        cells = []
        for side in (population.first, population.second):
            value, stderr, each = scored(FRECHET, batch(side, rows), reference)
            cells.append(Estimate(value, stderr, prompts, each.tolist()))
        return cells[0], cells[1]

    at_infinity = [scored(FRECHET, batch(side), reference)[0] for side in (population.first, population.second)]
    return Case(f"FID, d = {d}", 1, at_infinity[0] - at_infinity[1], draw, moves=True)


def _spread(pilot: Drawn, *, paired: bool) -> Spread:
    a, b = pilot
    assert a.influence is not None
    assert b.influence is not None
    if paired:
        found = paired_spread(a.influence, b.influence, (a.clusters, b.clusters), same=True)
        assert found is not None
        return found
    one, two = spread(a.influence, a.clusters), spread(b.influence, b.clusters)
    assert one is not None
    assert two is not None
    return one + two


def simulate(case: Case, *, paired: bool, draws: int, seed: int = 0) -> Found:
    """What pilots forecast at the numbers of prompts that they ask for, and how often a difference is called one there.

    The number of prompts is the pilots' mean.
    """
    rng = np.random.default_rng(seed)
    asked, forecasts, verdicts = [], [], []
    for _ in range(PILOTS):
        of = _spread(case.draw(rng, PILOT // case.k), paired=paired)
        prompts = prompts_needed(case.delta, of, case.k)
        assert prompts is not None
        found = [_compare(case, rng, prompts, paired=paired) for _ in range(draws // PILOTS)]
        truth = float(np.mean([value for value, _ in found])) if case.moves else case.delta
        asked.append(prompts)
        forecasts.append(forecast_power(truth, of, prompts, case.k))
        verdicts += [p < 0.05 for _, p in found]
    count = round(float(np.mean(asked)))
    return Found(case.name, case.k, paired, count, float(np.mean(forecasts)), float(np.mean(verdicts)))


def _compare(case: Case, rng: np.random.Generator, prompts: int, *, paired: bool) -> tuple[float, float]:
    """A difference and its p, of one draw."""
    a, b = case.draw(rng, prompts)
    pairs = align(a, b, same=True) if paired else None
    if not paired:  # the other cell's samples are others
        b = case.draw(rng, prompts)[1]
    found = difference((a.value, a.stderr), (b.value, b.stderr), pairs, (a.groups, b.groups))
    return found.value, 1.0 if found.p is None else found.p


def cases() -> Iterator[tuple[Case, bool]]:
    """Each with whether its cells are compared sample by sample."""
    for k in (1, 4):
        for skewed in (False, True):
            yield from ((mean_case(k, skewed=skewed), paired) for paired in (True, False))
    yield frechet_case(), True
    yield frechet_case(share=0.9), False  # unpaired, so small a difference as the other would ask for 50,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(HEADING)
    for case, paired in cases():
        print(simulate(case, paired=paired, draws=options.draws, seed=options.seed).line(), flush=True)


if __name__ == "__main__":
    main()
