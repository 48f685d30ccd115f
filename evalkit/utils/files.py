"""Where files are: paths inside installed packages, digests of files, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, StoreError

PKG_SCHEME = "pkg://"
MAX_FILE_BYTES = 512 << 20  # of a file that is read whole; an image of the most pixels is 256 MiB
MAX_TEXT_BYTES = 1 << 20  # of a text about one image or one model
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """A local path; `pkg://evalkit.digits/weights/ldm` is a path inside an installed package.

    Raises:
        ConfigError: the package is not installed.
    """
    text = os.fspath(path)
    if not text.startswith(PKG_SCHEME):
        return Path(text).expanduser()
    package, _, inner = text.removeprefix(PKG_SCHEME).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"path '{text}': the package '{package}' is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / inner


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A regular file, open for reading. A pipe would wait for ever, and a device may have no end.

    Raises:
        OSError: there is no such file, or it may not be read.
        DataError: it is a pipe, a device or a folder, or a link to one.
    """
    # Opening a pipe waits for a writer unless it is told not to; of a regular file it changes nothing.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(path, os.fstat(handle).st_mode)
        return open(handle, "rb")  # noqa: PTH123 (a handle, not a path)
    except BaseException:
        os.close(handle)
        raise


def check_file(path: str | os.PathLike[str]) -> None:
    """Raises what `open_file` does of a path that a library opens by itself."""
    _check_regular(path, os.stat(path).st_mode)  # noqa: PTH116 (it may be a plain text)


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "a device")
        raise DataError(f"{os.fspath(path)}: is {kind}, not a file: remove it, or put the file itself there")


def read_file(path: str | os.PathLike[str], limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file.
        limit: bytes that it may have.

    Raises:
        OSError, DataError: as `open_file`; DataError also where it is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(size, limit) + 1)
        if size < len(data) <= limit:  # it grew, or lies in /proc
            data += file.read(limit + 1 - len(data))
    if max(size, len(data)) > limit:
        raise DataError(f"{os.fspath(path)}: {size:,} bytes (limit {limit:,}): not what it is said to be")
    return data


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """Digest of a JSON value, independent of the order of keys."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


# Hashing takes about 3 s per GB, and a sweep over a model's own options is several models of the same weights.
_DIGESTS: dict[tuple[str, int, int], str] = {}


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes; within a process a file is hashed once (by path, size and mtime)."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _DIGESTS:
        with open_file(path) as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`; on leaving without an error it is synced and takes the name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; NaN is refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write (disk full, read-only, no permission) into a StoreError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, then run again: all finished shards are kept"
        else:
            fix = "make it writable, or give another folder with store=FOLDER"
        raise StoreError(f"cannot write to {path}: {reason}: {fix}") from error
