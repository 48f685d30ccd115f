"""What a run prints when it ends."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import lint
from evalkit.results.render import COMPARISON_HEADS, comparison_lines, table_lines
from evalkit.results.table import ResultTable

if TYPE_CHECKING:
    import rich.table


def print_results(table: ResultTable, out: Path, *, against_baseline: bool, report: bool) -> None:
    """Prints the table, its footnotes and where the files are."""
    console = make_console()
    console.print(to_rich(table))
    if any(column.is_cost for column in table.columns if any(row.value is not None for row in column.rows.values())):
        console.print(to_rich(table, costs=True))
    if against_baseline:
        console.print(comparisons_to_rich(table))
    for note in table.footnotes():
        console.print(note, style="dim", markup=False, highlight=False)
    for line in lint.lines(table.lint):
        console.print(line, markup=False, highlight=False)
    console.print(
        f"results: {out} ({'report.html, ' if report else ''}results.json, table.md/.csv/.tex, "
        "comparison.md, samples.csv, overview.png, sheets/)",
        markup=False,
    )


def make_console(width: int = 180) -> Any:
    """The terminal; where the output is not a terminal (a log, a pipe), wide enough not to fold the table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=width)


def to_rich(table: ResultTable, *, costs: bool = False) -> rich.table.Table:
    """The scores for the terminal, or (`costs`) what the samples cost; the best values of a column are bold green."""
    from rich.table import Table
    from rich.text import Text

    heads, _ = table.grid
    title = f"{table.run.get('name', '')}: cost of the samples" if costs else str(table.run.get("name", ""))
    view = Table(title=Text(title), title_justify="left", header_style="bold", show_lines=False)  # brackets: no markup
    for head in heads:
        # a long setting's name takes a line for each of its words
        view.add_column(head.replace("_", "_\n"), overflow="fold", no_wrap=head == "model")
    shown = [number for number, column in enumerate(table.columns) if column.is_cost == costs]
    for number in shown:
        view.add_column(Text(table.columns[number].title), justify="right", overflow="fold")  # "[digits]": no markup
    previous = None
    for line in table_lines(table, ("\x01", "\x02")):
        if previous is not None and line[0] != previous:
            view.add_section()
        previous = line[0]
        cells = [*line[: len(heads)], *(line[len(heads) + number] for number in shown)]
        view.add_row(*(Text(re.sub("[\x01\x02]", "", c), style="bold green" if "\x01" in c else "") for c in cells))
    return view


def comparisons_to_rich(table: ResultTable) -> rich.table.Table:
    """The comparisons of metrics with standard errors, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    titles = {column.metric: column.title for column in table.columns}
    view = Table(title="compared with the baseline", title_justify="left", header_style="bold")
    for head in COMPARISON_HEADS:
        view.add_column(head, overflow="fold")
    style = {"better": "green", "worse": "red"}
    shown = [c for c in table.comparisons if c.stderr is not None]
    for c, line in zip(shown, comparison_lines(shown, titles), strict=True):
        view.add_row(*(Text(text) for text in line[:-1]), Text(line[-1], style=style.get(c.verdict, "")))
    return view
