"""What a run's table says first: which cell is best by each metric, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.results import series
from evalkit.results.real_text import multiple_of
from evalkit.results.render import format_value, score_text, signed
from evalkit.results.table import Column, ResultTable, Row, finite


@dataclass(frozen=True)
class Gap:
    """How far a cell lies from another: the difference, its 95 % interval where there is one, and the verdict."""

    cell: str
    difference: str
    interval: str
    verdict: str


@dataclass(frozen=True)
class Winner:
    """The best cell by a metric.

    Attributes:
        column: the metric's.
        best, value: the best cell and its score.
        ties: the cells that are not significantly worse.
        next: the best of the others, and how far it lies behind.
        gap: the best cell against the baseline, where there is a baseline.
        apart: the number of cells whose score stands apart, under another protocol.
    """

    column: Column
    best: str
    value: str
    ties: Sequence[str]
    next: Gap | None
    gap: Gap | None
    apart: int

    @property
    def title(self) -> str:
        return self.column.title


def winners(table: ResultTable) -> list[Winner]:
    """The best cell of each metric that ranks two cells or more; metrics of quality first, then what samples cost."""
    best_cells = []
    for column in sorted(table.columns, key=lambda column: column.is_cost):
        rows = column.ranked
        if len(rows) < 2 or multiple_of(column.metric) is not None:  # the distance itself is counted
            continue
        best = rows[0]
        ties = [row.cell for row in rows[1:] if row.cell in column.best]
        behind = next((row for row in rows[1:] if row.cell not in column.best), None)
        base = next((row for row in rows[1:] if row.cell == table.run.get("baseline")), None)
        gaps = (_gap(table, behind, best) if behind else None, _gap(table, best, base) if base else None)
        value = score_text(best)
        best_cells.append(Winner(column, best.cell, value, ties, *gaps, len(column.odd)))
    return best_cells


def _gap(table: ResultTable, row: Row, base: Row) -> Gap:
    """A cell less another: as compared by the run, else the plain difference (of scores without a standard error)."""
    for c in table.comparisons:
        if (c.metric, c.cell, c.baseline) == (row.metric, row.cell, base.cell):
            known = c.low is not None and c.high is not None
            interval = f"[{format_value(c.low)}, {format_value(c.high)}]" if known else ""
            return Gap(row.cell, signed(c.difference), interval, c.verdict)
    return Gap(row.cell, signed((row.value or 0.0) - (base.value or 0.0)), "", "")


@dataclass(frozen=True)
class Headline:
    """The cells that are best, or tie with the best, by most metrics of quality.

    Attributes:
        cells: these cells, all of them by `most` metrics of `total`.
        most, total: of the metrics of quality that tell cells apart; likeness to the baseline is no quality.
        left_out: the metrics of quality that do not count.
        verdicts: where there is a baseline: by verdict on the first cell against it, the metrics.
    """

    cells: Sequence[str]
    most: int
    total: int
    left_out: Sequence[str]
    verdicts: Mapping[str, Sequence[str]]


def headline(table: ResultTable, best_cells: Sequence[Winner]) -> Headline:
    """What the first sentence says."""
    baseline = table.run.get("baseline")
    candidates = [winner for winner in best_cells if not winner.column.is_cost]
    quality = [w for w in candidates if w.next and (baseline is None or finite(w.column.rows.get(baseline)))]
    counts = {cell: sum(cell == winner.best or cell in winner.ties for winner in quality) for cell in table.cells}
    most = max(counts.values(), default=0)
    cells = [cell for cell, count in counts.items() if count == most and most]
    left_out = [winner.column.label for winner in candidates if winner not in quality]
    return Headline(cells, most, len(quality), left_out, _verdicts(table, cells, baseline))


def _verdicts(table: ResultTable, cells: Sequence[str], baseline: str | None) -> dict[str, list[str]]:
    if baseline is None or len(cells) != 1 or cells[0] == baseline:
        return {}
    labels = {column.metric: column.label for column in table.columns if not column.is_cost}
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "not distinguishable": []}
    for comparison in table.comparisons:
        if comparison.cell == cells[0] and comparison.baseline == baseline and comparison.metric in labels:
            verdicts.setdefault(comparison.verdict, []).append(labels[comparison.metric])
    return {verdict: metrics for verdict, metrics in verdicts.items() if verdict and metrics}


def sentences(table: ResultTable) -> list[str]:
    """The first lines of a run's end: the best cells, by how much and how surely; one line per thing."""
    best_cells = winners(table)
    said, total = headline(table, best_cells), len(table.cells)
    if total < 2:
        return []
    if not said.cells:
        ranked = any(not winner.column.is_cost for winner in best_cells)
        why = "tells the best from the others" if ranked else "ranks two of them surely under one protocol"
        return [f"{total:,} cells; no metric {why}.", *series_lines(table)]
    names = [*said.cells[:3], *([f"{len(said.cells) - 3} more"] if len(said.cells) > 3 else [])]
    who = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    which = "the one metric" if said.total == 1 else f"{said.most} of {said.total} metrics"
    are = "is" if len(names) == 1 else "are each"
    lines = [f"{who} {are} the best, or not distinguishable from it, by {which} of quality that tell cells apart."]
    first = next((w for w in best_cells if w.next is not None and not w.column.is_cost), None)
    if first is not None and first.next is not None:
        ties = f", with {len(first.ties)} not distinguishable from it" if first.ties else ""
        sure = f", 95 % interval {first.next.interval}" if first.next.interval else ", without a standard error"
        gap = f"next is {first.next.cell}, {first.next.difference}{sure}"
        lines.append(f"{first.column.label}: {first.best} has {first.value}{ties}; {gap}.")
    verdicts = [
        f"{verdict} by {', '.join(metrics[:3])}{f' and {len(metrics) - 3} more' if len(metrics) > 3 else ''}"
        for verdict, metrics in said.verdicts.items()
    ]
    if verdicts:
        lines.append(f"Against the baseline {table.run.get('baseline')}: {'; '.join(verdicts)}.")
    return lines + series_lines(table)


def series_lines(table: ResultTable) -> list[str]:
    """Of each series of checkpoints the best step, and where it stopped getting better."""
    labels = {column.metric: column.label for column in table.columns}
    return series.sentences(table.run.get("series") or (), labels)
