"""What judges' answers cost, from the scores that rest on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalkit.results.rows import Outcome

COUNTS = ("calls", "unread", "sent", "received")  # details of a score that rests on a judge's answers


def judge_notes(outcome: Outcome) -> list[str]:
    """A note per judge: the answers behind the scores, their tokens, and how many could not be read."""
    totals: dict[str, dict[str, Mapping[str, float]]] = {}  # by judge and cell: metrics of one judge share its answers
    for (cell, name), scored in outcome.scored.items():
        details = scored.score.details
        if set(COUNTS) <= details.keys():
            judge = outcome.metrics[name].needs[0].partition("/")[0]
            totals.setdefault(judge, {})[cell] = details
    lines = []
    for judge, cells in totals.items():
        calls, unread, sent, received = (
            round(sum(each[name] * outcome.seeds.get(cell, 1) for cell, each in cells.items())) for name in COUNTS
        )
        tokens = f" ({sent:,} tokens sent, {received:,} received)" if sent else ""
        doubt = f"; {unread:,} could not be read, and count the lowest value" if unread else ""
        lines.append(f"{judge}: {calls:,} answers of the judge{tokens}{doubt}.")
    return lines
