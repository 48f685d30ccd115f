"""Which rated cells can be told apart, and how many more votes would do it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

from evalkit.votes.ratings import POINTS, Ratings

LEVEL = 0.05  # of all pairs together
POWER = 0.8
MOST_VOTES = 10**7


@dataclass(frozen=True)
class Gap:
    """Two rated cells, the higher first.

    Attributes:
        better, worse: their places among `Ratings.cells`.
        value, stderr: the difference of their ratings, >= 0.
        low, high: its interval: of all pairs' intervals together, each holds its true difference in 95 % of cases.
        p: two-sided, corrected for the number of pairs by Holm's method.
        votes: that were cast between these two.
    """

    better: int
    worse: int
    value: float
    stderr: float
    low: float
    high: float
    p: float
    votes: int

    @property
    def told_apart(self) -> bool:
        return self.p <= LEVEL


@dataclass(frozen=True)
class Need:
    """Votes that would tell two cells apart, 4 times in 5, were their true difference the present one.

    Attributes:
        gap: whose.
        at_large: more votes between all cells, as they were cast so far; none: more than `MOST_VOTES`.
        between: more votes between these two alone.
    """

    gap: Gap
    at_large: int | None
    between: int | None


def gaps(ratings: Ratings) -> list[Gap]:
    """All pairs of rated cells, in the order of their ratings; none without a standard error.

    Intervals are simultaneous by Bonferroni, p-values step down by Holm (1979); both by Student's t.
    """
    from scipy.special import stdtr, stdtrit

    covariance = ratings.covariance
    if covariance is None or ratings.spread is None:
        return []
    pairs = list(combinations(ratings.order, 2))
    degrees = max(ratings.spread.degrees, 1.0)
    reach = float(stdtrit(degrees, 1 - LEVEL / 2 / len(pairs)))
    found = []
    for better, worse in pairs:
        value = float(ratings.values[better] - ratings.values[worse])
        variance = covariance[better, better] + covariance[worse, worse] - 2 * covariance[better, worse]
        stderr = math.sqrt(max(float(variance), 0.0))
        p = 2 * float(stdtr(degrees, -value / stderr)) if stderr else float(value == 0)
        count = int(ratings.matrix[better, worse].sum())
        found.append(Gap(better, worse, value, stderr, value - reach * stderr, value + reach * stderr, p, count))
    return _corrected(found)


def _corrected(found: list[Gap]) -> list[Gap]:
    highest, corrected = 0.0, dict[int, float]()
    for rank, place in enumerate(sorted(range(len(found)), key=lambda place: found[place].p)):
        highest = max(highest, min(1.0, found[place].p * (len(found) - rank)))
        corrected[place] = highest
    return [replace(gap, p=corrected[place]) for place, gap in enumerate(found)]


def groups(ratings: Ratings, found: list[Gap]) -> list[list[int]]:
    """The largest sets of cells of which no two are told apart, the best first; a cell may be in several.

    By Piepho's insert and absorb (2004, doi:10.1198/1061860043515): those that statisticians show as letters.
    """
    sets = [frozenset(range(len(ratings.cells)))]
    for gap in found:
        if not gap.told_apart:
            continue
        parts: list[frozenset[int]] = []
        for one in sets:
            pair = {gap.better, gap.worse}
            parts += [one - {gap.better}, one - {gap.worse}] if pair <= one else [one]
        unique = list(dict.fromkeys(parts))
        sets = [one for one in unique if not any(one < other for other in unique)]
    rank = {place: number for number, place in enumerate(ratings.order)}
    ordered = [sorted(one, key=lambda place: rank[place]) for one in sets]
    return sorted(ordered, key=lambda one: [rank[place] for place in one])


def needs(ratings: Ratings, found: list[Gap]) -> list[Need]:
    """Of neighbours in the ratings that are not told apart: how many more votes would do it."""
    rank = {place: number for number, place in enumerate(ratings.order)}
    beside = [gap for gap in found if rank[gap.worse] - rank[gap.better] == 1 and not gap.told_apart]
    normal = NormalDist()
    reach = normal.inv_cdf(1 - LEVEL / 2 / max(len(found), 1)) + normal.inv_cdf(POWER)
    return [_need(ratings, gap, reach) for gap in beside]


def _need(ratings: Ratings, gap: Gap, reach: float) -> Need:
    """By stderr ~ 1 / sqrt(votes); of votes between the two alone by their information, as much as votes had so far."""
    if not gap.value or not gap.stderr:
        return Need(gap, None, None)
    wanted = (reach / gap.value) ** 2  # the information about the difference, 1 / stderr^2
    have = 1 / gap.stderr**2
    count = len(ratings.votes)
    at_large = count * max(wanted / have - 1, 0.0)
    win, loss, tie = ratings.chance(gap.better, gap.worse)
    each = (1 - tie - (win - loss) ** 2) / 4 / POINTS**2  # of one vote between the two, independent of all others
    effect = _effect(ratings, gap)
    between = (wanted - have) / each * effect if each else math.inf
    return Need(gap, _rounded(at_large), _rounded(between))


def _effect(ratings: Ratings, gap: Gap) -> float:
    """How many times more variance the difference has than independent votes would leave it."""
    from evalkit.numerics import bradley_terry

    arrays = ratings.arrays
    plain = bradley_terry.covariance(ratings.fit, arrays.pairs, arrays.counts, arrays.prior)
    a, b = gap.better, gap.worse
    independent = (plain[a, a] + plain[b, b] - 2 * plain[a, b]) * POINTS**2
    return max(1.0, gap.stderr**2 / float(independent))


def _rounded(votes: float) -> int | None:
    """Two digits, rounded up."""
    if votes > MOST_VOTES:
        return None
    digit = int(10 ** max(0, math.floor(math.log10(max(votes, 1.0))) - 1))
    return max(1, math.ceil(votes / digit)) * digit
