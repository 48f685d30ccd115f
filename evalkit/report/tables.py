"""The comparison table, the findings and the run's making, as the templates show them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run, short
from evalkit.report.summary import is_frechet
from evalkit.results import render
from evalkit.results.floor_text import floor_text, is_within
from evalkit.results.render import format_value, spread_text
from evalkit.results.table import MISSING, Column, ResultTable, Row, finite, group

PAGE = 25  # lines of the table at a time


@dataclass(frozen=True)
class Score:
    """One score: its text, its value to sort by, and its mark: "best", "tie" (not significantly worse), or "".

    `unsure`: measured on too little to be ranked. `step`: "better" or "worse" than in the previous run, where that is
    significant, and `since` what it is in words.
    """

    text: str
    stderr: str
    value: float | None
    mark: str
    apart: bool
    why: str
    unsure: bool = False
    step: str = ""
    since: str = ""
    near: bool = False  # within the baseline's own noise


@dataclass(frozen=True)
class Entry:
    """A cell's line: what it is, and its scores in the order of the columns."""

    cell: str
    leading: Sequence[str]
    scores: Sequence[Score]


@dataclass(frozen=True)
class TableView:
    """The wide table.

    Attributes:
        heads: of the leading columns.
        columns: with the hash of the protocol that most of a column's scores share.
        entries: one per cell.
        filters: by leading column that tells cells apart: its values.
        csv: the whole table, as a data URI.
        markdown, latex: the whole table.
        notes: what must be read with it.
        comparisons: a line each, as in comparison.md.
        shared: the leading columns in which no cells differ, with their one value: said once.
        order: by what the lines are ordered, where they are not in the run's order: a metric's title.
    """

    heads: Sequence[str]
    columns: Sequence[tuple[Column, str]]
    entries: Sequence[Entry]
    filters: Sequence[tuple[int, str, Sequence[str]]]
    csv: str
    markdown: str
    latex: str
    notes: Sequence[str]
    comparisons: Sequence[Sequence[str]]
    shared: Sequence[tuple[str, str]] = ()
    order: str = ""

    def script(self, keys: Mapping[str, str]) -> list[dict[str, Any]]:
        """What the page's script sorts, filters and pages by: a line's place and leading texts, then its values."""
        return [
            {
                "key": keys[entry.cell],
                "find": f"{keys[entry.cell]} {short(entry.cell, 400)} {' '.join(entry.leading)}".lower(),
                "values": [place, *(short(text, 200) for text in entry.leading), *(s.value for s in entry.scores)],
                "apart": [i + len(entry.leading) + 1 for i, score in enumerate(entry.scores) if score.apart],
            }
            for place, entry in enumerate(self.entries)
        ]


def make_table(run: Run) -> TableView:
    table = run.table
    heads, leading, shared = _leading(run)
    columns = [column for column in table.columns if not column.is_cost]
    columns += [column for column in table.columns if column.is_cost and any(map(finite, column.rows.values()))]
    best = {column.metric: _first(column) for column in columns}
    entries = [
        Entry(cell, lead, [_score(run, column, cell, best[column.metric]) for column in columns])
        for cell, lead in zip(table.cells, leading, strict=True)
    ]
    order = main_column(table) if len(entries) > PAGE else None
    if order is not None:  # the first page of many is of the best
        places = {row.cell: place for place, row in enumerate(order.ranked)}
        entries.sort(key=lambda entry: places.get(entry.cell, len(places)))
    filters = []
    for place, head in enumerate(heads):
        values = sorted({lead[place] for lead in leading}, key=_by_number)
        if head != "N" and 1 < len(values) <= 40:
            filters.append((place, head, values))
    titles = {column.metric: column.title for column in table.columns}
    csv = base64.b64encode(render.to_csv(table).encode(errors="replace")).decode()  # a lone surrogate has no bytes
    hashed = [(column, _common_hash(column)) for column in columns]
    files = (f"data:text/csv;base64,{csv}", render.to_markdown(table), render.to_latex(table))
    comparisons = render.comparison_lines(table.comparisons, titles)
    title = order.title if order else ""
    return TableView(heads, hashed, entries, filters, *files, table.footnotes(), comparisons, shared, title)


def _leading(run: Run) -> tuple[list[str], list[list[str]], list[tuple[str, str]]]:
    """The leading columns: headings and lines of those in which cells differ, and the others with their one value."""
    heads, lines = run.table.grid
    differ = [len(lines) == 1 or len({line[place] for line in lines}) > 1 for place in range(len(heads))]
    shared = [(head, lines[0][place]) for place, head in enumerate(heads) if not differ[place]]
    kept = [[text for text, differs in zip(line, differ, strict=True) if differs] for line in lines]
    return [head for head, differs in zip(heads, differ, strict=True) if differs], kept, shared


def main_column(table: ResultTable) -> Column | None:
    """What stands for quality: the first Frechet distance, else the first metric that has a value."""
    columns = [c for c in table.columns if not c.is_cost and any(map(finite, c.rows.values()))]
    frechet = [c for c in columns if any(is_frechet(row) for row in c.rows.values())]
    return next(iter(frechet or columns), None)


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _first(column: Column) -> set[str]:
    """The best cell of each protocol that ranks two cells or more."""
    firsts = set()
    for rows in _by_protocol(column.rows.values()).values():
        if len(rows) > 1:
            top = next(iter(Column(column.metric, {row.cell: row for row in rows}).ranked), None)
            firsts |= {row.cell for row in rows if top and row.value == top.value and row.cell in column.best}
    return firsts


def _by_protocol(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """By protocol hash the rows that have a value."""
    return group(filter(finite, rows), lambda row: row.protocol_hash)


def _score(run: Run, column: Column, cell: str, best: set[str]) -> Score:
    row, previous = column.rows.get(cell), run.previous
    if row is None or not finite(row):
        text = floor_text(run.table.run, cell, column.metric) or MISSING
        return Score(text, "", None, "", False, short((row.note if row else None) or "no value", 200))
    text, spread = format_value(row.value), spread_text(row)
    mark = "best" if cell in best else "tie" if cell in column.best else ""
    step = previous.steps.get((cell, column.metric))
    since = short(step.text, 300) if step is not None and step.new == row.value else ""
    went = step.verdict if step is not None and since and step.verdict in ("better", "worse") else ""
    why = short(row.note or "", 200)
    near = is_within(run.table.run, cell, column.metric)
    return Score(text, spread, row.value, mark, cell in column.odd, why, row.unsure, went, since, near)


def _common_hash(column: Column) -> str:
    known = [row for cell, row in column.rows.items() if finite(row) and cell not in column.odd]
    return known[0].protocol_hash if known else ""


def protocols(run: Run) -> list[dict[str, Any]]:
    """Every protocol of the table's values, in full, with the metrics and cells that share it."""
    protocols = []
    for key, rows in _by_protocol(run.table.rows).items():
        labels, cells = dict.fromkeys(row.label for row in rows), dict.fromkeys(run.keys[row.cell] for row in rows)
        text = to_yaml(rows[0].protocol)
        protocols.append({"hash": short(key, 40), "labels": list(labels), "cells": list(cells), "text": text})
    return protocols


def to_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True, width=120))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def make_provenance(run: Run) -> dict[str, Any]:
    """How the run was made: (name, value) lines, and the long texts."""
    about = run.table.run
    config = about.get("config")
    devices = {str(row.protocol["device"]) for row in run.table.rows if isinstance(row.protocol.get("device"), str)}
    asked = str(config.get("device", "")) if isinstance(config, Mapping) else ""
    facts = [("samples made on", ", ".join(sorted(devices))), ("device asked for", asked)]
    facts += [(name, str(about.get(name.lower()) or "")) for name in ("platform", "Python", "store")]
    keys, pairing = about.get("cells") or {}, about.get("pairing") or {}
    cells = [  # key letters, name, sample key, seed, N, pairing
        (run.keys[c], c, str(keys.get(c, ""))[:8], rows[0].seed, max(r.n for r in rows), str(pairing.get(c, "")))
        for c, rows in run.table.rows_by_cell.items()
    ]
    versions, seconds = (v if isinstance(v := about.get(name), Mapping) else {} for name in ("versions", "seconds"))
    return {
        "command": str(about.get("command") or ""),
        "facts": [(name, value) for name, value in facts if value],
        "versions": [(str(k), str(v)) for k, v in versions.items()],
        "seconds": [(str(k), f"{v:.1f} s" if isinstance(v, (int, float)) else str(v)) for k, v in seconds.items()],
        "cells": cells,
        "config": to_yaml(config) if isinstance(config, Mapping) else "",
        "protocols": protocols(run),
    }


@dataclass(frozen=True)
class GateView:
    """The gate's verdict: its status, how many results have which, and the results, those that do not pass first."""

    status: str
    counts: Sequence[tuple[str, int]]
    results: Sequence[Mapping[str, str]]
    notes: Sequence[str]


_ORDER = ("fail", "inconclusive", "waived", "pass")


def make_gate(run: Run) -> GateView | None:
    gate = run.table.gate
    if gate is None:
        return None
    judged = [_result(run, r) for r in gate.get("results") or () if isinstance(r, Mapping)]
    statuses = [result["status"] for result in judged]
    known = sorted(set(statuses), key=lambda s: (_ORDER.index(s) if s in _ORDER else len(_ORDER), s))
    notes = [str(note) for note in gate.get("notes") or ()]
    results = sorted(judged, key=lambda result: known.index(result["status"]))
    return GateView(str(gate.get("status", "unknown")), [(s, statuses.count(s)) for s in known], results, notes)


def _result(run: Run, result: Mapping[str, Any]) -> dict[str, str]:
    """One result as text; nothing is taken for granted of an earlier version's results.json."""
    waived, needed = result.get("waived"), result.get("needed_n")
    reasons = [str(result.get("reason") or "")]
    if needed:
        reasons.append(f"About {needed} samples per cell would decide it.")
    if isinstance(waived, Mapping):
        reasons.append(f"Waived until {waived.get('until', '?')}: {waived.get('reason', '')}")
    plain = f"{result.get('kind') or ''} {_number(result.get('limit'))}".strip()
    return {
        "cell": str(result.get("cell") or "the run"),
        "key": run.keys.get(str(result.get("cell")), ""),
        "metric": str(result.get("label") or result.get("metric") or ""),
        "rule": str(result.get("rule") or plain),
        "value": format_value(*_pair(result)),
        "status": "waived" if waived else str(result.get("status", "")),
        "reason": " ".join(part for part in reasons if part),
    }


def _pair(result: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The score and its standard error (of `no_worse_than` it is the difference's, which its reason gives)."""
    numbers = (result.get("value"), result.get("stderr") if result.get("kind") in ("max", "min") else None)
    value, stderr = (float(number) if isinstance(number, (int, float)) else None for number in numbers)
    return value, stderr


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "" if value is None else str(value)


def _count(count: Any, of: Any) -> str:
    """Such as "3 of 64"; more than there are images are no images (prompts that are missing, say)."""
    share = all(isinstance(number, (int, float)) for number in (count, of)) and count <= of
    return f"{_number(count)} of {_number(of)}" if share else _number(count)


def make_findings(run: Run) -> list[dict[str, Any]]:
    """What the lint found, the most severe first."""
    order = ("error", "warning", "note")
    names = ("severity", "kind", "where", "message", "effect")
    findings = [
        {name: str(finding.get(name, "")) for name in names}
        | {"count": _count(finding.get("count"), finding.get("of"))}
        | {"files": [str(file) for file in finding.get("files") or ()]}
        for finding in run.table.lint
    ]
    return sorted(findings, key=lambda f: order.index(f["severity"]) if f["severity"] in order else len(order))
