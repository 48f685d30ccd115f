"""CMMD: the squared MMD of two sets of CLIP embeddings under a Gaussian kernel.

Jayasumana et al. 2024, arXiv:2401.09603. Conventions of google-research/cmmd (`distance.py`): embeddings of unit length
(CLIP ViT-L/14@336), sigma = 10, the biased estimator, times 1000. The kernel is near 1 throughout (distances are at
most 2), so its difference from 1 is summed: the three ones cancel exactly, and no digits are lost to them.

Standard error: of drawing other generated samples, the reference held fixed (`evalkit.numerics.kernels.mmd_spread`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, ReferenceMetric, Rows, Score
from evalkit.numerics.kernels import kernel_product, mmd_spread

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Cmmd(ReferenceMetric[Rows]):
    """0 (equal sets) upwards, lower is better; biased upward by O(1/N).

    Args:
        features: the address of the embeddings, f32 [B,D], of any length.
        sigma: the kernel's bandwidth.
        scale: what the squared MMD is multiplied by.
        seed: of the partners that the standard error is estimated with.
    """

    features: str = "clip_vit_l14_336/image"
    sigma: float = 10.0
    scale: float = 1000.0
    seed: int = 2020

    title = "CMMD"
    better = "lower"
    needs = (features,)
    on_device = True
    min_samples = 4

    def __post_init__(self) -> None:
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        kernel = "exp(-|x-y|^2 / (2 sigma^2)), x and y of unit length"
        return {"estimator": "biased squared MMD", "kernel": kernel, "sigma": self.sigma, "scale": self.scale}

    def observe(self, batch: Batch) -> Rows:
        from torch.nn.functional import normalize

        unit = normalize(batch.features[self.features].double(), dim=1, eps=1e-300)  # f64 [B,D]: of any length but 0
        return Rows(batch.index, {"x": unit.float()}, batch.clusters)  # f32 [B,D]

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        x, y = generated["x"], reference["x"]
        n, m = len(x), len(y)
        within = kernel_product(x, x, self.kernel).sum() / n**2 + kernel_product(y, y, self.kernel).sum() / m**2
        value = float(within - 2 * kernel_product(x, y, self.kernel).sum() / (n * m))
        spread = mmd_spread(x, y, self.kernel, self.seed, clusters=generated.clusters)
        stderr = None if spread.variance is None else self.scale * spread.variance**0.5
        each = tuple((self.scale * spread.influence).tolist())
        return Score(self.scale * max(value, 0.0), n, stderr, each, clusters=spread.clusters)

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """exp(-|a-b|^2 / (2 sigma^2)) - 1 of the rows of [A,D] and [B,D]: [A,B]."""
        import torch

        squares = torch.addmm(b.square().sum(1)[None, :], a, b.T, alpha=-2).add_(a.square().sum(1)[:, None])
        return squares.clamp_(min=0).div_(-2 * self.sigma**2).expm1_()
