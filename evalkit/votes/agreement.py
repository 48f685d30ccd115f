"""How far voters agree: with one another on the items that several had, and with themselves on repeated ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from evalkit.votes.records import Vote

NAMES = ("first", "second", "tie")  # of the two cells in the order of their names; "both bad" is a tie


@dataclass(frozen=True)
class Voter:
    """One voter.

    Attributes:
        name: whose votes.
        votes: how many count in ratings.
        with_others: the share of pairs of this voter's votes and another's on the same item that agree; none: none met.
        shared: how many such pairs there are.
        with_self: the share of repeated items with the answer of the first time; none: no item was repeated.
        repeated: how many there are.
        left: of votes that prefer one of the two, the share that prefers the left one.
        decided: how many such votes there are.
        seconds: the median time of a vote.
    """

    name: str
    votes: int
    with_others: float | None
    shared: int
    with_self: float | None
    repeated: int
    left: float | None
    decided: int
    seconds: float


def answer(vote: Vote) -> str:
    """What a vote says, whichever of the two cells is named first: one of `NAMES`."""
    if vote.outcome not in ("a", "b"):
        return "tie"
    return "first" if (vote.outcome == "a") == (vote.cell_a < vote.cell_b) else "second"


def _item(vote: Vote) -> tuple[str, str, int]:
    return (*sorted((vote.cell_a, vote.cell_b)), vote.index)  # type: ignore[return-value]


def voters(votes: Sequence[Vote]) -> list[Voter]:
    """By voter, in the order of their first votes. `votes`: with repeated items."""
    counted: dict[tuple[str, str, int], list[Vote]] = defaultdict(list)
    for vote in votes:
        if not vote.check:
            counted[_item(vote)].append(vote)
    found = []
    for name in dict.fromkeys(vote.voter for vote in votes):
        mine = [vote for vote in votes if vote.voter == name and not vote.check]
        checks = [vote for vote in votes if vote.voter == name and vote.check]
        met = [answer(vote) == answer(other) for vote in mine for other in counted[_item(vote)] if other.voter != name]
        first = {_item(vote): answer(vote) for vote in reversed(mine)}
        again = [answer(vote) == first[_item(vote)] for vote in checks if _item(vote) in first]
        decided = [vote.outcome == vote.left for vote in mine if vote.outcome in ("a", "b")]
        found.append(
            Voter(
                name,
                len(mine),
                _share(met),
                len(met),
                _share(again),
                len(again),
                _share(decided),
                len(decided),
                median(vote.seconds for vote in (mine or checks)),
            )
        )
    return found


def overall(votes: Sequence[Vote]) -> tuple[float | None, float | None, int]:
    """Of the items that several voters had: the share of agreeing pairs, Krippendorff's alpha, and how many they are.

    Each is none where there are no such items.
    """
    import numpy as np

    from evalkit.numerics.krippendorff import alpha

    latest: dict[tuple[str, str, int], dict[str, str]] = defaultdict(dict)
    for vote in votes:
        if not vote.check:
            latest[_item(vote)][vote.voter] = answer(vote)
    shared = [Counter(answers.values()) for answers in latest.values() if len(answers) > 1]
    if not shared:
        return None, None, 0
    counts = np.array([[item[name] for name in NAMES] for item in shared], dtype=np.float64)  # [items, 3]
    each = counts.sum(1)
    same = float((counts * (counts - 1)).sum() / (each * (each - 1)).sum())
    return same, alpha(counts), len(shared)


def _share(same: Sequence[bool]) -> float | None:
    return sum(same) / len(same) if same else None
