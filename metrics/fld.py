"""FLD, the feature likelihood divergence: how surprising held-out images are to the samples; copies are punished.

Jiralerspong et al. 2023, arXiv:2302.04440; conventions of marcojira/fld (ffbbf20): at most 10,000 samples; features
scaled by the held-out images' mean and deviation; a Gaussian around each sample, whose widths are fitted to the
training images (Adam, up to 50 steps at 0.5, a wide Gaussian at the training mean next to them); the held-out images'
negative log-likelihood per dimension, less that of a half of the training set fitted to the other half, times 100. The
reference is the held-out set. Subsets are drawn by RandomState(2020); all training images make one step, where the
authors step per 10,000.

Samples that copy training images get narrow Gaussians, that the held-out images then fall outside of. The gap (the
training images' likelihood less the held-out ones') stands in `details`. There is no standard error: a sample moves the
fit as well. Memory: the distances of all training images to all samples, 2 GB at the authors' 10,000 and 50,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score
from evalkit.numerics.blockwise import finite_mean, full_float32

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MOST = 10_000  # samples
STEPS, RATE = 50, 0.5
NEAR = 0.9  # the wide Gaussian's distances are shortened by so much
BLOCK = 1024  # rows of distances that are worked on at a time
LOWEST, HIGHEST = -40.0, 40.0  # of log variances
LATEST, STILL = 5, 5e-4  # losses that differ by less from the last one end the fit


@dataclass(eq=False)
class FeatureLikelihood(KeepsFeatures, ReferenceMetric[Rows]):
    """About 0 for fresh draws of the training distribution, higher is worse.

    Args:
        features: the address of the features, f32 [B,D].
        seed: of the drawing of subsets.
    """

    features: str = "inception/pool3"
    seed: int = 2020

    title = "FLD"
    better = "lower"
    needs = (features,)
    sides: ClassVar[tuple[str, ...]] = ("reference", "training")

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        self.min_reference = 4
        self._base: tuple[Rows, Rows, int, float] | None = None

    def constants(self) -> dict[str, Any]:
        estimator = "100 (NLL of held-out images under Gaussians at samples - at half of the training set) / D"
        return {"estimator": estimator, "samples": MOST, "steps": STEPS, "rate": RATE, "seed": self.seed}

    def score(self, *, generated: Rows, reference: Rows, training: Rows) -> Score:
        import numpy as np

        rng = np.random.RandomState(self.seed)
        x, held_out, known = (rows[self.features] for rows in (generated, reference, training))
        finite_mean(x), finite_mean(known)
        centre, spread = finite_mean(held_out).float(), held_out.std(0)
        spread = spread.where(spread > 0, 1)  # a feature that is the same everywhere tells nothing
        x, held_out, known = ((side - centre) / spread for side in (x, held_out, known))
        if len(x) > MOST:
            x = x[_picks(rng, len(x), MOST, x)]
        mixture = Mixture.fitted(x, known)
        likely, of_training = (float(mixture.surprise(side).mean()) for side in (held_out, known))
        value = 100 * (likely - self._baseline(reference, training, held_out, known, len(x)))
        return Score(value, len(generated), details={"gap": 100 * (of_training - likely)})

    def _baseline(self, reference: Rows, training: Rows, held_out: Tensor, known: Tensor, size: int) -> float:
        """The same of a half of the training set in the samples' place; once for all cells of equal N."""
        import numpy as np

        base = self._base
        if base is None or base[0] is not reference or base[1] is not training or base[2] != size:
            order = _picks(np.random.RandomState(self.seed), len(known), len(known), known)
            half = min(size, len(known) // 2)
            mixture = Mixture.fitted(known[order[:half]], known[order[half:]])
            base = self._base = (reference, training, size, float(mixture.surprise(held_out).mean()))
        return base[3]


def _picks(rng: np.random.RandomState, n: int, size: int, like: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(rng.permutation(n)[:size]).to(like.device)


@dataclass(frozen=True)
class Mixture:
    """Equal Gaussians at centres, each as wide in all directions."""

    centres: Tensor  # f32 [N,D]
    log_variances: Tensor  # f64 [N]

    @classmethod
    def fitted(cls, centres: Tensor, points: Tensor) -> Mixture:
        """With the widths under which f32 [M,D] are likely: Adam on the mean log-likelihood per dimension."""
        import torch

        with torch.inference_mode(False), torch.enable_grad():  # a run may have switched gradients off
            return cls(centres, cls._widths(centres, points))

    @staticmethod
    def _widths(centres: Tensor, points: Tensor) -> Tensor:
        import torch

        n, d = centres.shape
        squares = [_squares(rows, centres) for rows in torch.split(points, BLOCK)]  # f32 [B,N] each
        wide = [NEAR**2 * _squares(rows, points.mean(0, keepdim=True)) for rows in torch.split(points, BLOCK)]
        nearest = torch.stack([block.min(dim=0).values for block in squares]).min(dim=0).values
        widths = ((nearest.double() + 1e-3) / d).log().requires_grad_()
        widest = torch.zeros((), dtype=torch.float64, device=centres.device, requires_grad=True)
        adam = torch.optim.Adam([widths, widest], lr=RATE)
        losses: list[float] = []
        for _ in range(STEPS):
            adam.zero_grad()
            losses.append(0.0)
            for block, far in zip(squares, wide, strict=True):
                each = torch.cat([_log_density(block, widths, d) - math.log(n), _log_density(far, widest, d)], dim=1)
                loss = -each.logsumexp(dim=1).sum() / (len(points) * d)
                loss.backward()  # type: ignore[no-untyped-call]
                losses[-1] += float(loss.detach())
            adam.step()
            with torch.no_grad():
                widths.clamp_(LOWEST, HIGHEST)
            if len(losses) > LATEST + 1 and max(abs(losses[-1] - loss) for loss in losses[-LATEST:]) < STILL:
                break
        return widths.detach()

    def surprise(self, points: Tensor) -> Tensor:
        """The negative log-likelihood per dimension of f32 [M,D], f64 [M]."""
        import torch

        n, d = self.centres.shape
        parts = []
        for rows in torch.split(points, BLOCK):
            each = _log_density(_squares(rows, self.centres), self.log_variances, d) - math.log(n)
            parts.append(-each.logsumexp(dim=1) / d)
        return torch.cat(parts)


def _squares(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances f32 [B,N]."""
    import torch

    with full_float32():
        return torch.cdist(x, centres).square()


def _log_density(squares: Tensor, log_variances: Tensor, dimension: int) -> Tensor:
    """Of Gaussians at these squared distances, f64 [B,N]."""
    exponent = -0.5 * squares.double() * (-log_variances).exp()
    return exponent - dimension / 2 * (log_variances + math.log(2 * math.pi))
