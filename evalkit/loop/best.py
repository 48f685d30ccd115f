"""The best of several steps, and which others may be as good."""

from __future__ import annotations

from typing import NamedTuple

from evalkit.errors import ConfigError
from evalkit.results.table import ResultTable


class Best(NamedTuple):
    """The step of the best score, and, in order, all that cannot be told from it, itself included."""

    step: int
    alike: list[int]


def best_of(history: ResultTable, metric: str, better: str) -> Best:
    """The best step of a metric.

    Args:
        history: a row per step and metric, with the step among its settings.
        metric: by name.
        better: "higher" or "lower".

    Raises:
        ConfigError: no step has a score of it, or neither is better.
    """
    rows = [row for row in history.rows if row.metric == metric and row.value is not None]
    if not rows or better not in ("higher", "lower"):
        raise ConfigError(f"best: no step has a score of '{metric}' that says which is better")
    steps = {row.cell: int(row.settings["step"]) for row in rows}
    sign = 1 if better == "higher" else -1
    first = max(rows, key=lambda row: sign * (row.value or 0.0)).cell
    alike = {*history.best.get(metric, ()), first}
    return Best(steps[first], sorted(step for cell, step in steps.items() if cell in alike))
