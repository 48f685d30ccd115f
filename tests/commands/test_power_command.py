"""`evalkit power`: the table, JSON, and one line for what cannot be forecast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command import run_evalkit
from finished_run import row

from evalkit.metric import cluster_ids, standard_error
from evalkit.results import render
from evalkit.results.compare import compare
from evalkit.results.csv_files import cluster_text, write_csv
from evalkit.results.table import ResultTable


def pilot(out: Path, *, per_prompt: int = 4, gap: float = 0.4, cells: Sequence[str] = ("a", "b"), n: int = 400) -> Path:
    """A run of a mean metric and of one of sets, on common prompts and seeds."""
    rng = np.random.default_rng(1)
    ids = cluster_ids([f"p{i // per_prompt}" for i in range(n)])
    common = np.repeat(rng.standard_normal(n // per_prompt), per_prompt) + 0.5 * rng.standard_normal(n)
    rows, influences = [], {}
    for place, cell in enumerate(cells):
        each = (common + gap * place + 0.5 * rng.standard_normal(n)).tolist()
        for metric in ("clip", "fid"):
            influences[cell, metric] = each
            error = standard_error(each, ids)
            rows.append(row(cell, metric, float(np.mean(each)), error, n=n, clusters=len(set(ids)), seed=0))
        rows.append(row(cell, "images_per_second", 10.0, None, n=n))
    pairing = dict.fromkeys(cells, "same")
    comparisons, best = compare(
        rows, baseline=None, influences=influences, pairing=pairing, clusters=dict.fromkeys(cells, ids)
    )
    run = {"name": "pilot", "command": "", "cells": dict.fromkeys(cells, "k"), "pairing": pairing, "baseline": None}
    render.write(ResultTable(run, tuple(rows), (), tuple(comparisons), best), out)
    lines: list[list[object]] = [["cell", "index", "file", "prompt", "category", "cluster", "clip", "fid.influence"]]
    for cell in cells:
        values = influences[cell, "clip"]
        lines += [[cell, i, "", "", "", cluster_text(ids[i]), f"{v:.6g}", f"{v:.6g}"] for i, v in enumerate(values)]
    write_csv(out / "samples.csv", lines)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pilot").mkdir()
    return pilot(tmp_path / "pilot")


def test_a_pilot_says_how_many_samples(folder: Path) -> None:
    done = run_evalkit("power", str(folder), "--delta", "clip=0.1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Prompts (samples) per cell" in done.stdout
    told = run_evalkit("power", str(folder), "--delta", "clip=0.1", "--json", cwd=folder)
    (found,) = json.loads(told.stdout)["forecasts"]
    assert found["paired"]["samples"] < found["unpaired"]["samples"] / 3  # most of the variance is common
    assert found["paired"]["samples"] % 4 == 0  # whole prompts, as the pilot has them
    assert found["correlation"] > 0.8
    assert found["paired"]["hours"] == pytest.approx(2 * found["paired"]["samples"] / 10 / 3600)
    assert [design["k"] for design in found["designs"]] == [1, 2, 4, 8, 16]


def test_without_a_difference_the_pilots_own_is_taken(folder: Path) -> None:
    done = run_evalkit("power", str(folder / "results.json"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "These differences are the pilot's own" in done.stdout.replace("\n", " ")
    assert "FID: of the set as a whole" in done.stdout
    assert "CLIP: of the set" not in done.stdout


def test_more_cells_ask_for_more_by_holm(tmp_path: Path) -> None:
    (tmp_path / "pilot").mkdir()
    many = pilot(tmp_path / "pilot", cells=[f"c{i}" for i in range(6)], gap=0.1)
    done = run_evalkit("power", str(many), "--delta", "clip=0.1", "--json", cwd=tmp_path)
    (found,) = json.loads(done.stdout)["forecasts"]
    assert found["comparisons"] == 15  # against the best, which the data chose, all pairs count
    assert found["paired"]["with_holm"] > 1.5 * found["paired"]["samples"]


def test_a_pilot_without_samples_is_unpaired(folder: Path) -> None:
    (folder / "samples.csv").unlink()
    done = run_evalkit("power", str(folder), "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert all(forecast["paired"] is None for forecast in found["forecasts"])
    assert any("no samples.csv" in note for note in found["notes"])


def test_a_pilot_whose_cells_stopped_early_has_no_comparisons_and_serves(folder: Path) -> None:
    table = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**table, "comparisons": []}))
    done = run_evalkit("power", str(folder), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {f["baseline"] for f in json.loads(done.stdout)["forecasts"]} <= {"a", "b"}


def test_one_cell_needs_a_difference(tmp_path: Path) -> None:
    (tmp_path / "pilot").mkdir()
    alone = pilot(tmp_path / "pilot", cells=["a"])
    done = run_evalkit("power", str(alone), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("say which difference matters, --delta clip=VALUE")
    assert "two like A" in run_evalkit("power", str(alone), "--delta", "clip=0.3", cwd=tmp_path).stdout


def test_what_cannot_be_forecast_is_one_line(folder: Path, tmp_path: Path) -> None:
    asked = {
        "power: no score of this pilot has a standard error": [str(tmp_path / "bare")],
        "--delta clap: the pilot has no errors of it": [str(folder), "--delta", "clap=1"],
        "--delta clip: give METRIC=VALUE": [str(folder), "--delta", "clip"],
        "--delta clip=0: the difference must be": [str(folder), "--delta", "clip=0"],
        "--power 1: give a share": [str(folder), "--power", "1"],
        "power: ": [str(tmp_path / "nowhere")],
    }
    (tmp_path / "bare").mkdir()
    run = {"name": "bare", "command": "", "cells": {"a": "k"}}
    render.write(ResultTable(run, (row("a", "fid", 3.0, None),)), tmp_path / "bare")
    for line, words in asked.items():
        done = run_evalkit("power", *words, cwd=tmp_path)
        assert done.returncode == 2, line
        assert done.stderr.startswith(f"evalkit: {line}"), done.stderr
        assert done.stderr.count("\n") == 1
