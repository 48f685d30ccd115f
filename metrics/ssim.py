"""Structural similarity (Wang et al. 2004) and its multi-scale form (Wang et al. 2003), by torchmetrics 1.9.

Colour images, levels of 0 to 255, Gaussian window of 11 with sigma 1.5, k1 = 0.01, k2 = 0.03; in float64, since the
variances are differences of large numbers (float32 deviates by about 1e-5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Better, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = 11
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003: weights of five scales, the finest first


class Ssim(PairMetric):
    """-1 to 1 (equal images), higher is better."""

    title = "SSIM"
    better = "higher"

    def constants(self) -> dict[str, Any]:
        return {"estimator": "ssim, gaussian window", "kernel": KERNEL, "sigma": 1.5, "data_range": 255}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        a, b = _pixels(first, KERNEL, "SSIM"), _pixels(second, KERNEL, "SSIM")
        each = structural_similarity_index_measure(a, b, kernel_size=KERNEL, data_range=255.0, reduction="none")
        assert not isinstance(each, tuple)  # that is where the full image is asked for
        return each  # f64 [B]


class MsSsim(PairMetric):
    """0 to 1 (equal images), higher is better.

    Args:
        betas: the scales' weights, the finest first. Each scale halves the image: five need 176 pixels, two 22.
        pairs, max_pairs, seed: see PairMetric.
    """

    title = "MS-SSIM"
    better: Better = "higher"

    def __init__(
        self,
        betas: Sequence[float] = BETAS,
        pairs: Pairing = "baseline",
        max_pairs: int | None = None,
        seed: int = 2020,
    ) -> None:
        self.betas = tuple(float(beta) for beta in betas)
        self.pairs = pairs
        self.max_pairs = max_pairs
        self.seed = seed
        if not self.betas or min(self.betas) <= 0:
            raise ValueError(f"betas={list(betas)}: give the weight of each scale, all above 0")

    def constants(self) -> dict[str, Any]:
        return {"estimator": "ms-ssim, relu", "kernel": KERNEL, "data_range": 255, "betas": list(self.betas)}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        halvings = len(self.betas) - 1
        least = KERNEL * max(halvings**2, 2**halvings)  # torchmetrics' own rule, and a whole window at the coarsest
        what = f"MS-SSIM over {len(self.betas)} scales (fewer: betas=[...])"
        a, b = _pixels(first, least, what), _pixels(second, least, what)
        return multiscale_structural_similarity_index_measure(
            a, b, kernel_size=KERNEL, data_range=255.0, betas=self.betas, normalize="relu", reduction="none"
        )  # f64 [B]


class MsSsimDiversity(MsSsim):
    """MS-SSIM between samples of one prompt (Odena et al. 2017): the LOWER, the more diverse; near 1: mode collapse."""

    title = "MS-SSIM within prompts"
    better = "lower"

    def __init__(
        self,
        betas: Sequence[float] = BETAS,
        pairs: Pairing = "prompt",
        max_pairs: int | None = None,
        seed: int = 2020,
    ) -> None:
        super().__init__(betas, pairs, max_pairs, seed)


def _pixels(batch: Batch, least: int, what: str) -> Tensor:
    """u8 -> f64 [B,3,H,W]."""
    assert batch.images is not None
    height, width = batch.images.shape[2:]
    if min(height, width) < least:
        raise ValueError(f"{what} needs images of {least} pixels or more, not {height}x{width}")
    return batch.images.double()
