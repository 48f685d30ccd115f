"""A table's axes and metrics by the names that people write: what tells cells apart, as columns of a plot or pivot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from evalkit.cell import setting_name
from evalkit.errors import ConfigError, nearest
from evalkit.results.stats import REACH
from evalkit.results.table import MISSING, Column, ResultTable, Row

OF_CELLS = ("model", "sampler", "prompts", "seed")


def axes(table: ResultTable) -> list[str]:
    """What may tell cells apart: model, sampler, prompts, seed, and the settings by their one name."""
    keys = dict.fromkeys(key for rows in table.rows_by_cell.values() for key in rows[0].settings)
    return [*OF_CELLS, *dict.fromkeys(map(setting_name, keys))]


def place(row: Row, axis: str) -> Any:
    """A cell's value on an axis; none where it has none."""
    if axis in OF_CELLS:
        return getattr(row, axis)
    return next((value for key, value in row.settings.items() if axis == setting_name(key)), None)


def find_column(table: ResultTable, name: str) -> Column:
    """The column of a metric, by its name, its label, or the beginning of one name alone ("fid" of "fid_digits").

    Raises:
        ConfigError: there is none, or several begin so.
    """
    columns = table.columns
    exact = [column for column in columns if name in (column.metric, column.label)]
    begun = exact or [column for column in columns if column.metric.startswith(f"{name}_")]
    if len(begun) == 1:
        return begun[0]
    names = [column.metric for column in columns]
    if begun:
        raise ConfigError(f"metric '{name}': several begin so: {', '.join(column.metric for column in begun)}")
    raise ConfigError(f"this table has no metric '{name}'. {nearest(name, names)}")


def find_axis(table: ResultTable, name: str) -> str:
    """An axis by its name.

    Raises:
        ConfigError: there is none.
    """
    known = axes(table)
    if setting_name(name) in known:
        return setting_name(name)
    raise ConfigError(f"this table has no axis '{name}'. {nearest(name, known)}")


def varying(rows: Iterable[Row], names: Sequence[str]) -> list[str]:
    """The axes, of those named, on which cells differ."""
    rows = list(rows)
    return [name for name in names if len({str(place(row, name)) for row in rows}) > 1]


def told_apart(table: ResultTable) -> dict[str, dict[str, str]]:
    """By cell, on each axis on which cells differ, its value for people; where that does not do, its name."""
    firsts = {cell: rows[0] for cell, rows in table.rows_by_cell.items()}
    differ = varying(firsts.values(), axes(table))
    told = {cell: {name: text_of(place(row, name)) for name in differ} for cell, row in firsts.items()}
    if len({tuple(values.values()) for values in told.values()}) < len(told) or not differ:
        return {cell: {"cell": cell} for cell in told}
    return told


def by_size(value: Any) -> tuple[bool, float, str]:
    """Sorts an axis's values: numbers by size, before all else."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return (False, float(value), "") if number else (True, 0.0, str(value))


def text_of(value: Any) -> str:
    """An axis's value for people."""
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def bar(row: Row) -> tuple[float, float] | None:
    """How far a score's interval reaches below and above it; of a row of before there were intervals 1.96 errors."""
    if row.value is None:
        return None
    if row.low is not None and row.high is not None:
        return max(row.value - row.low, 0.0), max(row.high - row.value, 0.0)
    return (REACH * row.stderr,) * 2 if row.stderr else None


def wide(values: Sequence[float], factor: float = 20) -> bool:
    """Whether values are better seen on a logarithmic scale."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= factor
