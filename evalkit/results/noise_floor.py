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
from evalkit.results.floor_text import BEYOND, IDENTICAL, RUN, WITHIN
from evalkit.results.render import fine_value
from evalkit.results.table import Comparison, ResultTable, Row, finite

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.metric import Metric
    from evalkit.scoring.scoring import Scored

Table = TypeVar("Table", bound=ResultTable)


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
            label = next(iter(found.values())).label
            by_metric[name] = {"label": label, "better": metric.better, **about, "shown": _shown(about)}
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


def _shown(about: Mapping[str, Any]) -> str:
    """A metric's floor as text: "48.3", or "identical" where all remakes are the baseline bit by bit."""
    return "identical" if about["identical"] else fine_value(about["floor"])


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
