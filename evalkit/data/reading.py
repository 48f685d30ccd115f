"""Who reads and decodes image files: threads, and processes where there are many files and cores enough.

Decoding itself lets go of the GIL, but takes it some 15 times per image, and 16 threads that hand it to each other come
to less than 2 cores' worth of images. Up to 4 cores threads are as fast, and start at once.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from evalkit.engines.base import beside
from evalkit.engines.launch import cores
from evalkit.errors import ConfigError, whole_number
from evalkit.utils.processes import Processes

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 16  # threads, and processes
FEW_CORES = 4  # up to so many, threads do
PATIENCE = 1.0  # seconds of reading that are spent in threads before processes are started, which takes 0.3 s each
SECONDS_PER_FILE, SECONDS_PER_BYTE = 2e-4, 6e-9  # of a core: to look at a file, to decode a byte of pixels

_setting: int | str = "auto"
_spent = 0.0
_helpers: Helpers | None = None
_lock = threading.Lock()


def use(readers: int | str) -> None:
    """How many processes read image files: auto, or a number; 0: threads alone.

    Raises:
        ConfigError: it is neither.
    """
    global _setting, _helpers
    if readers != "auto":
        try:
            whole_number(readers, "readers", least=0)
        except ConfigError as error:
            raise ConfigError(f"{error}, or auto") from None
    with _lock:
        if readers != _setting and _helpers is not None:
            _helpers.call.close()
            _helpers = None
        _setting = readers


class Helpers:
    """Processes that read files, and a thread per process, which waits for it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.call = Processes("evalkit.data.scan", "numpy", "PIL.Image")
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="evalkit-help")
        atexit.register(self.call.close)
        self.call.start(count)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The function, which makes its `call`s, of each item, in order."""
        return self._pool.map(function, items)


def helpers(seconds: float) -> Helpers | None:
    """Processes to read files in; none while threads do.

    Args:
        seconds: of a core, that this reading takes, about.
    """
    global _spent, _helpers
    with _lock:
        _spent += seconds
        if _helpers is None and (count := _count()) and (_setting != "auto" or _spent >= PATIENCE):
            _helpers = Helpers(count)
        return _helpers


def blocks_ahead() -> int:
    """Blocks of 64 images that are decoded ahead of a network, so that all readers have something to do."""
    return 4 if _count() else 2


def _count() -> int:
    if isinstance(_setting, int):
        return _setting
    own = cores() // beside()
    return min(own, MOST) if own > FEW_CORES else 0


@functools.cache
def read_pool() -> ThreadPoolExecutor:
    """Threads that read and decode files, for the whole process."""
    return ThreadPoolExecutor(min(MOST, os.cpu_count() or 1), thread_name_prefix="evalkit-read")


@functools.cache
def wide_pool() -> ThreadPoolExecutor:
    """Threads that wait for a network."""
    return ThreadPoolExecutor(16, thread_name_prefix="evalkit-fetch")
