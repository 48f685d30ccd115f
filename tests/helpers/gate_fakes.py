"""Cells, rows and gates for the tests of the gate."""

from __future__ import annotations

from datetime import date
from typing import Any

from evalkit.cell import Cell
from evalkit.gate import Verdict, judge, make_gates
from evalkit.results.table import ResultTable, Row


def cell(name: str, num_samples: int = 100, **settings: Any) -> Cell:
    model = name.split("-")[0]
    return Cell(model, None, None, settings, 0, num_samples, f"key of {name}", name, {}, {}, {})


def row(name: str, metric: str, value: float | None, stderr: float | None, n: int, better: str, **more: Any) -> Row:
    model = name.split("-")[0]
    fields: dict[str, Any] = {"protocol": {"n": n}, "protocol_hash": f"n {n}", **more}
    return Row(name, model, None, None, {}, 0, metric, metric.upper(), value, stderr, n, better, **fields)


CELLS = [cell("a", steps=4), cell("b", steps=8), cell("c", steps=8)]
METRICS = dict.fromkeys(["fid", "clip", "precision"])
DAY = date(2025, 6, 15)
HALF = [1.0, -1.0] * 50  # influences of a spread of 1: a standard error of about 0.1 at N = 100


def gate(*rules: Any, **more: Any) -> dict[str, Any]:
    return make_gates({"g": {"rules": list(rules), **more}}, CELLS, METRICS)


def table(*rows: Row, run: dict[str, Any] | None = None, lint: tuple[Any, ...] = ()) -> ResultTable:
    return ResultTable(run or {"name": "t"}, rows, lint=lint)


def fid(name: str, value: float | None, stderr: float | None = 0.1, **more: Any) -> Row:
    return row(name, "fid", value, stderr, more.pop("n", 100), "lower", **more)


def judged(gates: dict[str, Any], *rows: Row, **more: Any) -> Verdict:
    known = {name: more.pop(name, {}) for name in ("influences", "pairing", "clusters")}
    return judge(table(*rows, **more), gates, today=DAY, **known)
