"""categories.csv on the terminal: a benchmark's table, each metric by category and by skill, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.results.categories import HEADS
from evalkit.results.csv_files import number, read_columns
from evalkit.results.render import format_value
from evalkit.utils.text import letters, one_line

if TYPE_CHECKING:
    import rich.table

    from evalkit.results.table import ResultTable

FILE, PARTS = "categories.csv", "headings.csv"
PART_HEADS = ("cell", "index", "metric", "category", "value")
MOST_HEADINGS = 45  # of a metric; and of all of them:
MOST_LINES = 90
_NAME = 40  # characters of a heading

Line = Mapping[str, str]


def print_categories(table: ResultTable, out: Path) -> None:
    """Prints what categories.csv holds; nothing where there is no such file."""
    from evalkit.results.terminal import make_console

    console = make_console()
    for view in views(table, out / FILE, console.width):
        console.print(view)


def views(table: ResultTable, file: Path, width: int) -> Iterator[Any]:
    """Per metric of the file its title and a table, whose columns are the cells by their letters; what is left out."""
    from rich.text import Text

    if not file.is_file():
        return
    by_metric: dict[str, list[Line]] = {}
    for _, cells in read_columns(file, HEADS):
        line = dict(zip(HEADS, cells, strict=True))
        by_metric.setdefault(line["metric"], []).append(line)
    room, left = MOST_LINES, []
    for column in table.columns:
        lines = by_metric.get(column.metric, [])
        headings = list(dict.fromkeys(line["category"] for line in lines))
        if not headings:
            continue
        shown = headings[: min(MOST_HEADINGS, room)]
        if not shown:
            left.append(column.metric)
            continue
        room -= len(shown)
        yield Text(f"{one_line(column.title, 80)} by category", style="italic")
        yield _view(table, lines, shown, len(headings) - len(shown), width)
    if left:
        yield f"{', '.join(left)} by category: {FILE}"


def _view(
    table: ResultTable, lines: Sequence[Line], headings: Sequence[str], more: int, width: int
) -> rich.table.Table:
    from rich.table import Table
    from rich.text import Text

    scores = {(line["category"], line["cell"]): line for line in lines}
    cells = [cell for cell in table.cells if any(line["cell"] == cell for line in lines)]
    texts = {key: score(line) for key, line in scores.items()}
    name = min(max(map(len, headings)), _NAME)
    count = max(len(line["n"]) for line in lines)
    each = max(map(len, texts.values())) + 3
    fit = max((width - name - count - 9) // each, 1)
    view = Table(header_style="bold")
    view.add_column("", width=name, no_wrap=True, overflow="ellipsis")
    view.add_column("N", justify="right")
    for cell in cells[:fit]:
        view.add_column(letters(table.cells.index(cell)), justify="right", no_wrap=True)
    previous = None
    for heading in headings:
        kind = heading.partition(": ")[0] if ": " in heading else ""
        if previous is not None and kind != previous:
            view.add_section()
        previous = kind
        most = max(int(line["n"]) for (of, _), line in scores.items() if of == heading)
        values = [texts.get((heading, cell), "–") for cell in cells[:fit]]
        view.add_row(Text(one_line(heading, 200)), str(most), *map(Text, values))
    rest = [f"{more} more headings"] * (more > 0) + [f"{len(cells) - fit} more cells"] * (len(cells) > fit)
    if rest:
        view.caption, view.caption_justify = Text(f"{' and '.join(rest)}: {FILE}"), "left"
    return view


def score(line: Line) -> str:
    """A mean with its 95 % interval, or with its standard error where nothing varies."""
    mean, low, high = (number(line[name], name) for name in ("mean", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        return format_value(mean)
    return f"{format_value(mean)} [{format_value(low)}, {format_value(high)}]"


def read_parts(file: Path) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """headings.csv: by metric and heading, then by cell and index, what adds up to the heading's mean.

    Raises:
        DataError, ValueError: a line that is none.
    """
    parts: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for line, (cell, index, metric, heading, value) in read_columns(file, PART_HEADS):
        by_cell = parts.setdefault((metric, heading), {}).setdefault(cell, {})
        by_cell[int(index)] = number(value, f"line {line}: value")
    return parts
