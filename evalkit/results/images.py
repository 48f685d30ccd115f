"""A cell's images in a notebook: its contact sheet, else the thumbnails that the run kept."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.results import thumbnails
from evalkit.results.csv_files import read_columns
from evalkit.results.evidence import SAMPLES
from evalkit.results.html import box, escape, lines_html
from evalkit.results.table import ResultTable

_SHEET_BYTES = 400_000  # of the sheet in the notebook; a larger one is stored with loss


@dataclass(frozen=True, repr=False)
class Images:
    """A cell's images.

    Attributes:
        cell: its name.
        sheet: the PNG of its first samples; none where the run wrote none.
        files: where its samples lie, as samples.csv has it, in the order of their indices.
        thumbnails: without a sheet: small pictures of some samples, by index.
    """

    cell: str
    sheet: Path | None
    files: Sequence[str]
    thumbnails: dict[int, thumbnails.Thumbnail]

    def __repr__(self) -> str:
        return f"{len(self.files):,} images of {self.cell}"

    def _repr_html_(self) -> str:
        made = thumbnails.sheet(self.sheet, _SHEET_BYTES) if self.sheet is not None else None
        shown = list(self.thumbnails.items()) if made is None else [(None, made)]
        if not shown:
            return box(lines_html([f"{self!r}: the contact sheet cannot be read"]))
        return box(lines_html([repr(self)]), "".join(_picture(self.cell, index, one) for index, one in shown))


def _picture(cell: str, index: int | None, one: thumbnails.Thumbnail) -> str:
    what = f"the first samples of {cell}" if index is None else f"sample {index} of {cell}"
    size = "max-width:100%" if index is None else f"width:{one.width}px;margin:2px"
    crisp = ";image-rendering:pixelated" if one.crisp else ""
    return f'<img src="{html.escape(one.uri)}" alt="{escape(what)}" title="{escape(what)}" style="{size}{crisp}">'


def images(table: ResultTable, folder: Path | None, cell: str) -> Images:
    """What shows a cell's images, from the run's folder.

    Raises:
        ConfigError: there is no such cell, or no folder: images in memory are not kept.
        DataError: the folder has neither the cell's contact sheet nor its thumbnails.
    """
    if cell not in table.rows_by_cell:
        raise ConfigError(f"this table has no cell '{cell}'. {nearest(cell, table.cells)}")
    if folder is None:
        raise ConfigError(f"images('{cell}'): this table has no run's folder: evalkit.load('runs/NAME') gives it one")
    sheet = folder / "sheets" / f"{cell}.png"
    files = list(_files(folder / SAMPLES, cell))
    if sheet.is_file():
        return Images(cell, sheet, files, {})
    kept = _thumbnails(folder / thumbnails.NAME, cell)
    if not kept:
        raise DataError(f"{folder}: neither sheets/{cell}.png nor {thumbnails.NAME} shows this cell's images")
    return Images(cell, None, files, kept)


def _files(path: Path, cell: str) -> list[str]:
    try:
        lines = (line for _, line in read_columns(path, ("cell", "file")))  # cell by cell
        mine = dropwhile(lambda line: line[0] != cell, lines)
        return [file for _, file in takewhile(lambda line: line[0] == cell, mine)]
    except (OSError, DataError):
        return []


def _thumbnails(path: Path, cell: str) -> dict[int, thumbnails.Thumbnail]:
    try:
        known = thumbnails.read_thumbnails(path)
    except (OSError, ValueError, LookupError, TypeError, DataError):
        return {}
    return {index: one for (owner, index), one in known.items() if owner == cell and one is not None}
