"""Statistics of a metric's values per pair, by name: what tables report and what rules of a gate may ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERCENTILES = {"median": 50.0, "min": 0.0, "max": 100.0, "p1": 1.0, "p99": 99.0}
SHARES = ("share_above", "share_below")
NAMES = ("mean", *PERCENTILES, *(f"{share}(T)" for share in SHARES))
_SHARE = re.compile(r"(share_above|share_below)\(\s*([^()]+?)\s*\)")


@dataclass(frozen=True)
class Statistic:
    """A statistic of values.

    Attributes:
        kind: "mean", "median", "min", "max", "p1", "p99", "share_above" or "share_below".
        threshold: of a share: how many of the values lie strictly beyond it. None of all others.
    """

    kind: str
    threshold: float | None = None

    def __str__(self) -> str:
        """The name that `parse` takes."""
        return self.kind if self.threshold is None else f"{self.kind}({self.threshold:g})"

    def __call__(self, values: Sequence[float] | NDArray[np.float64]) -> float:
        """Of values, [N] with N >= 1, none of them NaN; they may be infinite.

        Percentiles are interpolated linearly between order statistics (type 7 of Hyndman and Fan 1996, numpy's
        default): the 1st percentile of fewer than 101 values lies between the smallest two. A share is 0 to 1.

        Raises:
            ValueError: there are no values, or one is NaN.
        """
        import numpy as np

        each = np.asarray(values, dtype=np.float64)
        if not each.size:
            raise ValueError(f"{self}: there are no values")
        if np.isnan(each).any():
            raise ValueError(f"{self}: {int(np.isnan(each).sum())} of {each.size} values are NaN")
        if self.threshold is not None:
            return float((each > self.threshold if self.kind == "share_above" else each < self.threshold).mean())
        if self.kind == "mean":
            return float(each.mean())
        if self.kind in ("min", "max"):
            return float(each.min() if self.kind == "min" else each.max())
        return _percentile(np.sort(each), PERCENTILES[self.kind])


def _percentile(ordered: NDArray[np.float64], percent: float) -> float:
    """numpy's, but exact where both neighbours are equal, infinities among them (there it gives NaN)."""
    place = (len(ordered) - 1) * percent / 100
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - math.floor(place))


def parse(name: str) -> Statistic:
    """A statistic by its name.

    Args:
        name: one of `NAMES`, T a number: "p1", "share_below(30)".

    Raises:
        ValueError: there is none of that name; or T is no finite number.
    """
    text = str(name).strip()
    if text == "mean" or text in PERCENTILES:
        return Statistic(text)
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError(f"there is no statistic '{text}': give one of {', '.join(NAMES)}")
    try:
        threshold = float(match[2])
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise ValueError(f"{text}: T must be a finite number, as in {match[1]}(30)")
    return Statistic(match[1], threshold)


def statistic(name: str, values: Sequence[float] | NDArray[np.float64]) -> float:
    """A statistic of values, [N]; see `parse` and `Statistic`."""
    return parse(name)(values)
