"""Opens images that exist by what their path is: a folder, .zip, .tar, .npy, .npz or .parquet. Nothing is unpacked.

A path may be an fsspec URL (`evalkit.data.remote`), and a pattern of several archives, tables or folders
(`evalkit.data.concat`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evalkit.data.arrays import ArrayImages
from evalkit.data.concat import expand, join_parts
from evalkit.data.containers.folder import list_files
from evalkit.data.frames import Frames
from evalkit.data.remote import Place, Remote, Stamp
from evalkit.data.scan import EXTENSIONS, Choose
from evalkit.data.source import FolderImages
from evalkit.errors import ConfigError, nearest

ARCHIVES = (".zip", ".tar")
ARRAYS = (".npy", ".npz")
TABLES = (".parquet",)
ON_ERROR = ("refuse", "skip")


@dataclass(frozen=True)
class Opening:
    """Images at a path, and how they are to be read; nothing is looked at before a method is called.

    Attributes:
        path: a folder, or a file of one of the kinds above; or a pattern of several.
        recursive: whether folders inside it count.
        prompts: where the texts are: see `folders.find_prompts`; of a .parquet "auto", none, or a column's name.
        on_error: what a broken image does: "refuse", or "skip" (left out and counted).
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count in a folder or an archive.
        frames: which frames of its clips are read; none: the images are no frames.
        by_folder: whether an image's class is the folder that it lies in.
    """

    path: Place
    recursive: bool = True
    prompts: str | None = "auto"
    on_error: Literal["refuse", "skip"] = "refuse"
    mixed_sizes: bool = False
    extensions: Sequence[str] = EXTENSIONS
    frames: Frames | None = None
    by_folder: bool = False

    @property
    def kind(self) -> str:
        """The path's suffix where it says how it is read, else ""."""
        suffix = self.path.suffix.lower()
        known = suffix in (*ARCHIVES, *ARRAYS, *TABLES)
        return suffix if known and (isinstance(self.path, Remote) or not self.path.is_dir()) else ""

    def check(self) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused. No image is read."""
        if self.on_error not in ON_ERROR:
            raise ConfigError(f"on_error={self.on_error!r}: {nearest(str(self.on_error), ON_ERROR)}")
        for part in self._parts():
            if part.kind in ARRAYS:
                if not part.path.is_file():
                    raise ConfigError(f"{part.path}: the array of images is missing: check the path")
            else:
                part._listed()

    def count(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return sum(
            len(part.open()) if part.kind in ARRAYS or part.on_error == "skip" else part._listed()
            for part in self._parts()
        )

    def _parts(self) -> list[Opening]:
        """One for each part that a pattern stands for."""
        parts = expand(self.path)
        return [self] if parts is None else [replace(self, path=part) for part in parts]

    @property
    def _choose(self) -> Choose:
        return self.frames.choose if self.frames is not None else list

    @functools.cached_property
    def _remote(self) -> dict[str, Stamp]:
        """The files of a remote folder; asked for once."""
        from evalkit.data.containers.remote_folder import list_remote

        assert isinstance(self.path, Remote)
        return list_remote(self.path)

    def _listed(self) -> int:
        if self.kind in TABLES:
            from evalkit.data.containers.parquet import count_images

            return count_images(self.path)
        if self.kind in ARCHIVES:
            from evalkit.data.containers.archive import list_images

            return len(self._choose(list_images(self.path, self.extensions, recursive=self.recursive)[1]))
        if isinstance(self.path, Remote):
            from evalkit.data.sidecars import pick_images

            return len(self._choose(pick_images(self.path, self._remote, self.extensions, recursive=self.recursive)))
        return len(self._choose(list_files(self.path, self.extensions, recursive=self.recursive)))

    def open(self, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        """The images.

        Args:
            cache: a folder that keeps the scan (digests and headers) for the next process.

        Raises:
            ConfigError: nothing is there, or it holds no images.
            DataError: an image or the archive is broken or refused, or sizes differ.
            ServiceError: it is remote, and cannot be reached.
        """
        parts = self._parts()
        if parts != [self]:
            return join_parts(self.path, [part._open(cache) for part in parts], mixed_sizes=self.mixed_sizes)
        return self._open(cache)

    def _open(self, cache: Path | None) -> FolderImages | ArrayImages:
        if self.kind == ".npz":
            return ArrayImages.from_npz(self.path)
        if self.kind == ".npy":
            return ArrayImages.from_npy(self.path)
        how: dict[str, Any] = {name: getattr(self, name) for name in ("prompts", "on_error", "mixed_sizes")}
        if self.kind in TABLES:
            from evalkit.data.containers.parquet import open_parquet

            return open_parquet(self.path, **how, cache=cache)
        how |= {"recursive": self.recursive, "extensions": self.extensions, "choose": self._choose}
        source: FolderImages
        if self.kind in ARCHIVES:
            from evalkit.data.containers.archive import open_archive

            source = open_archive(self.path, **how, cache=cache)
        elif isinstance(self.path, Remote):
            from evalkit.data.containers.remote_folder import open_remote

            source = open_remote(self.path, self._remote, **how, cache=cache)
        else:
            source = FolderImages.open(self.path, **how, cache=cache)
        return replace(source, by_folder=True) if self.by_folder else source
