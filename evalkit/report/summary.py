"""The first screen: what was compared, which cell is best by each metric and by how much, and what to beware of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.cell import setting_name
from evalkit.report.run_folder import Run, short
from evalkit.results.axes import by_size
from evalkit.results.headline import Winner
from evalkit.results.real_text import is_real, multiple_of
from evalkit.results.render import score_text
from evalkit.results.table import Column, Row, finite

STRIP = 5  # scores below the headline
SMALL_N = 10_000  # below it FID is commonly not trusted against other papers: its bias is of O(1/N)


@dataclass(frozen=True)
class Warning:
    """What a reader must know before acting on the numbers. `link` names the section that says more."""

    text: str
    link: str = ""
    severe: bool = False


def counted(run: Run) -> str:
    """How many cells and metrics of quality there are; real images are no cell, their multiples no metrics."""
    cells = sum(not is_real(rows[0].model) for rows in run.table.rows_by_cell.values())
    quality = sum(not column.is_cost and multiple_of(column.metric) is None for column in run.table.columns)
    return f"{cells} cell{'' if cells == 1 else 's'}, {quality} metrics of quality"


def compared(run: Run) -> list[dict[str, str]]:
    """What the cells differ in and what they share."""
    by_cell = [rows for rows in run.table.rows_by_cell.values() if not is_real(rows[0].model)]
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


def warnings(run: Run) -> list[Warning]:
    """What must be known before the numbers are acted on, the most severe first."""
    shown = [Warning(note.removeprefix("Warning: ")) for note in run.table.notes]
    shown += _lint(run)
    if run.feature_map is not None and not isinstance(run.feature_map, str):
        found = [(run.keys[cell], words) for cell, words in run.feature_map.findings() if cell in run.keys]
        shown += [Warning(short(f"{key}: {words}", 240), "map") for key, words in found]
    for column in run.table.columns:
        if multiple_of(column.metric) is not None:  # what is to be known of it is said of the distance
            continue
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


def strip(run: Run, winners: Sequence[Winner], cells: Sequence[str]) -> list[tuple[str, str, str]]:
    """The first scores of the best cell: label, value, standard error."""
    best = next(iter(cells), None)
    scores = []
    for column in (winner.column for winner in winners if not winner.column.is_cost):
        row = column.rows.get(best or "")
        if finite(row) and row is not None:
            value, _, spread = score_text(row).partition(" ± ")
            scores.append((column.title, value, spread))
    return scores[:STRIP]
