"""A folder of images made elsewhere, as a model like any other: nothing is generated and nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import ConfigError
from evalkit.folders import EXTENSIONS, list_files
from evalkit.models.base import ExistingImages
from evalkit.paths import resolve_path
from evalkit.readers import ArrayImages, FolderImages


class FolderModel(ExistingImages):
    """Images of a folder in the order of their relative paths, or of an .npz (array `arr_0`, u8 [N,H,W,3]).

    Args:
        path: the folder or the .npz; a cell's folder in a store counts as well.
        recursive: whether folders inside it count.
        prompts: where the images' texts are: "auto", None, "sidecar" or a metadata file (`folders.find_prompts`).
        on_error: what a broken image does: "refuse", or "skip" (left out, counted as the warning "skipped").
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        recursive: bool = True,
        prompts: str | None = "auto",
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
    ) -> None:
        if on_error not in ("refuse", "skip"):
            raise ConfigError(f"on_error={on_error!r}: give refuse or skip")
        self.path = resolve_path(path)
        self.recursive = recursive
        self.prompts = prompts
        self.on_error = on_error
        self.mixed_sizes = mixed_sizes
        self.extensions = tuple(extensions)

    def check(self) -> None:
        """Raises ConfigError where the folder is missing or holds no images."""
        if not self._is_array():
            list_files(self.path, self.extensions, recursive=self.recursive)

    def identity(self) -> dict[str, Any]:
        """Which images are asked for. What they hold is told by `open(...).digest`, which scores and features go by."""
        return {
            "folder": str(self.path.absolute()),
            "recursive": self.recursive,
            "on_error": self.on_error,
            "extensions": list(self.extensions),
        }

    def num_available(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        if self._is_array() or self.on_error == "skip":
            return len(self.open())
        return len(list_files(self.path, self.extensions, recursive=self.recursive))

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        """The first `num_samples` images (none: all).

        Args:
            num_samples: at most as many as there are.
            cache: a folder that keeps the files' digests for the next process; within one process they are kept anyway.

        Raises:
            ConfigError: the folder is missing or empty, or holds fewer images.
            DataError: an image is broken, or sizes differ (naming the files).
        """
        if self._is_array():
            return ArrayImages.from_npz(self.path).head(num_samples)
        found = FolderImages.open(
            self.path,
            recursive=self.recursive,
            prompts=self.prompts,
            on_error=self.on_error,
            mixed_sizes=self.mixed_sizes,
            extensions=self.extensions,
            cache=cache,
        )
        return found.head(num_samples)

    def _is_array(self) -> bool:
        return self.path.suffix.lower() == ".npz" and self.path.is_file()
