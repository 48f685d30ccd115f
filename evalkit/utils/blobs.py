"""Five verbs that a store is written with, whatever it lies on: a folder, a bucket, memory.

Keys are relative posix paths, data is one byte at least. What is put is there whole or not at all, and `put_new` never
replaces: of several writers of one key exactly one is told True, and all readers see what that one wrote.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from evalkit.errors import ConfigError, EvalkitError, ReadOnlyError, StoreError
from evalkit.utils.files import atomic_path, resolve_path, sweep_once, temporary_path, writing
from evalkit.utils.urls import LOCAL, URL, open_filesystem, persist, refuse_keys, scheme_of

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before further tries: a store that is busy is so for a minute
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # that refuse to replace when they are told to

T = TypeVar("T")


class Blobs(Protocol):
    """A place for named bytes."""

    @property
    def where(self) -> str:
        """The place, for messages: a folder's path or a URL."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes a key that is not there yet; false where it is there, and what is there stays.

        Raises:
            StoreError: the place cannot be written (`ReadOnlyError`: it takes nothing).
        """

    def put(self, key: str, data: bytes) -> None:
        """Writes a key over what is there: for what may be lost or made again. StoreError as of `put_new`."""

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a key, or all. One request, and none for the size.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read, or is shorter than `stop`: give it from a listing, and a cut body is known.
            StoreError: the place cannot be reached.
        """

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
            if path.exists():
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_once(path.parent)
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
            data = file.read(-1 if stop is None else stop - (start or 0))
        return _whole(data, start, stop, str(self._path(key)))

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


@dataclass(frozen=True)
class HeldBlobs:
    """A dictionary in memory, which ends with the process."""

    held: dict[str, bytes] = field(default_factory=dict)
    prefix: str = ""
    where: str = "memory"

    def put_new(self, key: str, data: bytes) -> bool:
        return self.held.setdefault(self.prefix + key, data) is data

    def put(self, key: str, data: bytes) -> None:
        self.held[self.prefix + key] = data

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        try:
            return self.held[self.prefix + key][start:stop]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such key", key) from None

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        whole = self.prefix + prefix
        for key, data in [*self.held.items()]:
            if key.startswith(whole):
                yield key[len(self.prefix) :], len(data)

    def delete(self, key: str) -> None:
        self.held.pop(self.prefix + key, None)

    def below(self, prefix: str) -> HeldBlobs:
        return HeldBlobs(self.held, f"{self.prefix}{prefix.strip('/')}/")


@dataclass(frozen=True)
class FsspecBlobs:
    """Objects below a URL (s3://, gs://, az://, memory://); errors are the file system's: see PersistentBlobs."""

    url: str

    @property
    def where(self) -> str:
        return self.url

    def put_new(self, key: str, data: bytes) -> bool:
        fs, path = self._at(key)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        fs, path = self._at(key)
        fs.pipe_file(path, data)

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        fs, path = self._at(key)
        return bytes(fs.cat_file(path, start=start or 0, end=stop))  # without bounds s3fs asks for the size first

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        folder, _, stem = prefix.rpartition("/")
        fs, path = self._at(folder)
        start = len(path) - len(folder) if folder else len(path) + 1
        try:
            there = fs.find(path, detail=True, **({"prefix": stem} if stem else {}))
        except FileNotFoundError:
            return
        for name, about in there.items():
            key = str(name)[start:]
            if about["type"] == "file" and key.startswith(prefix) and key:
                yield key, int(about["size"] or 0)

    def delete(self, key: str) -> None:
        fs, path = self._at(key)
        with contextlib.suppress(FileNotFoundError, KeyError):
            fs.rm_file(path)

    def below(self, prefix: str) -> FsspecBlobs:
        return FsspecBlobs(f"{self.url}/{prefix.strip('/')}")

    def _at(self, key: str) -> tuple[Any, str]:
        fs, path = _opened(self.url)
        return fs, f"{path.rstrip('/')}/{key}" if key else path.rstrip("/")


@dataclass(frozen=True)
class PersistentBlobs:
    """Another's keys, for a place behind a network: what may pass (503, time-outs, a cut body) is tried again.

    An answer that was lost ends right: a key that an earlier try wrote after all is known by its content.
    """

    blobs: Blobs

    @property
    def where(self) -> str:
        return self.blobs.where

    def put_new(self, key: str, data: bytes) -> bool:
        if _bucket(self) not in _PROBED:
            probe(self)
        tries = 0

        def put() -> bool:
            nonlocal tries
            tries += 1
            return self.blobs.put_new(key, data)

        return self._persist(key, put, writes=True) or (tries > 1 and self.get(key) == data)

    def put(self, key: str, data: bytes) -> None:
        self._persist(key, lambda: self.blobs.put(key, data), writes=True)

    def get(self, key: str, start: int | None = None, stop: int | None = None) -> bytes:
        where = f"{self.where}/{key}"
        return self._persist(key, lambda: _whole(self.blobs.get(key, start, stop), start, stop, where))

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return iter(self._persist(prefix, lambda: [*self.blobs.list(prefix)]))

    def delete(self, key: str) -> None:
        self._persist(key, lambda: self.blobs.delete(key), writes=True)

    def below(self, prefix: str) -> PersistentBlobs:
        return PersistentBlobs(self.blobs.below(prefix))

    def _persist(self, key: str, action: Callable[[], T], *, writes: bool = False) -> T:
        where = f"{self.where}/{key}"
        try:
            return persist(where, action, WAITS)
        except EvalkitError as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError) and isinstance(error, ConfigError) and not writes:
                raise FileNotFoundError(errno.ENOENT, "no such key", where) from error
            if isinstance(cause, _CutError):
                raise cause from None
            kind = ReadOnlyError if writes and isinstance(cause, PermissionError) else StoreError
            raise kind(str(error)) from error


class _CutError(OSError):
    """Fewer bytes than there are."""


def _whole(data: bytes, start: int | None, stop: int | None, where: str) -> bytes:
    if stop is not None and len(data) != stop - (start or 0):
        raise _CutError(errno.EIO, f"cut short: {len(data)} bytes of {stop - (start or 0)}", where)
    return data


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a store: it asks anew what is there, and leaves trying again to `persist`."""
    options: dict[str, Any] = {"use_listings_cache": False}
    s3 = scheme_of(url) in ("s3", "s3a")
    if s3:
        options["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": 1}}
    fs, path = open_filesystem(url, **options)
    if s3:
        fs.retries = 1
    return fs, path


def open_blobs(place: str | os.PathLike[str]) -> LocalBlobs | PersistentBlobs:
    """The blobs of a folder or a URL; nothing is asked of either.

    Raises:
        ConfigError: a URL with a key in it, of a kind that no store may lie on, or whose package is missing.
    """
    text = os.fspath(place)
    match = URL.match(text)
    if match is None or text.startswith("pkg://"):
        return LocalBlobs(resolve_path(text))
    if match[1] in LOCAL:
        return LocalBlobs(resolve_path(text.partition("://")[2]))
    refuse_keys(text)
    if match[1] not in SCHEMES:
        raise ConfigError(f"store={text}: a store is a folder, or a URL of {', '.join(SCHEMES)}")
    _opened(text)
    return PersistentBlobs(FsspecBlobs(text.rstrip("/")))


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether `open_blobs` takes a place for a URL of objects, not for a folder."""
    match = URL.match(os.fspath(place))
    return match is not None and match[1] not in (*LOCAL, "pkg")


_PROBED: set[str] = set()  # buckets that did not replace a key


def _bucket(blobs: Blobs) -> str:
    return "/".join(blobs.where.split("/")[:3])


def probe(blobs: Blobs) -> None:
    """Writes a key twice and reads it: before anything is made, whether what is made can be put there safely.

    The first `put_new` to a bucket does so by itself: a run that finds all samples made may still write scores.

    Raises:
        StoreError: it cannot be written, or replaces what it was told not to.
    """
    key, bucket = f"probe-{secrets.token_hex(8)}", _bucket(blobs)
    _PROBED.add(bucket)
    try:
        _write_twice(blobs, key)
    except BaseException:
        _PROBED.discard(bucket)
        raise
    finally:
        with contextlib.suppress(EvalkitError):
            blobs.delete(key)


def _write_twice(blobs: Blobs, key: str) -> None:
    blobs.put_new(key, b"first")
    try:
        if blobs.put_new(key, b"second") or blobs.get(key, 0, 5) != b"first":
            raise StoreError(
                f"{blobs.where}: replaces a key that it is told not to (If-None-Match): two workers could mix their "
                "shards: use another store"
            )
    except OSError as error:
        raise StoreError(f"{blobs.where}: what was just written cannot be read: {error}") from error
