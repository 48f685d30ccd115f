"""One metric's scores over two axes: a nested dictionary that shows itself as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.results.axes import axes, by_size, find_axis, find_column, place, text_of, varying
from evalkit.results.html import BEST, BOLD, box, lines_html, table_html
from evalkit.results.render import score_text
from evalkit.results.table import MISSING, UNSURE, Column, ResultTable, Row

if TYPE_CHECKING:
    import pandas

Names = str | Sequence[str]


@dataclass(frozen=True)
class _Look:
    """How a pivot is shown: its axes, the score of each place, and the metric."""

    rows: Sequence[str]
    columns: Sequence[str]
    scores: Mapping[tuple[Any, Any], Row]
    column: Column


class Pivot(dict[Any, dict[Any, float | None]]):
    """By the rows' value, then by the columns' value, a score: `pivot["ddim"][8]`.

    A value is that of an axis; of several axes a tuple. A place without a cell or without a score holds None.
    """

    def __init__(self, look: _Look) -> None:
        across = _sorted(key for _, key in look.scores)
        self._look = look
        super().__init__(
            {
                down: {key: score.value if (score := look.scores.get((down, key))) else None for key in across}
                for down in _sorted(key for key, _ in look.scores)
            }
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._look,)

    def to_frame(self) -> pandas.DataFrame:
        """As a pandas frame.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_frame() needs pandas: pip install 'evalkit[pandas]'") from None
        return pandas.DataFrame.from_dict(self, orient="index")

    def _repr_html_(self) -> str:
        look = self._look
        across = list(next(iter(self.values()), {}))
        lines = [
            [*map(text_of, _parts(down)), *(_text(look.column, look.scores.get((down, key))) for key in across)]
            for down in self
        ]
        heads = [*look.rows, *(" ".join(map(text_of, _parts(key))) for key in across)]
        above = f"{look.column.title} by {' and '.join(look.rows)}, across {' and '.join(look.columns)}"
        marks = [f"† Under another protocol than the others: {MISSING} where no such cell was scored."]
        notes = [BOLD] * bool(look.column.best) + marks * bool(look.column.odd)
        return box(lines_html([above]), table_html(heads, lines, left=len(look.rows)), lines_html(notes, small=True))


def pivot(table: ResultTable, rows: Names, columns: Names, metric: str) -> Pivot:
    """A metric's scores over two axes, or lists of axes.

    Raises:
        ConfigError: there is no such axis or metric; several cells fall into one place (which axes tell them apart).
    """
    column = find_column(table, metric)
    down, across = (_names(table, names) for names in (rows, columns))
    if both := set(down) & set(across):
        raise ConfigError(f"pivot: '{min(both)}' is both in the rows and in the columns")
    scores: dict[tuple[Any, Any], Row] = {}
    for row in column.rows.values():
        where = (_key(row, down), _key(row, across))
        if where in scores:
            rest = varying((scores[where], row), [axis for axis in axes(table) if axis not in (*down, *across)])
            apart = " and ".join(rest) or "nothing that is an axis"
            raise ConfigError(
                f"pivot: several cells have {', '.join(down)} = {where[0]} and {', '.join(across)} = {where[1]}; "
                f"{apart} tells them apart: give it too, as in rows={[*down, *rest]}"
            )
        scores[where] = row
    return Pivot(_Look(down, across, scores, column))


def _names(table: ResultTable, names: Names) -> list[str]:
    return [find_axis(table, name) for name in ([names] if isinstance(names, str) else names)]


def _key(row: Row, names: Sequence[str]) -> Any:
    values = tuple(place(row, name) for name in names)
    return values[0] if len(values) == 1 else values


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _sorted(keys: Any) -> list[Any]:
    """Numbers by size; texts as the table has them."""
    known = list(dict.fromkeys(keys))
    return sorted(known, key=lambda key: [by_size(part)[:2] for part in _parts(key)])


def _text(column: Column, row: Row | None) -> str:
    if row is None:
        return MISSING
    text = score_text(row)
    text = f"{BEST[0]}{text}{BEST[1]}" if row.cell in column.best else text
    return text + " †" * (row.cell in column.odd) + f" {UNSURE}" * row.unsure
