"""Datasets as models that made their images: a Hugging Face dataset, one of torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from evalkit.data.containers.hf_dataset import DatasetOpener
from evalkit.data.containers.torchvision_dataset import TorchvisionOpener
from evalkit.data.records import ReadOptions
from evalkit.models.folder import OpenedImages


class DatasetModel(OpenedImages):
    """Images of a Hugging Face dataset; arguments as of `DatasetOpener` and `ReadOptions`.

    Needs `pip install 'evalkit[datasets]'`.
    """

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
        options = ReadOptions(prompts=prompts, on_error=on_error, mixed_sizes=mixed_sizes)
        super().__init__(DatasetOpener(name, split, image, category, config, revision, options))


class VisionModel(OpenedImages):
    """Images of a torchvision dataset; arguments as of `TorchvisionOpener` and `ReadOptions`."""

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
        reading = ReadOptions(prompts=None, on_error=on_error, mixed_sizes=mixed_sizes)
        super().__init__(TorchvisionOpener(name, root, split, download, dict(options or {}), reading))
