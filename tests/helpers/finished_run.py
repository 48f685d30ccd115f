"""A finished run's folder, made by hand: two cells, two metrics, contact sheets, a report and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from evalkit.results import render
from evalkit.results.table import ResultTable, Row

CELLS = {"ldm-ddim-num_inference_steps_4": "a" * 64, "dcgan": "b" * 64}
SCORES = {
    ("ldm-ddim-num_inference_steps_4", "fid"): (12.5, 0.75),
    ("ldm-ddim-num_inference_steps_4", "clip_score"): (80.25, 0.5),
    ("dcgan", "fid"): (7.125, 0.25),
    ("dcgan", "clip_score"): (None, None),
}
NAMED = {
    "ldm-ddim-num_inference_steps_4/fid": 12.5,
    "ldm-ddim-num_inference_steps_4/fid.stderr": 0.75,
    "ldm-ddim-num_inference_steps_4/clip_score": 80.25,
    "ldm-ddim-num_inference_steps_4/clip_score.stderr": 0.5,
    "dcgan/fid": 7.125,
    "dcgan/fid.stderr": 0.25,
}
SHEETS = {"sheets/ldm-ddim-num_inference_steps_4", "sheets/dcgan", "overview", "reference"}
REPORT = "<!doctype html><title>the report</title><p>all is well</p>\n"
CONFIG: dict[str, Any] = {
    "name": "night",
    "num_samples": 64,
    "model": {"ldm": {"guidance_scale": {"sweep": [1, 2]}}, "dcgan": {"weights": "w.safetensors"}},
    "extractor": {"inception": {"resize": "tf1"}},
    "exclude": [],
    "baseline": None,
    "tracker": {"notes": {"_target_": "fake_trackers.Notes"}},
}


def row(cell: str, metric: str, value: float | None, stderr: float | None, **changes: Any) -> Row:
    made = Row(
        cell=cell,
        model=cell.partition("-")[0],
        sampler="ddim" if "-" in cell else None,
        prompts="digits",
        settings={"num_inference_steps": 4} if "-" in cell else {},
        seed=0,
        metric=metric,
        label=metric.upper(),
        value=value,
        stderr=stderr,
        n=64,
        better="lower",
        protocol={"metric": metric},
        protocol_hash=f"hash-{metric}",
        note=None if value is not None else "no prompts",
    )
    return replace(made, **changes)


def make_table() -> ResultTable:
    rows = [row(cell, metric, *score) for (cell, metric), score in SCORES.items()]
    run = {"name": "night", "command": "python run_eval.py", "cells": dict(CELLS), "config": CONFIG}
    return ResultTable(run, tuple(rows), gate={"status": "fail", "results": [{"metric": "fid", "status": "fail"}]})


def make_folder(out: Path, table: ResultTable | None = None) -> Path:
    """Writes the folder as a run would, results.json before report.html."""
    (out / "sheets").mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text("name: night\n")
    (out / "samples.csv").write_text("cell,index\ndcgan,0\n")
    (out / "gate.md").write_text("**fail**: fid\n")
    for number, name in enumerate(sorted(SHEETS)):
        Image.new("RGB", (24 + number, 16), (40 * number, 90, 200)).save(out / f"{name}.png")
    render.write(table or make_table(), out)
    (out / "report.html").write_text(REPORT)
    return out


def make_series_folder(out: Path, steps: Sequence[int] = (100, 200, 1000)) -> Path:
    """The folder of a run of a series of checkpoints: `fid` is 1000 / step."""
    cells = {f"gan-step_{step}": step for step in steps}
    rows = tuple(row(cell, "fid", 1000 / step, 0.1, settings={"step": step}) for cell, step in cells.items())
    trend = {"best": rows[-1].cell, "ties": [], "plateau": rows[-1].cell}
    series = [{"name": "gan", "steps": cells, "trends": {"fid": trend}}]
    run = {"name": "training", "command": "", "cells": {cell: cell for cell in cells}, "config": {"name": "training"}}
    return make_folder(out, ResultTable({**run, "series": series}, rows))
