"""Datasets as models that made their images: a Hugging Face dataset, one of torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from evalkit.data.arrays import ArrayImages
from evalkit.data.containers.hf_dataset import DatasetOpening
from evalkit.data.containers.torchvision_dataset import VisionOpening
from evalkit.data.source import FolderImages
from evalkit.models.base import ExistingImages


class _Opened(ExistingImages):
    """What both have in common."""

    opening: DatasetOpening | VisionOpening

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where it is not there."""
        self.opening.check()

    def identity(self) -> dict[str, Any]:
        """Which images are asked for. What they hold is told by `open(...).digest`, which scores and features go by."""
        return self.opening.identity()

    def num_available(self) -> int:
        return self.opening.count()

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        return self.opening.open(cache=cache).head(num_samples)


class DatasetModel(_Opened):
    """Images of a Hugging Face dataset; arguments as of `DatasetOpening`. Needs `pip install 'evalkit[datasets]'`."""

    def __init__(
        self,
        name: str,
        split: str = "train",
        image: str | None = None,
        prompts: str | None = "auto",
        category: str | None = "auto",
        config: str | None = None,
        revision: str | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
    ) -> None:
        self.opening = DatasetOpening(name, split, image, prompts, category, config, revision, on_error, mixed_sizes)


class VisionModel(_Opened):
    """Images of a torchvision dataset; arguments as of `VisionOpening`."""

    def __init__(
        self,
        name: str,
        root: str | None = None,
        split: str | None = None,
        download: bool = False,
        options: Mapping[str, Any] | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
    ) -> None:
        self.opening = VisionOpening(name, root, split, download, dict(options or {}), on_error, mixed_sizes)
