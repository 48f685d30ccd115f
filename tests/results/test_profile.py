"""`profile=true` in whole runs: its files, what is printed, and samples that are what they are without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalkit import api
from evalkit.errors import ConfigError, DataError
from evalkit.results import profile
from evalkit.results.csv_files import read_columns
from evalkit.results.profile import NAME, about_lines, batch_lines, part_lines, print_profile, sum_line, whole_line

GAN = ["model=[digits_dcgan]", "metric=[]", "num_samples=4", "contact_sheet=0", "report=false", "lint=false"]


def run(tmp_path: Path, *words: str, store: str = "runs", name: str = "p") -> Path:
    api.run([*GAN, *words, f"store={tmp_path / store}", f"name={name}"])
    return tmp_path / store / name


def images(store: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(store.glob("samples/**/*.png"))]


def test_a_profiled_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(tmp_path, store="plain")
    out = run(tmp_path, "profile={batch_sizes: [1, 2], repeats: 3}")
    assert images(out.parent) == images(plain.parent)
    assert len(images(out.parent)) == 4
    assert not (plain / NAME).exists()
    assert (out / "results.json").is_file()
    data = json.loads((out / NAME).read_text())
    (cell,) = data["cells"]
    assert [batch["batch_size"] for batch in cell["batches"]] == [1, 2]
    for batch in cell["batches"]:
        parts = {part["part"]: part for part in batch["parts"]}
        assert list(parts) == ["generator", "host copies", "PNG encoding", "the rest (scheduler, Python)"]
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
        assert parts["generator"]["flops_per_image"] > 1e6
        assert parts["generator"]["of_matrix_rate"] > 0
        trace = json.loads((out / "profile" / f"{cell['cell']}-batch{batch['batch_size']}.trace.json").read_text())
        total = sum(event["dur"] for event in trace["traceEvents"] if event["name"].startswith("the rest"))
        assert total == pytest.approx(batch["seconds_per_image_timed"] * batch["batch_size"] * 1e6, rel=1e-3)
    lines = list(read_columns(out / "profile.csv", ("cell", "batch_size", "part", "call", "seconds_per_image")))
    assert [line[1][1:4] for line in lines[:5]] == [
        ["1", "generator", ""],
        ["1", "host copies", ""],
        ["1", "host copies", "1"],
        ["1", "host copies", "2"],
        ["1", "PNG encoding", ""],
    ]
    capsys.readouterr()
    print_profile(out)
    said = capsys.readouterr().out
    assert "where one image's time goes: digits_dcgan, batch size 1" in said
    assert "by batch size" in said
    assert "FLOP/s in float32 (a product of 1024 x 1024)" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 120

    traces = (out / NAME).stat().st_mtime_ns
    assert run(tmp_path, "profile=true") == out, "all samples are there: a profile is made all the same"
    assert (out / NAME).stat().st_mtime_ns != traces
    assert len(json.loads((out / NAME).read_text())["cells"][0]["batches"]) == 1
    run(tmp_path)
    assert not (out / NAME).exists(), "what this run did not ask for is not in its folder"
    assert not list(out.glob("profile/*"))


def test_images_that_exist_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    for i in range(2):
        Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(tmp_path / "old" / f"{i}.png")
    api.run([str(tmp_path / "old"), "metric=[]", "profile=true", "report=false", f"store={tmp_path / 'r'}", "name=old"])
    data = json.loads((tmp_path / "r/old" / NAME).read_text())
    assert data["cells"] == []
    assert data["left_out"] == [{"cell": "old", "why": "its images exist: there is nothing to profile"}]
    print_profile(tmp_path / "r/old")
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "old: its images exist: there is nothing to profile"


def test_an_error_while_profiling_loses_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise DataError("1 of 1 images hold NaN")

    monkeypatch.setattr(profile, "profile_cell", broken)
    out = run(tmp_path, "profile=true")
    assert (out / "results.json").is_file()
    (left,) = json.loads((out / NAME).read_text())["left_out"]
    assert left == {"cell": "digits_dcgan", "why": "cannot be profiled: 1 of 1 images hold NaN"}


def test_the_option_is_refused_before_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile\.sizes: there is no such option"):
        run(tmp_path, "profile={sizes: [1]}")
    assert not (tmp_path / "runs").exists()


def test_lines() -> None:
    """Numbers as people read them; a batch size that did not fit has its word in the table and its line below."""
    unet: dict[str, Any] = {
        **{"part": "unet", "calls": 2, "seconds_per_image": 0.08, "share": 0.8, "seconds_of_calls": [0.03, 0.05]},
        **{"flops_per_image": 1.5e9, "flop_per_s": 1.5e9 / 0.08, "of_matrix_rate": 0.25},
    }
    rest = {
        **{"part": "the rest", "calls": 1, "seconds_per_image": 0.02, "share": 0.2, "seconds_of_calls": [0.02]},
        **{"flops_per_image": None, "flop_per_s": None, "of_matrix_rate": None},
    }
    batch = {
        **{"batch_size": 1, "images_per_second": 10.5, "seconds_per_image": 0.0952, "parts_by_whole": 1.05},
        **{"parts_by_whole_interval": [1.02, 1.08], "parts_by_whole_cpu": 1.01, "pairs": 5},
        **{"peak_memory_mb": 1234.5, "joules_per_image": 2.5, "parts": [unet, rest]},
    }
    assert part_lines(batch) == [
        ["unet", "2", "80", "80.0%", "30 to 50", "1.5 G", "18.8 G", "25%"],
        ["the rest", "1", "20", "20.0%", "", "", "", ""],
    ]
    assert sum_line(batch) == ["sum of the parts", "", "100", "100.0%", "", "1.5 G", "", ""]
    assert whole_line(batch) == (
        "a batch that nobody timed: 95.2 ms per image; in pairs with it the parts add up to 105.0% (102.0% to 108.0%) "
        "of it, and to 101.0% by CPU seconds, of which other programs take none"
    )
    failed = {"batch_size": 2, "failed": "out of memory: tried to allocate 9 GB"}
    cell = {
        "load": 2.5,
        "others": 0.6,
        "cell": "a",
        "memory": "m",
        "energy": "e",
        "flops_missing": None,
        "batches": [batch, failed],
    }
    assert batch_lines([cell]) == [
        ["a", "1", "10.5", "95.2", "1,234", "2.5", "1.050", "1.010"],
        ["", "2", "out of memory", "", "", "", "", ""],
    ]
    about = {"device": "cpu", "threads": 1, "cores": 2, "torch": "2", "matrix_rates": {}, "cells": [cell]}
    assert list(about_lines(about)) == [
        "measured on cpu, 1 of 2 cores, torch 2; 5 pairs of batches",
        "memory: m; energy: e",
        "a: timed under load: 2.5 tasks per core, other processes took 60% of the machine",
        "a at batch size 2: out of memory: tried to allocate 9 GB",
    ]
