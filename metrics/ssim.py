"""Structural similarity (Wang et al. 2004) and its multi-scale form (Wang et al. 2003), as torchmetrics 1.9 has them.

Both are written out here, with two passes of 11 taps: torchmetrics' one pass of 121 takes ten times as long in float64.
Colour images, levels of 0 to 255, Gaussian window of 11 with sigma 1.5, k1 = 0.01, k2 = 0.03; in float64, since the
variances are differences of large numbers (float32 deviates by about 1e-5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Better, Pairing, PairMetric
from evalkit.numerics.threads import in_parallel

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = 11
SIGMA = 1.5
PAIRS = 4  # at a time on a CPU
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003: weights of five scales, the finest first


@dataclass(eq=False)
class Ssim(PairMetric):
    """-1 to 1 (equal images), higher is better.

    Args:
        pairs, resize_own: see PairMetric.
    """

    pairs: Pairing = "baseline"
    resize_own: bool = False

    title = "SSIM"
    better = "higher"
    on_device = True

    def constants(self) -> dict[str, Any]:
        return {"estimator": "ssim, gaussian window", "kernel": KERNEL, "sigma": SIGMA, "data_range": 255}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        a, b = (_pixels(batch, KERNEL, "SSIM") for batch in (first, second))
        return _by_pairs(lambda a, b: _maps(a, b)[0].flatten(1).mean(1), a, b)


@dataclass(eq=False)
class MsSsim(PairMetric):
    """0 to 1 (equal images), higher is better.

    Args:
        betas: the scales' weights, the finest first. Each scale halves the image: five need 176 pixels, two 22.
        pairs, max_pairs, seed: see PairMetric.
    """

    betas: Sequence[float] = BETAS
    pairs: Pairing = "baseline"
    max_pairs: int | None = None
    seed: int = 2020

    title = "MS-SSIM"
    on_device = True
    better: Better = field(default="higher", init=False)

    def __post_init__(self) -> None:
        self.betas = tuple(map(float, self.betas))  # a YAML gives a list
        if not self.betas or min(self.betas) <= 0:
            raise ValueError(f"betas={list(self.betas)}: give the weight of each scale, all above 0")

    def constants(self) -> dict[str, Any]:
        return {"estimator": "ms-ssim, relu", "kernel": KERNEL, "data_range": 255, "betas": list(self.betas)}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        halvings = len(self.betas) - 1
        least = KERNEL * max(halvings**2, 2**halvings)  # torchmetrics' own rule, and a whole window at the coarsest
        what = f"MS-SSIM over {len(self.betas)} scales (fewer: betas=[...])"
        a, b = _pixels(first, least, what), _pixels(second, least, what)
        return _by_pairs(self._distance, a, b)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """f64 [B] of images f64 [B,3,H,W]."""
        import torch
        from torch.nn.functional import avg_pool2d

        halvings = len(self.betas) - 1
        inner = slice(KERNEL // 2, -(KERNEL // 2))  # where no window leaves the image
        parts = []  # of each scale, f64 [B]
        for scale in range(len(self.betas)):
            whole, contrast = _maps(a, b)
            part = contrast[..., inner, inner] if scale < halvings else whole
            parts.append(part.flatten(1).mean(1).relu())
            a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
        weights = torch.tensor(self.betas, device=a.device)[:, None]  # in float32, as there
        return (torch.stack(parts) ** weights).prod(0)  # f64 [B]


@dataclass(eq=False)
class MsSsimDiversity(MsSsim):
    """MS-SSIM between samples of one prompt (Odena et al. 2017): the LOWER, the more diverse; near 1: mode collapse."""

    pairs: Pairing = "prompt"

    title = "MS-SSIM within prompts"
    better: Better = field(default="lower", init=False)


def _by_pairs(distance: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """f64 [B], of two batches of images; on a CPU a few pairs at a time, several times at once."""
    import torch

    if a.is_cuda:
        return distance(a, b)
    parts = zip(torch.split(a, PAIRS), torch.split(b, PAIRS), strict=True)
    return torch.cat(list(in_parallel(lambda part: distance(*part), parts)))


def _maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM, and its factor of contrast and structure, at each pixel of images f64 [B,3,H,W], mirrored at borders."""
    import torch
    from torch.nn.functional import pad

    a, b = (pad(x, (KERNEL // 2,) * 4, mode="reflect") for x in (a, b))
    mean_a, mean_b, aa, bb, ab = _blurred(torch.stack([a, b, a * a, b * b, a * b]))  # each f64 [B,3,H,W]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    squares = mean_a.square() + mean_b.square()
    variances = (aa - mean_a.square()).clamp(min=0) + (bb - mean_b.square()).clamp(min=0)
    covariance = ab - mean_a * mean_b
    upper, lower = 2 * covariance + c2, variances + c2
    return (2 * mean_a * mean_b + c1) * upper / ((squares + c1) * lower), upper / lower


def _blurred(x: Tensor) -> Tensor:
    """The Gaussian mean of each window: [..., H, W] -> [..., H - 10, W - 10]."""
    import torch

    taps = torch.exp(-((torch.arange(KERNEL, dtype=x.dtype) - KERNEL // 2) / SIGMA).square() / 2)
    weights = (taps / taps.sum()).tolist()
    for dim in (-1, -2):
        size = x.shape[dim] - KERNEL + 1
        total = x.narrow(dim, 0, size) * weights[0]
        for k in range(1, KERNEL):
            total.add_(x.narrow(dim, k, size), alpha=weights[k])
        x = total
    return x


def _pixels(batch: Batch, least: int, what: str) -> Tensor:
    """u8 -> f64 [B,3,H,W]."""
    assert batch.images is not None
    height, width = batch.images.shape[2:]
    if min(height, width) < least:
        raise ValueError(f"{what} needs images of {least} pixels or more, not {height}x{width}")
    return batch.images.double()
