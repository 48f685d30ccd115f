"""Reads CSV, TSV, JSON and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError


def parse_table(file: Path, data: bytes, delimiter: str = "auto") -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV, TSV or JSONL table with their line numbers (from 1); columns are checked by the caller.

    Args:
        file: what errors call it, and its suffix; it need not be a file (it may lie in an archive).
        data: its bytes.
        delimiter: "auto" goes by the suffix, then by the first line; or "jsonl", or one character.

    Raises:
        DataError: not UTF-8, a row with another number of cells than the header, a line that is not a JSON object.
    """
    text = decode_text(file, data)
    kind = _delimiter(file, text, delimiter)
    return _json_rows(file, text) if kind == "jsonl" else _delimited_rows(file, text, kind)


def _delimiter(file: Path, text: str, asked: str) -> str:
    if asked != "auto":
        if asked != "jsonl" and len(asked) != 1:
            raise ConfigError(f"prompts: delimiter={asked!r}: give auto, jsonl or one character such as ','")
        return asked
    by_suffix = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    if file.suffix.lower() in by_suffix:
        return by_suffix[file.suffix.lower()]
    first = next((line for line in text.splitlines() if line.strip()), "")
    return "jsonl" if first.lstrip().startswith("{") else "\t" if "\t" in first else ","


def _delimited_rows(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=delimiter != "\t")
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells or cells == [""]:
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    raise DataError(f"{file}:{reader.line_num}: two columns are called '{twice[0]}'")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{file}:{reader.line_num}: {len(cells)} cells where the header has {len(header)}: "
                    "quote cells that hold the delimiter or a quote, or name another delimiter"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not a table: {error}") from error


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would split at U+2028 inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}:{number}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(row, dict):
            raise DataError(f'{file}:{number}: a JSON object such as {{"prompt": ...}} is needed, not {line[:40]!r}')
        yield number, row


def decode_text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8") from None
