"""An extractor for benchmarks: one fixed random matrix, so that what is measured is everything but the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.extractors.base import NetworkExtractor, to_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

SIDE = 32


class WideFeatures(NetworkExtractor):
    """Layer `x`: the positive part of W times the pixels of a 32 x 32 image, f32 [B,width]."""

    def __init__(self, width: int = 2048, name: str = "wide", batch_size: int = 64) -> None:
        super().__init__(name, batch_size)
        self.width = width

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"x": self.width}

    def check(self, *, fetch: bool = True) -> None: ...

    def identity(self) -> dict[str, Any]:
        return {"network": "random matrix", "width": self.width}

    def label(self) -> str:
        return self.name

    def _load(self) -> Any:
        import torch

        generator = torch.Generator().manual_seed(0)
        layer = torch.nn.Linear(3 * SIDE * SIDE, self.width, bias=False)
        layer.weight = torch.nn.Parameter(torch.randn(layer.weight.shape, generator=generator) / SIDE, False)
        return layer

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        pixels = to_tensor(images).to(self._device).float().flatten(1) / 255 - 0.5  # u8 [B,3,32,32] -> f32 [B,3072]
        return {"x": self._net(pixels).relu().cpu()}
