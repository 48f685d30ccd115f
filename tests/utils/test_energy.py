"""Counters of energy as the system shows them: RAPL's files, NVML's calls; and why there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.utils.energy import Counter, energy_counter


def package(root: Path, number: int, microjoules: int, name: str = "package-0") -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def test_rapl(tmp_path: Path) -> None:
    first = package(tmp_path, 0, 1_000_000)
    package(tmp_path, 1, 5_000_000)
    package(tmp_path, 2, 9_000_000, name="psys")  # counts what the packages count
    inner = tmp_path / "intel-rapl:0:0"
    inner.mkdir()
    (inner / "name").write_text("core\n")
    counter = energy_counter("cpu", tmp_path)
    assert isinstance(counter, Counter)
    assert counter.name == "RAPL, all of 2 processor package(s)"
    before = counter.read()
    assert before == pytest.approx(6.0)
    (first / "energy_uj").write_text("3500000\n")
    assert counter.since(before) == pytest.approx(2.5)


def test_rapl_begins_anew(tmp_path: Path) -> None:
    folder = package(tmp_path, 0, 262_143_000_000)
    counter = energy_counter("cpu", tmp_path)
    assert isinstance(counter, Counter)
    before = counter.read()
    (folder / "energy_uj").write_text("671150\n")
    assert counter.since(before) == pytest.approx(1.0)


def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert energy_counter("cpu", tmp_path) == f"no RAPL counter in {tmp_path}"
    assert energy_counter("mps") == "no counter of mps's energy is known"
    folder = package(tmp_path, 0, 1)

    def denied(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "denied")
        return Path.open(self).read()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", denied)
        assert energy_counter("cpu", tmp_path) == f"{folder}/energy_uj may be read by root alone"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter("cuda") == "NVML is not asked: pip install 'evalkit[energy]'"


def test_nvml_is_asked_of_the_device_that_torch_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML numbers GPUs otherwise than CUDA does: the identifier is what both share."""
    import torch

    joules = iter((5_000.0, 5_000.0, 7_500.0))  # millijoules
    asked: list[str] = []

    def handle(uuid: str) -> str:
        asked.append(uuid)
        return "handle"

    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules),
        NVMLError=type("NVMLError", (Exception,), {}),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"of-{device}"))
    counter = energy_counter("cuda:1")
    assert isinstance(counter, Counter)
    assert asked == ["GPU-of-cuda:1"]
    assert counter.since(counter.read()) == pytest.approx(2.5)

    def refuses(handle: str) -> float:
        raise fake.NVMLError("not supported")

    fake.nvmlDeviceGetTotalEnergyConsumption = refuses
    assert energy_counter("cuda:1") == "NVML counts no energy of cuda:1 (not supported)"
