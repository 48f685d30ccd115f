"""The files behind the thumbnails: embedded up to a budget, else linked, where they lie next to the page's folder."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from evalkit.report.gallery import Gallery
from evalkit.report.run_folder import Run
from evalkit.results.csv_files import read_columns

BUDGET = 2_000_000  # bytes of files in all; in base64 a third more
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class FullSize:
    """By cell's key and then by card: data URIs, and addresses relative to the page."""

    embedded: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    linked: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def full_size(run: Run, gallery: Gallery) -> FullSize:
    """Of the images whose thumbnails are shrunk: the first screen's first. Nothing of files that are not there.

    Files are taken from below the folder that the run's folder lies in (the store's usual place) alone: a results
    folder that came from elsewhere cannot have other files of this machine put into a page.
    """
    path = run.file("samples.csv")
    if path is None or run.folder is None or not gallery.cards:
        return FullSize()
    shrunk = {
        (item.cell, card.index) for card in gallery.cards for item in card.items if item.thumb and not item.thumb.crisp
    }
    root, folder = run.folder.resolve().parent, run.folder.resolve()
    files = {
        (cell, int(index)): file
        for _, (cell, index, file) in read_columns(path, ("cell", "index", "file"))
        if (cell, int(index)) in shrunk
    }
    embedded: dict[str, dict[int, str]] = {}
    linked: dict[str, dict[int, str]] = {}
    used = 0
    for place, cell, index in _in_turn(gallery):
        file = _inside(files.get((cell, index), ""), root, folder)
        if file is None:
            continue
        size = file.stat().st_size
        if used + size <= BUDGET:
            used += size
            data = base64.b64encode(file.read_bytes()).decode()
            embedded.setdefault(run.keys[cell], {})[place] = f"data:{KINDS[file.suffix.lower()]};base64,{data}"
        else:
            linked.setdefault(run.keys[cell], {})[place] = quote(Path(os.path.relpath(file, folder)).as_posix())
    return FullSize(embedded, linked)


def _in_turn(gallery: Gallery) -> Iterator[tuple[int, str, int]]:
    """Place of the card, cell and index: of the cells in front card by card, then the others."""
    rest = [cell for cell in gallery.cells if cell not in gallery.front]
    for cells in (gallery.front, rest):
        for place, card in enumerate(gallery.cards):
            for cell in cells:
                yield place, cell, card.index


def _inside(text: str, root: Path, folder: Path) -> Path | None:
    """An image file below `root`; none of anything else."""
    if not text or Path(text).suffix.lower() not in KINDS:
        return None
    try:
        path = (folder / text).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):
        return None
