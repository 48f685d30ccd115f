"""How many samples would tell a difference apart: from a pilot's influences. Numbers in, numbers out.

The variance of a mean over G prompts of k samples each is (between + within / k) / G. Both parts are measured on the
pilot: of a score on its influences, of a paired difference on the differences of the influences of both cells. What is
forecast is the verdict of `evalkit.results.compare`: Student's t, two-sided, with G - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from evalkit.metric import by_cluster

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALPHA = 0.05
POWER = 0.8
MOST = 10**9  # more samples than this: the difference is as good as none
_EXACT = 1000  # degrees of freedom up to which the noncentral t is computed, not approximated


@dataclass(frozen=True)
class Spread:
    """How much a score's influences vary, or those of a difference.

    Attributes:
        between: variance between prompts; where each prompt has one sample, all of the variance.
        within: variance within a prompt.
        prompts: number of prompts (or samples that are each their own) that it was measured on.
        separate: whether the two could be told apart: prompts have several samples.
        doubt: relative standard error of the variance itself, by the kurtosis of what prompts add.
    """

    between: float
    within: float
    prompts: int
    separate: bool
    doubt: float

    def of_prompt(self, k: int) -> float:
        """What a prompt of k samples adds: the variance of the mean over G of them is this by G."""
        return self.between + self.within / k

    @property
    def alike(self) -> float:
        """How alike samples of one prompt are (the intraclass correlation), 0 to 1."""
        whole = self.between + self.within
        return self.between / whole if whole and self.separate else 0.0

    def effect(self, k: int) -> float:
        """Kish's design effect: how many times as many samples are needed as of prompts of one sample each."""
        return 1 + (k - 1) * self.alike

    def __add__(self, other: Spread) -> Spread:
        """Of a difference of scores that have nothing in common."""
        parts = (self.between + other.between, self.within + other.within)
        doubt = max(self.doubt, other.doubt)
        return Spread(*parts, min(self.prompts, other.prompts), self.separate and other.separate, doubt)


def spread(values: Sequence[float], clusters: Sequence[int] | None) -> Spread | None:
    """Variance between and within prompts, by the analysis of variance; none of fewer than two prompts.

    Args:
        values: the influences, f64 [N].
        clusters: by sample its prompt (`evalkit.metric.cluster_ids`); none: each sample is its own.
    """
    import numpy as np

    each = np.asarray(values, dtype=np.float64)
    n, sums = len(each), by_cluster(values, clusters)
    groups = len(sums)
    if groups < 2:
        return None
    if groups == n:
        return Spread(float(each.var(ddof=1)), 0.0, groups, False, _doubt(sums))
    _, place, counts = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=each) / counts
    within = float(np.square(each - means[place]).sum()) / (n - groups)
    size = (n - float(np.square(counts).sum()) / n) / (groups - 1)
    across = float((counts * np.square(means - each.mean())).sum()) / (groups - 1)
    return Spread(max(0.0, (across - within) / size), within, groups, True, _doubt(sums))


def paired_spread(
    first: Sequence[float],
    second: Sequence[float],
    clusters: tuple[Sequence[int] | None, Sequence[int] | None],
    *,
    same: bool,
) -> Spread | None:
    """The spread of the difference of two scores that share prompts; none where they do not share all of them.

    Args:
        first, second: the influences of both.
        clusters: of both cells' samples.
        same: whether sample i of both is of one prompt and seed: what both share then cancels sample by sample.
    """
    import numpy as np

    one, two = (None if own is None else list(own) for own in clusters)
    if same and len(first) == len(second) and one == two:
        return spread((np.asarray(first) - np.asarray(second)).tolist(), one)
    if one is None or two is None or set(one) != set(two) or min(one) < 0:
        return None
    a, b = spread(first, one), spread(second, two)
    if a is None or b is None:
        return None
    (mean_a, count_a), (mean_b, count_b) = _means(first, one), _means(second, two)
    gaps = mean_a - mean_b
    noise = float((a.within / count_a + b.within / count_b).mean())
    between = max(0.0, float(gaps.var(ddof=1)) - noise)
    return Spread(between, a.within + b.within, len(gaps), a.separate and b.separate, _doubt(gaps))


def _means(values: Sequence[float], ids: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    import numpy as np

    _, place, counts = np.unique(np.asarray(ids), return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = np.bincount(place, weights=np.asarray(values)) / counts
    return means, counts


def _doubt(each: NDArray[np.float64]) -> float:
    """The relative standard error of a variance: sqrt((kurtosis - 1) / G)."""
    import numpy as np

    off = each - each.mean()
    second = float(np.square(off).mean())
    fourth = float(np.square(np.square(off)).mean())
    return math.sqrt(max(fourth / second**2 - 1, 0.0) / len(each)) if second > 0 else 0.0


def power_of(delta: float, stderr: float, degrees: float, alpha: float = ALPHA) -> float:
    """How often a two-sided test by Student's t calls a true difference `delta` one, at a standard error."""
    from scipy.special import nctdtr, stdtrit

    if stderr <= 0:
        return 1.0 if delta else 0.0
    moved, degrees = abs(delta) / stderr, max(degrees, 1)
    reach = float(stdtrit(degrees, 1 - alpha / 2))
    if degrees <= _EXACT and moved < 30:
        return 1 - float(nctdtr(degrees, moved, reach)) + float(nctdtr(degrees, moved, -reach))
    scale, normal = math.sqrt(1 + reach**2 / (2 * degrees)), NormalDist()
    shrunk = reach * (1 - 1 / (4 * degrees))
    return normal.cdf((moved - shrunk) / scale) + normal.cdf((-moved - shrunk) / scale)


def forecast_power(delta: float, of: Spread, prompts: int, k: int = 1, alpha: float = ALPHA) -> float:
    """The power of a comparison with `prompts` prompts of k samples in each cell."""
    return power_of(delta, math.sqrt(of.of_prompt(k) / prompts), prompts - 1, alpha)


def prompts_needed(delta: float, of: Spread, k: int = 1, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """The fewest prompts of k samples each with which a true difference `delta` is called one with that power.

    None: no number below `MOST` samples does, or `delta` is 0.
    """
    if delta == 0:
        return None
    below, above = 1, 2
    while forecast_power(delta, of, above, k, alpha) < power:
        below, above = above, 2 * above
        if above * k > MOST:
            return None
    while above - below > 1:
        middle = (below + above) // 2
        if forecast_power(delta, of, middle, k, alpha) < power:
            below = middle
        else:
            above = middle
    return above
