"""One figure of points and lines: matplotlib's axes, and in them marks with tooltips, labels that keep apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from evalkit.report.run_folder import clean
from evalkit.report.svg import INK, MARKERS, MUTED, SERIES, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Position = tuple[float, float]
MAX_TITLES = 40  # points with a <title> each: of more it is an attribute


@dataclass(frozen=True)
class Point:
    """A point, its label and its tooltip; the lengths of its bars, below and above, along x and y (none: no bar).

    `cell` is the key of the cell that it is of: the page's filter hides it with the cell's line of the table.
    """

    x: float
    y: float
    text: str
    tip: str
    across: tuple[float, float] | None = None
    up: tuple[float, float] | None = None
    cell: str = ""


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
        log_x, log_y: whether x, y is logarithmic.
        ticks: of x, with their text; none: matplotlib's.
        front: points of a Pareto front, by x: a thin line of steps runs through them.
        small: one of many next to each other.
        labels: whether points bear their labels.
        ends: only the points at x = 0 bear labels and full markers.
        bands: along y, bars are one band per joined line.
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
    bands: bool = False
    log_y: bool = False


def draw(spec: FigureSpec, *, key: str, label: str) -> Markup:
    """The figure as an <svg> element; `key` is unique in the page, `label` is for screen readers."""
    with drawing():
        from matplotlib.figure import Figure

        size = (2.7, 2.0) if spec.small else (5.0, 3.5)
        figure = Figure(figsize=size)
        axes = figure.subplots()
        axes.tick_params(length=0)  # the grid's lines say where
        extent = axes.plot(*_xy(_extent(spec)), linestyle="none")
        axes.set_xlabel(clean(spec.x))
        axes.set_ylabel(clean(spec.y))
        _scale(axes, spec)
        _lay_out(axes, size, bool(spec.y))
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
        for artist in extent:
            artist.remove()
        labels = _place(axes, spec) if spec.labels else []
        return to_svg(figure, key=key, label=label, marks=[*_marks(axes, spec), *labels])


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.x for p in points], [p.y for p in points]


def _extent(spec: FigureSpec) -> list[Point]:
    """Points at the ends of all that is drawn."""
    extent = []
    for point in (p for line in spec.lines for p in (*line.points, *line.fit)):
        (left, right), (below, above) = point.across or (0.0, 0.0), point.up or (0.0, 0.0)
        left = 0.0 if spec.log_x and left >= point.x else left
        below = 0.0 if spec.log_y and below >= point.y else below
        extent += [Point(point.x - left, point.y - below, "", ""), Point(point.x + right, point.y + above, "", "")]
    return extent


def _marks(axes: Axes, spec: FigureSpec) -> list[ElementTree.Element]:
    """The front, then each series: its fit, its line, a stroke per error bar and a mark per point."""
    marks = []
    if len(spec.front) > 1:
        style_of = f"fill:none;stroke:{MUTED};stroke-width:.9;stroke-dasharray:4 3"
        marks.append(_path(_track(axes, spec.front), style_of, "front"))
    for line in spec.lines:
        colour, marker = style(line.number)
        group = ElementTree.Element("g", {"style": f"stroke:{colour};fill:{colour};stroke-linejoin:round"})
        if line.fit:
            group.append(_path(_track(axes, line.fit), "fill:none;stroke-width:.8;opacity:.6", "track"))
        if spec.bands and line.joined:
            group.append(_path(_band(axes, line.points), "stroke:none;fill-opacity:.16", "track band"))
        if line.joined:
            group.append(_path(_track(axes, line.points), "fill:none;stroke-width:1.2", "track"))
        group.extend(_point(axes, spec, point, marker) for point in line.points)
        marks.append(group)
    return marks


def _point(axes: Axes, spec: FigureSpec, point: Point, marker: str) -> ElementTree.Element:
    faint = spec.ends and point.x > 0
    (x, y), size = _at(axes, point.x, point.y), 1.5 if faint else 2.2 if spec.small else 3.0
    bars = ""
    if point.up and not spec.bands:
        ends = [_at(axes, point.x, end)[1] for end in (point.y - point.up[0], point.y + point.up[1])]
        bars += f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
    if point.across and not (spec.log_x and point.across[0] >= point.x):
        ends = [_at(axes, end, point.y)[0] for end in (point.x - point.across[0], point.x + point.across[1])]
        bars += f"M{ends[0]:.1f} {y:.1f}H{ends[1]:.1f}"
    mark = _path(f"{bars}M{x:.1f} {y:.1f}{marker_path(marker, size)}", "opacity:.6" if faint else "")
    if point.cell:
        mark.set("data-c", point.cell)
    if sum(len(line.points) for line in spec.lines) > MAX_TITLES:
        mark.set("data-t", clean(point.tip))  # the page's script makes a tooltip of it
    else:
        ElementTree.SubElement(mark, "title").text = clean(point.tip)
    return mark


def _path(data: str, style_of: str, name: str = "") -> ElementTree.Element:
    return ElementTree.Element(
        "path", {"d": data} | ({"style": style_of} if style_of else {}) | ({"class": name} if name else {})
    )


def _band(axes: Axes, points: Sequence[Point]) -> str:
    """Once along the upper ends of the points' bars, and back along the lower ones."""
    ends = [(p, *(p.up or (0.0, 0.0))) for p in points]
    upper = [Point(p.x, p.y + above, "", "") for p, _, above in ends]
    lower = [Point(p.x, p.y - below, "", "") for p, below, _ in reversed(ends)]
    return _track(axes, [*upper, *lower]) + "Z"


def _track(axes: Axes, points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (_at(axes, p.x, p.y) for p in points))


def _at(axes: Axes, x: float, y: float) -> Position:
    """Where a point of the data lies in the <svg>, in 1/72 inch from its upper left."""
    scale = 72 / axes.figure.dpi
    right, up = axes.transData.transform((x, y))
    return float(right) * scale, (axes.figure.bbox.height - float(up)) * scale


def _scale(axes: Axes, spec: FigureSpec) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.margins(0.09, 0.12)
    if spec.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
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


def _place(axes: Axes, spec: FigureSpec) -> list[ElementTree.Element]:
    """Each label next to its point, where it covers the least of points, lines and labels; in 1/72 inch."""
    positions = [_at(axes, p.x, p.y) for line in spec.lines for p in line.points]
    joined = [line for line in spec.lines if line.joined]
    between = [s for line in joined for s in _between([_at(axes, p.x, p.y) for p in line.points])]
    boxes: list[tuple[float, float, float]] = []  # centre and half the width of what is placed
    labels = []
    for point in (p for line in spec.lines for p in line.points if p.text.strip()):
        (x, y), half = _at(axes, point.x, point.y), 3.2 * len(point.text) + 1

        def covered(offset: tuple[int, int], x: float = x, y: float = y, half: float = half) -> float:
            at_x, at_y = x + offset[0] + half * (1 if offset[0] > 0 else -1), y - offset[1] - 3
            hits: float = sum(abs(at_x - a) < half + 3 and abs(at_y - b) < 7 for a, b in positions)
            hits += 0.5 * any(abs(at_x - a) < half + 1 and abs(at_y - b) < 5 for a, b in between)
            hits += sum(2 * (abs(at_x - a) < half + w and abs(at_y - b) < 9) for a, b, w in boxes)
            return hits + 0.01 * (abs(offset[0]) + abs(offset[1]))

        offset = min(_AROUND, key=covered)
        boxes.append((x + offset[0] + half * (1 if offset[0] > 0 else -1), y - offset[1] - 3, half))
        anchor = "start" if offset[0] > 0 else "end"
        where = {"x": f"{x + offset[0]:.1f}", "y": f"{y - offset[1]:.1f}"}
        label = ElementTree.Element("text", where | {"style": f"font-size:9px;fill:{INK};text-anchor:{anchor}"})
        label.text = clean(point.text)
        if point.cell:
            label.set("data-c", point.cell)
        labels.append(label)
    return labels


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


def marker_path(marker: str, size: float) -> str:
    """A marker's outline around the current point, `size` from its centre to its edge."""
    return re.sub(r"-?\d*\.?\d+", lambda m: f" {float(m[0]) * size:.3g}", _OUTLINES[marker])


# Relative path data of radius 1. The disk is an octagon with round corners: an arc's flags would be scaled as well.
_OUTLINES = {
    "o": "m-1 0l.29-.71l.71-.29l.71.29l.29.71l-.29.71l-.71.29l-.71-.29z",
    "s": "m-.9-.9h1.8v1.8h-1.8z",
    "^": "m0-1.1l1.1 2h-2.2z",
    "D": "m0-1.25l1.25 1.25l-1.25 1.25l-1.25-1.25z",
    "v": "m0 1.1l1.1-2h-2.2z",
    "P": "m-.4-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z",
    "X": "m-.6-1.1l.6.6l.6-.6l.5.5l-.6.6l.6.6l-.5.5l-.6-.6l-.6.6l-.5-.5l.6-.6l-.6-.6z",
    "h": "m0-1.15l1 .58v1.15l-1 .57l-1-.57v-1.15z",
}


def legend_mark(number: int) -> Markup:
    """A series' marker as a small <svg>, for a legend in HTML."""
    data, fill = marker_path(style(number)[1], 5.5), f"var(--s{number % len(SERIES) + 1})"
    text = '<svg class="mark" viewBox="0 0 14 14" aria-hidden="true"><path d="M7 7{}" fill="{}"/></svg>'
    return Markup(text).format(data, fill)
