"""The images of a folder: on this machine, or behind an fsspec URL (listed once, read file by file)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from evalkit.data.containers.base import FileContainer
from evalkit.data.remote import Remote
from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import MAX_FILE_BYTES, Stamp, read_file, stamp_of_file


class Folder(FileContainer):
    """The files of a folder; hidden files and folders are left out, links are followed.

    Raises:
        ConfigError: there is no such folder.
    """

    remedy = "repair or remove it and start again (on_error=skip leaves broken images out)"

    def __init__(self, place: Path, *, recursive: bool = True) -> None:
        if not place.is_dir():
            what = "is a file, not a folder" if place.exists() else "is missing"
            raise ConfigError(f"{place}: the folder of images {what}: check the path")
        self.place: Path = place
        self._before = str(place / "-")[:-1]  # of a name in an error: "" in the folder where one is
        self.files = set(_walk(str(place), recursive))

    def __contains__(self, name: str) -> bool:
        # Metadata may be named, or name files, where the listing does not look: hidden, or outside the folder.
        return name in self.files or os.path.isfile(self._path(name))  # noqa: PTH113

    def inner(self, name: str) -> str:
        return os.path.relpath(self.place / name, self.place).replace(os.sep, "/")

    def _path(self, name: str) -> str:  # plain texts and os calls: this is done for every file of every run
        return f"{self.place}/{name}"

    def file(self, name: str) -> str:
        return self._path(name)

    def label(self, name: str) -> str:
        return self._before + name

    def location(self, name: str, number: int) -> str:
        return str((self.place / name).absolute())

    def stamp(self, name: str) -> Stamp:
        return stamp_of_file(self._path(name))

    def size(self, name: str) -> int:
        return self.stamp(name)[0]

    def read(self, name: str) -> bytes:
        return read_file(self._path(name))


class RemoteFolder(FileContainer):
    """The files of a remote folder, several read at a time.

    Raises:
        ConfigError: there is no such folder.
        ServiceError: it cannot be reached.
    """

    far = True
    files: dict[str, Stamp]

    def __init__(self, place: Remote) -> None:
        self.place: Remote = place
        self.files = place.list_files()
        if not self.files:
            what = "is a file, not a folder" if place.is_file() else "nothing is there"
            raise ConfigError(f"{place}: {what}: check the URL")

    def label(self, name: str) -> str:
        return str(self.place / name)

    def location(self, name: str, number: int) -> str:
        return self.label(name)

    def stamp(self, name: str) -> Stamp:
        return self.files[name]

    def size(self, name: str) -> int:
        return self.files[name][0]

    def read(self, name: str) -> bytes:
        if self.files[name][0] > MAX_FILE_BYTES:
            raise DataError(f"{self.label(name)}: {self.files[name][0]:,} bytes (limit {MAX_FILE_BYTES:,}): no image")
        return self.place.read_bytes(name)


def _walk(folder: str, recursive: bool) -> Iterator[str]:
    """The relative posix paths of its files, in no order."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        inner = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        yield from (prefix + name for name in names if not name.startswith("."))
