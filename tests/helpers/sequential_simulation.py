"""Does `num_samples=auto` keep its error rates, and halving the best cell? The rule over simulated influences.

`python tests/helpers/sequential_simulation.py [--runs 2000]` prints the table of docs/power.md. Each case is run under
the rule, and as if one looked as often with the plain 95 % of a single look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from finished_run import row

from evalkit.gate.bounds import difference_bounds, score_bounds
from evalkit.gate.statistic import statistic_bounds
from evalkit.metric import standard_error
from evalkit.numerics.statistics import parse
from evalkit.results.compare import surely_worse
from evalkit.results.looks import Looks
from evalkit.results.stats import Estimate, difference, interval

Values = NDArray[np.float64]
LOOKS = Looks.doubling(256, 4096)
HEADING = f"{'case':46s} {'error':>22s} {'rule %':>7s} {'plain %':>8s} {'samples %':>10s}"


@dataclass(frozen=True)
class Found:
    """Shares of runs that erred, under the rule and without it, and the rule's samples of those at the ceiling."""

    case: str
    error: str
    rule: float
    plain: float | None
    samples: float

    def line(self) -> str:
        plain = "" if self.plain is None else f"{100 * self.plain:.1f}"
        return f"{self.case:46s} {self.error:>22s} {100 * self.rule:7.1f} {plain:>8s} {100 * self.samples:10.1f}"


def draw(rng: np.random.Generator, n: int, k: int = 1) -> Values:
    """Values of mean 0 and skewed; of k samples per prompt, half of the variance is the prompt's."""
    if k == 1:
        return rng.exponential(size=n) - 1
    of_prompt = np.repeat(rng.exponential(size=n // k) - 1, k)
    return (of_prompt + rng.exponential(size=n) - 1) / 2**0.5


def estimate(values: Values, k: int = 1) -> Estimate:
    ids = np.repeat(np.arange(len(values) // k), k).tolist() if k > 1 else None
    each = values.tolist()
    return Estimate(float(values.mean()), standard_error(each, ids), len(each), each, ids)


def until(values: Values, k: int, confidence: float, stops: Callable[[Estimate, float], bool]) -> Estimate:
    """The estimate of the first look that stops, or of the last one."""
    for n in LOOKS.sizes:
        found = estimate(values[:n], k)
        if stops(found, confidence):
            break
    return found


def half_width(runs: int, k: int, width: float = 0.06, seed: int = 0) -> Found:
    """The interval at the stop does not hold the truth."""
    rng = np.random.default_rng(seed)

    def narrow(found: Estimate, confidence: float) -> bool:
        ends = interval(found, confidence)
        return ends is not None and ends[1] - ends[0] <= 2 * width

    missed, used = np.zeros(2), 0
    for _ in range(runs):
        values = draw(rng, LOOKS.sizes[-1], k)
        for place, confidence in enumerate((LOOKS.confidence, 0.95)):
            found = until(values, k, confidence, narrow)
            low, high = interval(found, confidence) or (0.0, 0.0)
            missed[place] += not low <= 0 <= high
            used += found.n if place == 0 else 0
    name = f"half width {width:g}, {k} per prompt"
    return Found(name, "interval misses truth", *(missed / runs), used / runs / LOOKS.sizes[-1])


def verdicts(runs: int, seed: int = 1) -> Found:
    """Two equal cells, paired: one stops as soon as they are told apart, which is always wrong."""
    rng = np.random.default_rng(seed)
    wrong, used = np.zeros(2), 0
    for _ in range(runs):
        gaps = draw(rng, LOOKS.sizes[-1]) - draw(rng, LOOKS.sizes[-1])
        for place, confidence in enumerate((LOOKS.confidence, 0.95)):
            for n in LOOKS.sizes:
                each = gaps[:n].tolist()
                found = difference((float(gaps[:n].mean()), 1.0), (0.0, 1.0), [each, [0.0] * n])
                if found.p is not None and found.p <= 1 - confidence:
                    wrong[place] += 1
                    break
            used += n if place == 0 else 0
    return Found(
        "two equal cells, until they differ", "called different", *(wrong / runs), used / runs / LOOKS.sizes[-1]
    )


def gate(runs: int, beyond: float, error: str, k: int = 1, seed: int = 2) -> Found:
    """A rule `max: beyond` on a score whose truth is 0, until it is decided; `error` is what is wrong: pass or fail."""
    rng = np.random.default_rng(seed)

    def status(found: Estimate, confidence: float) -> str:
        bounds = score_bounds(found, confidence)
        assert bounds is not None
        return "pass" if bounds.high <= beyond else "fail" if bounds.low > beyond else ""

    wrong, used = np.zeros(2), 0
    for _ in range(runs):
        values = draw(rng, LOOKS.sizes[-1], k)
        for place, confidence in enumerate((LOOKS.one_sided, 0.95)):
            found = until(values, k, confidence, lambda at, level: bool(status(at, level)))
            wrong[place] += status(found, confidence) == error
            used += found.n if place == 0 else 0
    where = "at its limit" if beyond == 0 else f"limit {beyond:+g}"
    return Found(f"gate {where}, {k} per prompt", f"says {error}", *(wrong / runs), used / runs / LOOKS.sizes[-1])


def ruled(runs: int, name: str, error: str, status: Callable[[Values, float], str], seed: int = 4) -> Found:
    """A gate's rule until it is decided, on values whose truth is its limit; `error` is what is wrong: pass or fail."""
    rng = np.random.default_rng(seed)
    wrong, used = np.zeros(2), 0
    for _ in range(runs):
        values = draw(rng, LOOKS.sizes[-1])
        for place, confidence in enumerate((LOOKS.one_sided, 0.95)):
            for n in LOOKS.sizes:
                said = status(values[:n], confidence)
                if said:
                    break
            wrong[place] += said == error
            used += n if place == 0 else 0
    return Found(name, f"says {error}", *(wrong / runs), used / runs / LOOKS.sizes[-1])


def of_statistic(name: str, truth: float) -> Callable[[Values, float], str]:
    """`statistic: NAME, max: truth`."""

    def status(values: Values, confidence: float) -> str:
        bounds = statistic_bounds(parse(name), values.tolist(), None, confidence)
        assert bounds is not None
        return "pass" if bounds.high <= truth else "fail" if bounds.low > truth else ""

    return status


def of_within(values: Values, confidence: float) -> str:
    """`within` 0.2 of a baseline of 0, at whose upper edge the values' mean lies: two one-sided tests."""
    score = estimate(values + 0.2)
    bounds = difference_bounds(score, estimate(np.zeros(len(values))), common=True, confidence=confidence)
    assert bounds is not None
    if bounds.high <= 0.2 and bounds.low >= -0.2:
        return "pass"
    return "fail" if bounds.low > 0.2 or bounds.high < -0.2 else ""


def halving(runs: int, steps: Values, name: str, seed: int = 3) -> Found:
    """Cells on common prompts and seeds, of means `steps` (lower is better, the first is best): is it stopped?"""
    rng = np.random.default_rng(seed)
    cells = [f"c{i}" for i in range(len(steps))]
    pairing = dict.fromkeys(cells, "same")
    lost, used = np.zeros(2), 0
    levels = (LOOKS.level(0.05 / (len(cells) - 1), one_sided=True), 0.025)  # as pipeline does; each pair at plain 5 %
    for _ in range(runs):
        common = draw(rng, LOOKS.sizes[-1])
        values = {c: common + 0.7 * draw(rng, LOOKS.sizes[-1]) + step for c, step in zip(cells, steps, strict=True)}
        for place, level in enumerate(levels):
            going = list(cells)
            for before, n in zip((0, *LOOKS.sizes), LOOKS.sizes, strict=False):
                used += (n - before) * len(going) if place == 0 else 0
                if n == LOOKS.sizes[-1] or len(going) == 1:
                    break
                each = {(c, "m"): values[c][:n].tolist() for c in going}
                rows = [row(c, "m", float(values[c][:n].mean()), 0.1, n=n) for c in going]
                worse = surely_worse(rows, level, influences=each, pairing=pairing, clusters={})
                going = [c for c in going if c not in worse]
            lost[place] += "c0" not in going
    return Found(name, "best cell stopped", *(lost / runs), used / runs / LOOKS.sizes[-1] / len(cells))


def cases(runs: int) -> Iterator[Found]:
    yield half_width(runs, 1)
    yield half_width(runs, 4, 0.08)
    yield verdicts(runs)
    yield gate(runs, 0.0, "pass")
    yield gate(runs, 0.0, "fail")
    yield gate(runs, 0.0, "pass", k=4)
    yield gate(runs, 0.1, "fail")
    yield gate(runs, -0.1, "pass")
    for error in ("pass", "fail"):
        yield ruled(runs, "within, at its edge", error, of_within)
        yield ruled(runs, "median at its limit", error, of_statistic("median", float(np.log(2)) - 1))
        yield ruled(runs, "p99 at its limit", error, of_statistic("p99", float(np.log(100)) - 1))
    yield halving(runs, np.zeros(10), "halving, 10 equal cells")
    yield halving(runs, np.linspace(0, 0.45, 10), "halving, 10 cells, steps of 0.05")
    yield halving(runs, np.array([0, 0.02, *[0.3] * 8]), "halving, 2 near the best and 8 worse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    print(HEADING)
    for found in cases(parser.parse_args().runs):
        print(found.line(), flush=True)


if __name__ == "__main__":
    main()
