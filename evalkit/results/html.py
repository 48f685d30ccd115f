"""Results as HTML for notebooks: escaped, few styles and all of them inline, readable on light and dark grounds."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from evalkit.results.headline import sentences
from evalkit.results.render import table_lines
from evalkit.results.table import ResultTable
from evalkit.utils.text import one_line

BEST = ("\x01", "\x02")  # what stands around a best score
BOLD = "Bold: the best, and what is not significantly worse than it. ± standard errors, or [95 % intervals]."
MOST_CELLS, MOST_NOTES, MOST_OPEN = 60, 20, 4
_EDGE = "1px solid rgba(128,128,128,.45)"  # grey is seen on white and on black; text has the notebook's own colour
_CELL = f"padding:.2em .7em;border-bottom:{_EDGE};font-variant-numeric:tabular-nums"


def escape(text: str, most: int = 400) -> str:
    """A text on one line as HTML, without what HTML cannot hold."""
    return html.escape(one_line(text, most)) if text else ""


def _score(text: str) -> str:
    """A number with its marks as HTML; a best one is bold."""
    if not text.startswith(BEST[0]):
        return escape(text)
    best, _, marks = text[1:].partition(BEST[1])
    return f"<b>{escape(best)}</b>{html.escape(marks)}"


def table_html(heads: Sequence[str], lines: Iterable[Sequence[str]], *, left: int) -> str:
    """A table that scrolls sideways where the page is narrow.

    Args:
        heads: the columns' titles.
        lines: of cells; scores may stand between the two of `BEST`.
        left: so many first columns are text, the others scores.
    """

    def cell(tag: str, number: int, inner: str) -> str:
        side = "left" if number < left else "right"
        if tag == "th":
            return f'<th scope="col" style="text-align:{side};vertical-align:bottom;{_CELL}">{inner}</th>'
        return f'<td style="text-align:{side};white-space:nowrap;{_CELL}">{inner}</td>'

    head = "".join(cell("th", number, escape(text, 80)) for number, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', n, escape(t, 80) if n < left else _score(t)) for n, t in enumerate(line))}</tr>"
        for line in lines
    )
    table = f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div style="overflow-x:auto" tabindex="0">{table}</div>'


def lines_html(lines: Sequence[str], *, small: bool = False) -> str:
    """Sentences, a line each."""
    size = "font-size:.85em;" if small else ""
    return "".join(f'<div style="{size}margin:.3em 0;max-width:60em">{escape(line)}</div>' for line in lines)


def notes_html(notes: Sequence[str]) -> str:
    """What must be read with a table; many notes are folded."""
    if len(notes) <= MOST_OPEN:
        return lines_html(notes, small=True)
    rest = lines_html(notes[1:], small=True)
    summary = f'<summary style="font-size:.85em;cursor:pointer">{len(notes) - 1} notes</summary>'
    return f"{lines_html(notes[:1], small=True)}<details>{summary}{rest}</details>"


def box(*parts: str) -> str:
    """What one result shows."""
    return f'<div class="evalkit">{"".join(parts)}</div>'


def result_html(table: ResultTable) -> str:
    """The wide table: what is best first, then scores with their errors and marks, then what must be read with it."""
    heads, _ = table.grid
    titles = [*heads, *(column.title for column in table.columns)]
    lines = table_lines(table, BEST)
    best = {cell for column in table.columns for cell in column.best}
    by_best = sorted(range(len(lines)), key=lambda number: table.cells[number] not in best)
    chosen = sorted(by_best[:MOST_CELLS])
    above = sentences(table)
    if table.gate is not None:
        above.append(f"Gate: {table.gate.get('status', 'unknown')}.")
    footnotes = table.footnotes()
    notes = [BOLD if best else "± standard errors, or [95 % intervals]."]
    if len(lines) > MOST_CELLS:
        notes.append(f"... {len(lines) - MOST_CELLS:,} more of {len(lines):,} cells: .rows and .to_frame() have all")
    notes += footnotes[:MOST_NOTES]
    if len(footnotes) > MOST_NOTES:
        notes.append(f"... {len(footnotes) - MOST_NOTES} more notes: .footnotes() has all")
    shown = table_html(titles, [lines[number] for number in chosen], left=len(heads))
    return box(lines_html(above), shown, notes_html(notes))
