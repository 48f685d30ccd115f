"""The CSV files of a run: written so that no spreadsheet runs a cell, and read back exactly, line by line."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.utils.csv_cells import restored as restored
from evalkit.utils.csv_cells import safe as safe
from evalkit.utils.files import atomic_path
from evalkit.utils.text import one_line

SAMPLE_HEADS = ("cell", "index", "file", "prompt", "category")  # of samples.csv, before the metrics
CLUSTER = "cluster"  # of samples.csv, after them: a cluster's id in hex; blank where a sample is its own


def to_csv(lines: Iterable[Sequence[Any]]) -> str:
    """Lines of cells as CSV."""
    return "".join(_texts(lines))


def write_csv(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """Writes lines of cells, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_texts(lines))  # line by line: samples.csv may have millions


def _texts(lines: Iterable[Sequence[Any]]) -> Iterator[str]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # so that cells with either are quoted
    for line in lines:
        writer.writerow([safe(cell) for cell in line])
        yield out.getvalue().removesuffix("\r\n") + "\n"
        out.seek(0)
        out.truncate()


def read_heads(path: Path) -> list[str]:
    """The header's names; none of an empty file."""
    with _open(path) as file:
        return [restored(head) for head in next(_reader(path, file), (1, []))[1]]


def read_columns(path: Path, heads: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The named columns of each line, with the line's number.

    Raises:
        DataError: a column is missing, a line is cut off, or it is no CSV (which line).
        OSError: the file cannot be read.
    """
    with _open(path) as file:
        lines = _reader(path, file)
        first = [restored(head) for head in next(lines, (1, []))[1]]
        if missing := [head for head in heads if head not in first]:
            raise DataError(f"{path}: it has no column '{missing[0]}'")
        places = [first.index(head) for head in heads]
        for number, line in lines:
            if len(line) != len(first):
                raise DataError(f"{path}:{number}: {len(line)} cells where the header has {len(first)}: it is cut off")
            yield number, [restored(line[place]) for place in places]


def number(text: str, where: str) -> float:
    """A cell's number; NaN of an empty one.

    Raises:
        DataError: it is none, or not finite.
    """
    try:
        value = float(text) if text else 0.0
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise DataError(f"{where} is no number: {one_line(repr(text), 40)}")
    return value if text else math.nan


def cluster_text(cluster: int) -> str:
    """A sample's cluster (`evalkit.metric.cluster_ids`) as samples.csv has it."""
    return f"{cluster:015x}" if cluster >= 0 else ""


def cluster_id(text: str, index: int, where: str) -> int:
    """The cluster of the sample at `index`, from samples.csv's text.

    Raises:
        DataError: it is none.
    """
    if not text:
        return -1 - index
    if not re.fullmatch("[0-9a-f]{15}", text):
        raise DataError(f"{where} is no cluster's id of 15 hex digits: {one_line(repr(text), 40)}")
    return int(text, 16)


def _open(path: Path) -> Any:
    return path.open(encoding="utf-8", errors="replace", newline="")


def _reader(path: Path, file: Any) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # prompts may be long
    reader = csv.reader(file, strict=True)
    try:
        for line in reader:
            if line:
                yield reader.line_num, line
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a CSV: {one_line(error)}") from None
