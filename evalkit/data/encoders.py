"""Processes that encode PNGs, for programs that feed a GPU.

fpng holds the GIL: 1.6 ms per image of 512 px, 7.5 of 1,024. Threads that encode so stop the one that launches kernels,
again and again. A thread that waits for a process here holds it for some 20 microseconds.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from evalkit.data import codec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDES = struct.Struct("<II")  # height, width: then the pixels
_LENGTH = struct.Struct("<Q")  # of the PNG, which follows
_PIPE_BYTES = 1 << 20  # what a Linux pipe may hold, for fewer switches between the two sides


class Encoders:
    """Encodes as `codec.encode_png`, to the same bytes, in processes: one per thread that asks at a time.

    They are started when they are needed, and end with their input: with `close`, or with this process, however it
    ends. Once one could not be started, or was lost, images are encoded here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, pixels: NDArray[np.uint8]) -> bytes:
        """The PNG of u8 [H,W,3]. ValueError: as `codec.encode_png`."""
        import numpy as np

        if self._lost or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            return codec.encode_png(pixels)  # which says what is wrong
        try:
            process = self._take()
            data = _ask(process, np.ascontiguousarray(pixels))
        except (OSError, EOFError):
            self._lost = True
            return codec.encode_png(pixels)
        with self._lock:
            self._free.append(process)
        return data

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
            process.wait()

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._free:
                return self._free.pop()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-c", "from evalkit.data.encoders import serve; serve()"],
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


def serve() -> None:
    """What such a process does: sides and pixels from its input, lengths and PNGs to its output, until both end."""
    import signal

    import numpy as np

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends the input
    with open(0, "rb", 0) as source, open(1, "wb", 0) as target, contextlib.suppress(EOFError, OSError):
        while True:
            height, width = _SIDES.unpack(_read(source, _SIDES.size))
            pixels = np.frombuffer(_read(source, height * width * 3), np.uint8).reshape(height, width, 3)
            data = codec.encode_png(pixels)
            _write(target, _LENGTH.pack(len(data)))
            _write(target, data)


def _ask(process: subprocess.Popen[bytes], pixels: NDArray[np.uint8]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    _write(process.stdin, _SIDES.pack(*pixels.shape[:2]))
    _write(process.stdin, pixels)
    (length,) = _LENGTH.unpack(_read(process.stdout, _LENGTH.size))
    return bytes(_read(process.stdout, length))


def _write(pipe: Any, data: bytes | NDArray[np.uint8]) -> None:
    left = memoryview(data).cast("B")  # type: ignore[arg-type]
    while left:
        left = left[pipe.write(left) :]


def _read(pipe: Any, size: int) -> bytearray:
    """`size` bytes. EOFError: there are fewer."""
    data = bytearray(size)
    left = memoryview(data)
    while left:
        count = pipe.readinto(left)
        if not count:
            raise EOFError
        left = left[count:]
    return data


def _widen(pipe: Any) -> None:
    with contextlib.suppress(ImportError, AttributeError, OSError):  # not Linux, or beyond the user's limit
        import fcntl

        if pipe is not None:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
