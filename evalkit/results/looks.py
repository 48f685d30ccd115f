"""Looking at the data while they grow, without being fooled by it: the boundaries of a sequential rule.

A score is looked at with N = 256, 512, 1024, ...; who stops at the first look that pleases has not 5 % of errors, but
of six looks 20. Pocock's constant boundary (1977), computed for the sizes at hand, asks so much more at every look that
all of them together keep the 5 %: the intervals are repeated confidence intervals (Jennison and Turnbull 1989), which
hold whenever and whyever one stops. Numbers in, numbers out.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from evalkit.results.stats import CONFIDENCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NORMAL = NormalDist()
_GRID = 129  # points of the integration over what a look has seen
_FAR = 8.0  # standard errors: beyond is nothing


@dataclass(frozen=True)
class Looks:
    """The sizes at which the data are looked at, all of them fixed before the first look."""

    sizes: tuple[int, ...]

    @classmethod
    def doubling(cls, first: int, ceiling: int) -> Looks:
        """From `first` on, each twice the one before, and `ceiling`."""
        sizes = []
        while first < ceiling:
            sizes.append(first)
            first *= 2
        return cls((*sizes, ceiling))

    def level(self, alpha: float, *, one_sided: bool = False) -> float:
        """The level of each look at which all together have the level `alpha`."""
        return level(self.sizes, alpha, one_sided)

    @property
    def confidence(self) -> float:
        """Of each look's intervals, so that those of all looks hold together in 95 %."""
        return 1 - self.level(1 - CONFIDENCE)

    @property
    def one_sided(self) -> float:
        """Of each look's one-sided bounds, likewise."""
        return 1 - self.level(1 - CONFIDENCE, one_sided=True)


@dataclass(frozen=True)
class Stopped:
    """A cell that stopped early: at N = `n`, worse than `than` by `by`, in `metric`."""

    n: int
    metric: str
    than: str
    by: float

    @property
    def note(self) -> str:
        return f"stopped at N = {self.n}: surely worse than {self.than}, by {self.by:.3g}; not ranked"


@dataclass(frozen=True)
class Grown:
    """How the number of samples of a run came about.

    Attributes:
        looks: all that were planned.
        taken: how many were taken.
        why: it stopped.
        stopped: by cell, those that did so early.
    """

    looks: Looks
    taken: int
    why: str
    stopped: Mapping[str, Stopped] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As results.json holds it, under run.auto."""
        return {
            "sizes": list(self.looks.sizes),
            "taken": self.taken,
            "why": self.why,
            "confidence": self.looks.confidence,
            "confidence_one_sided": self.looks.one_sided,
            "stopped": {cell: vars(stop) for cell, stop in self.stopped.items()},
        }

    @property
    def note(self) -> str:
        n, most = self.looks.sizes[self.taken - 1], len(self.looks.sizes)
        held = f"intervals and verdicts are of {100 * self.looks.confidence:.1f} % each, and hold at 95 % together"
        return f"N = {n} was settled by look {self.taken} of at most {most}: {self.why}; {held}."


@functools.cache
def level(sizes: Sequence[int], alpha: float, one_sided: bool) -> float:
    """The level per look: 1 - Phi(c) (twice that, two-sided), c such that no look's Z is beyond c in 1 - alpha.

    Z of two looks is normal, with the correlation sqrt(n1 / n2): that of sums of independent values.
    """
    tails = 1 if one_sided else 2
    if len(sizes) == 1:
        return alpha
    low, high = _NORMAL.inv_cdf(1 - alpha / tails), _NORMAL.inv_cdf(1 - alpha / tails / len(sizes))  # none; Bonferroni
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _beyond(sizes, middle, one_sided) <= alpha else (middle, high)
    return tails * (1 - _NORMAL.cdf(high))


@functools.cache
def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights of an integral over -1 to 1."""
    from numpy.polynomial.legendre import leggauss

    points, weights = leggauss(_GRID)
    return points, weights


def _beyond(sizes: Sequence[int], reach: float, one_sided: bool) -> float:
    """The probability that some look's Z is beyond `reach`: Armitage, McPherson and Rowe's recursion (1969)."""
    import numpy as np
    from scipy.special import ndtr

    points, weights = _grid()
    lowest = -_FAR if one_sided else -reach
    z = (reach - lowest) / 2 * points + (reach + lowest) / 2
    weights = weights * (reach - lowest) / 2
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    for before, after in itertools.pairwise(sizes[:-1]):
        alike = math.sqrt(before / after)
        spread = math.sqrt(1 - before / after)
        step = np.exp(-(((z[:, None] - alike * z) / spread) ** 2) / 2) / spread / math.sqrt(2 * math.pi)
        density = step @ (weights * density)
    before, after = sizes[-2:]
    alike, spread = math.sqrt(before / after), math.sqrt(1 - before / after)
    stays = ndtr((reach - alike * z) / spread) - (0.0 if one_sided else ndtr((-reach - alike * z) / spread))
    return float(1 - (weights * density * stays).sum())
