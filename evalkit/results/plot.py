"""A score along an axis, or against another score, as a matplotlib figure that shows itself in a notebook."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from evalkit.cell import setting_name
from evalkit.errors import ConfigError
from evalkit.results.axes import axes, bar, by_size, find_axis, find_column, place, text_of, varying, wide
from evalkit.results.table import Column, ResultTable, Row, finite
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people of all kinds of sight tell apart; their yellow is too light on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_STYLE: Any = {  # of matplotlib, whose type names every key
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "evalkit",  # the same figure is the same bytes
    "text.parse_math": False,  # a "$" in a name is a "$"
    "figure.facecolor": "white",  # on a dark page too, as ink is dark
    "axes.facecolor": "white",
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.6},
    **{"font.size": 10, "legend.fontsize": 9, "axes.titlesize": 9, "axes.titlelocation": "left"},
}


class Plot(Figure):
    """A matplotlib figure, with all that it has (`axes`, `savefig`), that a notebook shows as SVG."""

    def _repr_svg_(self) -> str:
        out = io.BytesIO()
        with rc_context(_STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the page's font has them
            self.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue().decode().replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)


@dataclass(frozen=True)
class _Series:
    """What one line joins: its name, and by cell its place on x and its scores."""

    name: str
    rows: Sequence[Row]


def plot(table: ResultTable, x: str, y: str) -> Plot:
    """A metric along an axis, a line per combination of all other axes; or one metric against another.

    Bars are 95 % intervals. Scores under another protocol than the column's most common one are left out, and named.

    Raises:
        ConfigError: there is no such metric or axis, or no cell has both.
    """
    column = find_column(table, y)
    along = setting_name(x) in axes(table)
    against = None if along else _against(table, x)
    comparable = [row for row in column.rows.values() if _shown(column, row) and (not against or _has(against, row))]
    axis = find_axis(table, x) if along else ""
    rows = [row for row in comparable if not along or place(row, axis) is not None]
    if not rows:
        raise ConfigError(f"plot: no cell has both {x} and {column.label}")
    left_out = [cell for cell in column.rows if cell not in {row.cell for row in rows}]
    with rc_context(_STYLE):
        figure = Plot(figsize=(6.4, 3.8), layout="constrained")
        drawn = figure.subplots()
        series = _series(table, rows, axis) if along else _families(table, rows)
        if against is None:
            _along(drawn, series, axis)
        else:
            _scatter(drawn, series, against, varying(rows, axes(table)[len(OF_FAMILY) :]))
        drawn.set_ylabel(column.title)
        notes = "bars: 95 % intervals" if any(bar(row) for row in rows) else ""
        if left_out:
            notes = f"{notes}; left out: {_names(left_out)}".removeprefix("; ")
        drawn.set_title(one_line(notes, 110), color="#555555")
        if len(series) > 1:
            drawn.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


OF_FAMILY = ("model", "sampler")


def _against(table: ResultTable, name: str) -> Column:
    try:
        return find_column(table, name)
    except ConfigError as error:
        known = ", ".join(axes(table))
        raise ConfigError(f"plot: x is an axis ({known}) or a metric: {error}") from None


def _shown(column: Column, row: Row) -> bool:
    return finite(row) and row.cell not in column.odd


def _has(column: Column, row: Row) -> bool:
    other = column.rows.get(row.cell)
    return other is not None and _shown(column, other)


def _series(table: ResultTable, rows: Sequence[Row], axis: str) -> list[_Series]:
    """A line per combination of what is not on x, its points in x's order; named by what differs."""
    others = [name for name in axes(table) if name != axis]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(place(row, name)) for name in others), []).append(row)
    differ = varying(rows, others)
    series = []
    for members in groups.values():
        members.sort(key=lambda row: by_size(place(row, axis)))
        series.append(_Series(_name(members[0], differ), members))
    return series


def _families(table: ResultTable, rows: Sequence[Row]) -> list[_Series]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(place(row, name) for name in OF_FAMILY), []).append(row)
    differ = varying(rows, OF_FAMILY)
    return [_Series(_name(members[0], differ), members) for members in groups.values()]


def _name(row: Row, differ: Sequence[str]) -> str:
    """Such as "ldm, ddim, guidance_scale 4"."""
    values = [(name, place(row, name)) for name in differ]
    parts = [text_of(v) if name in ("model", "sampler", "prompts") else f"{name} {text_of(v)}" for name, v in values]
    return one_line(", ".join(parts) or row.model, 48)


def _along(drawn: Axes, series: Sequence[_Series], axis: str) -> None:
    values = list(dict.fromkeys(place(row, axis) for one in series for row in one.rows))
    numeric = all(by_size(value)[0] is False for value in values)
    at: Mapping[Any, float] = {value: float(value) if numeric else float(i) for i, value in enumerate(values)}
    for number, one in enumerate(series):
        aside = 0.0 if numeric else 0.5 * (number / max(len(series) - 1, 1) - 0.5)  # bars at one place keep apart
        places = [at[place(row, axis)] + aside for row in one.rows]
        _draw(drawn, number, one, places, None, joined=numeric)
    drawn.set_xlabel(axis)
    if numeric and wide([at[value] for value in values], 8):
        drawn.set_xscale("log")
    if len(values) <= 12:
        drawn.set_xticks(
            [at[value] for value in values], [one_line(text_of(value), 24) for value in values], minor=False
        )
        drawn.minorticks_off()
    if not numeric:
        drawn.margins(x=0.15)


def _scatter(drawn: Axes, series: Sequence[_Series], against: Column, differ: Sequence[str]) -> None:
    for number, one in enumerate(series):
        others = [against.rows[row.cell] for row in one.rows]
        _draw(drawn, number, one, [row.value or 0.0 for row in others], others, joined=False)
        for row, other in zip(one.rows, others, strict=True):
            text = ", ".join(text_of(place(row, name)) for name in differ if place(row, name) is not None)
            where = (other.value or 0.0, row.value or 0.0)
            drawn.annotate(one_line(text, 24) if text else "", where, (5, 4), textcoords="offset points", fontsize=8)
    drawn.set_xlabel(against.title)
    if differ:
        drawn.set_xlabel(f"{against.title}   (at the points: {', '.join(differ)})")


def _draw(
    drawn: Axes, number: int, one: _Series, places: Sequence[float], across: Sequence[Row] | None, *, joined: bool
) -> None:
    """Points, their bars, and the line through them."""

    def ends(rows: Sequence[Row]) -> list[list[float]]:
        bars = [bar(row) or (0.0, 0.0) for row in rows]
        return [[below for below, _ in bars], [above for _, above in bars]]

    drawn.errorbar(
        places,
        [row.value or 0.0 for row in one.rows],
        yerr=ends(one.rows),
        xerr=None if across is None else ends(across),
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        linestyle="-" if joined else "none",
        linewidth=1.4,
        elinewidth=1,
        markersize=5,
        label=one.name,
    )


def _names(cells: Sequence[str], most: int = 3) -> str:
    return ", ".join(cells[:most]) + (f" and {len(cells) - most} more" if len(cells) > most else "")
