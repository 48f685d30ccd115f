"""Five verbs that a store is written with, whatever it lies on: a folder, a bucket, memory.

Keys are relative posix paths. What is put is there whole or not at all, and `put_new` never replaces: of several
writers of one key exactly one is told True, and all readers see what that one wrote.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evalkit.utils.files import atomic_path, temporary_path, writing


class Blobs(Protocol):
    """A place for named bytes."""

    @property
    def where(self) -> str:
        """The place, for messages: a folder's path or a URL."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes a key that is not there yet; false where it is there, and what is there stays.

        Raises:
            StoreError: the place cannot be written.
        """

    def put(self, key: str, data: bytes) -> None:
        """Writes a key over what is there: for what may be lost or made again. StoreError as of `put_new`."""

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a key, or all. FileNotFoundError: it is not there; OSError: it cannot be read."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with a prefix, and their sizes; in no order. One listing, however many there are."""

    def delete(self, key: str) -> None:
        """Removes a key, if it is there."""

    def below(self, prefix: str) -> Blobs:
        """The same place, with keys relative to `prefix/`."""


@dataclass(frozen=True)
class LocalBlobs:
    """A folder's files."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / key

    def put_new(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_path(path) as temporary:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                try:
                    os.link(temporary, path)  # refuses a name that is taken, which a rename does not
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                        raise
                    if path.exists():  # a disk without hard links: two writers at once both win, the last one stays
                        return False
                    temporary.replace(path)
        return True

    def put(self, key: str, data: bytes) -> None:
        with writing(self._path(key)), atomic_path(self._path(key)) as temporary:
            temporary.write_bytes(data)

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        with self._path(key).open("rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folder, _, stem = prefix.rpartition("/")
        pending = [(self.root / folder, f"{folder}/" if folder else "", stem)]
        while pending:
            path, before, stem = pending.pop()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                for entry in os.scandir(path):
                    if not entry.name.startswith(stem) or entry.name.startswith(".tmp-"):
                        continue
                    if entry.is_dir():
                        pending.append((path / entry.name, f"{before}{entry.name}/", ""))
                    else:
                        with contextlib.suppress(FileNotFoundError):
                            yield f"{before}{entry.name}", entry.stat().st_size

    def delete(self, key: str) -> None:
        with writing(self._path(key)):
            self._path(key).unlink(missing_ok=True)

    def below(self, prefix: str) -> LocalBlobs:
        return LocalBlobs(self.root / prefix)
