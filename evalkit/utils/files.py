"""Where files are: paths inside installed packages, digests of files, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, StoreError

PKG_SCHEME = "pkg://"


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
        with path.open("rb") as file:
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
