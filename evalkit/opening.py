"""Opens images that exist by what their path is: a folder, .zip, .tar, .npy, .npz or .parquet. Nothing is unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalkit.errors import ConfigError, nearest
from evalkit.folders import EXTENSIONS, list_files
from evalkit.readers import ArrayImages, FolderImages

ARCHIVES = (".zip", ".tar")
ARRAYS = (".npy", ".npz")
TABLES = (".parquet",)
ON_ERROR = ("refuse", "skip")


@dataclass(frozen=True)
class Opening:
    """Images at a path, and how they are to be read; nothing is looked at before a method is called.

    Attributes:
        path: a folder, or a file of one of the kinds above.
        recursive: whether folders inside it count.
        prompts: where the texts are: see `folders.find_prompts`; of a .parquet "auto", none, or a column's name.
        on_error: what a broken image does: "refuse", or "skip" (left out and counted).
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count in a folder or an archive.
    """

    path: Path
    recursive: bool = True
    prompts: str | None = "auto"
    on_error: Literal["refuse", "skip"] = "refuse"
    mixed_sizes: bool = False
    extensions: Sequence[str] = EXTENSIONS

    @property
    def kind(self) -> str:
        """The path's suffix where it says how it is read, else ""."""
        suffix = self.path.suffix.lower()
        return suffix if suffix in (*ARCHIVES, *ARRAYS, *TABLES) and not self.path.is_dir() else ""

    def check(self) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused. No image is read."""
        if self.on_error not in ON_ERROR:
            raise ConfigError(f"on_error={self.on_error!r}: {nearest(str(self.on_error), ON_ERROR)}")
        if self.kind in ARRAYS:
            if not self.path.is_file():
                raise ConfigError(f"{self.path}: the array of images is missing: check the path")
        else:
            self._listed()

    def count(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return len(self.open()) if self.kind in ARRAYS or self.on_error == "skip" else self._listed()

    def _listed(self) -> int:
        if self.kind in TABLES:
            from evalkit.parquet import count_images

            return count_images(self.path)
        if self.kind in ARCHIVES:
            from evalkit.archives import list_images

            return len(list_images(self.path, self.extensions, recursive=self.recursive)[1])
        return len(list_files(self.path, self.extensions, recursive=self.recursive))

    def open(self, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        """The images.

        Args:
            cache: a folder that keeps the scan (digests and headers) for the next process.

        Raises:
            ConfigError: nothing is there, or it holds no images.
            DataError: an image or the archive is broken or refused, or sizes differ.
        """
        if self.kind == ".npz":
            return ArrayImages.from_npz(self.path)
        if self.kind == ".npy":
            return ArrayImages.from_npy(self.path)
        if self.kind in TABLES:
            from evalkit.parquet import open_parquet

            return open_parquet(
                self.path, prompts=self.prompts, on_error=self.on_error, mixed_sizes=self.mixed_sizes, cache=cache
            )
        from evalkit.archives import open_archive

        open_files = open_archive if self.kind in ARCHIVES else FolderImages.open
        return open_files(
            self.path,
            recursive=self.recursive,
            prompts=self.prompts,
            on_error=self.on_error,
            mixed_sizes=self.mixed_sizes,
            extensions=self.extensions,
            cache=cache,
        )
