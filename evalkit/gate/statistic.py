"""Bounds of statistics of a metric's values per sample: percentiles, shares. Numbers alone; of means see `bounds`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.gate.bounds import CONFIDENCE, Bounds, needed_n, score_bounds
from evalkit.metric import standard_error
from evalkit.numerics.statistics import PERCENTILES, Statistic
from evalkit.results.stats import Estimate, effective_n

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COUNTED = ("min", "max")  # facts of the set at hand: no other set's are estimated by them
_WORDS = {"min": "smallest", "max": "largest", "median": "median"}
_OF = {"p1": "1st percentile of", "p99": "99th percentile of"}


def in_words(statistic: Statistic, metric: str) -> str:
    """Such as "smallest psnr" or "share of psnr below 25"."""
    if statistic.threshold is not None:
        return f"share of {metric} {statistic.kind.removeprefix('share_')} {statistic.threshold:g}"
    if statistic.kind in _OF:
        return f"{_OF[statistic.kind]} {metric}"
    return f"{_WORDS[statistic.kind]} {metric}" if statistic.kind in _WORDS else metric


def statistic_bounds(
    statistic: Statistic, values: Sequence[float], clusters: Sequence[int] | None, confidence: float = CONFIDENCE
) -> Bounds | None:
    """Bounds of a statistic of what the values were drawn from; none of the smallest and the largest value.

    A share has the exact binomial bounds of Clopper and Pearson (1934). A percentile lies between two of the ordered
    values, which are found by the same distribution: that many of n values fall below the true one (Wilks 1962),
    whatever it is that they are drawn from. Where n are too few to hold one of them, that side has no bound: the 1st
    percentile of fewer than 299 values may lie anywhere below. Where samples share prompts, as many count as they are
    worth (`effective_n`; of a percentile by the share below it, Woodruff 1952).

    Args:
        statistic: "median", "min", "max", "p1", "p99" or a share.
        values: [N], one per sample; they may be infinite.
        clusters: by sample its cluster (`evalkit.metric.cluster_ids`); none: each sample is its own.
        confidence: of each bound.
    """
    import numpy as np

    if statistic.kind in COUNTED:
        return None
    each = np.asarray(values, dtype=np.float64)
    if statistic.threshold is not None:
        return score_bounds(share(beyond(each, statistic), clusters), confidence)
    q = PERCENTILES[statistic.kind] / 100
    value, ordered = statistic(each), np.sort(each)
    n = len(each)
    worth = effective_n(share(each <= value, clusters), 1.0) / n
    low, high = _places(q, worth * n, confidence)
    below = math.floor(low / worth)  # of the ordered values, from 1
    above = n + 1 - math.floor(high / worth)
    return Bounds(
        value,
        float(ordered[below - 1]) if below >= 1 else -math.inf,
        float(ordered[above - 1]) if above <= n else math.inf,
        0.0,
        n,
    )


def beyond(values: NDArray[np.float64], statistic: Statistic) -> NDArray[np.bool_]:
    """Which of the values a share counts."""
    assert statistic.threshold is not None
    return values > statistic.threshold if statistic.kind == "share_above" else values < statistic.threshold


def share(counted: NDArray[np.bool_], clusters: Sequence[int] | None) -> Estimate:
    """The share of samples that count, as an estimate of independent prompts."""
    each = counted.astype(float).tolist()
    return Estimate(sum(each) / len(each), standard_error(each, clusters), len(each), each, clusters)


def needed_values(
    statistic: Statistic,
    values: Sequence[float],
    clusters: Sequence[int] | None,
    bounds: Bounds,
    kind: str,
    limit: float,
) -> int | None:
    """As `needed_n`, for the bounds of `statistic_bounds`: of a percentile by the share of values beyond the limit."""
    import numpy as np

    if statistic.threshold is not None:
        return needed_n(bounds, limit)
    each = np.asarray(values, dtype=np.float64)
    wrong = each < limit if kind == "min" else each > limit
    allowed = PERCENTILES[statistic.kind] / 100
    counted = score_bounds(share(wrong, clusters))
    return None if counted is None else needed_n(counted, allowed if kind == "min" else 1 - allowed)


def _places(q: float, n: float, confidence: float) -> tuple[float, float]:
    """How far in from each end a value lies that is a bound of the q-quantile of n values; below 1: there is none.

    The k-th smallest lies above the quantile where fewer than k of n lie below it: the largest k with
    P(Binomial(n, q) <= k - 1) <= 1 - confidence. As a function of a k that is no whole number it is I_{1-q}(n-k+1, k).
    """
    from scipy.special import betainc

    def inwards(p: float) -> float:
        low, high = 0.0, n
        for _ in range(60):
            middle = (low + high) / 2
            chance = float(betainc(n - middle + 1, middle, 1 - p)) if middle else 0.0
            low, high = (middle, high) if chance <= 1 - confidence else (low, middle)
        return low + 1e-9  # a whole number is one

    return inwards(q), inwards(1 - q)
