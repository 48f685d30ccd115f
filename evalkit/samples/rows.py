"""The lines of a shard's metadata.jsonl: how they are written, and what is believed of them when they are read.

Each line ends with `check`, a digest of the cell's key and of the line before it: latencies, categories and warnings
are shown as results, and no line of another cell passes for one. Shards of evalkit 0.1.0 have none; of theirs the types
are checked. Of both, what was asked for is compared with the cell's prompts.

A line without warnings has no such key: of shards whose lists are all empty, next to others, Hugging Face's datasets
would make columns of two types, and refuse to load them together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.utils.files import sha256_bytes
from evalkit.utils.json_files import parse_json

if TYPE_CHECKING:
    from evalkit.models.base import Request

Row = Mapping[str, Any]

CHECK_DIGITS = 16  # hex digits of a line's digest
_TAIL = re.compile(r', "check": "([0-9a-f]+)"\}')
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_COLUMNS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "file_name": (_is_text, "a file's name"),
    "index": (_is_count, "a whole number >= 0"),
    "prompt": (_or_none(_is_text), "a text or null"),
    "negative_prompt": (_or_none(_is_text), "a text or null"),
    "category": (_or_none(_is_text), "a text or null"),
    "class_id": (_or_none(_is_count), "a whole number >= 0 or null"),
    "seed": (_is_count, "a whole number >= 0"),
    "warnings": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
    "latency_s": (_is_number, "a number >= 0"),
    "clock_s": (_or_none(_is_number), "a number >= 0 or null"),
    "batch": (lambda value: _is_count(value) and value > 0, "a whole number >= 1"),
    "load": (_is_number, "a number >= 0"),
    "others": (_is_number, "a number >= 0"),
    "beside": (lambda value: _is_count(value) and value > 1, "a whole number >= 2"),
    "warmup": (lambda value: isinstance(value, bool), "true or false"),
    "nfe": (_or_none(_is_number), "a number >= 0 or null"),
    "device": (_is_text, "a text"),
    "peak_memory_mb": (_or_none(_is_number), "a number >= 0 or null"),
    "sha256": (lambda value: _is_text(value) and _SHA256.fullmatch(value) is not None, "64 hex digits"),
    "width": (lambda value: _is_count(value) and value > 0, "a whole number >= 1"),
    "height": (lambda value: _is_count(value) and value > 0, "a whole number >= 1"),
    "measured_at": (_is_number, "a number >= 0"),
    "arrivals": (_is_text, "a text"),
    "scheduled_s": (_is_number, "a number >= 0"),
    "sent_s": (_is_number, "a number >= 0"),
    "answered_s": (_is_number, "a number >= 0"),
    "queued_s": (_is_number, "a number >= 0"),
    "failed": (_is_text, "a text"),
    "kept": (lambda value: value is False, "false"),
    "check": (_is_text, "a text"),
}
# Of services, and of those under load; of shards that this evalkit made; of images with warnings.
_OPTIONAL = {"clock_s", "check", "load", "others", "beside", "kept", "warnings"}
_OPTIONAL |= {"measured_at", "arrivals", "scheduled_s", "sent_s", "answered_s", "queued_s", "failed"}


def write_rows(rows: Sequence[Row], key: str) -> str:
    """The text of a metadata.jsonl of the cell with a key."""
    lines = ({name: value for name, value in row.items() if name != "warnings" or value} for row in rows)
    bodies = (json.dumps(line, ensure_ascii=False, allow_nan=False)[:-1] for line in lines)
    return "".join(f'{body}, "check": "{_check(key, body)}"}}\n' for body in bodies)


def read_rows(text: str, key: str | None) -> list[dict[str, Any]]:
    """The lines of a metadata.jsonl.

    Args:
        text: of the file.
        key: of the cell that it is to be of; none: whose they are is not looked at.

    Raises:
        DataError: a line is not what was written (which, and what is wrong with it).
    """
    rows: list[dict[str, Any]] = []
    checked = 0
    for number, line in enumerate(filter(None, text.split("\n")), start=1):
        tail = _TAIL.search(line, len(line) - len(', "check": ""}') - CHECK_DIGITS)
        if tail is not None and key is not None and tail[1] != _check(key, line[: tail.start()]):
            raise DataError(f"line {number} is not as it was written")
        row = parse_json(line, f"line {number}", finite=True)
        checked += tail is not None
        if checked not in (0, number):
            raise DataError(f"line {number} is not as it was written")
        if tail is None:  # what has its digest is what was written
            _check_types(row, number)
        rows.append({"warnings": [], **row})
    return rows


def check_asked(row: Row, request: Request) -> None:
    """Raises DataError where a sample was not made from what its cell asks for."""
    asked = {"prompt": request.prompt, "negative_prompt": request.negative_prompt, "seed": request.seed}
    if request.own_seed is not None:
        asked["seed"] = request.own_seed
    for name, value in {**asked, "class_id": request.class_id}.items():
        if row[name] != value:
            raise DataError(f"{name} of sample {request.index} is {row[name]!r}, but the cell asks for {value!r}")


def _check(key: str, body: str) -> str:
    return sha256_bytes(f"{key}\n{body}".encode())[:CHECK_DIGITS]


def _check_types(row: Any, number: int) -> None:
    if not isinstance(row, dict):
        raise DataError(f"line {number} is no JSON object")
    missing = next((name for name in _COLUMNS if name not in row and name not in _OPTIONAL), None)
    if missing is not None:
        raise DataError(f"line {number} has no {missing}")
    for name, value in row.items():
        if name not in _COLUMNS:
            raise DataError(f"line {number} has a key that no line has: {name!r}")
        is_right, wanted = _COLUMNS[name]
        if not is_right(value):
            raise DataError(f"line {number}: {name} is {str(value)[:40]!r}, not {wanted}")
    if row["file_name"] != f"{row['index']:06d}.png":
        raise DataError(f"line {number}: file_name is {row['file_name'][:40]!r}, not that of sample {row['index']}")
