"""Notes below a table: what many cells share is said once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ALIKE = 3  # notes that differ in their numbers alone: from so many on the first stands for all


def note_lines(noted: Mapping[tuple[str, str, tuple[str, ...]], Sequence[str]]) -> list[str]:
    """Notes with their metrics and cells; of many that differ in numbers alone the first, and how many cells more."""
    groups: dict[tuple[str, str, str], list[tuple[str, tuple[str, ...]]]] = {}
    for (mark, note, cells), labels in noted.items():
        groups.setdefault((mark, ", ".join(labels), re.sub(r"\d+(\.\d+)?", "#", note)), []).append((note, cells))
    lines = []
    for (mark, labels, _), notes in groups.items():
        shown = notes if len(notes) < ALIKE else notes[:1]
        more = len({cell for _, cells in notes for cell in cells} - set(notes[0][1]))
        rest = "" if len(shown) == len(notes) else f"; the like of {more} more cells"
        lines += [f"{mark}{labels}: {note} ({some(cells)}{rest})." for note, cells in shown]
    return lines


def some(cells: Sequence[str], most: int = 4) -> str:
    """The first cells, and how many more."""
    more = f" and {len(cells) - most} more" if len(cells) > most else ""
    return ", ".join(cells[:most]) + more
