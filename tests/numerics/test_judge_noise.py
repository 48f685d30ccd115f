"""The judge's share of a score's variance: by hand, by identities, and stated intervals against known populations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from judge_simulation import Case, cases, simulate

from evalkit.metric import cluster_ids, standard_error
from evalkit.numerics.judge_noise import JudgeNoise, judge_noise


def test_by_hand() -> None:
    # two prompts of two samples, two answers each: the answers' variances are 0.5, 0, 0.5, 0
    answers = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    ids = cluster_ids(["a", "a", "b", "b"])
    stderr = standard_error(answers.mean(1).tolist(), ids)
    assert stderr == pytest.approx(0.25)  # the prompts' means: 0.75 and 0.25
    noise = judge_noise(answers, stderr)
    assert noise == JudgeNoise(4, 2, 0.25, 0.25**2 - 0.25 / 8)
    assert noise.stderr() == pytest.approx(stderr)
    assert noise.share() == pytest.approx(0.5)
    assert noise.share(6) == pytest.approx(0.25)
    assert noise.stderr(10**9) == pytest.approx(math.sqrt(noise.rest))


def test_more_answers_never_widen_and_enough_is_enough() -> None:
    noise = JudgeNoise(100, 3, 0.2, 4e-4)
    assert all(noise.stderr(k) > noise.stderr(k + 1) for k in range(1, 20))
    enough = noise.enough(0.1)
    assert enough is not None
    assert noise.share(enough) <= 0.1 < noise.share(enough - 1)


def test_cheapest_is_the_lowest_price() -> None:
    noise = JudgeNoise(100, 3, 0.2, 4e-4)
    for cost in (0.5, 1, 10, 100):
        price = {k: (100 * 4e-4 + 0.2 / k) * (cost + k) for k in range(1, 200)}
        assert noise.cheapest(cost) == min(price, key=price.__getitem__)


def test_judge_that_never_changes_its_mind_needs_no_repeats() -> None:
    noise = judge_noise(np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), 1 / 3)
    assert noise is not None
    assert (noise.share(), noise.enough(), noise.cheapest(10)) == (0.0, 1, 1)


def test_samples_that_do_not_differ() -> None:
    noise = JudgeNoise(10, 2, 0.25, 0.0)
    assert (noise.share(), noise.enough(), noise.cheapest(10)) == (1.0, None, None)


def test_one_answer_tells_nothing_of_the_judge_and_nan_is_refused() -> None:
    assert judge_noise(np.ones((5, 1)), 0.1) is None
    with pytest.raises(ValueError, match="1 of 4 answers are NaN"):
        judge_noise(np.array([[1.0, math.nan], [0.0, 1.0]]), 0.1)


@pytest.mark.parametrize("case", [Case("binary", 40, 3, 3), Case("graded", 40, 2, 5)], ids=str)
def test_stated_intervals_hold(case: Case) -> None:
    held = simulate(case, 200)
    assert 0.90 <= held.one <= 0.985
    assert 0.90 <= held.difference <= 0.985
    assert held.naive < held.one - 0.1  # answers are no samples
    assert held.share == pytest.approx(held.true_share, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=str)
def test_stated_intervals_hold_for_all(case: Case) -> None:
    held = simulate(case, 2000)
    assert 0.925 <= held.one <= 0.975
    assert 0.925 <= held.difference <= 0.975
    assert held.ratio == pytest.approx(1, abs=0.06)
    if held.share is not None:
        assert held.share == pytest.approx(held.true_share, abs=0.06)
