"""The same or not: each cell pair by pair against the baseline, next to the baseline's own noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run, short
from evalkit.results.floor_text import BEYOND, IDENTICAL, RUN, WITHIN, floor_of, verdict
from evalkit.results.parity import STOPS, CellParity, Parity
from evalkit.results.render import fine_value
from evalkit.results.table import MISSING, Column, Row

STATISTICS = ("mean", "median", "min", "p1", "p99", "max")
DIFFERS = "differs"


@dataclass(frozen=True)
class MetricLine:
    """A metric's statistics over a cell's pairs (or a remake's), as text; `near`: within the floor."""

    title: str
    statistics: Sequence[str]
    identical: str
    floor: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class CellView:
    """A cell against the baseline.

    Attributes:
        cell: its name.
        status: "identical", "within the noise floor", "beyond the noise floor", or without a floor "differs".
        gate: what the gate says of its pairs: "passes the gate", "fails the gate", or "".
        lines: one per metric of pairs.
        seen: its worst pairs and its map.
        notes: on its scores.
        pairs: how many there are.
    """

    cell: str
    status: str
    gate: str
    lines: Sequence[MetricLine]
    seen: CellParity
    notes: Sequence[str]
    pairs: int

    @property
    def tone(self) -> str:
        """How the status is coloured."""
        if self.gate:
            return "pass" if self.gate.startswith("passes") else "fail"
        return "pass" if self.status in (IDENTICAL, WITHIN) else "inconclusive"


@dataclass(frozen=True)
class ParityView:
    """The section's content.

    Attributes:
        baseline: the cell that the others are held against.
        titles: of the metrics of pairs, with arrows.
        by: the title of the metric that says which pairs are the worst.
        cells: those that have pairs.
        remakes: of the baseline: by name a line per metric.
        gradient: the colours of the maps, as CSS.
        missing: why there are no pictures.
    """

    baseline: str
    titles: Sequence[str]
    by: str
    cells: Sequence[CellView]
    remakes: Sequence[tuple[str, Sequence[MetricLine]]]
    counts: Sequence[tuple[str, int]]
    gradient: str = f"linear-gradient(to right, {', '.join(STOPS)})"
    missing: str = ""

    def script(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """What the page's script goes through."""
        return {"keys": [keys[view.cell] for view in self.cells], "base": keys[self.baseline], "by": short(self.by, 40)}


def make_parity(run: Run) -> ParityView | None:
    """None where no cell was compared with a baseline pair by pair."""
    columns = [column for column in run.table.columns if any(map(_of_pairs, column.rows.values()))]
    baseline = str(run.table.run.get("baseline") or "")
    if not columns or baseline not in run.keys:
        return None
    seen = run.parity
    known: Mapping[str, CellParity] = seen.cells if isinstance(seen, Parity) else {}
    cells = []
    for cell in run.table.cells:
        rows = [(c, row) for c in columns if (row := c.rows.get(cell)) is not None and _compared(row)]
        if rows and cell != baseline:
            cells.append(_cell(run, cell, rows, known.get(cell, CellParity())))
    if not cells:
        return None
    remakes = [
        (str(remake["name"]), [_remake_line(run, column, str(remake["name"])) for column in columns])
        for remake in (run.table.run.get(RUN) or {}).get("remakes", ())
    ]
    by = seen.metric if isinstance(seen, Parity) else columns[0].metric
    title = next((column.label for column in columns if column.metric == by), by)
    statuses = [view.status for view in cells]
    counts = [(status, statuses.count(status)) for status in (IDENTICAL, WITHIN, BEYOND, DIFFERS) if status in statuses]
    missing = seen if isinstance(seen, str) else ""
    return ParityView(baseline, [c.title for c in columns], title, cells, remakes, counts, missing=missing)


def _of_pairs(row: Row) -> bool:
    pairs = row.protocol.get("pairs")
    return isinstance(pairs, Mapping) and pairs.get("of") == "baseline"


def _compared(row: Row) -> bool:
    return _of_pairs(row) and (row.value is not None or bool(row.details.get("identical")))


def _cell(run: Run, cell: str, rows: Sequence[tuple[Column, Row]], seen: CellParity) -> CellView:
    about = run.table.run
    told = [verdict(about, cell, row.metric) for _, row in rows]
    same = [row.details.get("identical") == row.details.get("pairs", -1) for _, row in rows]
    if all(same):
        status = IDENTICAL
    elif not any(told):
        status = DIFFERS
    else:
        status = BEYOND if BEYOND in told else WITHIN
    lines = [
        _line(column.title, {"mean": row.value, **row.details}, _floor(run, row.metric), said)
        for (column, row), said in zip(rows, told, strict=True)
    ]
    notes = dict.fromkeys(short(row.note, 400) for _, row in rows if row.note)
    gate, pairs = _gate(run, cell, {row.metric for _, row in rows}), int(rows[0][1].details.get("pairs") or 0)
    return CellView(cell, status, gate, lines, seen, list(notes), pairs)


def _floor(run: Run, metric: str) -> str:
    about = floor_of(run.table.run, metric)
    return str(about["shown"]) if about is not None else ""


def _remake_line(run: Run, column: Column, name: str) -> MetricLine:
    about = floor_of(run.table.run, column.metric) or {}
    return _line(column.title, about.get("remakes", {}).get(name, {}))


def _line(title: str, values: Mapping[str, float | None], floor: str = "", said: str = "") -> MetricLine:
    shown = [fine_value(value) if (value := values.get(name)) is not None else MISSING for name in STATISTICS]
    same, pairs = values.get("identical"), values.get("pairs")
    identical = MISSING if same is None or pairs is None else f"{same:.0f} of {pairs:.0f}"
    return MetricLine(title, shown, identical, floor, said)


def _gate(run: Run, cell: str, metrics: set[str]) -> str:
    results = (run.table.gate or {}).get("results") or ()
    mine = [r for r in results if isinstance(r, Mapping) and r.get("cell") == cell and r.get("metric") in metrics]
    statuses = {str(result.get("status")) for result in mine}
    if not statuses:
        return ""
    return "fails the gate" if "fail" in statuses else "passes the gate" if statuses == {"pass"} else ""
