"""Differences of scores: paired standard errors, confidence intervals, Holm's correction. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
REACH = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)  # 1.96: standard errors from a value to the ends of its interval


@dataclass(frozen=True)
class Difference:
    """One score less another.

    Attributes:
        value: the difference.
        stderr: its standard error, or none where a score has none.
        paired: whether the samples' influences were paired: a common seed then cancels.
        low, high: confidence interval at `CONFIDENCE`.
        p: two-sided, of no difference.
    """

    value: float
    stderr: float | None = None
    paired: bool = False
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(
    a: tuple[float, float | None], b: tuple[float, float | None], paired: Sequence[Sequence[float]] | None = None
) -> Difference:
    """`a` less `b`, each a value and its standard error (or none).

    Args:
        a, b: the scores.
        paired: the influences of both, sample for sample with common prompt and seed: the standard error is then
            std(influence_a - influence_b) / sqrt(N). None: the scores count as independent.

    The normal approximation: for N of 30 and more. What both are compared with (the reference) counts as fixed.
    """
    value = a[0] - b[0]
    if paired is not None:
        stderr: float | None = stderr_of_mean([x - y for x, y in zip(*paired, strict=True)])
    else:
        stderr = None if a[1] is None or b[1] is None else math.hypot(a[1], b[1])
    if stderr is None:
        return Difference(value)
    reach = REACH * stderr
    return Difference(value, stderr, paired is not None, value - reach, value + reach, two_sided(value, stderr))


def two_sided(value: float, stderr: float) -> float:
    """The p-value of a normal score at `value` where 0 is expected; a difference without any spread is certain."""
    if stderr == 0:
        return 1.0 if value == 0 else 0.0
    return math.erfc(abs(value) / stderr / math.sqrt(2))


def stderr_of_mean(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent values; none of fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979): p-values adjusted for the number of tests; none stays none."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted
