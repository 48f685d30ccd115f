"""The result table: tidy rows with a schema version; everything that is printed or written derives from them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.paths import write_json, write_text

if TYPE_CHECKING:
    import pandas
    import rich.table

SCHEMA = 1
MISSING = "–"
ARROW = {"lower": "↓", "higher": "↑"}
_SHORT = {"num_inference_steps": "steps", "guidance_scale": "guidance"}


@dataclass(frozen=True)
class Row:
    """One score of one cell.

    Attributes:
        cell, model, sampler, prompts, settings, seed: which cell it is of.
        metric, label: the metric's name in the configuration, and as a reader sees it ("FID [digits]").
        value, stderr, n: the score; a missing value has a `note` that says why.
        better: "lower" or "higher".
        protocol, protocol_hash: what the value rests on; scores of different protocols are never ranked together.
        details: further figures of the same computation.
    """

    cell: str
    model: str
    sampler: str | None
    prompts: str | None
    settings: Mapping[str, Any]
    seed: int
    metric: str
    label: str
    value: float | None
    stderr: float | None
    n: int
    better: str
    protocol: Mapping[str, Any]
    protocol_hash: str
    details: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Column:
    """A metric's column of the wide table: its title, and its row by cell."""

    metric: str
    title: str
    rows: Mapping[str, Row]

    @cached_property
    def best(self) -> set[str]:
        """The cells with the best value among those of the same protocol (where at least two share it)."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows.values():
            if row.value is not None and math.isfinite(row.value):
                groups.setdefault(row.protocol_hash, []).append(row)
        best: set[str] = set()
        for rows in groups.values():
            values = [row.value for row in rows if row.value is not None]
            extreme = min(values) if rows[0].better == "lower" else max(values)
            best |= {row.cell for row in rows if row.value == extreme and len(rows) > 1}
        return best

    @cached_property
    def odd(self) -> set[str]:
        """The cells whose protocol is not the column's most common one: their values stand apart."""
        hashes = [row.protocol_hash for row in self.rows.values() if row.value is not None]
        if len(set(hashes)) < 2:
            return set()
        common = max(set(hashes), key=lambda h: (hashes.count(h), -hashes.index(h)))
        return {cell for cell, row in self.rows.items() if row.value is not None and row.protocol_hash != common}


@dataclass(frozen=True)
class ResultTable:
    """All scores of a run.

    Attributes:
        run: how it was made (name, command, versions, device, timings; JSON values).
        rows: one a cell and metric, in the order of the grid and of the metrics.
        notes: what a reader must know of the run as a whole (blanked images, truncated prompts, ...).
    """

    run: Mapping[str, Any]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    schema: int = SCHEMA

    @cached_property
    def cells(self) -> list[str]:
        return list(dict.fromkeys(row.cell for row in self.rows))

    @cached_property
    def columns(self) -> list[Column]:
        by_metric: dict[str, list[Row]] = {}
        for row in self.rows:
            by_metric.setdefault(row.metric, []).append(row)
        return [
            Column(metric, f"{rows[0].label} {ARROW[rows[0].better]}", {row.cell: row for row in rows})
            for metric, rows in by_metric.items()
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "run": dict(self.run),
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
        }

    @classmethod
    def load(cls, path: Path) -> ResultTable:
        """Reads a results.json.

        Raises:
            DataError: not a results.json, or of a schema that this version does not know.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            schema = data["schema"]
            if schema != SCHEMA:
                raise DataError(f"{path}: schema {schema} is not known here (known: {SCHEMA}); use a matching evalkit")
            return cls(data["run"], tuple(Row(**row) for row in data["rows"]), tuple(data.get("notes", ())))
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a results.json of evalkit ({error})") from error

    def to_frame(self) -> pandas.DataFrame:
        """The tidy rows as a pandas frame: one line a cell and metric."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self.rows])

    def value(self, cell: str, metric: str) -> float | None:
        """The value of a cell's metric (`KeyError` where there is no such row)."""
        for row in self.rows:
            if row.cell == cell and row.metric == metric:
                return row.value
        raise KeyError((cell, metric))

    @cached_property
    def grid(self) -> tuple[list[str], list[list[str]]]:
        """The leading columns that tell cells apart: headings, and one line a cell."""
        first = {cell: next(row for row in self.rows if row.cell == cell) for cell in self.cells}
        heads, lines = ["model"], [[row.model] for row in first.values()]

        def add(head: str, values: Sequence[Any], always: bool = False) -> None:
            if always or len({str(v) for v in values}) > 1:
                heads.append(head)
                for line, value in zip(lines, values, strict=True):
                    line.append(_setting(value))

        rows = list(first.values())
        add("sampler", [row.sampler for row in rows], any(row.sampler for row in rows))
        for name in dict.fromkeys(name for row in rows for name in row.settings):
            short = _SHORT.get(name, name.rpartition(".")[2])
            add(short, [row.settings.get(name) for row in rows], name == "num_inference_steps")
        if len({row.prompts for row in rows if row.prompts}) > 1:
            add("prompts", [row.prompts for row in rows])
        add("seed", [row.seed for row in rows])
        add("N", [max(r.n for r in self.rows if r.cell == cell) for cell in self.cells], True)
        return heads, lines

    def footnotes(self) -> list[str]:
        """What must be read with the table: protocols that differ, values that are missing, the run's notes."""
        lines: list[str] = []
        for column in self.columns:
            common = next((r for c, r in column.rows.items() if r.value is not None and c not in column.odd), None)
            for cell in sorted(column.odd):
                differs = _difference(column.rows[cell].protocol, common.protocol if common else {})
                lines.append(f"† {column.title[:-2]} of {cell} is not comparable with the others: {differs}.")
            said: dict[tuple[str, str], list[str]] = {}
            for cell, row in column.rows.items():
                if row.value is None:
                    said.setdefault((f"{MISSING} ", row.note or "no value"), []).append(cell)
                elif row.note:
                    said.setdefault(("", row.note), []).append(cell)
            lines += [f"{mark}{column.title[:-2]}: {note} ({', '.join(c)})." for (mark, note), c in said.items()]
        return [*lines, *self.notes]


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_value(value: float | None, stderr: float | None = None) -> str:
    """A value in about four significant digits, with its standard error where there is one."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = max(abs(value), 1e-12)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    text = f"{value:.{digits}f}"
    return text if stderr is None else f"{text} ± {stderr:.{digits}f}"


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What differs between two protocols, in one line."""
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    names = [name for name in dict.fromkeys([*flat_a, *flat_b]) if flat_a.get(name) != flat_b.get(name)]
    return (
        "; ".join(f"{name} is {flat_a.get(name)}, not {flat_b.get(name)}" for name in names) or "the protocols differ"
    )


def _flat(node: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _lines(table: ResultTable, mark: tuple[str, str]) -> list[list[str]]:
    """The wide table's lines as text; best values stand between the two marks, values that stand apart get a dagger."""
    _, leading = table.grid
    lines = []
    for cell, lead in zip(table.cells, leading, strict=True):
        line = list(lead)
        for column in table.columns:
            row = column.rows.get(cell)
            text = format_value(row.value, row.stderr) if row else MISSING
            if cell in column.best:
                text = f"{mark[0]}{text}{mark[1]}"
            line.append(text + (" †" if cell in column.odd else ""))
        lines.append(line)
    return lines


def to_markdown(table: ResultTable) -> str:
    """The wide table as GitHub Markdown; the best value of each column is bold."""
    heads, _ = table.grid
    titles = [*heads, *(column.title for column in table.columns)]
    rule = ["---"] * len(heads) + ["---:"] * len(table.columns)
    lines = [titles, rule, *_lines(table, ("**", "**"))]
    text = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )
    notes = "".join(f"\n\n{note}" for note in table.footnotes())
    return f"{text}{notes}\n"


def to_csv(table: ResultTable) -> str:
    """The wide table as CSV, with full precision, standard errors and protocol hashes."""
    heads, leading = table.grid
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metric_heads = [h for c in table.columns for h in (c.metric, f"{c.metric}.stderr", f"{c.metric}.protocol")]
    writer.writerow(["cell", *heads, *metric_heads])
    for cell, lead in zip(table.cells, leading, strict=True):
        line: list[Any] = [cell, *("" if value == MISSING else value for value in lead)]
        for column in table.columns:
            row = column.rows.get(cell)
            line += [row.value, row.stderr, row.protocol_hash] if row else [None, None, None]
        writer.writerow(line)
    return out.getvalue()


_TEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
_TEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
_TEX |= {"±": r"$\pm$", "†": r"$^\dagger$", "–": "--"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text)


def to_latex(table: ResultTable) -> str:
    """The wide table for LaTeX with booktabs; the best value of each column is bold."""
    heads, _ = table.grid
    titles = " & ".join(_tex(t) for t in [*heads, *(column.title for column in table.columns)])
    body = [
        " & ".join(_tex(cell).replace("\x01", r"\textbf{").replace("\x02", "}") for cell in line) + r" \\"
        for line in _lines(table, ("\x01", "\x02"))
    ]
    spec = "l" * len(heads) + "r" * len(table.columns)
    notes = "".join(f"% {note}\n" for note in table.footnotes())
    return "\n".join(
        [
            "% \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            titles + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            notes,
        ]
    )


def to_rich(table: ResultTable) -> rich.table.Table:
    """The wide table for the terminal; the best value of each column is bold green."""
    from rich.table import Table
    from rich.text import Text

    heads, _ = table.grid
    view = Table(title=str(table.run.get("name", "")), title_justify="left", header_style="bold", show_lines=False)
    for head in heads:
        view.add_column(head, overflow="fold")
    for column in table.columns:
        view.add_column(Text(column.title), justify="right", overflow="fold")  # Text: "[digits]" is no markup
    previous = None
    for line in _lines(table, ("\x01", "\x02")):
        if previous is not None and line[0] != previous:
            view.add_section()
        previous = line[0]
        texts = [
            Text(cell.replace("\x01", "").replace("\x02", ""), style="bold green" if "\x01" in cell else "")
            for cell in line
        ]
        view.add_row(*texts)
    return view


def write(table: ResultTable, out: Path) -> None:
    """Writes results.json, table.md, table.csv and table.tex into `out`, each whole or not at all."""
    write_text(out / "table.md", to_markdown(table))
    write_text(out / "table.csv", to_csv(table))
    write_text(out / "table.tex", to_latex(table))
    write_json(out / "results.json", table.to_json())
