"""Exact bounds of a share that was seen as so many of n."""

from __future__ import annotations

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
