"""What a run prints when it ends: the verdict first, tables that fit the width, and 80 lines at most."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit import lint
from evalkit.results import pair_table
from evalkit.results.headline import sentences
from evalkit.results.render import comparison_lines, table_lines
from evalkit.results.table import ResultTable
from evalkit.utils.text import letters, one_line

if TYPE_CHECKING:
    import rich.table

WIDTH = 120  # where the output is no terminal (a log, a pipe)
MOST_LINES = 80  # of all that is printed, whatever the grid
MOST_NOTES = 10
MOST_COMPARED = 12  # lines of the comparison with the baseline
MOST_PAIRS = 12  # lines of the table of pairs
_FRAME = 6  # lines of the comparison next to its rows: title, rules, heading, how many more
_TABLE_FRAME = 4  # lines of a table next to its rows: rules and one line of headings at least
_LEADING = (40, 24, 16, 10)  # most characters of a leading column, tried in turn; longer ones take several lines


def print_results(table: ResultTable, out: Path, *, against_baseline: bool, report: bool) -> None:
    """Prints what is best and how surely, the table, what must be read with it, and where the files are."""
    console = make_console()
    width = console.width
    above = [one_line(line, 400) for line in sentences(table)]
    below = _cut(table.footnotes(), MOST_NOTES, "table.md holds {} more notes") + lint.lines(table.lint)
    files = f"{'report.html, ' if report else ''}results.json, table.md/.csv/.tex, comparison.md, samples.csv"
    paired = pair_table.to_rich(table, MOST_PAIRS, width)
    files += ", pairs.csv" if paired is not None else ""
    below.append(f"results: {out} ({files}, overview.png, sheets/)")
    compared = comparisons_to_rich(table, MOST_COMPARED, width) if against_baseline else None
    room = MOST_LINES - sum(_height(line, width) for line in [*above, *below])
    room -= sum(view.row_count + _FRAME + 1 for view in (compared, paired) if view is not None)
    for line in above:
        console.print(line, style="bold", markup=False, highlight=False)
    for view in _fitting(table, width, room, console):
        console.print(view)
    for more in filter(None, (paired, compared)):
        console.print(more)
    for line in below:
        noted = not line.startswith(("lint:", "results:"))
        console.print(line, style="dim" if noted else None, markup=False, highlight=False)


def make_console(width: int | None = None) -> Any:
    """The terminal, or `width` columns; where the output is no terminal (a log, a pipe), 120."""
    from rich.console import Console

    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    return Console(width=width or WIDTH)


@dataclass(frozen=True)
class _Block:
    """Some of the table's columns that fit the width side by side: leading ones, then scores (by their number).

    `title` stands above it; none where it goes on from the block before.
    """

    title: str
    leading: bool
    scores: Sequence[int]


def _fitting(table: ResultTable, width: int, room: int, console: Any) -> Iterator[Any]:
    """The tables of scores and of costs, with as many lines and columns as the room allows; what is left out is said.

    A score is never broken over two lines: columns that do not fit go into another table below, whose lines begin
    with the cells' letters.
    """
    from rich.text import Text

    layout = _Layout.of(table, width)
    cells, blocks = table.cells, layout.blocks()
    limits = [len(cells), *(n for n in (60, 50, 40, 32, 25, 20, 16, 12, 10, 8, 6, 5, 4, 3) if n < len(cells))]
    for shown_blocks in range(len(blocks), 0, -1):
        for limit in limits:
            last = shown_blocks == 1 and limit == limits[-1]
            if shown_blocks * (min(limit, len(cells)) + _TABLE_FRAME) > room and not last:
                continue  # not worth drawing: of 1,000 cells x 40 metrics that took half a minute
            chosen = _choose(table, limit)
            views = [layout.view(block, chosen) for block in blocks[:shown_blocks]]
            left_out = _left_out(table, len(cells) - len(chosen), layout.scores_of(blocks[shown_blocks:]))
            titles = [block.title for block in blocks[:shown_blocks]]
            lines = sum(len(console.render_lines(view, pad=False)) for view in views) + bool(left_out)
            if lines + sum(map(bool, titles)) <= room or last:
                for title, view in zip(titles, views, strict=True):
                    yield from [Text(title, style="italic"), view] if title else [view]
                yield from [Text(left_out)] if left_out else []
                return


def _left_out(table: ResultTable, cells: int, scores: Sequence[int]) -> str:
    parts = [f"{cells:,} more of {len(table.cells):,} cells"] if cells else []
    if scores:
        names = ", ".join(table.columns[number].label for number in scores[:6])
        parts.append(f"{len(scores)} more columns ({names}{', ...' if len(scores) > 6 else ''})")
    return one_line(f"... {' and '.join(parts)}: table.md, table.csv and report.html hold all", 400) if parts else ""


def _choose(table: ResultTable, limit: int) -> list[int]:
    """The cells to show, in the grid's order: those that are best by a metric before all others."""
    best = {cell for column in table.columns for cell in column.best}
    order = sorted(range(len(table.cells)), key=lambda number: table.cells[number] not in best)
    return sorted(order[:limit])


@dataclass(frozen=True)
class _Layout:
    """The wide table as text, and how it is cut into blocks.

    Attributes:
        table, width: what is shown, on how many columns.
        lines: of the table, the best scores between \\x01 and \\x02.
        heads: of the leading columns.
        caps: of each leading column the most characters of a line.
    """

    table: ResultTable
    width: int
    lines: Sequence[Sequence[str]]
    heads: Sequence[str]
    caps: Sequence[int]

    @classmethod
    def of(cls, table: ResultTable, width: int) -> _Layout:
        heads, lines = table.grid[0], table_lines(table, ("\x01", "\x02"))
        widths = [max(len(plain(line[i])) for line in lines) if lines else 0 for i in range(len(heads))]
        for cap in _LEADING:
            caps = [min(max(w, _longest(head.replace("_", "_ "))), cap) for w, head in zip(widths, heads, strict=True)]
            if sum(caps) + 3 * len(caps) <= 0.6 * width:
                return cls(table, width, lines, heads, caps)
        return cls(
            table,
            width,
            [[cell, *line[len(heads) :]] for cell, line in zip(table.cells, lines, strict=True)],
            ["cell"],
            [width // 2],
        )

    def blocks(self) -> list[_Block]:
        """Scores of quality first, then what the samples cost; a block holds what fits next to its first columns."""
        columns, name = self.table.columns, one_line(str(self.table.run.get("name", "")), 60)
        costs = [i for i, c in enumerate(columns) if c.is_cost and any(r.value is not None for r in c.rows.values())]
        blocks: list[_Block] = []
        for numbers, title in (
            ([i for i, column in enumerate(columns) if not column.is_cost], name),
            (costs, "cost of the samples"),
        ):
            waiting, leading = list(numbers), not blocks
            while waiting or (leading and not blocks):
                room = self.width - 1 - (sum(self.caps) + 3 * len(self.caps) if leading else 0) - 3 - len(self._key(0))
                taken = next(
                    n
                    for n in count(1)
                    if sum(self.score_widths[i] for i in waiting[: n + 1]) > room or n >= len(waiting)
                )
                blocks.append(_Block(title, leading, waiting[:taken]))
                waiting, leading, title = waiting[taken:], False, ""
        return blocks

    @staticmethod
    def scores_of(blocks: Sequence[_Block]) -> list[int]:
        return [number for block in blocks for number in block.scores]

    @cached_property
    def score_widths(self) -> list[int]:
        """By score the characters that its column takes, with its frame."""
        columns = zip(*(line[len(self.heads) :] for line in self.lines), strict=True)
        texts = list(columns) or [()] * len(self.table.columns)
        return [
            max(_longest(column.title), *(len(plain(text)) for text in of), 1) + 3
            for column, of in zip(self.table.columns, texts, strict=True)
        ]

    def _key(self, number: int) -> str:
        return letters(number).rjust(len(letters(max(len(self.lines) - 1, 0))))

    def view(self, block: _Block, chosen: Sequence[int]) -> rich.table.Table:
        """A block's table of the chosen cells; best scores are bold green."""
        from rich.table import Table
        from rich.text import Text

        view = Table(header_style="bold", show_lines=False)
        view.add_column("", width=len(self._key(0)))
        for head, cap in zip(self.heads, self.caps, strict=True) if block.leading else ():
            # a long setting's name takes a line for each of its words
            view.add_column(Text(head.replace("_", "_\n")), overflow="fold", width=cap)
        for number in block.scores:  # "[digits]" is no markup
            width = self.score_widths[number] - 3
            view.add_column(Text(self.table.columns[number].title), justify="right", overflow="fold", width=width)
        previous = None
        for number in chosen:
            line = self.lines[number]
            if previous is not None and line[0] != previous and block.leading and len(chosen) <= MOST_LINES // 4:
                view.add_section()
            previous = line[0]
            texts = [*(line[: len(self.heads)] if block.leading else ())]
            texts += [line[len(self.heads) + score] for score in block.scores]
            style = ["bold green" if "\x01" in text else "" for text in texts]
            view.add_row(self._key(number), *(Text(plain(t), style=s) for t, s in zip(texts, style, strict=True)))
        return view


def plain(text: str) -> str:
    """A cell's text without its marks, on one line, without what a terminal obeys."""
    return one_line(re.sub("[\x01\x02]", "", text), 400)


def comparisons_to_rich(table: ResultTable, most: int | None = None, width: int | None = None) -> rich.table.Table:
    """The comparisons of metrics with standard errors, for the terminal: at most `most` lines, `width` columns."""
    from rich.table import Table
    from rich.text import Text

    titles = {column.metric: column.title for column in table.columns}
    keys = {cell: letters(number) for number, cell in enumerate(table.cells)}
    shown = [c for c in table.comparisons if c.stderr is not None]
    base = plain(shown[0].baseline)[:60] if shown else ""
    view = Table(title=Text(f"compared with the baseline {base}"), title_justify="left", header_style="bold")
    if most is not None and len(shown) > most:
        view.caption = Text(f"{len(shown) - most + 1:,} more comparisons: comparison.md")
        view.caption_justify = "left"
        shown = shown[: most - 1]
    lines = [[plain(text) for text in line] for line in comparison_lines(shown, titles)]
    lines = [[keys.get(c.cell, ""), line[0], line[1], *line[3:]] for c, line in zip(shown, lines, strict=True)]
    heads = ("", "metric", "cell", "difference", "95 % interval", "p (Holm)", "verdict")  # one baseline for all
    widths = [max(map(len, [head, *(line[place] for line in lines)])) for place, head in enumerate(heads)]
    widths[1] = min(widths[1], 28)
    room = (width or sum(widths) + 3 * len(widths) + 1) - 3 * len(widths) - 1
    widths[2] = max(min(widths[2], room - sum(widths) + widths[2]), 8)
    for place, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if 2 < place < 6 else "left"
        view.add_column(head, width=widths[place], no_wrap=True, overflow="ellipsis", justify=side)
    style = {"better": "green", "worse": "red"}
    for c, texts in zip(shown, lines, strict=True):
        view.add_row(*map(Text, texts[:-1]), Text(texts[-1], style=style.get(c.verdict, "")))
    return view


def _cut(lines: Sequence[str], most: int, rest: str) -> list[str]:
    lines = [one_line(line, 400) for line in lines]
    return lines if len(lines) <= most else [*lines[: most - 1], rest.format(len(lines) - most + 1)]


def _height(line: str, width: int) -> int:
    return max(1, math.ceil(len(line) * 1.1 / width))  # words that do not fit leave some of a line


def _longest(text: str) -> int:
    return max(map(len, text.split()), default=1)
