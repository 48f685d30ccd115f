"""Opens images that exist by what their path is: a folder, .zip, .tar, .npy, .npz or .parquet. Nothing is unpacked.

A path may be an fsspec URL (`evalkit.data.remote`), and a pattern of several archives, tables or folders
(`evalkit.data.concat`).
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from evalkit.data.arrays import ArrayImages
from evalkit.data.concat import expand
from evalkit.data.containers.archive import Archive
from evalkit.data.containers.base import Container, Table
from evalkit.data.containers.folder import Folder, RemoteFolder
from evalkit.data.containers.parquet import Parquet
from evalkit.data.profiles import CONVERSION
from evalkit.data.records import ReadOptions
from evalkit.data.remote import Place, Remote, find_place
from evalkit.data.stored import StoredImages, join, open_container
from evalkit.errors import ConfigError

ARCHIVES = (".zip", ".tar")
ARRAYS = (".npy", ".npz")
TABLES = (".parquet",)

Images = StoredImages | ArrayImages


def open_images(
    path: str | os.PathLike[str] | Remote, options: ReadOptions | None = None, *, cache: Path | None = None
) -> Images:
    """The images at a path; see `PathOpener` and `Opener.open`."""
    return PathOpener(path, options).open(cache=cache)


class Opener(ABC):
    """Images that lie somewhere, and how they are read.

    Nothing is looked at before a method is called; what was looked at is kept for the next call.

    Attributes:
        options: how they are read.
        fetch: whether what is not here may be downloaded; a dry run's `check` forbids it.
    """

    options: ReadOptions
    fetch: bool = True
    _images: Images | None = None

    @abstractmethod
    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where nothing is there, DataError where an archive is refused. No image is read."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Which images are asked for (JSON)."""

    def count(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return len(self.open()) if self.options.on_error == "skip" else self._count()

    @abstractmethod
    def _count(self) -> int: ...

    def open(self, *, cache: Path | None = None) -> Images:
        """The images.

        Args:
            cache: a folder that keeps the scan (digests and headers) for the next process.

        Raises:
            ConfigError: nothing is there, or it holds no images.
            DataError: an image or the archive is broken or refused, or sizes differ.
            ServiceError: it is remote, and cannot be reached.
        """
        if self._images is None:
            self._images = self._open(cache)
        return self._images

    @abstractmethod
    def _open(self, cache: Path | None) -> Images: ...


class TableOpener(Opener):
    """The images of a table, which is made when it is first looked at."""

    @property
    @abstractmethod
    def _table(self) -> Table: ...

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where it is not there (with `fetch` it is downloaded), or has no such column."""
        self.fetch = fetch
        self._count()

    def _count(self) -> int:
        return len(self._table)

    def _open(self, cache: Path | None) -> Images:
        return open_container(self._table, self.options, cache=cache)


class PathOpener(Opener):
    """Images at a path.

    Args:
        path: a folder, or a file of one of the kinds above; or a pattern of several; or an fsspec URL.
        options: how they are read.
    """

    def __init__(self, path: str | os.PathLike[str] | Remote, options: ReadOptions | None = None) -> None:
        self.path: Place = path if isinstance(path, Remote) else find_place(path)
        self.options = options or ReadOptions()

    @functools.cached_property
    def _pattern(self) -> list[Place] | None:
        return expand(self.path)

    @functools.cached_property
    def _parts(self) -> list[Place | Container]:
        """Each part that a pattern stands for, listed; an array's path as it is."""
        return [_container(part, self.options) for part in ([self.path] if self._pattern is None else self._pattern)]

    def check(self, *, fetch: bool = True) -> None:
        for part in self._parts:
            if not isinstance(part, Path | Remote):
                part.images(self.options)
            elif not part.is_file():
                raise ConfigError(f"{part}: the array of images is missing: check the path")

    def identity(self) -> dict[str, Any]:
        return {
            "folder": str(self.path.absolute()),
            "recursive": self.options.recursive,
            "on_error": self.options.on_error,
            "extensions": list(self.options.extensions),
            **({"profiles": CONVERSION} if self.options.profiles == "srgb" else {}),
        }

    def _count(self) -> int:
        return sum(
            len(_open_array(part) if isinstance(part, Path | Remote) else part.images(self.options))
            for part in self._parts
        )

    def _open(self, cache: Path | None) -> Images:
        opened = [
            _open_array(part) if isinstance(part, Path | Remote) else open_container(part, self.options, cache=cache)
            for part in self._parts
        ]
        if self._pattern is None:
            return opened[0]
        return join(self.path, opened, mixed_sizes=self.options.mixed_sizes)


def kind_of(path: Place) -> str:
    """The path's suffix where it says how it is read, else ""."""
    suffix = path.suffix.lower()
    known = suffix in (*ARCHIVES, *ARRAYS, *TABLES)
    return suffix if known and (isinstance(path, Remote) or not path.is_dir()) else ""


def _open_array(path: Place) -> ArrayImages:
    return ArrayImages.from_npz(path) if kind_of(path) == ".npz" else ArrayImages.from_npy(path)


def _container(path: Place, options: ReadOptions) -> Place | Container:
    """What holds the images; an array's path as it is: nothing in it can be listed."""
    kind = kind_of(path)
    if kind in ARRAYS:
        return path
    if kind in TABLES:
        return Parquet(path)
    if kind in ARCHIVES:
        return Archive(path)
    return RemoteFolder(path) if isinstance(path, Remote) else Folder(path, recursive=options.recursive)
