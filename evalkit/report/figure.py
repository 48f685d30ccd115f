"""One figure of points and lines, drawn by matplotlib: error bars, tooltips, labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evalkit.report.run_folder import clean
from evalkit.report.svg import INK, MARKERS, MUTED, SERIES, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Point:
    """A point, its label and its tooltip; the lengths of its bars, below and above, along x and y (none: no bar)."""

    x: float
    y: float
    text: str
    tip: str
    across: tuple[float, float] | None = None
    up: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """Points of one series.

    Attributes:
        number: of the series: its colour and marker.
        points: in order.
        joined: whether a line runs through them.
        fit: two points of a straight line next to them.
    """

    number: int
    points: tuple[Point, ...]
    joined: bool
    fit: tuple[Point, ...] = ()


@dataclass(frozen=True)
class FigureSpec:
    """What a figure shows.

    Attributes:
        lines: the series.
        x, y: the axes' names.
        log_x: whether x is logarithmic.
        ticks: of x, with their text; none: matplotlib's.
        front: points of a Pareto front, by x: a thin line of steps runs through them.
        small: one of many next to each other.
        labels: whether points bear their labels.
        ends: only the points at x = 0 bear labels and full markers.
    """

    lines: Sequence[Line]
    x: str
    y: str
    log_x: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    front: tuple[Point, ...] = ()
    small: bool = False
    labels: bool = True
    ends: bool = False


def draw(spec: FigureSpec, *, key: str, label: str) -> Markup:
    """The figure as an <svg> element; `key` is unique in the page, `label` is for screen readers."""
    with drawing():
        from matplotlib.figure import Figure

        size = (2.7, 2.0) if spec.small else (5.0, 3.5)
        figure = Figure(figsize=size)
        axes = figure.subplots()
        tips: dict[str, str] = {}
        if len(spec.front) > 1:
            axes.plot(*_xy(spec.front), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for line in spec.lines:
            _line(axes, spec, line, tips)
        axes.set_xlabel(clean(spec.x))
        axes.set_ylabel(clean(spec.y))
        _scale(axes, spec)
        _lay_out(axes, size, bool(spec.y))
        if spec.labels:
            _place(axes, spec)
        return to_svg(figure, key=key, label=label, tips=tips)


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.x for p in points], [p.y for p in points]


def _line(axes: Axes, spec: FigureSpec, line: Line, tips: dict[str, str]) -> None:
    colour, marker = style(line.number)
    if line.fit:
        axes.plot(*_xy(line.fit), color=colour, linewidth=0.8, alpha=0.6)
    if line.joined:
        axes.plot(*_xy(line.points), color=colour)
    for point in line.points:
        gid = f"tip-{len(tips)}"
        tips[gid] = point.tip
        if point.up or point.across:
            bars = {
                "yerr": point.up and [[end] for end in point.up],
                "xerr": point.across and [[end] for end in point.across],
            }
            axes.errorbar(point.x, point.y, **bars, fmt="none", ecolor=colour, elinewidth=1, capsize=0, alpha=0.75)  # type: ignore[arg-type]
        faint = spec.ends and point.x > 0
        size = 3.0 if faint else 4.5 if spec.small else 6.0
        axes.plot(
            [point.x], [point.y], marker=marker, color=colour, markersize=size, alpha=0.6 if faint else 1, gid=gid,
            linestyle="none", clip_on=False, zorder=3,
        )  # fmt: skip


def _scale(axes: Axes, spec: FigureSpec) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.margins(0.09, 0.12)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if spec.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if spec.ticks and len(spec.ticks) <= 10:
        axes.set_xticks([at for at, _ in spec.ticks], [clean(text) for _, text in spec.ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _lay_out(axes: Axes, size: tuple[float, float], named: bool) -> None:
    """Margins for the ticks' text and the axes' names: matplotlib's own layout engines draw every figure twice."""
    axes.autoscale_view()
    texts = axes.yaxis.get_major_formatter().format_ticks(list(axes.yaxis.get_major_locator()()))
    left = 8 + 5.8 * max(map(len, texts), default=0) + (15 if named else 0)  # in points of 1/72 inch
    width, height = 72 * size[0], 72 * size[1]
    axes.figure.subplots_adjust(left=left / width, right=1 - 12 / width, bottom=36 / height, top=1 - 8 / height)


_AROUND = ((5, 4), (-5, 4), (5, -11), (-5, -11), (8, -3), (-8, -3), (12, 9), (-12, 9), (12, -16), (-12, -16))
Position = tuple[float, float]


def _place(axes: Axes, spec: FigureSpec) -> None:
    """Puts each label next to its point, where it covers the least of points, lines and labels; in 1/72 inch."""
    scale = 72 / axes.figure.dpi

    def at(point: Point) -> Position:
        x, y = axes.transData.transform((point.x, point.y))
        return float(x) * scale, float(y) * scale

    positions = [at(p) for line in spec.lines for p in line.points]
    between = [s for line in spec.lines if line.joined for s in _between([at(p) for p in line.points])]
    boxes: list[tuple[float, float, float]] = []  # centre and half the width of what is placed
    for point in (p for line in spec.lines for p in line.points if p.text):
        (x, y), half = at(point), 3.2 * len(point.text) + 1

        def covered(offset: tuple[int, int], x: float = x, y: float = y, half: float = half) -> float:
            at_x, at_y = x + offset[0] + half * (1 if offset[0] > 0 else -1), y + offset[1] + 3
            hits: float = sum(abs(at_x - a) < half + 3 and abs(at_y - b) < 7 for a, b in positions)
            hits += 0.5 * any(abs(at_x - a) < half + 1 and abs(at_y - b) < 5 for a, b in between)
            hits += sum(2 * (abs(at_x - a) < half + w and abs(at_y - b) < 9) for a, b, w in boxes)
            return hits + 0.01 * (abs(offset[0]) + abs(offset[1]))

        offset = min(_AROUND, key=covered)
        boxes.append((x + offset[0] + half * (1 if offset[0] > 0 else -1), y + offset[1] + 3, half))
        label = axes.annotate(clean(point.text), (point.x, point.y), offset, textcoords="offset points", fontsize=9)
        label.set(color=INK, ha="left" if offset[0] > 0 else "right", annotation_clip=False)


def _between(positions: Sequence[Position], step: float = 4.0) -> list[Position]:
    """Positions along the lines that join others."""
    between = []
    for (x, y), (to_x, to_y) in pairwise(positions):
        count = max(1, int(math.hypot(to_x - x, to_y - y) / step))
        between += [(x + (to_x - x) * i / count, y + (to_y - y) * i / count) for i in range(1, count)]
    return between


def style(number: int) -> tuple[str, str]:
    """A series' colour and marker; both come round, out of step, after eight."""
    return SERIES[number % len(SERIES)], MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def legend_mark(number: int) -> Markup:
    """A series' marker as a small <svg>, for a legend in HTML."""
    from matplotlib.markers import MarkerStyle

    marker: Any = MarkerStyle(style(number)[1])
    polygons = marker.get_path().transformed(marker.get_transform()).to_polygons()
    data = "".join("M" + "L".join(f"{7 + 7 * x:.1f} {7 - 7 * y:.1f}" for x, y in polygon) + "Z" for polygon in polygons)
    fill = f"var(--s{number % len(SERIES) + 1})"
    text = '<svg class="mark" viewBox="0 0 14 14" aria-hidden="true"><path d="{}" fill="{}"/></svg>'
    return Markup(text).format(data, fill)
