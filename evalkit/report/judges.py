"""The section on judges that were held against known answers: how far they agree, and where they err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.judges.calibration import in_words
from evalkit.report.run_folder import Run
from evalkit.results.judges import RUN

MOST = 12  # classes of a table; results.json has all


@dataclass(frozen=True)
class Confusion:
    """A judge's table.

    Attributes:
        words: the agreement, and kappa.
        columns: what it answered.
        lines: per right answer its name, the counts, and the share that was right with its interval.
        kind: "yes_no", "grades" or "texts".
        left: further right answers, which are not shown.
        images: how many images the items are about.
    """

    words: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[int], str]]
    kind: str
    left: int
    images: int


def make_judges(run: Run) -> list[Confusion]:
    """Those of the run; none where none was held against known answers."""
    return [_confusion(about) for about in run.table.run.get(RUN, {}).values()]


def _confusion(about: Mapping[str, Any]) -> Confusion:
    lines = [
        (name, row, _share(share))
        for name, row, share in zip(about["classes"], about["table"], about["right"], strict=False)
    ]
    columns = about["columns"]
    if about["kind"] == "texts":  # each text is a class of its own: only right or not is worth a look
        lines = [(name, [row[i], sum(row) - row[i]], text) for i, (name, row, text) in enumerate(lines)]
        columns = ["right", "not right"]
    return Confusion(in_words(about), columns, lines[:MOST], about["kind"], max(len(lines) - MOST, 0), about["images"])


def _share(share: Mapping[str, Any]) -> str:
    if not share["worth"]:
        return "–"
    return f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f})"
