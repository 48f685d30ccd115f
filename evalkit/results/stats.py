"""Scores' intervals and differences, paired and by cluster; corrections of p-values. Numbers in, numbers out.

What a score rests on, one value per cluster of samples, is made in one place: `evalkit.metric.by_cluster`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from evalkit.metric import by_cluster
from evalkit.numerics.binomial import effective_samples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENCE = 0.95
REACH = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)  # 1.96: standard errors from a value to the ends of its interval
NO_SPREAD = 1e-12  # of a value: a standard error below it is rounding


@dataclass(frozen=True)
class Estimate:
    """A score and what it rests on.

    Attributes:
        value, stderr, n: the score, its standard error (or none), its number of samples.
        influence: one value per sample, where there are any.
        clusters: by sample its cluster (`evalkit.metric.cluster_ids`); none: each sample is its own.
        count: the number of clusters behind `stderr`; none: as `clusters` says.
        together: whether other cells' scores are of the same computation, as ratings of votes are: what influences say
            of a difference then has the degrees of freedom of `count`, however many clusters there are.
    """

    value: float
    stderr: float | None
    n: int
    influence: Sequence[float] | None = None
    clusters: Sequence[int] | None = None
    count: int | None = None
    together: bool = False

    @property
    def groups(self) -> int:
        """The number of clusters: of values that vary independently."""
        if self.count is not None:
            return self.count
        return self.n if self.clusters is None else len(set(self.clusters))


@dataclass(frozen=True)
class Difference:
    """One score less another.

    Attributes:
        value: the difference.
        stderr: its standard error, or none where a score has none.
        paired: whether the influences were paired, by common prompts or seeds: what both share then cancels.
        low, high: confidence interval at `CONFIDENCE`; none where nothing varies: then nothing is estimated.
        p: two-sided, of no difference.
    """

    value: float
    stderr: float | None = None
    paired: bool = False
    low: float | None = None
    high: float | None = None
    p: float | None = None


def difference(
    a: tuple[float, float | None],
    b: tuple[float, float | None],
    paired: Sequence[Sequence[float]] | None = None,
    counts: tuple[int, int] | None = None,
    confidence: float = CONFIDENCE,
    most: int | None = None,
) -> Difference:
    """`a` less `b`, each a value and its standard error (or none).

    Args:
        a, b: the scores.
        paired: the influences of both, sample for sample or cluster for cluster (`align`): the standard error is then
            std(influence_a - influence_b) / sqrt(G). None: the scores count as independent.
        counts: without `paired`, the number of clusters behind each; none: so many that the normal distribution holds.
        confidence: of the interval.
        most: clusters that count, of `paired` too; none: all of them.

    Student's t with G - 1 degrees of freedom, of the smaller count. What both are compared with (the reference) counts
    as fixed. Where nothing varies there is no interval, and p is that of a permutation: 2 samples of 1 against 2 of 0
    come about by chance in one of 3 cases (Fisher), however clear they look.
    """
    value = a[0] - b[0]
    if paired is not None:
        first, second = ([float(x) for x in side] for side in paired)
        stderr: float | None = stderr_of_mean([x - y for x, y in zip(first, second, strict=True)])
        constant = len(set(first)) == len(set(second)) == 1
        sizes = (len(first), len(second) if constant else 0)
    else:
        stderr = None if a[1] is None or b[1] is None else math.hypot(a[1], b[1])
        sizes = counts or (0, 0)
    if stderr is None:
        return Difference(value)
    if stderr <= NO_SPREAD * abs(value):
        return Difference(value, 0.0, paired is not None, p=1.0 if value == 0 else _by_permutation(*sizes))
    degrees = min(filter(None, (*sizes, most)), default=math.inf) - 1
    reach = quantile(degrees, confidence) * stderr
    return Difference(
        value, stderr, paired is not None, value - reach, value + reach, two_sided(value, stderr, degrees)
    )


def _by_permutation(first: int, second: int) -> float:
    """Two-sided p where all of `first` values lie on one side of all of `second`; of 0: where all have one sign."""
    if not second:
        return min(1.0, 2.0 ** (1 - first))
    log = math.lgamma(first + second + 1) - math.lgamma(first + 1) - math.lgamma(second + 1)
    return min(1.0, (2 if first == second else 1) * math.exp(-log))  # of other sizes no arrangement is as extreme


def align(a: Estimate, b: Estimate, *, same: bool) -> list[Sequence[float]] | None:
    """The influences of two scores, cluster for cluster, as `difference` takes them; none where they share no cluster.

    Args:
        a, b: the scores.
        same: whether sample i of both is of one prompt and seed: samples without a prompt are then paired as well.
    """
    if a.influence is None or b.influence is None:
        return None
    each = (a.influence, b.influence)
    given = (a.clusters, b.clusters)
    ids = [own or [-1 - i for i in range(len(values))] for values, own in zip(each, given, strict=True)]
    if any(len(own) != len(values) for values, own in zip(each, ids, strict=True)):
        return None
    if same and list(ids[0]) == list(ids[1]):
        return [by_cluster(values, own).tolist() for values, own in zip(each, ids, strict=True)]
    if not same:  # samples without a prompt have nothing in common
        ids[1] = [i if i >= 0 else i - len(ids[0]) for i in ids[1]]
    union = set(ids[0]) | set(ids[1])
    if len(union) == len(set(ids[0])) + len(set(ids[1])):
        return None
    return [_over(values, own, union).tolist() for values, own in zip(each, ids, strict=True)]


def _over(influence: Sequence[float], clusters: Sequence[int], union: set[int]) -> NDArray[np.float64]:
    """`by_cluster` over more clusters than a score has: those that it lacks add nothing to its mean."""
    import numpy as np

    every = np.array(sorted(union))
    values = np.asarray(influence, dtype=np.float64)
    mean = values.mean()
    sums = np.bincount(np.searchsorted(every, clusters), values - mean, minlength=len(every))
    whole: NDArray[np.float64] = mean + sums * (len(every) / len(values))
    return whole


def quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors an interval at `confidence` reaches to either side, by Student's t."""
    if math.isinf(degrees):
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    from scipy.special import stdtrit

    return float(stdtrit(max(degrees, 1), 0.5 + confidence / 2))


def two_sided(value: float, stderr: float, degrees: float = math.inf) -> float:
    """The p-value of a score at `value` where 0 is expected, by Student's t (of infinite degrees the normal)."""
    if math.isinf(degrees):
        return math.erfc(abs(value) / stderr / math.sqrt(2))
    from scipy.special import stdtr

    return 2 * float(stdtr(max(degrees, 1), -abs(value) / stderr))


def stderr_of_mean(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent values; none of fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def interval(score: Estimate, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """A score's interval at `confidence`; none without a standard error, or with one of 0: then nothing is estimated.

    Student's t; of a share of the samples (precision, AuthPct, memorised) that of Wilson (1927), by the number of
    independent samples that its standard error stands for: near 0 and 1 the other promises too much.
    """
    scale = share_scale(score)
    if scale is None:
        if not score.stderr:
            return None
        reach = quantile(score.groups - 1, confidence) * score.stderr
        return score.value - reach, score.value + reach
    n, z = effective_n(score, scale), quantile(math.inf if score.groups >= score.n else score.groups - 1, confidence)
    p = score.value / scale
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return scale * max(middle - reach, 0.0), scale * min(middle + reach, 1.0)


def fieller(above: tuple[float, float], below: tuple[float, float], reach: float) -> tuple[float, float] | None:
    """An interval of a ratio of two independent estimates, by Fieller (1954).

    Args:
        above, below: values and their standard errors; `below` is above 0.
        reach: how many standard errors it reaches to either side: a quantile of Student's t.

    Returns:
        Its ends; none where `below` is so unsure that the ratio may be anything.
    """
    ratio, share = above[0] / below[0], (reach * below[1] / below[0]) ** 2
    if share >= 1:
        return None
    spread = above[1] ** 2 * (1 - share) + (ratio * below[1]) ** 2
    half = reach * math.sqrt(spread) / below[0]
    return (ratio - half) / (1 - share), (ratio + half) / (1 - share)


def share_scale(score: Estimate) -> float | None:
    """1 (or 100, of percentages) where the score is the mean of samples that each count as 0 or that; else none."""
    each = score.influence
    if each is None or len(each) != score.n or score.n < 2:
        return None
    for scale in (1.0, 100.0):
        if all(x in (0.0, scale) for x in each) and math.isclose(fmean(each), score.value, abs_tol=1e-6 * scale):
            return scale
    return None


def effective_n(score: Estimate, scale: float) -> float:
    """How many independent samples a share is as good as; see `effective_samples`."""
    return effective_samples(score.value / scale, (score.stderr or 0.0) / scale, score.n, score.groups)


def holm(ps: Sequence[float | None], tests: int | None = None) -> list[float | None]:
    """Holm's step-down correction (1979): p-values adjusted for the number of tests; none stays none.

    Args:
        ps: the p-values.
        tests: how many tests there are, where these are not all: the others count as if their p were larger.
    """
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    count = max(tests or 0, len(order))
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (count - rank)))
        adjusted[i] = highest
    return adjusted


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float | None]:
    """The procedure of Benjamini and Hochberg (1995): of those called at q <= 0.05, at most 5 % on average are none.

    The p-values may hang together positively, as those of attributes that go together do (Benjamini and Yekutieli
    2001); none stays none.
    """
    order = sorted(((p, i) for i, p in enumerate(ps) if p is not None), reverse=True)
    adjusted: list[float | None] = [None] * len(ps)
    lowest = 1.0
    for rank, (p, i) in enumerate(order):
        lowest = min(lowest, p * len(order) / (len(order) - rank))
        adjusted[i] = lowest
    return adjusted
