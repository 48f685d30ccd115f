"""The peak of a stretch of work, after it fell again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalkit.utils import devices, peak_memory
from evalkit.utils.peak_memory import PeakMemory, free_mb, trim


@pytest.mark.parametrize("kernel", [True, False])
def test_a_peak_that_is_over(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:
        monkeypatch.setattr(peak_memory, "_reset_mark", lambda: False)
    trim()
    before = devices.held_mb("cpu")
    with PeakMemory("cpu") as peak:
        large = np.ones(150 * 2**17)  # 150 MB
        large += 1
        if not kernel:
            peak.peak_mb()
        del large
        trim()
        assert 120 < peak.peak_mb() - before < 260
    with PeakMemory("cpu") as later:
        assert later.peak_mb() - before < 100, "another stretch begins anew"
    assert ("VmHWM" in later.how) is (kernel and Path("/proc/self/clear_refs").exists())


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_CGROUP", tmp_path)
    whole = free_mb()
    assert whole > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    assert free_mb() == pytest.approx(whole, rel=0.5)
    (tmp_path / "memory.max").write_text(f"{3 * 2**20}\n")
    assert free_mb() == 2
