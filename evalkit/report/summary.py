"""The first screen: what was compared, which cell is best by each metric and by how much, and what to beware of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.cell import setting_name
from evalkit.report.run_folder import Run, short
from evalkit.results.render import format_value, signed
from evalkit.results.table import Column, Row, finite

SMALL_N = 10_000  # below it FID is commonly not trusted against other papers: its bias is of O(1/N)


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


@dataclass(frozen=True)
class Warning:
    """What a reader must know before acting on the numbers. `link` names the section that says more."""

    text: str
    link: str = ""
    severe: bool = False


def compared(run: Run) -> list[dict[str, str]]:
    """What the cells differ in and what they share."""
    by_cell = run.table.rows_by_cell.values()
    rows = [rows[0] for rows in by_cell]
    facts = [("models", _listed(row.model for row in rows))]
    facts.append(("samplers", _listed(row.sampler for row in rows if row.sampler)))
    for name in dict.fromkeys(name for row in rows for name in row.settings):
        values = [row.settings[name] for row in rows if row.settings.get(name) is not None]
        facts.append((setting_name(name), _listed(sorted(values, key=by_size))))
    facts.append(("prompts", _listed(row.prompts for row in rows if row.prompts)))
    facts.append(("samples per cell", _listed(sorted({max(row.n for row in rows) for rows in by_cell}))))
    facts.append(("seeds", _listed(row.seed for row in rows)))
    facts += [(side, _side(run, side)) for side in ("reference", "training") if run.table.run.get(side)]
    if run.table.run.get("baseline"):
        facts.append(("baseline", short(str(run.table.run["baseline"]))))
    return [{"name": name, "text": text} for name, text in facts if text]


def by_size(value: Any) -> tuple[bool, float, str]:
    """Sorts a setting's values: numbers by size, before all else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return (False, float(value), "") if number else (True, 0.0, str(value))


def _side(run: Run, side: str) -> str:
    sides = [row.protocol.get(side) for row in run.table.rows]
    counts = {str(about["n"]) for about in sides if isinstance(about, Mapping) and about.get("n")}
    images = f" ({next(iter(counts))} images)" if len(counts) == 1 else ""
    return short(str(run.table.run[side])) + images


def _listed(values: Any, most: int = 8) -> str:
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None)
    texts = list(dict.fromkeys(short(text, 40) for text in shown))
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def winners(run: Run) -> list[Winner]:
    """The best cell of each metric that ranks two cells or more; metrics of quality first, then what samples cost."""
    best_cells = []
    for column in sorted(run.table.columns, key=lambda column: column.is_cost):
        rows = column.ranked
        if len(rows) < 2:
            continue
        best = rows[0]
        ties = [row.cell for row in rows[1:] if row.cell in column.best]
        behind = next((row for row in rows[1:] if row.cell not in column.best), None)
        base = next((row for row in rows[1:] if row.cell == run.table.run.get("baseline")), None)
        gaps = (_gap(run, behind, best) if behind else None, _gap(run, best, base) if base else None)
        value = format_value(best.value, best.stderr)
        best_cells.append(Winner(column, best.cell, value, ties, *gaps, len(column.odd)))
    return best_cells


def _gap(run: Run, row: Row, base: Row) -> Gap:
    """A cell less another: as compared by the run, else the plain difference (of scores without a standard error)."""
    for c in run.table.comparisons:
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


def headline(run: Run, best_cells: Sequence[Winner]) -> Headline:
    """What the first sentence says."""
    baseline = run.table.run.get("baseline")
    candidates = [winner for winner in best_cells if not winner.column.is_cost]
    quality = [w for w in candidates if w.next and (baseline is None or finite(w.column.rows.get(baseline)))]
    counts = {cell: sum(cell == winner.best or cell in winner.ties for winner in quality) for cell in run.table.cells}
    most = max(counts.values(), default=0)
    cells = [cell for cell, count in counts.items() if count == most and most]
    left_out = [winner.column.label for winner in candidates if winner not in quality]
    return Headline(cells, most, len(quality), left_out, _verdicts(run, cells, baseline))


def _verdicts(run: Run, cells: Sequence[str], baseline: str | None) -> dict[str, list[str]]:
    if baseline is None or len(cells) != 1 or cells[0] == baseline:
        return {}
    labels = {column.metric: column.label for column in run.table.columns if not column.is_cost}
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "not distinguishable": []}
    for comparison in run.table.comparisons:
        if comparison.cell == cells[0] and comparison.baseline == baseline and comparison.metric in labels:
            verdicts.setdefault(comparison.verdict, []).append(labels[comparison.metric])
    return {verdict: metrics for verdict, metrics in verdicts.items() if verdict and metrics}


def warnings(run: Run) -> list[Warning]:
    """What must be known before the numbers are acted on, the most severe first."""
    shown = [Warning(note.removeprefix("Warning: ")) for note in run.table.notes]
    shown += _lint(run)
    for column in run.table.columns:
        if column.odd and not column.is_cost:
            cells = ", ".join(run.keys[cell] for cell in run.table.cells if cell in column.odd)
            text = f"{column.label}: {cells} stand apart (†): other protocol, not ranked with the rest."
            shown.append(Warning(text, "table"))
        shown += _small(column)
    missing: dict[str, list[str]] = {}
    for column in run.table.columns:
        without = [cell for cell, row in column.rows.items() if not finite(row)]
        if without and not column.is_cost and len(without) < len(column.rows):
            missing.setdefault(", ".join(run.keys[cell] for cell in without), []).append(column.label)
        elif without and not column.is_cost:
            shown.append(Warning(f"{column.label} has no value for any cell.", "table", True))
    shown += [Warning(f"No {', '.join(titles)} for {cells}.", "table") for cells, titles in missing.items()]
    return sorted(shown, key=lambda warning: not warning.severe)


def is_frechet(row: Row) -> bool:
    """Whether a score is a Frechet distance: by its protocol's estimator, else by its name."""
    constants = row.protocol.get("constants")
    estimator = str(constants.get("estimator", "")) if isinstance(constants, Mapping) else ""
    return "frechet" in estimator or bool(re.match(r"(s?fid|clip_fid|fd_|frechet)", row.metric))


def _small(column: Column) -> list[Warning]:
    sizes = sorted({row.n for row in column.rows.values() if finite(row) and is_frechet(row)})
    if not sizes or sizes[0] >= SMALL_N or any("fd@" in key for row in column.rows.values() for key in row.details):
        return []
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    advice = "it compares cells of equal N, and not with published figures (N = 50,000)"
    return [Warning(f"{column.label} at N = {shown} is biased upwards: {advice}.")]


def _lint(run: Run) -> list[Warning]:
    """Errors and warnings of the sample sets, each once; notes stay in their section."""
    shown = []
    for finding in run.table.lint:
        severity = str(finding.get("severity", ""))
        if severity in ("error", "warning"):
            where, message = str(finding.get("where", "")), str(finding.get("message", finding.get("kind", "")))
            text = message if where and where in message else f"{where}: {message}".removeprefix(": ")
            shown.append(Warning(short(text, 240), "findings", severity == "error"))
    return shown
