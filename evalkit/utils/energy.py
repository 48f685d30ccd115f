"""Counters of energy: a GPU's by NVML, the processor's by RAPL. Where neither can be read, why."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
_JOULE = 1e-6  # RAPL counts microjoules
_MILLIJOULE = 1e-3


@dataclass(frozen=True)
class Counter:
    """A counter of energy, with all that draws on it: other processes too.

    Attributes:
        name: what it counts, for people.
        read: joules since some moment; the difference of two readings is what was used between them.
        wraps: joules at which it begins anew, or none.
    """

    name: str
    read: Callable[[], float]
    wraps: float | None = None

    def since(self, before: float) -> float:
        """Joules since a reading; none of the counters wraps twice within a measurement."""
        used = self.read() - before
        return used + self.wraps if used < 0 and self.wraps is not None else used


def energy_counter(device: str, powercap: Path = POWERCAP) -> Counter | str:
    """The counter of a device ("cpu", "cuda", "cuda:1"), or in a line why there is none."""
    if device.startswith("cuda"):
        return _nvml(device)
    if device != "cpu":
        return f"no counter of {device}'s energy is known"
    return _rapl(powercap)


def _nvml(device: str) -> Counter | str:
    try:
        import pynvml  # nvidia-ml-py
    except ImportError:
        return "NVML is not asked: pip install 'evalkit[energy]'"
    import torch

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (pynvml.NVMLError, AttributeError, RuntimeError, AssertionError) as error:
        return f"NVML counts no energy of {device} ({error})"

    def read() -> float:
        millijoules: Any = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        return float(millijoules) * _MILLIJOULE

    return Counter(f"NVML, all of {device}", read)


def _rapl(powercap: Path) -> Counter | str:
    """All processor packages; domains within them ("intel-rapl:0:0") are part of their counts."""
    folders = sorted(powercap.glob("*-rapl:*")) if powercap.is_dir() else []
    packages = [folder for folder in folders if re.fullmatch(r"[a-z]+-rapl:\d+", folder.name) and _is_package(folder)]
    if not packages:
        return f"no RAPL counter in {powercap}"
    try:
        span = sum(_number(folder / "max_energy_range_uj") for folder in packages) * _JOULE
        _read(packages)
    except PermissionError:
        return f"{packages[0]}/energy_uj may be read by root alone"
    except (OSError, ValueError) as error:
        return f"RAPL cannot be read ({error})"
    # Of several packages one alone may wrap: which one is not known from their sum.
    return Counter(f"RAPL, all of {len(packages)} processor package(s)", lambda: _read(packages), span / len(packages))


def _is_package(folder: Path) -> bool:
    try:
        return (folder / "name").read_text(encoding="ascii").startswith("package")
    except OSError:
        return False


def _read(packages: list[Path]) -> float:
    return sum(_number(folder / "energy_uj") for folder in packages) * _JOULE


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
