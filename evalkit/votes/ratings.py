"""Votes -> ratings of cells, with all that their uncertainty rests on. Arrays and records in, numbers out.

Davidson's model (`evalkit.numerics.bradley_terry`) by maximum likelihood, on Elo's scale with mean 1000; "both bad" is
a tie, as in Chatbot Arena (Chiang et al. 2024, arXiv:2403.04132). Errors are those of `evalkit.numerics.vote_spread`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evalkit.metric import Score
from evalkit.numerics import bradley_terry, vote_spread
from evalkit.numerics.bradley_terry import LOSS, TIE, WIN, Fit
from evalkit.votes.records import Vote

if TYPE_CHECKING:
    from evalkit.numerics.bradley_terry import Floats

PRIOR = 0.5  # wins, and losses, of each cell against an imaginary one
DRAWS, SEED = 500, 2020  # of each bootstrap
POINTS = bradley_terry.ELO / math.log(10)  # of a rating, per natural logarithm of the odds
ClusterOf = Callable[[str, int], int]
"""The cluster of a cell's sample (`evalkit.metric.cluster_ids`)."""


@dataclass(frozen=True)
class Ratings:
    """The ratings of cells that were voted on.

    Attributes:
        cells: those that are rated, K of them: votes connect each with each.
        apart: cells that votes do not connect with these.
        votes: what was rated; no repeated items.
        arrays: the same as numbers; prompts and voters are counted from 0.
        fit: strengths and ties.
        spread: the strengths' uncertainty; none where all votes are of one prompt.
        alone: cells (all but one of them) between which and the others votes went one way alone.
    """

    cells: tuple[str, ...]
    apart: tuple[str, ...]
    votes: tuple[Vote, ...]
    arrays: vote_spread.Votes
    fit: Fit
    spread: vote_spread.Spread | None
    alone: frozenset[str]

    @property
    def values(self) -> Floats:
        """f64 [K], ratings."""
        return bradley_terry.elo(self.fit.strengths[0])

    @property
    def covariance(self) -> Floats | None:
        """f64 [K,K], of the ratings."""
        return None if self.spread is None else self.spread.covariance * POINTS**2

    @property
    def order(self) -> list[int]:
        """The cells' places, the best first."""
        return sorted(range(len(self.cells)), key=lambda place: -self.fit.strengths[0, place])

    @property
    def prompts(self) -> int:
        return int(self.arrays.prompt.max()) + 1

    @property
    def voters(self) -> int:
        return int(self.arrays.voter.max()) + 1

    @cached_property
    def matrix(self) -> Floats:
        """f64 [K,K,3]: of the votes between a row's cell and a column's those for the row, for the column, and ties."""
        import numpy as np

        counts = self.arrays.counts[0]
        found = np.zeros((len(self.cells), len(self.cells), 3))
        first, second = self.arrays.pairs.T
        found[first, second] = counts
        found[second, first] = counts[:, [LOSS, WIN, TIE]]
        return found

    @cached_property
    def moves(self) -> Floats:
        """f64 [V,K]: what each vote moves the ratings by, to first order; each column adds up to 0."""
        each = bradley_terry.contributions(self.fit, self.arrays.pairs, self.arrays.counts, self.arrays.prior)
        moved = each[self.arrays.place, self.arrays.outcome] * POINTS
        centred: Floats = moved - moved.mean(0)
        return centred

    def chance(self, first: int, second: int) -> tuple[float, float, float]:
        """The model's chances that the first cell of two is preferred, that the second is, and that neither is."""
        import numpy as np

        half = (self.fit.strengths[0, first] - self.fit.strengths[0, second]) / 2
        tie = self.fit.tie[0]
        if np.isinf(tie):
            return 0.0, 0.0, 1.0
        odds = np.exp(half), np.exp(-half), tie
        win, loss, tied = (float(each / sum(odds)) for each in odds)
        return win, loss, tied


def rate(votes: Sequence[Vote], cells: Sequence[str], cluster_of: ClusterOf) -> Ratings | None:
    """The ratings of those of `cells` that votes connect with one another; none where no two are connected.

    Args:
        votes: as cast; repeated items (`Vote.check`) and those on other cells are left out.
        cells: that may be rated. Where votes fall into several groups that no vote connects, the largest is rated.
        cluster_of: the cluster of a cell's sample: votes of one are alike.
    """
    import numpy as np

    voted = [vote for vote in votes if not vote.check and vote.cell_a in cells and vote.cell_b in cells]
    rated = _connected(voted, cells)
    if len(rated) < 2:
        return None
    voted = [vote for vote in voted if vote.cell_a in rated]
    place_of = {cell: place for place, cell in enumerate(rated)}
    ends = np.array([[place_of[vote.cell_a], place_of[vote.cell_b]] for vote in voted])  # i64 [V,2]
    turned = ends[:, 0] > ends[:, 1]
    pairs, place = np.unique(np.sort(ends, 1), axis=0, return_inverse=True)
    outcome = np.array([{"a": WIN, "b": LOSS}.get(vote.outcome, TIE) for vote in voted])
    outcome = np.where(turned & (outcome != TIE), 1 - outcome, outcome)
    prompt = np.unique([cluster_of(vote.cell_a, vote.index) for vote in voted], return_inverse=True)[1]
    voter = np.unique([vote.voter for vote in voted], return_inverse=True)[1]
    arrays = vote_spread.Votes(len(rated), pairs, place.ravel(), outcome, prompt, voter, PRIOR)
    fit = bradley_terry.fit(pairs, arrays.counts, len(rated), PRIOR)
    groups = bradley_terry.separated(pairs, arrays.counts[0], len(rated))
    largest = max(groups, key=len)
    alone = frozenset(rated[item] for group in groups if group is not largest for item in group)
    spread = vote_spread.spread(arrays, DRAWS, SEED)
    if alone and spread is not None:
        spread = vote_spread.at_least(spread, bradley_terry.covariance(fit, pairs, arrays.counts, PRIOR))
    apart = tuple(cell for cell in cells if cell not in rated)
    return Ratings(tuple(rated), apart, tuple(voted), arrays, fit, spread, alone)


def scores(ratings: Ratings, clusters: dict[str, Sequence[int]]) -> dict[str, Score]:
    """By rated cell its score.

    A score's influences are one per sample of its cell: what the votes on that index move the rating by, so scaled that
    any difference of two cells, taken prompt by prompt as those of other metrics are, has the error of the bootstrap.

    Args:
        ratings: of `rate`.
        clusters: by cell, of its samples.
    """
    import numpy as np

    found = {}
    for place, cell in enumerate(ratings.cells):
        wins, losses, ties = ratings.matrix[place].sum(0)
        details = {
            "votes": wins + losses + ties,
            "won": wins,
            "lost": losses,
            "tied": ties,
            "win_rate": (wins + ties / 2) / (wins + losses + ties),
        }
        stderr, influence, count = None, None, None
        if ratings.spread is not None and ratings.covariance is not None:
            stderr = float(np.sqrt(ratings.covariance[place, place]))
            influence = tuple(_influence(ratings, place, clusters[cell]).tolist())
            count = max(2, int(ratings.spread.degrees) + 1)
        found[cell] = Score(
            float(ratings.values[place]),
            len(clusters[cell]),
            stderr,
            influence,
            {name: float(value) for name, value in details.items()},
            note=_note(ratings, cell, wins + ties / 2, losses + ties / 2),
            clusters=count,
        )
    return found


def _note(ratings: Ratings, cell: str, for_it: float, against_it: float) -> str | None:
    if ratings.spread is None:
        return "no standard error: all votes are of one prompt"
    if cell not in ratings.alone:
        return None
    all_of = "won" if not against_it else "lost" if not for_it else ""
    what = f"it {all_of} all its votes" if all_of else "against some cells it won, or lost, all votes"
    return f"{what}: the prior alone keeps the rating finite, and its interval is rough"


def _influence(ratings: Ratings, place: int, clusters: Sequence[int]) -> Floats:
    """f64 [N], one per sample of a cell."""
    import numpy as np

    n, target = len(clusters), ratings.covariance
    assert target is not None
    sums = np.zeros((ratings.prompts, len(ratings.cells)))
    np.add.at(sums, ratings.arrays.prompt, ratings.moves)
    scaled = vote_spread.carried(sums, len(set(clusters)), target)[:, place]
    first = np.unique(ratings.arrays.prompt, return_index=True)[1]  # a vote of each prompt: all is put on its sample
    index = np.array([min(vote.index, n - 1) for vote in ratings.votes])[first]
    each = np.full(n, float(ratings.values[place]))
    np.add.at(each, index, n * scaled)
    return each


def _connected(votes: Sequence[Vote], cells: Sequence[str]) -> list[str]:
    """The largest group of cells that votes connect, in the cells' order."""
    group = {cell: {cell} for cell in cells}
    for vote in votes:
        joined = group[vote.cell_a]
        if joined is not group[vote.cell_b]:
            joined |= group[vote.cell_b]
            for cell in joined:
                group[cell] = joined
    largest = max(group.values(), key=len, default=set[str]())
    return [cell for cell in cells if cell in largest]
