"""A metric's course as a plot: of text for the terminal, and as an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evalkit.history.course import Course, Series
from evalkit.history.registry import PastRun
from evalkit.results.render import format_value, score_text
from evalkit.results.stats import REACH
from evalkit.results.table import ARROW
from evalkit.utils.text import letters

HEIGHT = 11  # lines of a plot
GAP = 6  # most columns between two runs
MOST_SERIES = 8  # colours of a figure
# The report's colours, on light and dark.
_STYLE = """svg { font-family: system-ui, sans-serif; background: var(--paper); color-scheme: light dark;
--paper: light-dark(#fff, #15171b); --ink: light-dark(#1b1d20, #e6e7e9); --muted: light-dark(#5a6068, #a3a9b3);
--line: light-dark(#dfe0de, #343941); --s1: light-dark(#0b62b0, #62aef2); --s2: light-dark(#c14a00, #f5935a);
--s3: light-dark(#00785a, #42cfa4); --s4: light-dark(#96448a, #de9fd5); --s5: light-dark(#7d6200, #dcc04f);
--s6: light-dark(#4d5661, #aab3bf); --s7: light-dark(#a3123f, #ff8fae); --s8: light-dark(#3f3fae, #a9a7ff); }"""


def runs_of(series: Sequence[Series]) -> list[PastRun]:
    """The runs in which any of the series has a point, oldest first."""
    runs = {point.run.path: point.run for each in series for point in each.points}
    return sorted(runs.values(), key=lambda run: (run.date, run.name))


def text_plot(series: Sequence[Series], width: int) -> list[str]:
    """Lines of at most `width` characters: a column per run, a letter per series; of one series its 95 % intervals."""
    runs = runs_of(series)
    label_width = 9
    runs = runs[-max(1, width - label_width - 2) :]  # the newest that there is room for
    gap = max(1, min(GAP, (width - label_width - 2) // len(runs)))
    places = {run.path: number * gap + gap // 2 for number, run in enumerate(runs)}
    points = [(number, p) for number, each in enumerate(series) for p in each.points if p.run.path in places]
    alone = len(series) == 1
    ends = [_ends(point.row.value or 0.0, point.row.stderr if alone else None) for _, point in points]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    spread = high - low or abs(high) or 1.0

    def line_of(value: float) -> int:
        return round((high - value) / spread * (HEIGHT - 1))

    canvas = [[" "] * (gap * len(runs)) for _ in range(HEIGHT)]
    for (_, point), (bottom, top) in zip(points, ends, strict=True):
        for line in range(line_of(top), line_of(bottom) + 1) if alone else ():
            canvas[line][places[point.run.path]] = "│"
    for number, point in reversed(points):  # of two at one place the first series' is seen
        mark = "●" if alone else letters(number)
        canvas[line_of(point.row.value or 0.0)][places[point.run.path]] = mark
    named = {0: high, HEIGHT // 2: high - spread * (HEIGHT // 2) / (HEIGHT - 1), HEIGHT - 1: high - spread}
    lines = [
        f"{format_value(named[i]) if i in named else '':>{label_width}} ┤{''.join(line).rstrip()}"
        for i, line in enumerate(canvas)
    ]
    first, last = f"{runs[0].date:%Y-%m-%d}", f"{runs[-1].date:%Y-%m-%d}"
    axis = "".join("┴" if column in places.values() else "─" for column in range(gap * len(runs)))
    lines.append(f"{'':{label_width}} └{axis}")
    between = gap * len(runs) - len(first) - len(last)
    whole = first if len(runs) == 1 else f"{first} to {last}"
    whole = whole if len(whole) + label_width + 2 <= width else last
    dates = f"{first}{' ' * between}{last}" if between > 0 else whole
    return [*lines, f"{'':{label_width}}  {dates}"]


def _ends(value: float, stderr: float | None) -> tuple[float, float]:
    reach = REACH * (stderr or 0.0)
    return value - reach, value + reach


def to_svg(course: Course) -> str:
    """A figure per protocol, one below the other, as one SVG that stands by itself; at most 8 series of each."""
    from evalkit.report.figure import FigureSpec, Line, draw
    from evalkit.report.figure import Point as Mark

    title = f"{course.label} {ARROW[course.better]}"
    parts, top, size = [], 0, (720, 504)
    for key, series in course.by_protocol.items():
        runs = runs_of(series)
        at = {run.path: float(number) for number, run in enumerate(runs)}
        lines = []
        for number, each in enumerate(series[:MOST_SERIES]):
            marks = []
            for point in each.points:
                reach = REACH * (point.row.stderr or 0.0)
                tip = (
                    f"{each.name}, {point.run.name}, {point.run.day}: {score_text(point.row)} {point.verdict}".rstrip()
                )
                bars = (reach, reach) if reach else None
                marks.append(Mark(at[point.run.path], point.row.value or 0.0, "", tip, up=bars))
            lines.append(Line(number, tuple(marks), joined=True))
        ticks = [(at[run.path], f"{run.date:%m-%d}") for run in _spread(runs, 6)]
        spec = FigureSpec(lines, f"{runs[0].date:%Y-%m-%d} to {runs[-1].date:%Y-%m-%d}", title, ticks=ticks)
        parts.append(f'<text x="16" y="{top + 22}" font-size="14" fill="var(--ink)">protocol {escape(key)}</text>')
        for number, each in enumerate(series[:MOST_SERIES]):
            y = top + 42 + 18 * number
            parts.append(f'<circle cx="22" cy="{y - 4}" r="5" fill="var(--s{number + 1})"/>')
            parts.append(f'<text x="34" y="{y}" font-size="13" fill="var(--ink)">{escape(each.name)}</text>')
        top += 42 + 18 * min(len(series), MOST_SERIES)
        figure = str(draw(spec, key=f"course-{len(parts)}", label=f"{title} by date, protocol {key}"))
        parts.append(figure.replace("<svg", f'<svg x="0" y="{top}" width="{size[0]}" height="{size[1]}"', 1))
        top += size[1] + 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {top}" width="{size[0]}" height="{top}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _spread(runs: Sequence[PastRun], most: int) -> list[PastRun]:
    """At most so many of the runs, the first and the last among them."""
    if len(runs) <= most:
        return list(runs)
    return [runs[round(number * (len(runs) - 1) / (most - 1))] for number in range(most)]
