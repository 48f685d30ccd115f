"""TopP and TopR: precision and recall between supports that are statistically sure, so that outliers do not count.

Kim et al. 2023, arXiv:2306.08013. Conventions of the authors' package top-pr 0.2.1: features of more than 32 dimensions
are projected to 32 at random (Xavier, torch seed 99); a density is a sum of cosine kernels whose width is the median
distance to the 5 d-th nearest of the samples that come later; a sample is in a support where the density is above
its bootstrap band: the 90 % quantile of the largest change in 10 resamples (RandomState(42), reference first). Equal to
it on the same features; densities leave out its constant (pi / 4h)^d, which both sides of every comparison share.

Standard error of TopP: of drawing other generated samples, both supports held fixed. Of TopR there is none: a sample
moves it by its support alone.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, with_error
from evalkit.numerics.blockwise import finite_mean, full_float32, row_blocks
from evalkit.numerics.kernels import kernel_product

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Inside = tuple[Tensor, Tensor, Tensor, Tensor]

DIMENSIONS = 32  # of the projection
PROJECTION, RESAMPLES = 99, 42  # seeds
REPEATS = 10


@dataclass(eq=False)
class _Supports(KeepsFeatures, ReferenceMetric[Rows]):
    """What both share: 0 to 1, higher is better; not a number where no sample is sure.

    Args:
        features: the address of the features, f32 [B,D].
        alpha: of the bands, 0 to 1.
    """

    features: str = "inception/pool3"
    alpha: float = 0.1

    better = "higher"
    needs = (features,)
    estimator: ClassVar[str]

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha={self.alpha}: must be between 0 and 1")
        self.needs = (self.features,)
        self.min_samples = self.min_reference = 8

    def constants(self) -> dict[str, Any]:
        values = {"alpha": self.alpha, "dimensions": DIMENSIONS, "kernel": "cosine", "resamples": REPEATS}
        draws = f"projection: torch {PROJECTION}; resamples: RandomState({RESAMPLES})"
        return {"estimator": self.estimator, **values, "draws": draws}

    def _inside(self, generated: Rows, reference: Rows) -> Inside:
        """Of generated samples, bool [N]: in their own support, in the reference's; of the reference's, bool [M]."""
        return meet(generated[self.features], reference[self.features], self.alpha)


class TopPrecision(_Supports):
    """The share of sure generated samples that lie in the reference's support: fidelity."""

    title = "TopP"
    estimator = "share of the generated samples in their own support that lie in the reference's"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        own, theirs, *_ = self._inside(generated, reference)
        if not bool(own.any()):
            return Score(None, len(own), note="no generated sample is sure: the set is too small or too spread")
        value = int((own & theirs).sum()) / int(own.sum())
        sure = own.double()
        influence = sure * (theirs.double() - value) / sure.mean()
        return with_error(Score(value, len(own), details={"sure": float(sure.mean())}), influence, generated.clusters)


class TopRecall(_Supports):
    """The share of sure reference images that lie in the generated samples' support: diversity."""

    title = "TopR"
    estimator = "share of the reference in its own support that lies in the generated samples'"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        *_, own, theirs = self._inside(generated, reference)
        if not bool(own.any()):
            return Score(None, len(generated), note="no reference image is sure: the set is too small or too spread")
        value = int((own & theirs).sum()) / int(own.sum())
        note = "no standard error: a sample moves it by the support alone"
        return Score(value, len(generated), details={"sure": float(own.double().mean())}, note=note)


def meet(generated: Tensor, reference: Tensor, alpha: float) -> Inside:
    """As `_Supports._inside`, of features f32 [N,D] and [M,D]; kept for as long as both live: two metrics ask."""
    import numpy as np

    _kept[:] = [entry for entry in _kept if entry[0]() is not None and entry[1]() is not None]
    for one, other, known_alpha, found in _kept:
        if one() is generated and other() is reference and known_alpha == alpha:
            return found
    y, x = projected(reference), projected(generated)
    if x.shape[1] < 4:
        raise ValueError(f"features of {x.shape[1]} dimensions: TopP and TopR are defined by grids below 4")
    rng = np.random.RandomState(RESAMPLES)
    of_y, of_x = (_Support.of(s, alpha, rng) for s in (y, x))
    inside = of_x.inside, of_y.holds(x), of_y.inside, of_x.holds(y)
    _kept.append((weakref.ref(generated), weakref.ref(reference), alpha, inside))
    return inside


_kept: list[tuple[weakref.ref[Tensor], weakref.ref[Tensor], float, Inside]] = []


@dataclass(frozen=True)
class _Support:
    """Where the density of some samples is surely above 0."""

    samples: Tensor  # f32 [N,D]
    width: float
    band: float
    inside: Tensor  # bool [N]: which of them lie in it

    @classmethod
    def of(cls, x: Tensor, alpha: float, rng: np.random.RandomState) -> _Support:
        """Takes its resamples from `rng`."""
        import numpy as np
        import torch

        n, width = len(x), kernel_width(x)
        drawn = [rng.choice(np.arange(n), size=n, replace=True) for _ in range(REPEATS)]
        weights = [np.ones(n), *(np.bincount(indices, minlength=n) for indices in drawn)]
        density = kernel_product(x, x, cosine(width), torch.from_numpy(np.stack(weights, 1)).float().to(x.device)) / n
        changes = (density[:, 1:] - density[:, :1]).abs().max(dim=0).values  # f64 [REPEATS]
        band = float(np.quantile(changes.cpu().numpy(), 1 - alpha))
        return cls(x, width, band, density[:, 0] > band)

    def holds(self, points: Tensor) -> Tensor:
        """Which of f32 [M,D] lie in it, bool [M]."""
        return kernel_product(points, self.samples, cosine(self.width)) / len(self.samples) > self.band


def projected(x: Tensor) -> Tensor:
    """f32 [N,D] -> [N,32] where D is above 32. ValueError: features that are not finite."""
    import torch

    finite_mean(x)
    wide = x.shape[1]
    if wide <= DIMENSIONS:
        return x
    generator = torch.Generator().manual_seed(PROJECTION)
    std = math.sqrt(2 / (wide + DIMENSIONS))
    axes = torch.empty(DIMENSIONS, wide).normal_(0, std, generator=generator).to(x.device)
    with full_float32():
        return x @ axes.T


def cosine(width: float) -> Any:
    """The kernel cos(pi d / 2h) of rows nearer than h, else 0: [A,D], [B,D] -> [A,B]."""
    import torch

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.cos(distance.clamp(max=width) * (math.pi / 2 / width)).clamp_(min=0)

    return kernel


def kernel_width(x: Tensor) -> float:
    """The median over samples of the distance to the 5 d-th nearest of those that come later in the set.

    As in the package: the last 5 d samples have too few after them and are left out, and the median is the lower one.
    In a set too small for 5 d, as many neighbours as half of the set.
    """
    import torch

    n, d = x.shape
    k = min(5 * d, n // 2)
    found = []
    for rows in row_blocks(x):
        last = min(rows.stop, n - k)
        if rows.start >= last:
            break
        block = x[rows.start : last]
        distances = torch.cdist(block, x[rows.start + 1 :], compute_mode="donot_use_mm_for_euclid_dist")  # [A,B]
        columns = torch.arange(distances.shape[1], device=x.device)
        earlier = columns[None] < torch.arange(len(block), device=x.device)[:, None]
        found.append(distances.masked_fill_(earlier, math.inf).kthvalue(k, dim=1).values)
    widths = torch.cat(found).sort().values
    width = float(widths[max(int(len(widths) * 0.5) - 1, 0)])
    return width if width > 0 else 1e-12  # of copies
