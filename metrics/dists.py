"""DISTS (Ding et al. 2020, arXiv:2004.07728): structure and texture of VGG16's maps, between the images of a pair.

As torchmetrics 1.9 has it (`functional.image.dists`), which ships the paper's weights alpha and beta (MIT). Of each map
s1 compares the means and s2 the correlation; DISTS is 1 - sum(alpha s1 + beta s2). It forgives texture that is drawn
anew, where LPIPS and SSIM do not. Images are compared at their size; the paper's script brings them to 256.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.metric import Batch, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = (3, 64, 128, 256, 512, 512)
C1 = C2 = 1e-6


@dataclass(eq=False)
class Dists(PairMetric):
    """0 (equal images) to 1, lower is better: the mean over the pairs.

    Args:
        features: address of the maps (evalkit.extractors.dists).
        weights: a file of alpha and beta, f32 [1,1475,1,1] each; none: the one that comes with torchmetrics.
        pairs, resize_own: see PairMetric.

    Raises:
        ConfigError: there is no such file.
    """

    features: str = "dists/maps"
    weights: str | None = None
    pairs: Pairing = "baseline"
    resize_own: bool = False

    title = "DISTS"
    better = "lower"
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        self._file = _shipped() if self.weights is None else Path(self.weights).expanduser()
        if not self._file.is_file():
            raise ConfigError(f"DISTS needs its weights alpha and beta: there is no {self._file} (torchmetrics has it)")
        self._parts: list[tuple[Tensor, Tensor]] = []

    def constants(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._file.read_bytes()).hexdigest()
        return {"estimator": "1 - sum(alpha s1 + beta s2)", "c1": C1, "c2": C2, "weights": digest}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        """f64 [B]."""
        a, b = first.features[self.features], second.features[self.features]  # f32 [B,D], D = 2 + sums of C H W
        height, width = (int(side) for side in a[0, :2].tolist())
        alike, start = a.new_zeros(len(a)).double(), 2
        for channels, (alpha, beta) in zip(CHANNELS, self._alpha_and_beta(str(a.device)), strict=True):
            stop = start + channels * height * width
            x, y = (side[:, start:stop].double().view(len(a), channels, height * width) for side in (a, b))
            alike += _structure(x, y, alpha, beta)
            start = stop
            if channels > 3:  # the image and the first stage have one size
                height, width = (height + 1) // 2, (width + 1) // 2
        return 1 - alike

    def _alpha_and_beta(self, device: str) -> list[tuple[Tensor, Tensor]]:
        """Of each map f64 [C], together of sum 1."""
        import torch

        if not self._parts or str(self._parts[0][0].device) != device:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            alpha, beta = (state[name].detach().double().flatten() for name in ("alpha", "beta"))
            if len(alpha) != sum(CHANNELS) or len(beta) != sum(CHANNELS):
                raise ValueError(f"{self._file}: alpha and beta have {len(alpha)} and {len(beta)} values, not 1475")
            total = alpha.sum() + beta.sum()
            both = (torch.split((side / total).to(device), list(CHANNELS)) for side in (alpha, beta))
            self._parts = list(zip(*both, strict=True))
        return self._parts


def _structure(x: Tensor, y: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """sum(alpha s1 + beta s2) of maps f64 [B,C,HW] -> f64 [B]."""
    mean_x, mean_y = x.mean(2), y.mean(2)
    x, y = x - mean_x[..., None], y - mean_y[..., None]
    s1 = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    s2 = (2 * (x * y).mean(2) + C2) / (x.square().mean(2) + y.square().mean(2) + C2)
    return (alpha * s1 + beta * s2).sum(1)


def _shipped() -> Path:
    """torchmetrics' file, without importing it."""
    spec = importlib.util.find_spec("torchmetrics")
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places or ("torchmetrics",)))) / "functional" / "image" / "dists_models" / "weights.pt"
