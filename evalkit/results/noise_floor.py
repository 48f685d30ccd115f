"""The baseline's own noise: what its remakes differ from it by, next to what every cell differs from it by.

A remake is the baseline made again under a change that should not matter (`evalkit.plan.remakes`). The floor of a
metric of pairs is the mean of the worst remake, on the metric's own scale; that of another score the largest distance
of a remake's score from the baseline's. What does not go beyond the floor is no difference: "within the noise floor".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.metric import PairMetric
from evalkit.results.table import Comparison, ResultTable, Row, finite

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.metric import Metric
    from evalkit.scoring.scoring import Scored

Table = TypeVar("Table", bound=ResultTable)
WITHIN, IDENTICAL, BEYOND = "within the noise floor", "identical", "beyond the noise floor"
RUN = "noise_floor"  # the key of a table's `run`, and of its rows' details
NEAR = "≈"  # marks values that are within the floor


def measure_floor(
    baseline: Cell,
    remakes: Sequence[tuple[Cell, str]],
    metrics: Mapping[str, Metric],
    scored: Mapping[tuple[str, str], Scored],
) -> dict[str, Any]:
    """What `table.run["noise_floor"]` holds, but for the cells' verdicts (JSON).

    Args:
        baseline: the cell of the grid that was made again.
        remakes: with their changes as people read them.
        metrics: of the run, by name.
        scored: by (cell, metric), of the baseline and its remakes.
    """
    by_metric = {}
    for name, metric in metrics.items():
        found = {text: scored[cell.name, name] for cell, text in remakes}
        of_pairs = isinstance(metric, PairMetric) and metric.pairs == "baseline"
        about = _of_pairs(metric, found) if of_pairs else _of_scores(scored[baseline.name, name], found)
        if about:
            by_metric[name] = {"label": next(iter(found.values())).label, "better": metric.better, **about}
    made = [{"name": text, "change": dict(cell.remake), "cell": cell.name, "key": cell.key} for cell, text in remakes]
    about_it = {"baseline": baseline.name, "seed": baseline.seed, "n": baseline.num_samples}
    return {**about_it, "remakes": made, "metrics": by_metric}


def _of_pairs(metric: Metric, remakes: Mapping[str, Scored]) -> dict[str, Any]:
    """The mean of the worst remake, and each remake's statistics."""
    sign = 1.0 if metric.better == "higher" else -1.0
    by = {
        text: {"mean": each.score.value, **each.score.details}
        for text, each in remakes.items()
        if each.score.value is not None or _identical(each.score.details)
    }
    if not by:
        return {}
    differ = [text for text, statistics in by.items() if not _identical(statistics)]
    worst = min(differ or by, key=lambda text: sign * (by[text]["mean"] or 0.0))
    return {"kind": "pairs", "floor": by[worst]["mean"], "worst": worst, "identical": not differ, "remakes": by}


def _of_scores(base: Scored, remakes: Mapping[str, Scored]) -> dict[str, Any]:
    """The largest distance of a remake's score from the baseline's, of those under the same protocol."""
    value = base.score.value
    by = {
        text: {"value": each.score.value, "difference": abs(each.score.value - value)}
        for text, each in remakes.items()
        if value is not None and each.score.value is not None and each.protocol_hash == base.protocol_hash
    }
    if not by:
        return {}
    worst = max(by, key=lambda text: by[text]["difference"])
    floor = by[worst]["difference"]
    return {"kind": "difference", "floor": floor, "worst": worst, "identical": floor == 0, "remakes": by}


def _identical(details: Mapping[str, float | None]) -> bool:
    """Whether all pairs are of identical images."""
    pairs = details.get("pairs")
    return bool(pairs) and details.get("identical") == pairs


def with_floor(table: Table, floor: Mapping[str, Any] | None) -> Table:
    """The table with the floor next to every cell: a detail of each row, and each cell's verdict in `run`."""
    if floor is None:
        return table
    verdicts: dict[str, dict[str, str]] = {}
    rows = []
    for row in table.rows:
        about = floor["metrics"].get(row.metric)
        if about is not None and row.cell in table.run["cells"]:
            if about["floor"] is not None:
                row = replace(row, details={**row.details, RUN: about["floor"]})
            if said := _verdict(row, about, table):
                verdicts.setdefault(row.metric, {})[row.cell] = said
        rows.append(row)
    return replace(table, rows=tuple(rows), run={**table.run, RUN: {**floor, "cells": verdicts}})


def _verdict(row: Row, about: Mapping[str, Any], table: ResultTable) -> str:
    """Of a cell that is held against the baseline; "" of others."""
    baseline = table.run["baseline"]
    if row.cell == baseline:
        return ""
    if about["kind"] == "pairs" and _identical(row.details):
        return IDENTICAL
    if row.value is None or not finite(row):
        return ""
    if about["kind"] == "pairs":
        beyond = about["identical"] or row.sign * (row.value - about["floor"]) < 0
    else:
        base = next((r for r in table.rows_by_cell[baseline] if r.metric == row.metric), None)
        if base is None or base.value is None or base.protocol_hash != row.protocol_hash:
            return ""
        beyond = abs(row.value - base.value) > about["floor"]
    return BEYOND if beyond else WITHIN


def called_none(table: Table) -> Table:
    """The table whose comparisons with the baseline are called none where they do not go beyond the floor."""
    verdicts = (table.run.get(RUN) or {}).get("cells", {})

    def told(c: Comparison) -> Comparison:
        within = c.baseline == table.run.get("baseline") and verdicts.get(c.metric, {}).get(c.cell) == WITHIN
        return replace(c, verdict=WITHIN) if within else c

    return replace(table, comparisons=tuple(map(told, table.comparisons))) if verdicts else table


def floor_of(table: ResultTable, metric: str) -> Mapping[str, Any] | None:
    """A metric's entry in the floor; none where it has none."""
    found: Mapping[str, Any] | None = (table.run.get(RUN) or {}).get("metrics", {}).get(metric)
    return found


def verdict(table: ResultTable, row: Row) -> str:
    """What a score is called next to the floor; "" where it is not held against it."""
    return str((table.run.get(RUN) or {}).get("cells", {}).get(row.metric, {}).get(row.cell, ""))


def is_within(table: ResultTable, row: Row) -> bool:
    """Whether a score does not differ from the baseline's by more than the baseline from itself."""
    return verdict(table, row) in (WITHIN, IDENTICAL)


def floor_text(table: ResultTable, row: Row) -> str:
    """A metric's floor as the baseline's line shows it, which has no score of pairs of its own; "" of other rows."""
    about = floor_of(table, row.metric)
    if about is None or about["kind"] != "pairs" or row.value is not None or row.cell != table.run.get("baseline"):
        return ""
    return f"floor {shown_floor(about)}"


def floor_lines(table: ResultTable) -> list[str]:
    """What must be read with a table that has a floor: how it was measured, and each metric's."""
    floor = table.run.get(RUN)
    if not floor:
        return []
    parts = []
    for about in floor["metrics"].values():
        by = "" if about["identical"] else f" ({about['worst']})"
        sign = "± " if about["kind"] == "difference" and not about["identical"] else ""
        parts.append(f"{about['label']} {sign}{shown_floor(about)}{by}")
    names = ", ".join(remake["name"] for remake in floor["remakes"])
    return [
        f"{NEAR} within the noise floor: no farther from the baseline than the baseline is from itself, made again "
        f"({names}; N = {floor['n']}): {', '.join(parts)}."
    ]


def shown_floor(about: Mapping[str, Any]) -> str:
    """A metric's floor as text: "48.3", or "identical" where all remakes are the baseline bit by bit."""
    from evalkit.results.render import format_value

    if about["identical"]:
        return "identical"
    text = format_value(about["floor"])
    return text if float(text) else f"{about['floor']:.1g}"
