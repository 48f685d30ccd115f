"""Reads CSV, TSV and JSON Lines, and tells these and JSON apart."""

from __future__ import annotations

import bisect
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.utils.json_files import parse_json

_LINE_ENDS = re.compile(r"\r\n|\r|\n")
# A quoted cell, whose inner quotes are doubled, or any other; the possessive ones never try a shorter match.
_CELL = re.compile(r'"((?:[^"]++|"")*+)"(?=[\t\r\n]|\Z)|([^\t\r\n]*+)')
_BY_SUFFIX = {
    **{".csv": ",", ".tsv": "\t", ".tab": "\t"},
    **{".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"},
}


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end at \n, \r\n or \r alone: U+2028, U+0085 and form feeds stand within texts."""
    return _LINE_ENDS.split(text)


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
    kind = table_kind(file, text, delimiter)
    if kind == "json":
        raise DataError(f"{file}: one JSON value, where rows are needed: write an object per line (.jsonl), or a .csv")
    if kind == "jsonl":
        return _json_rows(file, text)
    return _tab_rows(file, text) if kind == "\t" else _delimited_rows(file, text, kind)


def table_kind(file: Path, text: str, asked: str = "auto") -> str:
    """What a table is: "json" (one value), "jsonl" (one per line), or the character between its cells.

    Raises:
        ConfigError: `asked` is none of these, nor "auto".
    """
    if asked not in ("auto", "json", "jsonl"):
        if len(asked) != 1:
            raise ConfigError(f"prompts: delimiter={asked!r}: give auto, json, jsonl or one character such as ','")
        return asked
    lines = [line for line in lines_of(text) if line.strip()]
    first = lines[0].strip() if lines else ""
    kind = _BY_SUFFIX.get(file.suffix.lower()) if asked == "auto" else asked
    if kind is None and first.startswith(("{", "[")):
        return "jsonl" if len(lines) > 1 and _is_object(first) else "json"
    if kind == "json" and asked == "auto" and len(lines) > 1 and _is_object(first):
        return "jsonl"  # by its suffix it is one value, but it is many
    return kind or ("\t" if "\t" in first else ",")


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(parse_json(line, ""), dict)
    except DataError:
        return False


def _delimited_rows(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells or cells == [""]:
                continue
            if header is None:
                header = _header(f"{file}:{reader.line_num}", cells)
                continue
            yield reader.line_num, _row(f"{file}:{reader.line_num}", header, cells)
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not a table: {error}") from error


def _tab_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a TSV, of which there are two kinds in use: quoted as CSV is (pandas), and not at all (PartiPrompts).

    So quotes count only where a cell starts and ends with one and inner ones are doubled; and a quoted cell goes on
    over line ends only where that makes a row of the header's width, which the lines by themselves do not.
    """
    lines = lines_of(text)
    starts = [0, *(match.end() for match in _LINE_ENDS.finditer(text))]
    header: list[str] | None = None
    number = 0  # of the line
    while number < len(lines):
        line, start = lines[number], starts[number]
        number += 1
        if not line.strip():
            continue
        if header is None:
            header = _header(f"{file}:{number}", _cells(line)[0])
            continue
        width = len(header)
        cells, end = _cells(text, start) if '"' in line else (line.split("\t"), start)
        after = bisect.bisect_right(starts, end)  # the number of the row's last line
        if after > number:
            alone = [_cells(inner)[0] for inner in lines[number - 1 : after]]
            if len(cells) == width and any(len(inner) != width for inner in alone):
                number = after
            else:
                cells = alone[0]
        if len(cells) != width and line.count("\t") + 1 == width:  # a tab that seemed to stand in quotes
            cells = [_cells(cell)[0][0] for cell in line.split("\t")]
        yield number, _row(f"{file}:{number}", header, cells)


def _cells(text: str, position: int = 0) -> tuple[list[str], int]:
    """The cells of the row that starts at a position, and where it ends."""
    cells: list[str] = []
    while match := _CELL.match(text, position):  # it matches anything
        cells.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        position = match.end() + 1
        if text[match.end() : position] != "\t":
            break
    return cells, position - 1


def _header(where: str, cells: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{where}: two columns are called '{twice[0]}'")
    return header


def _row(where: str, header: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise DataError(
            f"{where}: {len(cells)} cells where the header has {len(header)}: quote cells that hold the delimiter or a "
            "quote, or name another delimiter"
        )
    return dict(zip(header, cells, strict=True))


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{file}:{number}")
        if not isinstance(row, dict):
            raise DataError(f'{file}:{number}: a JSON object such as {{"prompt": ...}} is needed, not {line[:40]!r}')
        yield number, row


def decode_text(file: Path, data: bytes) -> str:
    """UTF-8, with or without a byte-order mark. DataError: it is not; the line is named."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(lines_of(data[: error.start].decode("utf-8", "replace")))
        raise DataError(f"{file}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8") from None
