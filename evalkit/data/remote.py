"""Files and folders behind fsspec URLs (s3://, gs://, hf://, https:// ...), as far as readers and exports need them.

A file is read in place, through a cache of blocks; nothing of it is copied to this machine. A failed read is tried
again with growing waits; what still fails is one line (ConfigError: nothing is there, a package is missing;
ServiceError: it cannot be reached). Keys come from the environment or fsspec's own configuration, never from a URL:
URLs are written into results.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import Stamp, open_file, resolve_path, sha256_json, stamp_of_file
from evalkit.utils.urls import LOCAL, URL, filesystem, persist, refuse_keys, scheme_of, whole_hint

BLOCK = 4 << 20  # bytes of a block
BLOCKS = 8  # kept of a file
OPEN_FILES = 4  # kept open, so that at most OPEN_FILES * BLOCKS * BLOCK bytes are in memory
_UNPACKING = ("zip", "tar", "libarchive")
_READ_ONLY = ("http", "https")
_CHANGES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created", "blob_id")

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file or folder behind a URL, with what readers use of a `Path`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, inner: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{inner}")

    @property
    def name(self) -> str:
        inner = self.url.rpartition("::")[2].partition("://")[2]
        return PurePosixPath(inner.partition("?")[0] if scheme_of(self.url) in _READ_ONLY else inner).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def absolute(self) -> Remote:
        return self

    def is_file(self) -> bool:
        return self._call(lambda fs, path: bool(fs.isfile(path)))

    def is_dir(self) -> bool:
        return self._call(lambda fs, path: bool(fs.isdir(path)))

    def exists(self) -> bool:
        return self._call(lambda fs, path: bool(fs.exists(path)))

    def stamp(self) -> Stamp:
        """Its size, and a number that changes with it; blocks of a file that was another are forgotten."""
        stamp = _stamp(self._call(lambda fs, path: fs.info(path)))
        with _opening:
            if self.url in _OPEN and _OPEN[self.url].stamp != stamp:
                del _OPEN[self.url]
        return stamp

    def list_files(self) -> dict[str, Stamp]:
        """All files below a folder by relative posix path, in no order."""

        def find(fs: Any, path: str) -> dict[str, Stamp]:
            start = len(path.rstrip("/")) + 1
            return {str(name)[start:]: _stamp(info) for name, info in fs.find(path, detail=True).items()}

        return self._call(find)

    def glob(self) -> list[Remote]:
        """What fits the pattern that the URL is, in no order."""
        chain, joint, pattern = self.url.rpartition("::")

        def match(fs: Any, path: str) -> list[Remote]:
            return [Remote(f"{chain}{joint}{fs.unstrip_protocol(name)}") for name in fs.glob(path)]

        return Remote(pattern)._call(match)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes, by position; the file behind is opened once and shared, and safe to use from several threads."""
        assert mode == "rb"
        return cast("BinaryIO", RemoteFile(self))

    def read_bytes(self, name: str = "") -> bytes:
        """A whole file: this one, or `name` below this folder."""
        inner, url = (f"/{name}", str(self / name)) if name else ("", self.url)
        return self._call(lambda fs, path: bytes(fs.cat_file(path.rstrip("/") + inner)), url)

    def put(self, file: Path) -> None:
        """Copies a local file there, over what is there."""

        def copy(fs: Any, path: str) -> None:
            fs.makedirs(fs._parent(path), exist_ok=True)
            fs.put_file(str(file), path)

        self._call(copy)

    def check_writable(self) -> None:
        """Raises ConfigError where the URL's kind takes no files, or its package is missing. Nothing is written."""
        scheme = scheme_of(self.url)
        if scheme in _READ_ONLY:
            raise ConfigError(f"{self.url}: {scheme}:// takes no files: give a folder, or s3://, gs://, hf:// ...")
        filesystem(self.url)

    def remove(self) -> None:
        """Removes a file or a folder, if it is there."""
        self._call(lambda fs, path: fs.rm(path, recursive=True) if fs.exists(path) else None)

    def _call(self, action: Callable[[Any, str], T], name: str = "") -> T:
        fs, path = filesystem(self.url)
        return persist(name or self.url, lambda: action(fs, path))


Place = Path | Remote


def open_place(place: Place) -> BinaryIO:
    """A file's bytes, by position. Raises OSError or DataError where it is missing, or no regular file."""
    return place.open() if isinstance(place, Remote) else open_file(place)


def stamp_of(place: Place) -> Stamp:
    """What tells whether a file changed. Raises OSError where it is a file that is gone."""
    return place.stamp() if isinstance(place, Remote) else stamp_of_file(place)


def made_stamp(size: int, about: Any) -> Stamp:
    """The stamp of what has no inode: its size, and a number that changes with a JSON value (none: nothing tells)."""
    return size, int(sha256_json(about)[:12], 16) + 1 if about else 0, 0, 0


def find_place(path: str | os.PathLike[str]) -> Place:
    """A path as `resolve_path` reads it, or a URL; building either is cheap, and nothing is looked at.

    Raises:
        ConfigError: the URL holds a password or a key, or unpacks an archive (give its own URL).
    """
    text = os.fspath(path)
    match = URL.match(text)
    if match is None or text.startswith("pkg://"):
        return resolve_path(text)
    if match[1] in LOCAL:
        return resolve_path(text.partition("://")[2])
    refuse_keys(text)
    if match[1] in _UNPACKING:
        raise ConfigError(f"{text}: give the archive's own URL ({text.rpartition('::')[2]}): it is read in place")
    return Remote(text)


class RemoteFile(io.RawIOBase):
    """A position in a remote file. Closing it leaves the shared file behind it open for the next."""

    def __init__(self, remote: Remote) -> None:
        super().__init__()
        self.remote = remote
        self._at = 0
        self._shared = _shared(remote)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._shared.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def read_at(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`, fewer at the file's end; the position stays."""
        return self._shared.read_at(start, count)


class _Shared:
    """One fsspec file, read by position; one read at a time."""

    def __init__(self, remote: Remote) -> None:
        self.url = remote.url
        self._lock = threading.Lock()
        self._file: Any = None
        about = remote._call(lambda fs, path: fs.info(path))
        if about.get("size") is None:
            raise DataError(f"{self.url}: the server does not tell its size: {whole_hint(self.url)}")
        self.stamp = _stamp(about)
        self.size = self.stamp[0]

    def read_at(self, start: int, count: int) -> bytes:
        count = max(0, min(count, self.size - start))
        if not count:
            return b""
        with self._lock:
            return persist(self.url, lambda: self._read(start, count))

    def _read(self, start: int, count: int) -> bytes:
        try:
            if self._file is None:
                fs, path = filesystem(self.url)
                about = {"block_size": BLOCK, "cache_type": "blockcache", "cache_options": {"maxblocks": BLOCKS}}
                self._file = fs.open(path, "rb", **about)
            self._file.seek(start)
            data = b""
            while len(data) < count and (more := self._file.read(count - len(data))):
                data += more
        except Exception:
            self._file = None  # a cut connection may leave it in any state
            raise
        return data


# By URL, the last used last. Of the process, not of an object: the bound on memory is one for all sets that are open.
_OPEN: OrderedDict[str, _Shared] = OrderedDict()
_opening = threading.Lock()


def _shared(remote: Remote) -> _Shared:
    with _opening:
        shared = _OPEN.pop(remote.url, None)
    if shared is None:
        shared = _Shared(remote)
    with _opening:
        _OPEN[remote.url] = shared
        while len(_OPEN) > OPEN_FILES:
            _OPEN.popitem(last=False)
    return shared


def _stamp(info: Mapping[str, Any]) -> Stamp:
    changing = {name: str(info[name]) for name in _CHANGES if info.get(name)}
    return made_stamp(int(info.get("size") or 0), changing)
