"""Against published tables (Agresti, Davidson), choix, and the R package PlackettLuce's printed results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.numerics import bradley_terry
from evalkit.numerics.bradley_terry import LOSS, TIE, WIN, covariance, elo, fit

# American League, Eastern Division, 1987: wins of the row's team over the column's (Agresti, Categorical Data Analysis,
# 2nd edition, Table 10.10): Milwaukee, Detroit, Toronto, New York, Boston, Cleveland, Baltimore.
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
# Chocolate puddings, six brands (Davidson 1970, Table 5): of the pairs (1,2), (1,3), (2,3), (1,4), ... (5,6) how often
# the first was preferred, how often the second, and how often neither.
PUDDING = np.array(
    [
        [19, 16, 19, 18, 23, 19, 13, 16, 16, 17, 18, 22, 13, 14, 11],
        [22, 19, 19, 23, 19, 20, 19, 20, 15, 14, 21, 20, 18, 19, 21],
        [16, 12, 10, 13, 9, 15, 18, 12, 17, 16, 12, 12, 10, 18, 12],
    ]
).T
PUDDING_PAIRS = np.array([(i, j) for j in range(1, 6) for i in range(j)])


def baseball() -> tuple[np.ndarray, np.ndarray]:
    pairs = np.array([(i, j) for i in range(7) for j in range(i + 1, 7)])
    wins = BASEBALL[pairs[:, 0], pairs[:, 1]]
    return pairs, np.stack([wins, BASEBALL[pairs[:, 1], pairs[:, 0]], 0 * wins], 1)[None].astype(float)


def test_baseball_is_as_agresti_and_choix_have_it() -> None:
    choix = pytest.importorskip("choix")
    pairs, counts = baseball()
    assert (counts.sum(-1) == 13).all()
    result = fit(pairs, counts, 7)
    against_baltimore = result.strengths[0] - result.strengths[0, 6]
    # Agresti's Table 10.11, column 3; four digits as R's BradleyTerry2 prints them
    assert against_baltimore == pytest.approx([1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0], abs=5e-5)
    assert result.tie.tolist() == [0.0]
    games = [(i, j) for i in range(7) for j in range(7) for _ in range(BASEBALL[i, j])]
    theirs = choix.opt_pairwise(7, games, tol=1e-12)
    assert result.strengths[0] == pytest.approx(theirs - theirs.mean(), abs=1e-5)
    contrast = np.array([1.0, 0, 0, 0, 0, 0, -1])  # of Milwaukee and Baltimore
    stderr = float(contrast @ covariance(result, pairs, counts) @ contrast) ** 0.5
    assert stderr == pytest.approx(0.3433, abs=5e-5)  # BradleyTerry2


def test_davidsons_puddings_with_ties() -> None:
    counts = PUDDING[None].astype(float)
    assert counts[0].sum(-1).tolist() == [57, 47, 48, 54, 51, 54, 50, 48, 48, 47, 51, 54, 41, 51, 44]
    result = fit(PUDDING_PAIRS, counts, 6)
    worth = np.exp(result.strengths[0])
    # Davidson's own figures, as PlackettLuce prints them after as many iterations as he made
    printed = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
    assert worth / worth.sum() == pytest.approx(printed, abs=3e-5)
    assert result.tie[0] == pytest.approx(0.7468147, abs=3e-5)
    errors = np.sqrt(np.diag(covariance(result, PUDDING_PAIRS, counts)))
    assert errors == pytest.approx([0.121949, 0.121818, 0.126823, 0.122003, 0.127054, 0.126594], abs=5e-6)


def test_the_prior_is_that_of_plackett_luce() -> None:
    """Its vignette's example, in which D loses alone: without a prior an error, with one its printed strengths."""
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])
    counts = np.array([[[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]]], float)
    with pytest.raises(ValueError, match=r"items \[3\]"):
        fit(pairs, counts, 4)
    strengths = fit(pairs, counts, 4, prior=0.5).strengths[0]
    assert strengths - strengths[0] == pytest.approx([0, 0.5184185, 0.1354707, -1.1537565], abs=2e-6)


def test_edges() -> None:
    """All of one kind: won, tied, or both."""
    pairs = np.array([[0, 1]])
    counts = np.array([[[10, 0, 0]], [[0, 0, 10]], [[5, 0, 5]], [[5, 5, 0]], [[0, 0, 0]]], float)
    result = fit(pairs, counts, 2, prior=0.5)
    # of 10 wins: 10 sigma(-2s) = 0.5 (2 sigma(s) - 1), solved by bisection
    low, high = 0.0, 10.0
    for _ in range(80):
        s = (low + high) / 2
        low, high = (s, high) if 10 / (1 + np.exp(2 * s)) > 0.5 * (2 / (1 + np.exp(-s)) - 1) else (low, s)
    assert result.strengths[0, 0] == pytest.approx(s, abs=1e-6)
    assert result.strengths[1].tolist() == [0, 0]
    assert result.tie[1] == np.inf
    assert result.strengths[2, 0] > 1
    assert 0 < result.tie[2] < np.inf
    assert result.strengths[3:] == pytest.approx(0, abs=1e-9)
    assert result.tie[3] == 0
    assert elo(np.array([np.log(10) / 2, -np.log(10) / 2])) == pytest.approx([1200, 800])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_slopes_are_differences_and_the_maximum_is_flat(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.array([(i, j) for i in range(items) for j in range(i + 1, items)])
    counts = rng.integers(0, 6, (3, len(pairs), 3)).astype(float)
    at = rng.normal(size=(3, items + 1))
    slope, curve = bradley_terry.derivatives(at, pairs, counts, 0.5)
    for place in range(items + 1):
        step = np.zeros(items + 1)
        step[place] = 1e-5
        up, down = (bradley_terry._log_likelihood(at + s * step, pairs, counts, 0.5) for s in (1, -1))
        assert slope[:, place] == pytest.approx((up - down) / 2e-5, abs=1e-5)
        up, down = (bradley_terry.derivatives(at + s * step, pairs, counts, 0.5)[0] for s in (1, -1))
        assert curve[:, place] == pytest.approx(-(up - down) / 2e-5, abs=1e-5)
    result = fit(pairs, counts, items, prior=0.5)
    flipped = fit(pairs, counts[:, :, [LOSS, WIN, TIE]], items, prior=0.5)
    assert flipped.strengths == pytest.approx(-result.strengths, abs=1e-6)


def test_contributions_are_what_a_vote_more_moves() -> None:
    counts = PUDDING[None].astype(float)
    result = fit(PUDDING_PAIRS, counts, 6)
    moves = bradley_terry.contributions(result, PUDDING_PAIRS, counts)
    assert (counts[0, :, :, None] * moves).sum((0, 1)) == pytest.approx(0, abs=1e-9)
    for pair, outcome in ((0, WIN), (7, LOSS), (14, TIE)):
        more = counts.copy()
        more[0, pair, outcome] += 1e-3
        moved = (fit(PUDDING_PAIRS, more, 6).strengths - result.strengths)[0] / 1e-3
        assert moved == pytest.approx(moves[pair, outcome], abs=1e-5)
