"""Images that were made elsewhere, as a model like any other: nothing is generated, unpacked or copied."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from evalkit.data.arrays import ArrayImages
from evalkit.data.frames import Frames
from evalkit.data.open import Opening
from evalkit.data.remote import find_place
from evalkit.data.scan import EXTENSIONS
from evalkit.data.source import FolderImages
from evalkit.data.split import Part, check_keys, pick, split
from evalkit.errors import ConfigError
from evalkit.models.base import ExistingImages


class FolderModel(ExistingImages):
    """Images of a folder, .zip or .tar in the order of their names, of a .parquet, or of an .npy or .npz (`arr_0`).

    Args:
        path: where they are; a cell's folder in a store counts as well. An fsspec URL, or a pattern of several.
        recursive: whether folders inside it count.
        prompts: where the images' texts are: "auto", None, "sidecar" or a metadata file (`folders.find_prompts`); of a
            .parquet "auto", None or a column's name.
        on_error: what a broken image does: "refuse", or "skip" (left out, counted as the warning "skipped").
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count.
        categories: of the images: "auto" (what the files beside them say), or "folder" (the folder that each lies in).
        split_by: what the images say of their making, or "folder": each combination is a cell (`evalkit.data.split`).
        where: only images that say all of this, such as {sampler: Euler a, steps: 20}.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        recursive: bool = True,
        prompts: str | None = "auto",
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
        categories: Literal["auto", "folder"] = "auto",
        split_by: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> None:
        if on_error not in ("refuse", "skip"):
            raise ConfigError(f"on_error={on_error!r}: give refuse or skip")
        if categories not in ("auto", "folder"):
            raise ConfigError(f"categories={categories!r}: give auto or folder")
        by_folder = categories == "folder"
        self.opening = Opening(
            find_place(path), recursive, prompts, on_error, mixed_sizes, tuple(extensions), by_folder=by_folder
        )
        self.split_by = [split_by] if isinstance(split_by, str) else list(split_by or ())
        self.where = dict(where or {})
        check_keys(self.split_by, "split_by")
        check_keys(list(self.where), "where")

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused."""
        self.opening.check()

    def identity(self) -> dict[str, Any]:
        """Which images are asked for. What they hold is told by `open(...).digest`, which scores and features go by."""
        about = {
            "folder": str(self.opening.path.absolute()),
            "recursive": self.opening.recursive,
            "on_error": self.opening.on_error,
            "extensions": list(self.opening.extensions),
        }
        return about | ({"where": self.where} if self.where else {})

    def parts(self, cache: Path | None = None) -> list[Part]:
        if not self.split_by:
            return []
        source = self.opening.open(cache=cache)
        return split(pick(source, self.where) if self.where else source, self.split_by)

    def num_available(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return len(self.open()) if self.where else self.opening.count()

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        """The first `num_samples` images (none: all).

        Args:
            num_samples: at most as many as there are.
            cache: a folder that keeps the files' digests for the next process; within one process they are kept anyway.

        Raises:
            ConfigError: nothing is there, or it holds fewer images.
            DataError: an image or the archive is broken or refused, or sizes differ (naming the files).
            ServiceError: it is remote, and cannot be reached.
        """
        source = self.opening.open(cache=cache)
        return (pick(source, self.where) if self.where else source).head(num_samples)


class FramesModel(FolderModel):
    """Video frames: each sub-folder is a clip, its files are numbered frames, read in natural order.

    Args:
        path: a folder of clips, or a .zip or .tar of such folders; an fsspec URL, or a pattern of several.
        every: each k-th frame of a clip.
        frames: at most so many of these a clip; none: all.
        on_error, mixed_sizes, extensions: as of `FolderModel`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        frames: int | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] = EXTENSIONS,
    ) -> None:
        super().__init__(path, True, None, on_error, mixed_sizes, extensions, "folder")
        self.opening = replace(self.opening, frames=Frames(every, frames))

    def identity(self) -> dict[str, Any]:
        chosen = self.opening.frames
        assert chosen is not None
        return super().identity() | {"every": chosen.every, "frames": chosen.count}
