"""What the lint says: a finding, and the lines that a terminal shows of many."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.data.source import Source

SEVERITIES = ("error", "warning", "note")
REFERENCE = "reference"  # `where` of what is found in the reference
FILES = 5  # a finding names at most so many of its files
# Kinds that `Source.warnings` counts as well, so that the table's notes name them; "left_out" is told at opening.
NOTED = frozenset({"blanked", "prompt_truncated", "skipped", "16bit", "cmyk", "alpha_dropped", "left_out"})


@dataclass(frozen=True)
class Finding:
    """Something in a set of images that makes a score wrong.

    Attributes:
        kind: what it is, such as "duplicates" (docs/lint.md lists all).
        severity: "error" (the scores mean nothing), "warning" (they are biased), "note" (worth knowing).
        where: the cell's name, or "reference".
        count: images that it is about (prompts, for missing ones).
        files: where the first of them lie, as `Source.location` says.
        message: what is wrong, without the cell's name.
        effect: what it does to which metric.
        of: images that were decoded; fewer than the set holds where only a part was decoded.
    """

    kind: str
    severity: str
    where: str
    count: int
    files: tuple[str, ...]
    message: str
    effect: str
    of: int


def locations(source: Source, indices: Sequence[int]) -> tuple[str, ...]:
    """Where the first few images of `indices` lie."""
    return tuple(source.location(i) for i in indices[:FILES])


def lines(findings: Sequence[Mapping[str, Any]], *, printed: Collection[str] = NOTED, limit: int = 10) -> list[str]:
    """A line per finding for the terminal, the most severe first; notes are left to the report.

    Args:
        findings: as JSON values (`ResultTable.lint`).
        printed: kinds that were printed elsewhere.
        limit: lines at most; the last one then counts the rest.
    """
    cells: dict[tuple[str, str, str], list[str]] = {}  # what several cells share is printed once
    for finding in findings:
        if finding["severity"] != "note" and finding["kind"] not in printed:
            names = ", ".join(PurePath(file).name or file for file in finding["files"][:2])
            what = f"{finding['message']}{f' [{names}]' if names else ''}"
            cells.setdefault((finding["severity"], what, finding["effect"]), []).append(finding["where"])
    ordered = sorted(cells.items(), key=lambda item: SEVERITIES.index(item[0][0]))
    out = []
    for (severity, what, effect), where in ordered:
        who = where[0] if len(where) == 1 else f"{len(where)} cells ({where[0]}, ...)"
        out.append(f"lint: {severity}: {who}: {what}: {effect}")
    if len(out) > limit:
        out = [*out[: limit - 1], f"lint: {len(out) - limit + 1} more findings: see the report or results.json"]
    return out
