"""Pairs with the baseline next to any run of `report_runs`: rows of PSNR and SSIM, parity.json, and a noise floor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.results.noise_floor import with_floor
from evalkit.results.parity import NAME, CellParity, DifferenceMap, WorstPair
from evalkit.results.table import ResultTable, Row
from evalkit.results.thumbnails import Thumbnailer
from evalkit.utils.json_files import write_checked

PAIRS = {
    "mean": 40.0,
    "pairs": 30.0,
    "identical": 2.0,
    "median": 41.0,
    "min": 20.5,
    "max": 99.0,
    "p1": 21.0,
    "p99": 98.0,
}


def write_pairs(
    out: Path, *, floor: float | None = 45.0, prompt: str = "a red cat", instead_of: Sequence[str] = ()
) -> Path:
    """Gives the run in `out` a baseline (its second cell) and pairs: cell i has a PSNR of 40 + 6 i.

    The metrics `instead_of` are left out of the table.
    """
    table = ResultTable.load(out / "results.json")
    table = replace(table, rows=[row for row in table.rows if row.metric not in instead_of])
    cells, base = table.cells, table.cells[1]
    rows = [
        *table.rows,
        *(row for i, cell in enumerate(cells) for row in _rows(table, cell, cell == base, 40.0 + 6 * i)),
    ]
    table = replace(table, rows=tuple(rows), run={**table.run, "baseline": base})
    if floor is not None:
        remakes = {"again": {"mean": 100.0, "pairs": 30.0, "identical": 30.0}, "batch_size 1": {**PAIRS, "mean": floor}}
        about = {"label": "PSNR", "better": "higher", "kind": "pairs", "floor": floor, "worst": "batch_size 1"}
        metrics = {"psnr": {**about, "identical": False, "remakes": remakes, "shown": f"{floor:.2f}"}}
        made = [{"name": name, "change": {}, "cell": "c", "key": "k"} for name in remakes]
        table = with_floor(table, {"baseline": base, "seed": 0, "n": 30, "remakes": made, "metrics": metrics})
    (out / "results.json").write_text(json.dumps(table.to_json()), encoding="utf-8")
    parity = {cell: asdict(_parity(number, prompt)) for number, cell in enumerate(cells) if cell != base}
    write_checked(out / NAME, {"mark": "mark", "metric": "psnr", "cells": parity})
    return out


def _rows(table: ResultTable, cell: str, is_base: bool, psnr: float) -> list[Row]:
    like = table.rows_by_cell[cell][0]
    about: dict[str, Any] = {"protocol": {"metric": "psnr", "pairs": {"of": "baseline"}}, "protocol_hash": "pairs"}
    about |= {"metric": "psnr", "label": "PSNR", "better": "higher", "note": None, "unsure": False, "broken": False}
    row = replace(like, **about, value=psnr, stderr=0.5, details=dict(PAIRS))
    if is_base:
        row = replace(row, value=None, stderr=None, details={}, note="this is the baseline")
    ssim = replace(row, metric="ssim", label="SSIM")
    return [row, ssim if is_base else replace(ssim, value=0.9998, details={**PAIRS, "mean": 0.9998})]


def _parity(number: int, prompt: str) -> CellParity:
    maker = Thumbnailer(images=30, budget=10**6)

    def square(level: int) -> Any:
        return maker.make(np.full((8, 8, 3), level, np.uint8))

    worst = [
        WorstPair(3 * i + number, f"{prompt} {i}", 20.5 + i, square(10 * i), square(10 * i + 5), square(255), 51, 5)
        for i in range(10)
    ]
    return CellParity(worst, DifferenceMap(square(120), 5.25, 1.5, 20))
