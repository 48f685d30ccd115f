"""board.html and the board.json next to it: a page that stands by itself, asks for nothing and sends nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evalkit.history.board import Board, Entry
from evalkit.history.html import digest, environment
from evalkit.history.registry import Registry
from evalkit.report.page import palette
from evalkit.results.render import format_value
from evalkit.results.stats import REACH
from evalkit.results.table import ARROW, COSTS
from evalkit.utils.files import write_json, write_text

TEMPLATES = Path(__file__).parent / "templates"
MOST_LINES = 100  # of a table on the page; the JSON has all
SCHEMA = 1  # of board.json
WIDTH, EDGE = 120, 6  # of the small plot of an interval


def write_board(registry: Registry, boards: Sequence[Board], out: Path, title: str) -> tuple[Path, Path]:
    """Writes the page and the JSON next to it, each whole or not at all; returns both paths."""
    data = {
        "schema": SCHEMA,
        "title": title,
        "runs": [run.to_json() for run in registry.runs],
        "passed_over": list(registry.passed_over),
        "boards": [board.to_json() for board in boards],
    }
    beside = out.with_suffix(".json")
    write_json(beside, data)
    write_text(out, make_page(registry, boards, out, title))
    return out, beside


def page_css() -> str:
    """What pages over many runs look like, as CSS."""
    return palette() + (TEMPLATES / "board.css").read_text(encoding="utf-8")


def make_page(registry: Registry, boards: Sequence[Board], out: Path, title: str) -> str:
    """The page's HTML; links to the runs' reports are relative to `out`."""
    js = (TEMPLATES / "board.js").read_text(encoding="utf-8")
    metrics: dict[str, list[dict[str, Any]]] = {}
    for board in boards:
        metrics.setdefault(board.metric, []).append(_shown(board, out.absolute().parent))
    context = {
        "title": title,
        "css": page_css(),
        "js": js,
        "script_digest": digest(js),
        "metrics": [
            {"name": name, "id": f"metric-{number}", "boards": shown, "cost": name in COSTS, **_heading(shown[0])}
            for number, (name, shown) in enumerate(metrics.items())
        ],
        "runs": registry.runs,
        "passed_over": registry.passed_over,
        "json_name": out.with_suffix(".json").name,
    }
    return environment(TEMPLATES).get_template("board.html").render(context)


def _heading(shown: dict[str, Any]) -> dict[str, str]:
    board: Board = shown["board"]
    return {"label": board.label, "title": f"{board.label} {ARROW[board.better]}"}


def _shown(board: Board, folder: Path) -> dict[str, Any]:
    """A board and its lines as the template shows them."""
    entries = board.entries[:MOST_LINES]
    ends = [_ends(entry) for entry in entries]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    spread = high - low or 1.0

    def at(value: float) -> str:
        return f"{EDGE + (WIDTH - 2 * EDGE) * (value - low) / spread:.1f}"

    lines = []
    rank_before: int | None = None
    for entry, (left, right) in zip(entries, ends, strict=True):
        row = entry.row
        value = row.value or 0.0
        text, _, error = format_value(row.value, row.stderr).partition(" ± ")
        report = entry.run.path.with_name("report.html")
        lines.append(
            {
                "entry": entry,
                "row": row,
                "text": text,
                "error": error,
                "settings": ", ".join(f"{key.rpartition('.')[2]} {_plain(v)}" for key, v in row.settings.items()),
                "plot": {"low": at(left), "high": at(right), "at": at(value)},
                "new_group": entry.rank is not None and rank_before not in (None, entry.rank),
                "commit": str(entry.run.made.get("git") or "")[:10],
                "report": quote(os.path.relpath(report, folder)) if report.is_file() else None,
            }
        )
        rank_before = entry.rank if entry.rank is not None else rank_before
    return {"board": board, "lines": lines, "width": WIDTH, "rest": len(board.entries) - len(entries)}


def _ends(entry: Entry) -> tuple[float, float]:
    row, value = entry.row, entry.row.value or 0.0
    if row.low is not None and row.high is not None:
        return row.low, row.high
    reach = REACH * (row.stderr or 0.0)
    return value - reach, value + reach


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
