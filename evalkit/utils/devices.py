"""Devices: which to take, waiting for one, and how much memory was used. torch is imported for accelerators alone."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError, nearest

if TYPE_CHECKING:
    from typing import Self  # not there in Python 3.10, in which extractors may run (`extractor.x.env`)

    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
_SAMPLING_SECONDS = 0.05
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # cuda and mps; cpu


def pick_device(device: str) -> str:
    """The device to work on; "auto" is cuda, else mps, else cpu.

    Raises:
        ConfigError: it is not there, or there is no such device.
    """
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdigit())):
        raise ConfigError(f"device={device}: no such device. {nearest(kind, DEVICES)}")
    if kind == "cpu":
        return device
    import torch

    there = {
        "cuda": torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        return next(name for name, available in there.items() if available)
    if not there[kind]:
        raise ConfigError(f"device={device}: torch {torch.__version__} finds no such device here: give device=auto")
    return device


def for_scores(device: str) -> str:
    """Where scores are computed in a run on `device`: there, if it is CUDA; MPS has no float64."""
    picked = pick_device(device)
    return picked if picked.startswith("cuda") else "cpu"


def synchronize(device: str) -> None:
    """Waits until the device has done all that it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device) if device.startswith("cuda") else torch.mps.synchronize()


def is_accelerator(device: str) -> bool:
    """Whether the device works on while this process does something else."""
    return device != "cpu"


def mark(device: str) -> torch.cuda.Event | None:
    """On CUDA an event at the end of all that the device was given so far, by which to take times; else none."""
    if not device.startswith("cuda"):
        return None
    import torch

    with torch.cuda.device(device):
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
    return event


def label(device: str) -> str:
    """The device as tables show it: "cpu", "cuda (NVIDIA H100)"."""
    if device.startswith("cuda"):
        import torch

        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help: torch.OutOfMemoryError, or another error that says so."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Returns memory that no tensor uses any more to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def held_mb(device: str) -> float:
    """Memory held now, in MB of 2**20 bytes: on cuda what torch allocated on the device, else the process's own."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.memory_allocated(device)) / 2**20
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


class LoadMeter:
    """How busy the machine was since it was made, and by how much with the work of others."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._began, self._busy, self._own = time.perf_counter(), _busy_seconds(), self._own_seconds()

    def read(self) -> dict[str, float]:
        """load: tasks that ran or waited in the last minute, per core; others: part of all cores' time that they took.

        Nothing where the system does not tell.
        """
        cores = os.cpu_count() or 1
        seconds = max(time.perf_counter() - self._began, 1e-3)
        others = _busy_seconds() - self._busy - (self._own_seconds() - self._own)
        try:
            load = os.getloadavg()[0] / cores
        except (OSError, AttributeError):  # Windows
            return {}
        return {"load": round(load, 2), "others": round(min(max(others / seconds / cores, 0.0), 1.0), 3)}

    def _own_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _busy_seconds() -> float:
    """CPU seconds of all cores that were not idle, since the machine was started."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times[:4]) - times.idle if len(times) > 3 else times.user + times.system)


class MemoryMeter:
    """Peak memory while it is open: on cuda what torch allocated on the device, else the process's resident memory.

    The latter is sampled every 50 ms, and counts all that the process holds: Python, torch, the model.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._peak = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            import psutil

            self._process = psutil.Process()
            self._thread = threading.Thread(target=self._watch, name="evalkit-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def peak_mb(self) -> float:
        """The peak so far, in MB of 2**20 bytes."""
        if self._device.startswith("cuda"):
            import torch

            self._peak = max(self._peak, int(torch.cuda.max_memory_allocated(self._device)))
        else:
            self._sample()
        return round(self._peak / 2**20, 1)

    def _watch(self) -> None:
        while not self._closed.wait(_SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self._peak = max(self._peak, int(self._process.memory_info().rss))
