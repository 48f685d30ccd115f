"""The result table as people read it: terminal, Markdown, CSV and LaTeX; and the comparisons."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evalkit.results import csv_files, pair_table
from evalkit.results.floor_text import NEAR, RUN, floor_text, is_within, verdict
from evalkit.results.table import MISSING, UNSURE, Comparison, ResultTable, Row
from evalkit.utils.files import write_json, write_text


def format_value(value: float | None, stderr: float | None = None) -> str:
    """A value in about four significant digits, with its standard error where there is one."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0 and stderr is None:
        return "0"
    size = max(abs(value), 1e-12)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    text = f"{value:.{digits}f}"
    return text if stderr is None else f"{text} ± {stderr:.{digits}f}"


def fine_value(value: float) -> str:
    """A value as `format_value` has it, but of one just below 1 (an SSIM) or above 0 how far it lies from there."""
    text = format_value(value)
    if 0.5 < value < 1:
        return f"1 − {1 - value:.1g}" if round(value, 4) == 1 else f"{value:.4f}"
    return text if not math.isfinite(value) or float(text) else f"{value:.1g}"


OFF_CENTRE = 0.2  # of its half width: how far a share's interval lies from its value before it stands in the table


def spread_text(row: Row) -> str:
    """How sure a score is: "± 0.021", its standard error; of a share near 0 or 1 its 95 % interval, "[0.964, 1.000]".

    Nothing where no error is known: also where nothing varied, for then none was seen.
    """
    if row.value is None or row.stderr is None:
        return ""
    text, _, error = format_value(row.value, row.stderr).partition(" ± ")
    if row.low is None or row.high is None:
        return f"± {error}" if row.stderr else ""
    half, centre = (row.high - row.low) / 2, (row.high + row.low) / 2
    if abs(centre - row.value) <= OFF_CENTRE * half:
        return f"± {error}"
    digits = len(text.partition(".")[2])
    return f"[{row.low:.{digits}f}, {row.high:.{digits}f}]"


def score_text(row: Row) -> str:
    """A score with how sure it is; of several seeds' mean also their spread."""
    text = f"{format_value(row.value)} {spread_text(row)}".rstrip()
    if row.seeds < 2 or row.value is None or "seed_sd" not in row.details:
        return text
    return f"{text} (seeds: {format_value(row.value, row.details['seed_sd']).partition(' ± ')[2]})"


def table_lines(table: ResultTable, mark: tuple[str, str]) -> list[list[str]]:
    """The wide table's lines as text; best values stand between the two marks, values that stand apart get a dagger,
    those of too little a double one."""
    _, leading = table.grid
    lines = []
    for cell, lead in zip(table.cells, leading, strict=True):
        line = list(lead)
        for column in table.columns:
            row = column.rows.get(cell)
            text = score_text(row) if row else MISSING
            if row is None or row.value is None:
                text = floor_text(table.run, cell, column.metric) or text
            if cell in column.best:
                text = f"{mark[0]}{text}{mark[1]}"
            marks = (" †" if cell in column.odd else "") + (f" {UNSURE}" if row is not None and row.unsure else "")
            marks += f" {NEAR}" if is_within(table.run, cell, column.metric) else ""
            line.append(text + marks)
        lines.append(line)
    return lines


def to_markdown(table: ResultTable) -> str:
    """The wide table as GitHub Markdown; the best value of each column is bold."""
    heads, _ = table.grid
    titles = [*heads, *(column.title for column in table.columns)]
    rule = ["---"] * len(heads) + ["---:"] * len(table.columns)
    lines = [titles, rule, *table_lines(table, ("**", "**"))]
    pairs = pair_table.pair_lines(table)
    dashes = ["---", "---", *["---:"] * (len(pair_table.HEADS) - 2)]
    below = ["Pairs:", _markdown([pair_table.HEADS, dashes, *pairs])] if pairs else []
    return "\n\n".join([_markdown(lines), *map(plain_markdown, table.footnotes()), *below]) + "\n"


def plain_markdown(text: str) -> str:
    """A text on one line of Markdown: nothing of it HTML, a link, an image or the end of a cell."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(str(text).split()))
    return text.replace("|", "\\|").replace("](", "]\\(").replace("![", "!\\[").replace("`", "\\`")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = (" | ".join(plain_markdown(cell) for cell in line) for line in lines)
    return "\n".join(f"| {row} |" for row in rows)


def to_csv(table: ResultTable) -> str:
    """The wide table as CSV, with full precision, standard errors and protocol hashes."""
    heads, leading = table.grid
    floor = (".noise_floor", ".against_floor") if RUN in table.run else ()
    of_metric = ("", ".stderr", ".low", ".high", ".protocol", *floor)
    metric_heads = [f"{column.metric}{name}" for column in table.columns for name in of_metric]
    lines: list[list[Any]] = [["cell", *heads, *metric_heads]]
    for cell, lead in zip(table.cells, leading, strict=True):
        line: list[Any] = [cell, *("" if value == MISSING else value for value in lead)]
        for column in table.columns:
            row = column.rows.get(cell)
            values = [row.value, row.stderr, row.low, row.high, row.protocol_hash] if row else []
            values += (
                [row.details.get(RUN), verdict(table.run, cell, column.metric)] if row and RUN in table.run else []
            )
            line += values or [None] * len(of_metric)
        lines.append(line)
    return csv_files.to_csv(lines)


_TEX = str.maketrans({char: f"\\{char}" for char in "_%&#${}"} | {"\\": r"\textbackslash{}"})
_TEX |= str.maketrans({"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$"})
_TEX |= str.maketrans({"±": r"$\pm$", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "–": "--", "≈": r"$\approx$"})


def to_latex(table: ResultTable) -> str:
    """The wide table for LaTeX with booktabs; the best value of each column is bold."""
    heads, _ = table.grid
    titles = " & ".join(t.translate(_TEX) for t in [*heads, *(column.title for column in table.columns)])
    body = [
        " & ".join(cell.translate(_TEX).replace("\x01", r"\textbf{").replace("\x02", "}") for cell in line) + r" \\"
        for line in table_lines(table, ("\x01", "\x02"))
    ]
    spec = "l" * len(heads) + "r" * len(table.columns)
    notes = "".join(f"% {note}\n" for note in table.footnotes())
    begin = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{spec}}}", r"\toprule", rf"{titles} \\", r"\midrule"]
    return "\n".join([*begin, *body, r"\bottomrule", r"\end{tabular}", notes])


COMPARISON_HEADS = ("metric", "cell", "baseline", "difference", "95 % interval", "p (Holm)", "verdict")


def comparison_lines(comparisons: Sequence[Comparison], titles: dict[str, str]) -> list[list[str]]:
    """A line per comparison: metric, cell, baseline, difference with its standard error, interval, p, verdict."""
    lines = []
    for c in comparisons:
        interval = MISSING if c.low is None or c.high is None else f"{signed(c.low)} .. {signed(c.high)}"
        p = MISSING if c.p_holm is None else "< 0.0001" if c.p_holm < 1e-4 else f"{c.p_holm:.4f}"
        spread = "" if c.stderr is None else f" ± {format_value(c.stderr)}"
        verdict = c.verdict or "no standard error"
        verdict = f"{verdict} (paired)" if c.paired else verdict
        title, gap = titles.get(c.metric, c.metric), f"{signed(c.difference)}{spread}"
        lines.append([title, c.cell, c.baseline, gap, interval, p, verdict])
    return lines


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{format_value(value)}" if value > 0 else format_value(value)


def comparisons_to_markdown(table: ResultTable) -> str:
    """All comparisons as GitHub Markdown."""
    titles = {column.metric: column.title for column in table.columns}
    lines = [list(COMPARISON_HEADS), ["---"] * len(COMPARISON_HEADS), *comparison_lines(table.comparisons, titles)]
    note = "Differences are cell less baseline; p is two-sided and Holm-corrected within each metric."
    return f"{_markdown(lines)}\n\n{note}\n"


def write(table: ResultTable, out: Path) -> None:
    """Writes results.json, table.md, table.csv, table.tex and comparison.md into `out`, each whole or not at all.

    Where there are pairs, pairs.csv too.
    """
    write_text(out / "table.md", to_markdown(table))
    write_text(out / "comparison.md", comparisons_to_markdown(table))
    write_text(out / "table.csv", to_csv(table))
    write_text(out / "table.tex", to_latex(table))
    if pair_table.pair_rows(table):
        write_text(out / "pairs.csv", pair_table.to_csv(table))
    write_json(out / "results.json", table.to_json())
