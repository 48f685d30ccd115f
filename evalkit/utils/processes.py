"""Calls of functions in processes of their own, for work that holds the GIL or waits for it.

A thread that waits for such a call holds the GIL for some tens of microseconds, whatever the call does. Arrays travel
through pipes as they are, so that nothing lies in shared memory that a kill could leave there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

_COUNT = struct.Struct("<I")  # of parts: their lengths follow, then they themselves; the first is the pickle
_PIPE_BYTES = 1 << 20  # what a Linux pipe may hold, for fewer switches between the two sides
_CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # Ctrl-C is the parent's, who ends the input
    "import sys; from evalkit.utils.processes import serve; serve(sys.argv[1:])"
)


class Processes:
    """Calls functions of modules in processes: one process per thread that calls at a time.

    Processes are started when they are needed, and end with their input: with `close`, or with this process, however it
    ends. They import what the functions do, and nothing else. Once one could not be started, or was lost, all calls are
    made here.

    Args:
        modules: what they import first, where it is there: those that are started ahead of their first call have it.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._free: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, function: Callable[..., Result], *args: Any) -> Result:
        """What the function returns; raises what it raised there. All of it has to be picklable."""
        if self._lost:
            return function(*args)
        message = _packed((function, args))
        process = None
        try:
            process = self._take()
            _send(process.stdin, message)
            right, result = _receive(process.stdout)
        except (OSError, EOFError):
            self._lost = True
            return function(*args)
        except BaseException:  # Ctrl-C in the middle of an answer
            if process is not None:
                process.kill()
            raise
        with self._lock:
            self._free.append(process)
        if not right:
            raise result
        return result  # type: ignore[no-any-return]

    def start(self, count: int) -> None:
        """Starts as many processes as are wanting to `count`, without waiting for them."""
        with self._lock:
            count -= len(self._all)
        try:
            started = [] if self._lost else [self._started() for _ in range(count)]
        except OSError:
            self._lost = True
            return
        with self._lock:
            self._free += started

    def close(self) -> None:
        """Ends the processes; a later call starts others."""
        with self._lock:
            processes, self._all, self._free = self._all, [], []
        for process in processes:
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
        for process in processes:
            process.kill()  # it has nothing to put away, and may still be importing
            process.wait()

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._free:
                return self._free.pop()
        return self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for pipe in (process.stdin, process.stdout):
            _widen(pipe)
        with self._lock:
            self._all.append(process)
        return process


def serve(modules: Sequence[str]) -> None:
    """What such a process does: calls from its input, answers to its output, until both end."""
    import importlib
    import warnings

    warnings.simplefilter("ignore")  # each process would say the same
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    source, target = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a library prints does not get between the answers
    with source, target, contextlib.suppress(EOFError, OSError):
        while True:
            parts = _receive_parts(source)
            try:
                function, args = pickle.loads(parts[0], buffers=parts[1:])
                message = _packed((True, function(*args)))
            except Exception as error:
                message = _packed_error(error)
            _send(target, message)


def _packed(value: Any) -> list[Any]:
    """The parts of a message: a pickle, and the arrays in it as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    return [data, *(buffer.raw() for buffer in buffers)]


def _packed_error(error: Exception) -> list[Any]:
    try:
        message = _packed((False, error))
        pickle.loads(message[0], buffers=message[1:])  # some errors can be pickled, but not made again
    except Exception:
        return _packed((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return message


def _send(pipe: Any, parts: Sequence[Any]) -> None:
    views = [memoryview(part) for part in parts]
    _write(pipe, _COUNT.pack(len(views)) + b"".join(struct.pack("<Q", len(view)) for view in views))
    for view in views:
        _write(pipe, view)


def _receive(pipe: Any) -> Any:
    parts = _receive_parts(pipe)
    return pickle.loads(parts[0], buffers=parts[1:])


def _receive_parts(pipe: Any) -> list[Any]:
    """EOFError: the other side is gone."""
    (count,) = _COUNT.unpack(_read(pipe, bytearray(_COUNT.size)))
    lengths = struct.unpack(f"<{count}Q", _read(pipe, bytearray(8 * count)))
    return [_read(pipe, _memory(length)) for length in lengths]


def _memory(size: int) -> Any:
    """So many bytes; large ones are not set to zero first, with the GIL held."""
    if size < _PIPE_BYTES // 16:
        return bytearray(size)
    import numpy as np

    return np.empty(size, np.uint8)


def _write(pipe: Any, data: Any) -> None:
    left = memoryview(data)
    while left:
        left = left[pipe.write(left) :]


def _read(pipe: Any, memory: Any) -> Any:
    left = memoryview(memory)
    while left:
        count = pipe.readinto(left)
        if not count:
            raise EOFError
        left = left[count:]
    return memory


def _widen(pipe: Any) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):  # not Linux, or beyond the user's limit
        import fcntl

        if pipe is not None:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
