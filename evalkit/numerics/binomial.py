"""Shares that were seen as so many of n: exact bounds, what clustered samples are worth, what is left to chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TAIL = 0.025  # outside either bound of a two-sided interval at 95 %


def clopper_pearson(count: float, n: float, tail: float = TAIL) -> tuple[float, float]:
    """The bounds of Clopper and Pearson (1934).

    Args:
        count, n: the share as `count` of `n`, numbers that need not be whole (`n` > 0).
        tail: how probable a share beyond either bound would have been: half of 1 - confidence where both count.
    """
    from scipy.special import betaincinv

    low = 0.0 if count <= 0 else float(betaincinv(count, n - count + 1, tail))
    high = 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - tail))
    return low, high


def effective_samples(share: float, stderr: float | None, n: int, groups: int) -> float:
    """How many independent samples a share is as good as (Korn and Graubard 1998): p (1 - p) / stderr^2, n at most.

    Where all samples agree, how alike those of a cluster are cannot be seen: then each cluster counts as one sample.

    Args:
        share: 0 to 1.
        stderr: its standard error, which allows for the clusters.
        n, groups: the number of samples, and of their clusters.
    """
    if groups >= n:
        return n
    if share in (0.0, 1.0) or not stderr:
        return groups
    return max(1.0, min(n, share * (1 - share) / stderr**2))


def mean_deviations(n: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """E |X / n - p| of X ~ binomial(n, p), by p of `shares`, f64 [C]: de Moivre's closed form."""
    import numpy as np
    from scipy.stats import binom

    above = np.floor(n * shares) + 1  # the first count above the mean
    each: NDArray[np.float64] = 2 * above * (1 - shares) * binom.pmf(above, n, shares) / n
    return each
