"""The report's plots, those that the run's data allow. Bars are 95 % intervals: those of the rows, by Student's t."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from markupsafe import Markup

from evalkit.cell import setting_name
from evalkit.report.figure import FigureSpec, Line, Point, draw, legend_mark
from evalkit.report.run_folder import Run, short
from evalkit.report.tables import main_column
from evalkit.results import series
from evalkit.results.axes import bar, by_size, wide
from evalkit.results.real_text import is_real, multiple_of
from evalkit.results.render import format_value
from evalkit.results.table import Column, Row, finite

BARS = "Bars: 95 % intervals."
MAX_LABELS = 24  # of more points only those on the front bear their letters
MAX_LINES = 8  # of more the colours tell models and samplers apart, and each point's tooltip says the rest
_PERCENTILES = ("latency_p50", "latency_p90", "latency_p99")
MAX_PLOTS = 60  # along swept axes: a page of 30 metrics and 4 axes would take half a minute


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Group:
    """Plots that share a heading and a legend: (mark, text) of each series."""

    title: str
    plots: Sequence[Plot]
    legend: Sequence[tuple[Markup, str]] = ()
    note: str = ""
    small: bool = False


@dataclass
class _Maker:
    """Draws a run's plots; every (model, sampler) has its colour and marker throughout."""

    run: Run
    count: int = 0

    @cached_property
    def columns(self) -> dict[str, Column]:
        """By metric, those that have a value."""
        return {c.metric: c for c in self.run.table.columns if any(map(finite, c.rows.values()))}

    @cached_property
    def quality(self) -> list[Column]:
        return [c for c in self.columns.values() if not c.is_cost and multiple_of(c.metric) is None]

    @cached_property
    def rows(self) -> dict[str, Row]:
        """By cell what tells what it is."""
        return {cell: rows[0] for cell, rows in self.run.table.rows_by_cell.items()}

    @cached_property
    def families(self) -> list[tuple[str, str | None]]:
        return list(dict.fromkeys((row.model, row.sampler) for row in self.rows.values()))

    @cached_property
    def main(self) -> Column | None:
        """What stands for quality."""
        return main_column(self.run.table)

    def plot(self, title: str, caption: str, spec: FigureSpec, label: str) -> Plot:
        self.count += 1
        return Plot(title, caption, draw(spec, key=f"p{self.count}", label=label))

    def point(self, cell: str, x: Row | float, y: Row, text: str = "") -> Point:
        """A cell's point; x is a score or a setting's value."""
        across = x.value or 0.0 if isinstance(x, Row) else x
        tip = f"{self.run.keys[cell]}  {short(cell)}: {y.label} {format_value(y.value, y.stderr)}"
        if isinstance(x, Row):
            tip += f", {x.label} {format_value(x.value, x.stderr)}"
        spread = bar(x) if isinstance(x, Row) else None
        return Point(across, y.value or 0.0, text or self.run.keys[cell], tip, spread, bar(y), self.run.keys[cell])

    # -- quality against cost, metric against metric

    def against(self, x: Column, y: Column, *, front: bool) -> Plot | None:
        """A scatter of cells by two scores, both under one protocol; with the Pareto front."""
        cells = self.comparable(self.run.table.cells, x, y)
        if len(cells) < 2:
            return None
        made = [c for c in cells if not is_real(self.rows[c].model)]  # real images win nothing
        best = [made[i] for i in pareto([(x.rows[c], y.rows[c]) for c in made])]
        points = {c: self.point(c, x.rows[c], y.rows[c]) for c in cells}
        if len(cells) > MAX_LABELS:
            points = {c: p if c in best else replace(p, text="") for c, p in points.items()}
        lines = [
            Line(number, tuple(point for c, point in points.items() if self.family(c) == family), False)
            for number, family in enumerate(self.families)
        ]
        on_front = sorted((points[c] for c in best), key=lambda p: p.x)
        names = _some([self.run.keys[c] for c in best])
        which = "On the Pareto front" if front else "Beaten by none in both"
        out = _some([self.run.keys[cell] for cell in self.run.table.cells if cell not in cells])
        left_out = f"Not shown (no value, or another protocol): {out}." if out else ""
        caption = f"{which}, by value: {names}. {left_out}"
        title = f"{short(y.label, 40)} against {short(x.label, 40)}"
        shown, across, up = [line for line in lines if line.points], short(x.title, 40), short(y.title, 40)
        log = front and wide([p.x for p in points.values()])
        spec = FigureSpec(shown, across, up, log_x=log, front=tuple(on_front) if front else ())
        return self.plot(title, caption.strip(), spec, f"{title}, a point per cell. {caption}")

    def comparable(self, cells: Sequence[str], *columns: Column) -> list[str]:
        """The cells that have a value in all columns, under the protocol that most share."""
        return [c for c in cells if all(finite(column.rows.get(c)) and c not in column.odd for column in columns)]

    def family(self, cell: str) -> tuple[str, str | None]:
        return self.rows[cell].model, self.rows[cell].sampler

    def trade_offs(self) -> Group | None:
        """Quality against what it costs, FID against CLIP score along guidance, precision against recall."""
        costs = [self.columns[cost] for cost in ("latency_p50", "nfe") if cost in self.columns]
        plots = [self.against(cost, self.main, front=True) for cost in costs if self.main is not None]
        plots.append(self.guidance())
        for column in self.quality:
            recall = column.metric.replace("precision", "recall", 1)
            if column.metric.startswith("precision") and recall in self.columns:
                plots.append(self.against(self.columns[recall], column, front=False))
        drawn = [plot for plot in plots if plot is not None]
        if not drawn:
            return None
        return Group("Trade-offs", drawn, self.legend, f"Letters are the table's. {BARS}")

    @property
    def legend(self) -> list[tuple[Markup, str]]:
        """Of models and samplers."""
        return [(legend_mark(i), short(" ".join(filter(None, family)))) for i, family in enumerate(self.families)]

    def guidance(self) -> Plot | None:
        """The Frechet distance against the CLIP score, a line for what differs in guidance alone."""
        clip = next((c for c in self.columns.values() if c.metric.startswith("clip_score")), None)
        axis = next((a for a in self.axes() if "guidance" in a), None)
        if clip is None or axis is None or self.main is None:
            return None
        lines = []
        best = next((row.cell for row in self.main.ranked), None)
        few = len(self.comparable(self.run.table.cells, clip, self.main)) <= MAX_LABELS
        for _, cells in self.sweeps(axis):
            both = self.comparable(cells, clip, self.main)
            if len(both) > 1:
                texts = {c: f"{self.rows[c].settings[axis]:g}" if few or best in cells else " " for c in both}
                points = (self.point(c, clip.rows[c], self.main.rows[c], text) for c, text in texts.items())
                lines.append(Line(self.families.index(self.family(both[0])), tuple(points), True))
        if not lines:
            return None
        title = f"{short(self.main.label, 40)} against {short(clip.label, 40)} along guidance"
        spec = FigureSpec(lines, short(clip.title, 40), short(self.main.title, 40))
        caption = "Numbers are guidance scales; a line holds all other settings."
        return self.plot(title, caption, spec, f"{title}. {caption}")

    # -- services under load

    def under_load(self) -> Group | None:
        """Latency percentiles against throughput, a line per percentile, model and kind of load, from the least up."""
        throughput = self.columns.get("images_per_second")
        percentiles = [c for name in _PERCENTILES if (c := self.columns.get(name)) is not None]
        loads: dict[tuple[str, str], list[str]] = {}
        for cell, row in self.rows.items():
            loop = next((name for name in ("concurrency", "rate") if name in row.settings), None)
            if loop is not None and cell in (self.columns["latency_p99"].rows if "latency_p99" in self.columns else ()):
                loads.setdefault((row.model, loop), []).append(cell)
        if throughput is None or not any(len(cells) > 1 for cells in loads.values()):
            return None
        lines: list[Line] = []
        legend = []
        for (model, loop), cells in loads.items():
            ordered = sorted(cells, key=lambda c: by_size(self.rows[c].settings[loop]))
            for column in percentiles:
                known = [c for c in ordered if finite(column.rows.get(c)) and finite(throughput.rows.get(c))]
                texts = {c: _text(self.rows[c].settings[loop]) if column is percentiles[-1] else " " for c in known}
                points = tuple(self.point(c, throughput.rows[c], column.rows[c], texts[c]) for c in known)
                if points:
                    legend.append((legend_mark(len(lines)), f"{short(model)}, by {loop}: {column.label}"))
                    lines.append(Line(len(lines), points, len(points) > 1))
        title = "Latency against throughput"
        caption = "Numbers: clients of a closed loop (concurrency), requests per second of an open one (rate)."
        ups = [point.y for line in lines for point in line.points]
        spec = FigureSpec(lines, short(throughput.title, 40), "latency [ms] ↓", log_y=wide(ups))
        note = f"Where a line turns upwards, more load gives longer queues and no more images. {BARS}"
        return Group("Under load", [self.plot(title, caption, spec, f"{title}. {caption}")], legend, note)

    # -- along swept axes

    def axes(self) -> list[str]:
        """The settings that take two values or more."""
        names = dict.fromkeys(name for row in self.rows.values() for name in row.settings)
        values = {n: {str(r.settings[n]) for r in self.rows.values() if r.settings.get(n) is not None} for n in names}
        return [name for name in names if len(values[name]) > 1]

    def sweeps(self, axis: str) -> list[tuple[str, list[str]]]:
        """The cells that differ in one setting alone, two or more, in the order of its values; with what they share."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for cell, row in self.rows.items():
            if row.settings.get(axis) is not None:
                rest = sorted((name, str(value)) for name, value in row.settings.items() if name != axis)
                groups.setdefault((row.model, row.sampler, row.prompts, row.seed, str(rest)), []).append(cell)
        several = [cells for cells in groups.values() if len(cells) > 1]
        held = [name for name in self.axes() if name != axis]
        sweeps = []
        for cells in several:
            row = self.rows[cells[0]]
            fixed = [f"{setting_name(n)} {_text(row.settings[n])}" for n in held if row.settings.get(n) is not None]
            seeds = {self.rows[group[0]].seed for group in several}
            name = " ".join([row.model, row.sampler or "", *fixed, f"seed {row.seed}" if len(seeds) > 1 else ""])
            sweeps.append((short(name), sorted(cells, key=lambda c: by_size(self.rows[c].settings[axis]))))
        return sweeps

    def along(self, axis: str) -> Group | None:
        """Every metric of quality along one swept setting, all others held."""
        sweeps = self.sweeps(axis)
        many = len(sweeps) > MAX_LINES
        values = [self.rows[c].settings[axis] for _, cells in sweeps for c in cells]
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        places = sorted(set(values)) if numeric else list(dict.fromkeys(str(v) for v in values))
        plots = []
        for column in self.quality:
            lines = []
            for number, (_, cells) in enumerate(sweeps):
                at = {c: self.rows[c].settings[axis] for c in self.comparable(cells, column)}
                at = at if numeric else {c: places.index(str(value)) for c, value in at.items()}
                points = tuple(self.point(c, float(x), column.rows[c]) for c, x in at.items())
                if len(points) > 1:
                    lines.append(Line(self.families.index(self.family(cells[0])) if many else number, points, True))
            if not lines or self.count >= MAX_PLOTS:
                continue
            title, name = short(column.title, 34), short(setting_name(axis), 30)
            ticks = [(float(v) if numeric else float(i), _text(v)) for i, v in enumerate(places)]
            steps = numeric and setting_name(axis) == series.STEP  # of a training: bands, and matplotlib's own ticks
            log = numeric and not steps and wide([float(v) for v in places], 8)
            ticks = [] if steps else ticks
            spec = FigureSpec(lines, name, "", log_x=log, ticks=ticks, small=True, labels=False, bands=steps)
            caption = (
                "; ".join(series.of_metric(self.run.table.run.get("series") or (), column.metric)) if steps else ""
            )
            plots.append(self.plot(title, caption, spec, f"{title} along {setting_name(axis)}, with 95 % intervals."))
        if not plots:
            return None
        legend = self.legend if many else [(legend_mark(number), name) for number, (name, _) in enumerate(sweeps)]
        bars = BARS.replace("Bars", "Bands") if setting_name(axis) == series.STEP else BARS
        note = f"A line holds all other settings: point at a mark for its cell. {bars}"
        return Group(f"Along {short(setting_name(axis), 40)}", plots, legend, note if many else bars, small=True)

    # -- against N

    def against_n(self) -> Group | None:
        """Frechet distances of growing subsets, and the line to infinitely many samples, where a metric has them."""
        plots = []
        for column in self.quality:
            lines = []
            for number, (cell, row) in enumerate(column.rows.items()):
                distances = sorted((int(k[3:]), v) for k, v in row.details.items() if re.fullmatch(r"fd@\d+", k))
                if len(distances) > 1 and finite(row):
                    lines.append(self._subsets(number, cell, row, distances))
            if lines:
                title = f"{short(column.label, 40)}: Frechet distance against N"
                sizes = sorted({round(1 / p.x) for line in lines for p in line.points if p.x})
                few = [size for size in sizes if size * 4 <= sizes[-1]][:1]
                marks = [*few, sizes[len(sizes) // 4], sizes[-1]]
                ticks = [(0.0, "∞"), *((1 / size, str(size)) for size in dict.fromkeys(marks))]
                spec = FigureSpec(lines, "N (on a scale of 1/N)", "Frechet distance ↓", ticks=ticks, ends=True)
                end = "at ∞ the line's end: the extrapolated value, without the bias of finite samples."
                caption = f"A dot per subset; {end}"
                plots.append(self.plot(title, caption, spec, f"{title}. {caption}"))
        if not plots:
            return None
        cells = list(self.run.keys.items())[:MAX_LABELS]
        legend = [(legend_mark(n), f"{key} {short(cell)}") for n, (cell, key) in enumerate(cells)]
        return Group("Against N", plots, legend)

    def _subsets(self, number: int, cell: str, row: Row, by_n: Sequence[tuple[int, float]]) -> Line:
        key = self.run.keys[cell]
        end = Point(0.0, row.value or 0.0, key, f"{key}  {short(cell)}: {format_value(row.value)} at ∞", cell=key)
        dots = [Point(1 / n, v, "", f"{key}  {short(cell)}: {format_value(v)} at N = {n}", cell=key) for n, v in by_n]
        slope = row.details.get("slope")
        fit = (end, Point(1 / by_n[0][0], end.y + slope / by_n[0][0], "", "")) if slope is not None else ()
        return Line(number, (end, *dots), False, fit)


def make_plots(run: Run) -> list[Group]:
    """All plots that the run allows, in groups; empty groups are left out."""
    maker = _Maker(run)
    groups = [maker.under_load(), maker.trade_offs(), maker.against_n(), *(maker.along(axis) for axis in maker.axes())]
    return [group for group in groups if group is not None]


def pareto(points: Sequence[tuple[Row, Row]]) -> list[int]:
    """The indices of the points that no other beats in one score while being as good in the other."""
    values = [(x.sign * (x.value or 0.0), y.sign * (y.value or 0.0)) for x, y in points]
    return [i for i, (x, y) in enumerate(values) if not any(a >= x and b >= y and (a > x or b > y) for a, b in values)]


def _some(keys: Sequence[str], most: int = 24) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else short(str(value), 20)
