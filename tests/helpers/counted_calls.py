"""Counts what Python asks of the file system below a folder: files opened, folders listed, files looked at (stat)."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_AUDITED = {"open": "open", "os.scandir": "list", "os.listdir": "list"}
_hooked = False
_counting: list[tuple[str, Counter[str]]] = []


def _note(verb: str, path: Any) -> None:
    for root, counts in _counting:
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(root):
            counts[verb] += 1


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _counting or event not in _AUDITED or isinstance(args[0], int | None):
        return
    _note(_AUDITED[event], args[0])
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):  # path, mode, flags
        _note("draft" if ".tmp-" in os.fsdecode(args[0]) else "write", args[0])


class _Entry:
    """An os.DirEntry whose stat is counted."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self._entry = entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __fspath__(self) -> str:
        return self._entry.path

    def stat(self, **options: Any) -> os.stat_result:
        _note("stat", self._entry.path)
        return self._entry.stat(**options)


class _Entries:
    """What os.scandir gives."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *error: object) -> None:
        self._entries.close()

    def __iter__(self) -> _Entries:
        return self

    def __next__(self) -> _Entry:
        return _Entry(next(self._entries))

    def close(self) -> None:
        self._entries.close()


@contextmanager
def counted(root: os.PathLike[str]) -> Iterator[Counter[str]]:
    """Counts by "open", "list" and "stat", of this process alone.

    What is opened to write counts once more: by "draft" where it has a temporary name, else by "write".
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # which nothing takes away again
        _hooked = True
    stat, lstat, scandir = os.stat, os.lstat, os.scandir

    def looked(real: Any) -> Any:
        def call(path: Any, **options: Any) -> Any:
            _note("stat", path)
            return real(path, **options)

        return call

    given = (os.fspath(root), Counter[str]())
    with (
        mock.patch.object(os, "stat", looked(stat)),
        mock.patch.object(os, "lstat", looked(lstat)),
        mock.patch.object(os, "scandir", lambda path=".": _Entries(scandir(path))),
    ):
        _counting.append(given)
        try:
            yield given[1]
        finally:
            _counting.remove(given)
