"""Ten runs over ten weeks, of three schemas and two protocols, two more that cannot be read, in a store; all made up.

Runs 00 to 08 score two cells by a FID and a CLIP score: 00 and 01 are of schema 1, 05 on are under another protocol of
FID. Run 06 is the first that is really worse: `net` by 6 points of CLIP score. Run 09 is of a later schema.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evalkit.results.table import ResultTable, Row
from evalkit.utils.files import sha256_json

N = 60
CELLS = ("net-ddim-num_inference_steps_8", "gan")
WORSE = 6  # the run from which on net is worse
OTHER = 5  # the first run under the other protocol


def write_runs(store: Path) -> Path:
    """Writes the store's runs `week00` to `week09`, and `cut`, a damaged one; returns the store."""
    for week in range(9):
        write_run(store / f"week{week:02d}", week)
    _put(store / "week09", {"schema": 99, "run": {}, "rows": []})
    (store / "cut").mkdir()
    (store / "cut" / "results.json").write_text('{"schema": 2, "run": {"na')
    (store / "samples" / "net-0123").mkdir(parents=True)
    (store / "samples" / "net-0123" / "results.json").write_text("of no run")
    return store


def write_run(out: Path, week: int) -> Path:
    """Writes one run's results.json and samples.csv."""
    clip = {cell: clip_scores(week, cell) for cell in CELLS}
    rows = [row for cell in CELLS for row in _rows(week, cell, clip[cell])]
    run: dict[str, Any] = {
        "name": out.name,
        "command": f"evalkit experiment=weekly seed={week}",
        "cells": {cell: sha256_json([cell, week if cell != "gan" else 0]) for cell in CELLS},
        "reference": "photos",
        "python": "3.11.7",
        "store": str(out.parent),
        "pairing": dict.fromkeys(CELLS, "0123456789"),
        "versions": {"evalkit": "0.1.0" if week < 2 else "0.2.0", "torch": "2.15.0" if week < 4 else "2.16.0"},
        "seconds": {"generate": 1.5},
        "config": {"name": out.name, "num_samples": N, "model": {"net": {"weights": f"week{week}.safetensors"}}},
    }
    if week >= 2:
        date = f"2026-0{1 + week // 4}-{1 + week % 4 * 7:02d}T03:00:00Z"
        run["made"] = {"date": date, "host": "farm", "cpu": "a CPU", "gpu": [], "git": f"{week:040x}"}
    data = ResultTable(run, tuple(rows)).to_json()
    if week < 2:  # as evalkit 0.1.0 wrote it
        protocols = data.pop("protocols")
        for row in data["rows"]:
            row["protocol"] = protocols[row["protocol_hash"]]
        data["schema"] = 1
    _put(out, data)
    _write_samples(out / "samples.csv", clip)
    if week < 2:
        os.utime(out / "results.json", (1_764_000_000 + 604_800 * week,) * 2)  # November 2025
    return out


def clip_scores(week: int, cell: str) -> list[float]:
    """[N]: of prompts that differ by 5, in noise of 1 of the run's own; the GAN's images are the same in all weeks."""
    prompts, own = random.Random(7), random.Random(f"{week if cell != 'gan' else 0} {cell} c")
    shift = (4.0 if cell == "gan" else 0.0) + (6.0 if week >= WORSE and cell != "gan" else 0.0)
    return [80 + prompts.gauss(0, 5) - shift + own.gauss(0, 1) for _ in range(N)]


def _rows(week: int, cell: str, clip: list[float]) -> Iterator[Row]:
    gan = cell == "gan"
    about = (cell, "gan" if gan else "net", None if gan else "ddim", "captions")
    settings = {} if gan else {"num_inference_steps": 8}
    fid = {"metric": "fid", "reference": {"n": 500 if week < OTHER else 1000}}
    for metric, label, value, stderr, better, protocol in (
        ("fid", "FID", (30.0 if gan else 20.0 - week) + 5 * (week >= OTHER), 1.0, "lower", fid),
        ("clip_score", "CLIP score", fmean(clip), stdev(clip) / N**0.5, "higher", {"metric": "clip_score"}),
        ("latency_p50", "latency p50 [ms]", 10.0 + week, None, "lower", {"metric": "latency_p50", "device": "cpu"}),
    ):
        key = sha256_json(protocol)[:10]
        yield Row(*about, settings, 0, metric, label, value, stderr, N, better, protocol, key)


def _put(out: Path, data: dict[str, Any]) -> None:
    out.mkdir(parents=True)
    (out / "results.json").write_text(json.dumps(data))


def _write_samples(path: Path, clip: dict[str, list[float]]) -> None:
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["cell", "index", "file", "prompt", "category", "clip_score"])
        for cell, values in clip.items():
            lines.writerows(
                [cell, i, f"samples/{cell}/{i:06d}.png", f"prompt {i}", "", f"{v:.6g}"] for i, v in enumerate(values)
            )
