"""Where files are: paths inside installed packages, digests and stamps of files, and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, ReadOnlyError, StoreError

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


Stamp = tuple[int, int, int, int]
"""Size, mtime_ns, ctime_ns and inode: `cp -p`, `rsync -t` and a clock set back keep the first two, never all four."""

# Hashing takes about 3 s per GB, and a sweep over a model's own options is several models of the same weights.
_DIGESTS: dict[tuple[str, Stamp], str] = {}


def stamp_of_file(path: str | os.PathLike[str]) -> Stamp:
    """What tells whether a file changed without reading it. Raises OSError where it is gone."""
    about = os.stat(path)  # noqa: PTH116 (done for every file of every run)
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def sha256_file(path: Path, *, anew: bool = False) -> str:
    """Digest of a file's bytes; within a process a file is hashed once (by path and stamp) unless `anew`."""
    key = (str(path.resolve()), stamp_of_file(path))
    if anew or key not in _DIGESTS:
        with open_file(path) as file:
            digest = hashlib.sha256()  # hashlib.file_digest is not in Python 3.10, where `extractor.x.env` may run this
            while block := file.read(1 << 20):
                digest.update(block)
            _DIGESTS[key] = digest.hexdigest()
    return _DIGESTS[key]


# Temporary names: who writes under them, so that what a kill leaves is told from what is being written.

FOREIGN_AGE = 2 * 86_400.0  # seconds without a new file, after which another machine's leftovers are swept
# .tmp-<final name>-<machine>-<process>-<its start>-<random>
_OWNED = re.compile(r"\.tmp-.+-(?P<host>[\w.]+)-(?P<pid>\d+)-(?P<start>[\w.]+)-[0-9a-f]{8}")
_UNOWNED = re.compile(r"\.tmp-.+-[a-z0-9_]{8}")  # of evalkit 0.1.0
_SHOWN = 40  # characters of the final name: names may not be longer than 255 bytes
_ACTIVE: set[Path] = set()  # this process's temporary files and folders, which `sweep` must leave
_SWEPT: set[Path] = set()  # folders that this process looked through before it first wrote there


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A free temporary name next to `path`; whatever has it at the end is removed."""
    owner = f"{_host()}-{os.getpid()}-{_start_of(os.getpid())}"
    temporary = path.with_name(f".tmp-{path.name[:_SHOWN]}-{owner}-{secrets.token_hex(4)}")
    _ACTIVE.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)  # gone already where it took its final name
        _ACTIVE.discard(temporary)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`; on leaving without an error it is synced and takes the name `path`.

    Raises:
        OSError: it cannot be written; its `filename` is `path`, not the temporary one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(path.parent)
        with temporary_path(path) as temporary:
            temporary.touch()
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    except OSError as error:
        if error.errno is not None and (error.filename is None or ".tmp-" in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder next to `path`; on leaving without an error it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with temporary_path(path) as temporary:
        new = temporary / "new"
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(temporary / "old")
        new.rename(path)


def sweep(folder: Path) -> None:
    """Removes what killed processes left in a folder; what a living process, or another machine, writes is left.

    A process is told by its id and its start, since ids come again. Another machine's, and those of evalkit 0.1.0,
    which had no owner in their names, are swept when nothing was written there for two days.
    """
    with contextlib.suppress(OSError):  # no such folder, a read-only store, or another process sweeps as well
        for entry in list(os.scandir(folder)):
            path = folder / entry.name
            if entry.name.startswith(".tmp-") and path not in _ACTIVE and is_abandoned(path):
                _remove(path)


def sweep_once(folder: Path) -> None:
    """`sweep`, but once per folder and process: looking through 10,000 names takes 4 ms."""
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        sweep(folder)


def is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder is a leftover of a process that is gone."""
    match = _OWNED.fullmatch(path.name)
    if match is not None and match["host"] == _host():
        pid = int(match["pid"])
        return pid == os.getpid() or not _is_alive(pid) or _start_of(pid) not in (match["start"], _UNKNOWN)
    if match is None and _UNOWNED.fullmatch(path.name) is None:
        return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > FOREIGN_AGE
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


_UNKNOWN = "x"


def _is_alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


def _start_of(pid: int) -> str:
    """When a process began, as text that is compared alone: by the kernel's ticks, which no set clock changes."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else f"{_boot()}.{fields[19]}"
    except (OSError, IndexError):
        pass
    import psutil

    try:
        return f"{int(psutil.Process(pid).create_time())}" if not Path("/proc/self/stat").exists() else _UNKNOWN
    except psutil.Error:
        return _UNKNOWN


@functools.cache
def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
    return ""


@functools.cache
def _host() -> str:
    """This machine; and the process namespace, since containers of one name may share a store."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = f".{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    return re.sub(r"[^A-Za-z0-9.]+", "_", socket.gethostname()[:_SHOWN] + namespace)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; NaN is refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_ELSEWHERE = "or give another folder with store=FOLDER or out=FOLDER"
_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then run again: what is finished is kept"),
    **dict.fromkeys(READ_ONLY, f"make it writable, {_ELSEWHERE}"),
    errno.EIO: f"the disk or its connection fails (the system's log says more): repair it, {_ELSEWHERE}",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n), then run again"),
    errno.ENAMETOOLONG: "give a shorter name=NAME, or a folder with a shorter path",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), f"something has its place: move it, {_ELSEWHERE}"),
}


def disk_error(error: OSError, path: Path, doing: str = "write to") -> StoreError:
    """One line of the system's refusal: which file (its final name), why, and what fixes that.

    Args:
        error: of the system.
        path: what was being written, where the error does not say.
        doing: what could not be done.
    """
    named = error.filename
    place = path if named is None or ".tmp-" in os.fsdecode(named) else os.fsdecode(named)
    fix = _FIXES.get(error.errno or 0, f"fix this, {_ELSEWHERE}")
    kind = ReadOnlyError if error.errno in READ_ONLY else StoreError
    return kind(f"cannot {doing} {place}: {error.strerror or error}: {fix}")


def check_writable(folder: Path) -> None:
    """Makes a folder where there is none; raises StoreError, in one line, where nothing can be written to it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".tmp-write-test-", dir=folder) as file:
            file.write(b"\0")
            file.flush()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write (disk full, read-only, no permission) into a StoreError of one line."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
