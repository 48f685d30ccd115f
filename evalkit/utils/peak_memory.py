"""The most memory that a stretch of work held, exactly where the system tells: `devices.MemoryMeter` samples."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from evalkit.utils import devices

_PROCESS = Path("/proc/self")
_CGROUP = Path("/sys/fs/cgroup")


class PeakMemory:
    """Peak memory while it is open, in MB of 2**20 bytes.

    On CUDA what torch allocated on the device. Elsewhere the whole process's resident memory (Python, torch, the
    model): on Linux the kernel's own high-water mark, which is set back on entry; else sampled every 50 ms.

    Attributes:
        how: the way that it was measured, for people.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._stack = ExitStack()
        self._meter: devices.MemoryMeter | None = None
        self.how = "allocated by torch on the device" if device.startswith("cuda") else ""

    def __enter__(self) -> Self:
        if not self.how and _reset_mark():
            self.how = "resident memory of the process (VmHWM)"
        else:
            self.how = self.how or "resident memory of the process, sampled every 50 ms"
            self._meter = self._stack.enter_context(devices.MemoryMeter(self._device))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def peak_mb(self) -> float:
        """The peak so far."""
        return self._meter.peak_mb() if self._meter is not None else round(_mark_kb() / 1024, 1)


def _reset_mark() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
        return _mark_kb() > 0
    except (OSError, ValueError):
        return False


def _mark_kb() -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def trim() -> None:
    """Gives free memory of this process back to the system, where its C library can."""
    devices.free_memory()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_mb() -> float:
    """Main memory that this process may still take: the machine's, or what its control group leaves of it."""
    import psutil

    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # "max": no limit
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((_CGROUP / "memory.current").read_text(encoding="ascii")))
    return free / 2**20
