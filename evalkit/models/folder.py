"""Images that were made elsewhere, as a model like any other: nothing is generated, unpacked or copied."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from evalkit.data.attributes import pick_part, read_partition
from evalkit.data.open import Images, Opener, PathOpener
from evalkit.data.records import EXTENSIONS, ReadOptions
from evalkit.data.split import Part, check_keys, pick, split
from evalkit.errors import ConfigError
from evalkit.models.base import ExistingImages
from evalkit.utils.files import sha256_json


class OpenedImages(ExistingImages):
    """Images that an opener opens, once.

    Args:
        opener: where they are, and how they are read.
    """

    def __init__(self, opener: Opener) -> None:
        self.opener = opener

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused."""
        self.opener.check(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        """Which images are asked for. What they hold `open(...).digest` tells, which scores and features go by."""
        return self.opener.identity()

    def num_available(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return self.opener.count()

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> Images:
        """The first `num_samples` images (none: all).

        Args:
            num_samples: at most as many as there are.
            cache: a folder that keeps the files' digests for the next process; this object keeps them anyway.

        Raises:
            ConfigError: nothing is there, or it holds fewer images.
            DataError: an image or the archive is broken or refused, or sizes differ (naming the files).
            ServiceError: it is remote, and cannot be reached.
        """
        return self.opener.open(cache=cache).head(num_samples)


class FolderModel(OpenedImages):
    """Images of a folder, .zip or .tar in the order of their names, of a .parquet, or of an .npy or .npz (`arr_0`).

    Args:
        path: where they are; a cell's folder in a store counts as well. An fsspec URL, or a pattern of several.
        recursive: whether folders inside it count.
        prompts: where the images' texts are: "auto", None, "sidecar" or a metadata file
            (`evalkit.data.sidecars.find_prompts`); of a .parquet "auto", None or a column's name.
        on_error: what a broken image does: "refuse", or "skip" (left out, counted as the warning "skipped").
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count.
        categories: of the images: "auto" (what the files next to them say), or "folder" (the folder that each lies in).
        split_by: what the images say of their making, or "folder": each combination is a cell (`evalkit.data.split`).
        where: only images that say all of this, such as {sampler: Euler a, steps: 20}.
        profiles: "srgb": colours are converted by the files' profiles; "ignore": they are not, which the lint tells.
        partition: a file that says which part each image is of (CelebA's list_eval_partition.txt); none: all count.
        part: of the partition: train, valid or test, or what else it says.
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
        profiles: Literal["ignore", "srgb"] = "ignore",
        partition: str | None = None,
        part: str | int | None = None,
    ) -> None:
        if (partition is None) != (part is None):
            raise ConfigError(f"partition={partition}, part={part}: give both, or neither")
        if categories not in ("auto", "folder"):
            raise ConfigError(f"categories={categories!r}: give auto or folder")
        by_folder = categories == "folder"
        extensions = tuple(extensions)
        options = ReadOptions(
            recursive, prompts, on_error, mixed_sizes, extensions, by_folder=by_folder, profiles=profiles
        )
        super().__init__(PathOpener(path, options))
        self.split_by = [split_by] if isinstance(split_by, str) else list(split_by or ())
        self.where = dict(where or {})
        check_keys(self.split_by, "split_by")
        check_keys(list(self.where), "where")
        if partition is not None and self.split_by:
            raise ConfigError("partition and split_by: give one of them")
        self.partition, self.part = partition, part

    def identity(self) -> dict[str, Any]:
        parts = {"part": self.part, "of": sha256_json(sorted(self._names()))} if self.partition is not None else {}
        return super().identity() | ({"where": self.where} if self.where else {}) | parts

    def _names(self) -> frozenset[str]:
        return read_partition(str(self.partition), str(self.part))

    def parts(self, cache: Path | None = None) -> list[Part]:
        return split(self.opener.open(cache=cache), self.split_by, self.where) if self.split_by else []

    def num_available(self) -> int:
        return len(self.open()) if self.where or self.partition is not None else super().num_available()

    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> Images:
        """As `OpenedImages.open`, of the images that say all of `where`, and are of the part."""
        images = self.opener.open(cache=cache)
        if self.partition is not None:
            images = pick_part(images, self.partition, str(self.part))
        return (pick(images, self.where) if self.where else images).head(num_samples)


class FramesModel(OpenedImages):
    """Video frames: each sub-folder is a clip, its files are numbered frames, read in natural order.

    Args:
        path: a folder of clips, or a .zip or .tar of such folders; an fsspec URL, or a pattern of several.
        every: each k-th frame of a clip.
        frames: at most so many of these per clip; none: all.
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
        options = ReadOptions(True, None, on_error, mixed_sizes, tuple(extensions), True, every, frames)
        super().__init__(PathOpener(path, options))

    def identity(self) -> dict[str, Any]:
        options = self.opener.options
        return super().identity() | {"every": options.every, "frames": options.frames}
