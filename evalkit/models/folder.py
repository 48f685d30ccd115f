"""Images that were made elsewhere, as a model like any other: nothing is generated, unpacked or copied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import ConfigError
from evalkit.folders import EXTENSIONS
from evalkit.models.base import ExistingImages
from evalkit.opening import Opening
from evalkit.paths import resolve_path
from evalkit.readers import ArrayImages, FolderImages


class FolderModel(ExistingImages):
    """Images of a folder, .zip or .tar in the order of their names, of a .parquet, or of an .npy or .npz (`arr_0`).

    Args:
        path: where they are; a cell's folder in a store counts as well.
        recursive: whether folders inside it count.
        prompts: where the images' texts are: "auto", None, "sidecar" or a metadata file (`folders.find_prompts`); of a
            .parquet "auto", None or a column's name.
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
        self.opening = Opening(resolve_path(path), recursive, prompts, on_error, mixed_sizes, tuple(extensions))

    def check(self) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused."""
        self.opening.check()

    def identity(self) -> dict[str, Any]:
        """Which images are asked for. What they hold is told by `open(...).digest`, which scores and features go by."""
        return {
            "folder": str(self.opening.path.absolute()),
            "recursive": self.opening.recursive,
            "on_error": self.opening.on_error,
            "extensions": list(self.opening.extensions),
        }

    def num_available(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return self.opening.count()

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        """The first `num_samples` images (none: all).

        Args:
            num_samples: at most as many as there are.
            cache: a folder that keeps the files' digests for the next process; within one process they are kept anyway.

        Raises:
            ConfigError: nothing is there, or it holds fewer images.
            DataError: an image or the archive is broken or refused, or sizes differ (naming the files).
        """
        return self.opening.open(cache=cache).head(num_samples)
