"""The page's section on `profile=true`: parts, plots along the batch size, what failed; a broken file is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report_runs import write_run

from evalkit.report.page import make_page
from evalkit.report.profile import ProfileView, make_profile
from evalkit.report.run_folder import Run


def part(name: str, share: float, each: list[float], flops: float | None = None) -> dict[str, Any]:
    rate = None if flops is None else flops / (share * 0.1)
    figures = {"flops_per_image": flops, "flop_per_s": rate, "of_matrix_rate": rate and rate / 1e12}
    return {
        "part": name,
        "calls": len(each),
        "seconds_per_image": share * 0.1,
        "share": share,
        "seconds_of_calls": each,
        **figures,
    }


def batch(size: int, rate: float) -> dict[str, Any]:
    parts = [part("unet", 0.75, [0.03, 0.045], 2e9), part("the rest", 0.25, [0.025])]
    numbers = {"images_per_second": rate, "seconds_per_image": 1 / rate, "parts_by_whole": 1.02, "pairs": 6}
    numbers |= {"parts_by_whole_cpu": None, "peak_memory_mb": 1000.0 + size, "joules_per_image": None}
    return {"batch_size": size, "parts": parts, **numbers}


def profile(cell: str) -> dict[str, Any]:
    failed = {"batch_size": 4, "failed": "out of memory: 9 GB <script>"}
    about = {"memory": "allocated", "energy": "missing: none", "flops_missing": None, "load": None, "others": None}
    return {
        **{"device": "cuda (X)", "cores": 8, "threads": 8, "torch": "2"},
        "matrix_rates": {"bfloat16": {"flop_per_s": 4e14, "side": 8192}},
        "left_out": [{"cell": "old", "why": "its images exist: there is nothing to profile"}],
        "cells": [{"cell": cell, **about, "batches": [batch(1, 10.0), batch(2, 16.0), failed]}],
    }


def test_the_section(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out")
    assert make_profile(Run.open(out)) is None
    before = Run.open(out)
    digest, cell = before.digest, before.table.cells[0]
    (out / "profile.json").write_text(json.dumps(profile(cell)))
    run = Run.open(out)
    assert run.digest != digest, "a page without the section is not the run's any more"
    view = make_profile(run)
    assert isinstance(view, ProfileView)
    (parts,) = view.parts
    assert [(share, line[0]) for share, line in parts.lines] == [(75.0, "unet"), (25.0, "the rest")]
    assert [line[:3] for line in view.batches] == [[cell, "1", "10"], [cell, "2", "16"], [cell, "4", "out of memory"]]
    assert view.plots is not None
    assert [plot.title for plot in view.plots.plots] == [
        "images/s against batch size",
        "peak memory, MB against batch size",
    ]
    assert "ends at 4" in view.plots.note
    assert any("4e+02" not in note and "400 TFLOP/s in bfloat16" in note for note in view.notes)
    page = make_page(run, "mark")
    assert "Where the time goes" in page
    assert 'href="#profile"' in page
    assert "out of memory: 9 GB &lt;script&gt;" in page
    assert "old: its images exist" in page


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out")
    for text in ("{", "[]", '{"cells": [{}]}', '{"cells": [{"cell": "a", "batches": [{"parts": 3}]}]}'):
        (out / "profile.json").write_text(text)
        said = make_profile(Run.open(out))
        assert isinstance(said, str)
        assert said.startswith("profile.json cannot be read (")
    assert "profile.json cannot be read (" in make_page(Run.open(out), "mark")
