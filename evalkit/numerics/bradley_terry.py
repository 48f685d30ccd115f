"""Bradley-Terry strengths with ties (Davidson 1970), by maximum likelihood, for many sets of votes at once.

With log strengths s and d = s_i - s_j the odds of i, of j and of a tie are exp(d/2) : exp(-d/2) : nu. That is an
exponential family, so the log-likelihood is concave; Newton's steps, halved where they go too far, find its maximum.

Of an item that won or lost all its votes there is no finite maximum. `prior` gives each item that many wins and as many
losses against an imaginary item of mean strength, as `npseudo` of the R package PlackettLuce does (Turner, van Etten,
Firth and Kosmidis 2020, doi:10.1007/s00180-020-00959-3; there 0.5): all strengths are finite, and hardly moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

WIN, LOSS, TIE = 0, 1, 2  # of the first item of a pair: the last axis of counts
ELO = 400.0  # points of a factor of 10 in the odds
MIDDLE = 1000.0  # the mean rating
_STEPS, _HALVINGS, _NEAR = 100, 30, 1e-9
_RIDGE = 1e-12
ALL_TIES = 30.0  # log nu where nobody ever decided


@dataclass(frozen=True)
class Fit:
    """Strengths by maximum likelihood.

    Attributes:
        strengths: f64 [B,K], natural logarithms, with mean 0.
        tie: f64 [B], nu: 0 where there is no tie, infinite where all are.
    """

    strengths: Floats
    tie: Floats


def elo(strengths: Floats) -> Floats:
    """Log strengths with mean 0 as ratings: mean 1000, and 400 points for odds of 10 to 1 (Elo 1978)."""
    import numpy as np

    ratings: Floats = MIDDLE + ELO / np.log(10) * strengths
    return ratings


def fit(pairs: Ints, counts: Floats, items: int, prior: float = 0.0, start: Fit | None = None) -> Fit:
    """Strengths of B sets of votes.

    Args:
        pairs: i64 [P,2], two different items each; each two items stand in one pair at most.
        counts: f64 [B,P,3], votes of each pair: for the first item, for the second, ties; any weights >= 0.
        items: K.
        prior: wins, and losses, of each item against an imaginary one.
        start: strengths of one set [1,K] from which to look; the maximum is the same.

    Raises:
        ValueError: without a prior there is no finite maximum: of some items against all others no vote was lost, or
            none won, or none cast (Ford 1957).
    """
    import numpy as np

    counts = np.asarray(counts, dtype=np.float64)
    if not prior:
        _check_finite(pairs, counts, items)
    batch, ties = len(counts), counts[:, :, TIE].sum(1)
    decided = counts[:, :, :TIE].sum((1, 2))
    estimated = (ties > 0) & (decided > 0)  # else nu is 0 or infinite, whatever the strengths
    log_tie = np.where(ties > 0, ALL_TIES, -np.inf)
    log_tie[estimated] = np.log(2 * ties[estimated] / decided[estimated])
    first = np.zeros((batch, items)) if start is None else np.repeat(start.strengths, batch, 0)
    at = np.concatenate([first, log_tie[:, None]], 1)  # f64 [B,K+1]
    value = _log_likelihood(at, pairs, counts, prior)
    for _ in range(_STEPS):
        slope, curve = derivatives(at, pairs, counts, prior)
        slope[~estimated, items] = 0.0
        _hold_tie(curve, ~estimated)
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0].astype(np.float64, copy=False)
        if np.abs(step).max(initial=0.0) < _NEAR:
            break
        at, value = _take(at, step, value, pairs, counts, prior)
    strengths = at[:, :items] - at[:, :items].mean(1, keepdims=True)
    return Fit(strengths, np.where(log_tie == ALL_TIES, np.inf, np.exp(at[:, items])))


def _take(at: Floats, step: Floats, value: Floats, pairs: Ints, counts: Floats, prior: float) -> tuple[Floats, Floats]:
    """A step of each set, halved until the likelihood does not fall; none where that does not help."""
    import numpy as np

    scale = np.minimum(1.0, 4.0 / np.maximum(np.abs(step).max(1), 1e-300))  # f64 [B]
    slack = 1e-12 * (1 + np.abs(value))
    for _ in range(_HALVINGS):
        ahead = at + scale[:, None] * step
        there = _log_likelihood(ahead, pairs, counts, prior)
        worse = there < value - slack
        if not worse.any():
            return ahead, there
        scale = np.where(worse, scale / 2, scale)
    return np.where(worse[:, None], at, ahead), np.where(worse, value, there)


def probabilities(at: Floats, pairs: Ints) -> Floats:
    """At strengths and log nu, f64 [B,K+1]: the chances of a pair's first, of its second and of a tie, f64 [B,P,3]."""
    import numpy as np

    logits = _logits(at, pairs)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    chances: Floats = odds / odds.sum(-1, keepdims=True)
    return chances


def _logits(at: Floats, pairs: Ints) -> Floats:
    import numpy as np

    half = (at[:, pairs[:, 0]] - at[:, pairs[:, 1]]) / 2  # f64 [B,P]
    return np.stack([half, -half, np.broadcast_to(at[:, -1:], half.shape)], -1)


def _log_likelihood(at: Floats, pairs: Ints, counts: Floats, prior: float) -> Floats:
    import numpy as np

    logits = _logits(at, pairs)
    top = logits.max(-1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    seen: Floats = np.where(counts > 0, counts * np.where(counts > 0, logs, 0.0), 0.0).sum((1, 2))  # 0 log 0 is 0
    strengths = at[:, :-1]
    priors: Floats = prior * (np.logaddexp(0, strengths) + np.logaddexp(0, -strengths)).sum(1)
    return seen - priors


def derivatives(at: Floats, pairs: Ints, counts: Floats, prior: float) -> tuple[Floats, Floats]:
    """Of the log-likelihood at strengths and log nu, f64 [B,K+1]: slopes [B,K+1], and curvatures, negated, [B,K+1,K+1].

    Without a prior the mean strength is held where it is: one term of the curvature does nothing else.
    """
    import numpy as np

    items = at.shape[1] - 1
    chances = probabilities(at, pairs)
    total = counts.sum(-1)  # f64 [B,P]
    first, second = (np.eye(items)[pairs[:, side]] for side in (0, 1))  # f64 [P,K]
    half = (counts[:, :, WIN] - counts[:, :, LOSS] - total * (chances[:, :, WIN] - chances[:, :, LOSS])) / 2
    tied = counts[:, :, TIE] - total * chances[:, :, TIE]
    slope = np.concatenate([half @ (first - second), tied.sum(1, keepdims=True)], 1)
    gap, tie = chances[:, :, WIN] - chances[:, :, LOSS], chances[:, :, TIE]
    of_gap = total * (1 - tie - gap**2) / 4  # f64 [B,P], the variance of half the difference of wins
    of_both = -total * gap * tie / 2
    curve = np.zeros((len(at), items + 1, items + 1))
    curve[:, pairs[:, 0], pairs[:, 1]] = curve[:, pairs[:, 1], pairs[:, 0]] = -of_gap
    places = np.arange(items)
    curve[:, places, places] = of_gap @ (first + second)
    curve[:, items, :items] = curve[:, :items, items] = of_both @ (first - second)
    curve[:, items, items] = (total * tie * (1 - tie)).sum(1)
    if prior:
        share = 1 / (1 + np.exp(-at[:, :items]))
        slope[:, :items] += prior * (1 - 2 * share)
        curve[:, places, places] += 2 * prior * share * (1 - share)
    else:
        curve[:, :items, :items] += 1 / items
    curve[:, places, places] += _RIDGE
    return slope, curve


def contributions(result: Fit, pairs: Ints, counts: Floats, prior: float = 0.0) -> Floats:
    """How much one vote moves the strengths, f64 [P,3,K]: of a pair's first winning, its second winning, a tie.

    To first order (the inverse information times the vote's score), at the fit of one set, counts f64 [1,P,3]. Summed
    over all votes they are 0, but for what the prior does; sums by cluster give the sandwich's standard errors.
    """
    import numpy as np

    items = result.strengths.shape[1]
    at, curve = _curvature(result, pairs, counts, prior)
    chances = probabilities(at, pairs)[0]  # f64 [P,3]
    half = np.array([0.5, -0.5, 0.0]) - ((chances[:, WIN] - chances[:, LOSS]) / 2)[:, None]  # f64 [P,3]
    tied = np.array([0.0, 0.0, 1.0]) - chances[:, TIE][:, None]
    scores = np.zeros((len(pairs), 3, items + 1))
    rows = np.arange(len(pairs))
    scores[rows, :, pairs[:, 0]], scores[rows, :, pairs[:, 1]] = half, -half
    scores[:, :, items] = tied if 0 < result.tie[0] < np.inf else 0.0
    moved = np.linalg.solve(curve[0], scores.reshape(-1, items + 1).T).T.reshape(scores.shape)[:, :, :items]
    moves: Floats = moved - moved.mean(-1, keepdims=True)
    return moves


def covariance(result: Fit, pairs: Ints, counts: Floats, prior: float = 0.0) -> Floats:
    """Of the strengths of one set, f64 [K,K], by the inverse information: as if all votes were independent."""
    import numpy as np

    items = result.strengths.shape[1]
    _, curve = _curvature(result, pairs, counts, prior)
    centre = np.eye(items) - 1 / items
    found: Floats = centre @ np.linalg.inv(curve[0])[:items, :items] @ centre
    return found


def _curvature(result: Fit, pairs: Ints, counts: Floats, prior: float) -> tuple[Floats, Floats]:
    """The parameters of a fit, f64 [B,K+1], and the negated curvature there; nu at its edge counts as known."""
    import numpy as np

    with np.errstate(divide="ignore"):
        log_tie = np.where(np.isinf(result.tie), ALL_TIES, np.log(result.tie))
    at = np.concatenate([result.strengths, log_tie[:, None]], 1)
    curve = derivatives(at, pairs, counts, prior)[1]
    _hold_tie(curve, (result.tie <= 0) | np.isinf(result.tie))
    return at, curve


def _hold_tie(curve: Floats, which: NDArray[np.bool_]) -> None:
    """Takes log nu of some sets out of their curvature, in place: a step leaves it where it is."""
    curve[which, -1] = 0.0
    curve[which, :, -1] = 0.0
    curve[which, -1, -1] = 1.0


def separated(pairs: Ints, counts: Floats, items: int) -> list[list[int]]:
    """Groups of items between which votes, f64 [P,3], went one way alone, or none did; a single one: all is well."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    wins = counts[:, WIN] + counts[:, TIE] > 0
    losses = counts[:, LOSS] + counts[:, TIE] > 0
    ends = [*pairs[wins].tolist(), *pairs[losses][:, ::-1].tolist()]
    if not ends:
        return [[item] for item in range(items)]
    rows, columns = zip(*ends, strict=True)
    graph = coo_array(([1] * len(ends), (rows, columns)), shape=(items, items))
    count, labels = connected_components(graph, directed=True, connection="strong")
    return [[item for item in range(items) if labels[item] == group] for group in range(count)]


def _check_finite(pairs: Ints, counts: Floats, items: int) -> None:
    for number, each in enumerate(counts):
        groups = separated(pairs, each, items)
        if len(groups) > 1:
            alone = min(groups, key=len)
            raise ValueError(
                f"set {number}: items {alone} and the others won all, lost all, or never met: their strengths have no "
                "finite maximum without a prior"
            )
