"""How often does the gate say what it should not? Candidates of known truth, drawn over and over, through `judge`.

At the margin the candidate is truly just as bad as the rule allows: it may pass 5 % of the time, and fail 5 %. Then one
that is clearly better than the limit, and one that is clearly worse: each by four standard errors.
`python tests/helpers/gate_simulation.py [--draws 4000]` prints the table of docs/gate.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from gate_fakes import cell, row

from evalkit.gate import judge, make_gates
from evalkit.metric import by_cluster
from evalkit.results.stats import stderr_of_mean
from evalkit.results.table import ResultTable

Each = NDArray[np.float64]
Drawn = tuple[float, float, Each | None]  # value, standard error, influences
Draw = Callable[
    [np.random.Generator, float], dict[str, Drawn]
]  # (random numbers, how far beyond the margin) -> by cell


@dataclass(frozen=True)
class Scenario:
    """A metric, a rule on it, and draws of it.

    Attributes:
        name, n: for the table.
        better: the metric's direction.
        rule: on the metric "m" of the cell "new"; the other cell is "old".
        draw: one set of scores; its second argument moves the truth away from the margin, in standard errors: above 0
            to the worse.
        paired: whether the cells share prompts and seeds.
        per_prompt: samples of each prompt, one after the other: the cluster of sample i is i // per_prompt.
    """

    name: str
    n: int
    better: str
    rule: Mapping[str, Any]
    draw: Draw
    paired: bool = True
    per_prompt: int = 1


def simulate(scenario: Scenario, draws: int, beyond: float = 0.0) -> Counter[str]:
    """The verdicts of so many draws; each scenario has its own random numbers."""
    names = ("new", "old") if "no_worse_than" in scenario.rule else ("new",)
    cells = [cell(name, scenario.n) for name in names]
    option = {"rules": [{"metric": "m", "where": {"model": "new"}, **scenario.rule}]}
    gates = make_gates({"g": option}, cells, {"m": None})
    pairing = dict.fromkeys(names, "common") if scenario.paired else {name: name for name in names}
    rng = np.random.default_rng([*scenario.name.encode(), scenario.n, round(10 + beyond)])
    found: Counter[str] = Counter()
    prompts = scenario.n // scenario.per_prompt
    clusters = {name: [i // scenario.per_prompt for i in range(scenario.n)] for name in names}
    known: dict[str, Any] = {} if scenario.per_prompt == 1 else {"clusters": clusters}
    for _ in range(draws):
        drawn = scenario.draw(rng, beyond)
        rows = [row(name, "m", *drawn[name][:2], scenario.n, scenario.better, clusters=prompts) for name in names]
        influences = {(name, "m"): each.tolist() for name, (_, _, each) in drawn.items() if each is not None}
        found[judge(ResultTable({}, rows), gates, influences=influences, pairing=pairing, **known).status] += 1
    return found


def of_mean(each: Each, *, known: bool = True) -> Drawn:
    stderr = float(each.std(ddof=1) / math.sqrt(len(each)))
    return float(each.mean()), stderr, each if known else None


def mean_scenarios(n: int) -> Iterator[Scenario]:
    """CLIP-like scores: 30 +- 5, most of it shared by the cells; the candidate is 0.5 (or 5 %) worse."""
    spread = 0.8 / math.sqrt(n)

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        return {"old": of_mean(old), "new": of_mean(old - 0.5 - beyond * spread + rng.normal(0, 0.8, n))}

    def skewed(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        drop = 0.8 * (rng.exponential(1, n) - 1)
        return {"old": of_mean(old), "new": of_mean(old - 0.5 - beyond * spread - drop)}

    def relative(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = rng.normal(30, 5, n)
        new = 0.95 * old + rng.normal(0, 0.8, n) - beyond * spread
        return {"old": of_mean(old), "new": of_mean(new)}

    def unpaired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        wide = beyond * 5 * math.sqrt(2 / n)
        return {"old": of_mean(rng.normal(30, 5, n)), "new": of_mean(rng.normal(29.5 - wide, 5, n))}

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        return {"new": of_mean(rng.normal(12 + beyond * 5 / math.sqrt(n), 5, n), known=False)}

    half = {"no_worse_than": {"baseline": "old", "margin": 0.5}}
    part = {"no_worse_than": {"baseline": "old", "margin": "5%"}}
    yield Scenario("mean, max", n, "lower", {"max": 12}, absolute)
    yield Scenario("mean, no worse than, paired", n, "higher", half, paired)
    yield Scenario("  of skewed differences", n, "higher", half, skewed)
    yield Scenario("  margin 5 %", n, "higher", part, relative)
    yield Scenario("  unpaired", n, "higher", half, unpaired, paired=False)


def prompt_scenarios(prompts: int, per_prompt: int) -> Iterator[Scenario]:
    """CLIP-like scores of several samples per prompt: half of what varies is the prompt's.

    Counted as independent samples, 8 of each prompt passed 16 % of what stood at the margin (`min`; paired likewise).
    """
    n = prompts * per_prompt
    wide = math.sqrt((0.5 + 0.5 / per_prompt) / prompts)  # the standard error of the mean, in standard deviations

    def spread(rng: np.random.Generator, sd: float) -> Each:
        return sd * math.sqrt(0.5) * (np.repeat(rng.normal(size=prompts), per_prompt) + rng.normal(size=n))

    def scored(each: Each) -> Drawn:
        return float(each.mean()), stderr_of_mean(by_cluster(each, np.arange(n) // per_prompt).tolist()), each

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        return {"new": scored(30 - beyond * 5 * wide + spread(rng, 5))}

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        old = 30 + spread(rng, 5)
        return {"old": scored(old), "new": scored(old - 0.5 - beyond * 0.8 * wide + spread(rng, 0.8))}

    text = f"mean, {per_prompt} per prompt"
    yield Scenario(f"{text}, min", n, "higher", {"min": 30}, absolute, per_prompt=per_prompt)
    half = {"no_worse_than": {"baseline": "old", "margin": 0.5}}
    yield Scenario(f"{text}, no worse than", n, "higher", half, paired, per_prompt=per_prompt)


def share_scenarios(n: int) -> Iterator[Scenario]:
    """Precision-like scores: each sample counts as 0 or 1; at 0.98, where the plain standard error is at its worst."""

    def absolute(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        p = min(max(0.98 - beyond * math.sqrt(0.98 * 0.02 / n), 0), 1)
        return {"new": of_mean((rng.random(n) < p).astype(float))}

    def paired(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        u = rng.random(n)  # a sample that is hard for the one is hard for the other
        p = 0.93 - beyond * math.sqrt(0.05 * 0.95 / n)
        return {"old": of_mean((u < 0.98).astype(float)), "new": of_mean((u < p).astype(float))}

    yield Scenario("share, min 0.98", n, "higher", {"min": 0.98}, absolute)
    margin = {"no_worse_than": {"baseline": "old", "margin": 0.05}}
    yield Scenario("share, no worse than, paired", n, "higher", margin, paired)


def frechet_scenarios(d: int, n: int, draws: int = 300) -> Iterator[Scenario]:
    """A real Frechet distance with its delta-method influences, of Gaussian features.

    Two generators from one latent; the truth is the distance's (or the difference's) expectation at this N, taken over
    `draws` other draws: its bias at finite N is shared by what it is compared with, and no interval sees it. How far a
    candidate is moved beyond the margin is put into the rule: its truth is fixed.
    """
    import torch
    from coverage_simulation import FRECHET, batch, scored

    rng = np.random.default_rng(d)

    def mix(scale: float) -> Each:
        return np.eye(d) + scale * rng.normal(size=(d, d)) / math.sqrt(d)

    one, two = mix(0.4), mix(0.4)
    reference = FRECHET.observe(batch({"x/y": torch.from_numpy(rng.normal(size=(20_000, d)) @ mix(0.3)).float()}))

    def draw(rng: np.random.Generator, beyond: float = 0.0) -> dict[str, Drawn]:
        latent = rng.normal(size=(n, d))
        sides = {"old": latent @ one + 0.2, "new": latent @ (0.8 * one + 0.2 * two) + 0.3}
        found = {}
        for name, features in sides.items():
            value, stderr, each = scored(FRECHET, batch({"x/y": torch.from_numpy(features).float()}), reference)
            found[name] = (value, stderr, each.numpy())
        return found

    known = [draw(rng) for _ in range(draws)]
    new = np.array([found["new"][0] for found in known])
    gap = new - np.array([found["old"][0] for found in known])

    def shifted(spread: float) -> Draw:
        def moved(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
            found = draw(rng)
            value, stderr, each = found["new"]
            return {**found, "new": (value + beyond * spread, stderr, each)}

        return moved

    yield Scenario(f"Frechet d = {d}, max", n, "lower", {"max": float(new.mean())}, shifted(float(new.std(ddof=1))))
    # The candidate's mean difference is the margin: moved up by a constant where it is below 0.
    raised = float(max(0.0, 0.1 - gap.mean()))
    margin = {"no_worse_than": {"baseline": "old", "margin": float(gap.mean()) + raised}}
    inner = shifted(float(gap.std(ddof=1)))

    def against(rng: np.random.Generator, beyond: float) -> dict[str, Drawn]:
        found = inner(rng, beyond)
        value, stderr, each = found["new"]
        return {**found, "new": (value + raised, stderr, each)}

    yield Scenario(f"Frechet d = {d}, no worse than, paired", n, "lower", margin, against)


HEADING = (
    f"{'':34s} {'N':>5s} | {'at the margin:':>14s} {'':>6s} | {'better:':>7s} | {'worse:':>7s}\n"
    f"{'':34s} {'':>5s} | {'pass %':>14s} {'fail %':>6s} | {'pass %':>7s} | {'fail %':>7s}"
)


def line(scenario: Scenario, draws: int) -> str:
    at, better, worse = (simulate(scenario, draws, beyond) for beyond in (0.0, -4.0, 4.0))
    shares = (100 * at["pass"] / draws, 100 * at["fail"] / draws, 100 * better["pass"] / draws)
    return (
        f"{scenario.name:34s} {scenario.n:5d} | {shares[0]:14.1f} {shares[1]:6.1f} | {shares[2]:7.1f} | "
        f"{100 * worse['fail'] / draws:7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    print(f"{draws} draws; 4 standard errors to either side\n{HEADING}")
    for n in (20, 60, 560):
        for scenario in (*mean_scenarios(n), *share_scenarios(n)):
            print(line(scenario, draws), flush=True)
    for per_prompt in (1, 4, 8):
        for scenario in prompt_scenarios(240 // per_prompt, per_prompt):
            print(line(scenario, draws), flush=True)
    for d, n in ((8, 16), (8, 40), (8, 200), (32, 128), (32, 560)):
        for scenario in frechet_scenarios(d, n, draws):
            print(line(scenario, draws), flush=True)


if __name__ == "__main__":
    main()
