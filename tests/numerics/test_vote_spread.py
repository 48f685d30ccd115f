"""The bootstrap over prompts and voters: against the formula where votes are independent, and where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.numerics import bradley_terry
from evalkit.numerics.vote_spread import Votes, carried, spread

PAIRS = np.array([(0, 1), (0, 2), (1, 2)])


def cast(prompt: np.ndarray, voter: np.ndarray, seed: int, odds: tuple[float, ...] = (0.4, 0.4, 0.2)) -> Votes:
    rng = np.random.default_rng(seed)
    place, outcome = rng.integers(0, 3, len(prompt)), rng.choice(3, len(prompt), p=odds)
    return Votes(3, PAIRS, place, outcome, prompt, voter, 0.5)


def errors(covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.diag(covariance))


def test_independent_votes_have_the_error_of_the_inverse_information() -> None:
    votes = cast(np.arange(600) % 300, np.zeros(600, int), 1)
    found = spread(votes, 1000, 0)
    assert found is not None
    result = bradley_terry.fit(PAIRS, votes.counts, 3, 0.5)
    plain = bradley_terry.covariance(result, PAIRS, votes.counts, 0.5)
    assert errors(found.covariance) == pytest.approx(errors(plain), rel=0.1)
    assert (found.degrees, found.of_voters) == (299, 0.0)
    assert found.covariance.sum(0) == pytest.approx(0, abs=1e-12)
    again = spread(votes, 1000, 0)
    assert again is not None
    assert (again.covariance == found.covariance).all()


def test_votes_that_repeat_one_another_count_once() -> None:
    """Each prompt's votes cast ten times over: errors are those of the prompts, sqrt(10) times the naive ones."""
    one = cast(np.arange(200), np.zeros(200, int), 2)
    ten = Votes(3, PAIRS, *(np.repeat(each, 10) for each in (one.place, one.outcome, one.prompt, one.voter)), 0.5)
    single, tenfold = spread(one, 1000, 0), spread(ten, 1000, 0)
    assert single is not None
    assert tenfold is not None
    assert errors(tenfold.covariance) == pytest.approx(errors(single.covariance), rel=0.1)  # the prior weighs less


def test_voters_of_one_mind_are_few_votes() -> None:
    """Six voters, each of whom always prefers one item: what they add is most of the variance, with few degrees."""
    votes = cast(np.arange(1200) % 400, np.arange(1200) // 200, 3)
    favourite = np.array([0, 0, 1, 2, 2, 2])[votes.voter]
    first, second = PAIRS[votes.place].T
    outcome = np.where(first == favourite, 0, np.where(second == favourite, 1, votes.outcome))
    found = spread(Votes(3, PAIRS, votes.place, outcome, votes.prompt, votes.voter, 0.5), 500, 0)
    assert found is not None
    assert found.of_voters > 0.7
    assert 5 <= found.degrees < 12


def test_carried_moves_have_the_covariance_that_is_asked_for() -> None:
    votes = cast(np.arange(500) % 100, np.arange(500) % 7, 4)
    result = bradley_terry.fit(PAIRS, votes.counts, 3, 0.5)
    each = bradley_terry.contributions(result, PAIRS, votes.counts, 0.5)[votes.place, votes.outcome]
    moves = np.zeros((100, 3))
    np.add.at(moves, votes.prompt, each - each.mean(0))
    target = 2 * np.cov(np.random.default_rng(0).normal(size=(9, 3)) @ (np.eye(3) - 1 / 3), rowvar=False)
    scaled = carried(moves, 150, target)
    assert 150 / 149 * scaled.T @ scaled == pytest.approx(target, abs=1e-12)
    same = carried(moves, 150, 150 / 149 * moves.T @ moves)
    assert same == pytest.approx(moves, abs=1e-12)


def test_all_votes_of_one_prompt_tell_nothing() -> None:
    assert spread(cast(np.zeros(50, int), np.arange(50), 5), 10, 0) is None
