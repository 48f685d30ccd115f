"""Absolute difference of the bytes of a pair's images, in levels of 0 to 255: their mean, 99th percentile or maximum.

Of a pair of images [H,W,3] the 3 H W differences |a - b| of its bytes count alike. The 99th percentile is the smallest
level that at least 99 % of them do not exceed (numpy's `inverted_cdf`), so that it is a level. Whether two engines make
the same images but for rounding shows in the maximum: 1 or 2 levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from evalkit.metric import Batch, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor

Of = Literal["mean", "p99", "max"]
TITLES = {"mean": "pixel difference", "p99": "pixel difference, p99", "max": "pixel difference, max"}


@dataclass(eq=False)
class PixelDifference(PairMetric):
    """0 (equal images) to 255 levels, lower is better: the mean over the pairs.

    Args:
        of: what a pair's value is of its bytes' differences: "mean", "p99" or "max".
        pairs, resize_own: see PairMetric.
    """

    of: Of = "mean"
    pairs: Pairing = "baseline"
    resize_own: bool = False

    title = TITLES["mean"]
    better = "lower"
    on_device = True

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise ValueError(f"of={self.of}: give {', '.join(get_args(Of))}")
        self.title = TITLES[self.of]
        if self.of != "p99":
            self.equal = 0.0  # the value that equal images alone have: such pairs are counted as identical

    def constants(self) -> dict[str, Any]:
        return {"estimator": f"{self.of} of absolute differences", "levels": 255}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        """f64 [B], in levels."""
        assert first.images is not None
        assert second.images is not None
        each = (first.images.short() - second.images.short()).abs().flatten(1)  # u8 [B,3,H,W] -> i16 [B,3HW]
        if self.of == "mean":
            return each.double().mean(1)
        if self.of == "max":
            return each.amax(1).double()
        return each.kthvalue(math.ceil(0.99 * each.shape[1]), dim=1).values.double()
