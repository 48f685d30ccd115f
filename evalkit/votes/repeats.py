"""Whether voters agree with themselves: items that came again with the sides swapped; and with one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from evalkit.numerics.agreement import Share, agreement
from evalkit.votes.records import Vote
from evalkit.votes.schedule import key_of


@dataclass(frozen=True)
class Voter:
    """A voter's votes in figures.

    Attributes:
        name: theirs.
        votes: that count in ratings: without repeated items.
        repeated: repeated items.
        same: of these, how many got the same answer as the first time.
        agreement: the share of these and its interval at 95 % (exact); none without repeated items.
        left: the share of votes for the image at the left among those for either side, and its interval; none without.
        seconds: the median of seconds per vote.
    """

    name: str
    votes: int
    repeated: int
    same: int
    agreement: Share | None
    left: Share | None
    seconds: float


def answer(vote: Vote) -> str:
    """What a vote says, whichever cell it calls a: the better cell, "tie" or "both_bad"."""
    return {"a": f"cell {vote.cell_a}", "b": f"cell {vote.cell_b}"}.get(vote.outcome, vote.outcome)


def repeated(votes: Sequence[Vote]) -> list[tuple[Vote, Vote]]:
    """The items that came again, by the vote the first time and this time; of several voters, or of one.

    Args:
        votes: that count (`read_votes`), in their order.
    """
    first: dict[object, Vote] = {}
    both = []
    for vote in votes:
        cells, index, check = key_of(vote)
        if not check:
            first[vote.voter, cells, index] = vote
        elif (vote.voter, cells, index) in first:
            both.append((first[vote.voter, cells, index], vote))
    return both


def repeated_answers(votes: Sequence[Vote]) -> list[bool]:
    """Of each item that came again, whether the answer was the same."""
    return [answer(one) == answer(other) for one, other in repeated(votes)]


def by_voter(votes: Sequence[Vote]) -> list[Voter]:
    """Each voter in figures, in the order of their first votes."""
    return [_figures(name, [v for v in votes if v.voter == name]) for name in dict.fromkeys(v.voter for v in votes)]


def _figures(name: str, votes: Sequence[Vote]) -> Voter:
    pairs = repeated_answers(votes)
    sides = [vote.outcome == vote.left for vote in votes if vote.outcome in ("a", "b")]
    return Voter(
        name=name,
        votes=sum(not vote.check for vote in votes),
        repeated=len(pairs),
        same=sum(pairs),
        agreement=agreement(pairs) if pairs else None,
        left=agreement(sides) if sides else None,
        seconds=median(vote.seconds for vote in votes),
    )


def between_voters(votes: Sequence[Vote]) -> tuple[int, int]:
    """How often two voters said the same of an item, over all pairs of voters, and how many such items there are."""
    items: dict[object, list[str]] = {}
    for vote in votes:
        cells, index, check = key_of(vote)
        if not check:
            items.setdefault((cells, index), []).append(answer(vote))
    pairs = [one == other for answers in items.values() for one, other in combinations(answers, 2)]
    return sum(pairs), len(pairs)
