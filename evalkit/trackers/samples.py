"""A table of single samples for trackers: prompt, picture and scores of those that the report shows side by side."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.results import thumbnails
from evalkit.results.csv_files import CLUSTER, SAMPLE_HEADS, number, read_columns, read_heads
from evalkit.trackers.base import FinishedRun

HEADS = ("cell", "index", "prompt", "category")


@dataclass(frozen=True)
class SampleTable:
    """Samples with their pictures.

    Attributes:
        heads: of the lines: `HEADS`, then the metrics of single samples.
        lines: one per sample, numbers as numbers, none where a score is missing.
        pictures: by line its picture as WebP.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[Any]]
    pictures: Sequence[bytes]


def sample_table(run: FinishedRun) -> SampleTable | None:
    """From the run's samples.csv and thumbnails.json; none where one of them is not there or cannot be read."""
    try:
        return _read(run)
    except (OSError, DataError, ValueError, LookupError, TypeError):
        return None


def _read(run: FinishedRun) -> SampleTable | None:
    path, cells = run.folder / "samples.csv", set(run.table.cells)
    shown = {key: one for key, one in thumbnails.read_thumbnails(run.folder / thumbnails.NAME).items() if one}
    known = (*SAMPLE_HEADS, CLUSTER)
    metrics = [head for head in read_heads(path) if head not in known and not head.endswith(".influence")]
    lines: list[list[Any]] = []
    pictures: list[bytes] = []
    for line, (cell, index, prompt, category, *scores) in read_columns(path, (*HEADS, *metrics)):
        picture = shown.get((cell, int(index)))
        if picture is None or cell not in cells:
            continue
        values = [number(text, f"line {line}") for text in scores]
        lines.append([cell, int(index), prompt, category, *(None if math.isnan(v) else v for v in values)])
        pictures.append(base64.b64decode(picture.webp, validate=True))
    return SampleTable([*HEADS, *metrics], lines, pictures) if lines else None
