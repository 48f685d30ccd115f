"""A folder as on a read-only mount, for this process: chmod does not bind root, and a mount needs more rights."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_FOLDERS: list[str] = []
_HOOKED: list[bool] = []


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not _FOLDERS or not (event in _CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & _WRITES)):
        return
    for path in args[: 2 if event == "os.rename" else 1]:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(path))
            if any(place == folder or place.startswith(folder + os.sep) for folder in _FOLDERS):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within it, each write, removal and new file below `folder` fails as on a read-only file system."""
    if not _HOOKED:
        sys.addaudithook(_refuse)  # stays for the process; does nothing outside of this context
        _HOOKED.append(True)
    _FOLDERS.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _FOLDERS.pop()
