"""Small stand-ins for the tests of features and scores: a source, an extractor that is one matrix, metrics of pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.data.source import WithoutRecords
from evalkit.errors import ConfigError
from evalkit.extractors.base import BatchSize, Extractor
from evalkit.metric import Batch, PairMetric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class MemorySource(WithoutRecords):
    """Images u8 [H,W,3] in memory; `reads` counts how often each was decoded."""

    images: Sequence[np.ndarray]
    prompts: Sequence[str | None] = ()
    name: str = "memory"
    warnings: Mapping[str, int] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    fail_at: int | None = None

    def __post_init__(self) -> None:
        self.prompts = list(self.prompts) or [None] * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        return self.chunk_digest(range(len(self)))

    def chunk_digest(self, chunk: range) -> str:
        digest = hashlib.sha256()
        for i in chunk:
            image = self.images[i]
            digest.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def read(self, indices: range) -> list[np.ndarray]:
        if self.fail_at is not None and self.fail_at in indices:
            raise KeyboardInterrupt
        for i in indices:
            self.reads[i] = self.reads.get(i, 0) + 1
        return [self.images[i] for i in indices]


class MatrixExtractor(Extractor):
    """Layer `flat` (8): a fixed random matrix on the first 12 pixel values; `soft` (5): logits; `text` (8)."""

    text_layers = frozenset({"text"})

    def __init__(self, name: str = "matrix", batch_size: BatchSize = 8, version: int = 1, width: int = 8) -> None:
        super().__init__(name, batch_size)
        self.version = version
        self.width = width
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.loaded = False
        self.bad = False

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"flat": self.width, "soft": 5, "text": self.width}

    def check(self, *, fetch: bool = True) -> None:
        if self.version < 0:
            raise ConfigError(f"extractor '{self.name}': no weights")

    def identity(self) -> dict[str, Any]:
        return {"network": "matrix", "version": self.version}

    def label(self) -> str:
        return self.name

    def load(self, device: str) -> None:
        self.loaded = True

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        return {"prompt_truncated": sum(len(text) > 50 for text in prompts)}

    def unload(self) -> None:
        self.loaded = False

    def __call__(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import torch

        assert self.loaded
        self.calls.append((len(images) or len(prompts), tuple(layers)))
        out = {}
        for layer in layers:
            g = torch.Generator().manual_seed(self.version)
            if layer == "text":
                rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[:12] for text in prompts]
            else:
                rows = [image.reshape(-1)[:12] for image in images]
            x = torch.from_numpy(np.stack(rows)).float() / 255
            out[layer] = x @ torch.randn(12, self.layers[layer] or 0, generator=g)
            if self.bad:
                out[layer][0, 0] = float("nan")
        return out


def random_images(n: int, seed: int = 0, size: int = 8) -> list[np.ndarray]:
    """u8 [size,size,3] each, all different."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8))


class PixelGap(PairMetric):
    """Mean absolute difference of pixels."""

    title = "gap"
    better = "lower"

    def __init__(self, pairs: Any = "baseline", max_pairs: int | None = None) -> None:
        self.pairs = pairs
        self.max_pairs = max_pairs

    def distance(self, first: Batch, second: Batch) -> Tensor:
        assert first.images is not None
        assert second.images is not None
        return (first.images.double() - second.images.double()).abs().mean(dim=(1, 2, 3))


class FeatureGap(PixelGap):
    needs = ("matrix/flat",)

    def distance(self, first: Batch, second: Batch) -> Tensor:
        return (first.features["matrix/flat"] - second.features["matrix/flat"]).double().square().sum(1)
