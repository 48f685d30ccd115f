"""Power by hand, against scipy's distributions, and against verdicts over repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from power_simulation import cases, frechet_case, mean_case, simulate
from scipy import stats

from evalkit.results.power import Spread, forecast_power, paired_spread, power_of, prompts_needed, spread

ONE = Spread(1.0, 0.0, 100, False, 0.1)


def test_the_textbook_numbers() -> None:
    # Cohen (1988), table 2.4.1 and G*Power: one-sample t, d = 0.5, 80 % at 5 %: 34; two samples: 64 each.
    assert prompts_needed(0.5, ONE) == 34
    assert prompts_needed(0.5, ONE + ONE) in (64, 65)  # by the degrees of freedom of one side, as `difference` counts
    assert prompts_needed(0.0, ONE) is None
    assert prompts_needed(1e-9, ONE) is None


def test_power_is_that_of_the_noncentral_t_and_goes_on_without_a_step() -> None:
    for degrees in (1, 5, 40, 900):
        reach = stats.t.ppf(0.975, degrees)
        expected = stats.nct.sf(reach, degrees, 2.5) + stats.nct.cdf(-reach, degrees, 2.5)
        assert power_of(0.5, 0.2, degrees) == pytest.approx(expected, abs=1e-6)
    assert power_of(0.5, 0.2, 1000) == pytest.approx(power_of(0.5, 0.2, 1001), abs=2e-4)
    assert power_of(0.0, 0.2, 50) == pytest.approx(0.05)
    assert power_of(1.0, 0.0, 50) == 1.0


def test_components_are_those_of_the_analysis_of_variance() -> None:
    # By hand: prompt means 1, 3, 5; within each -1, +1. MS within 2, MS between 2 * 4 = 8: between (8 - 2) / 2 = 3.
    found = spread([0, 2, 2, 4, 4, 6], [7, 7, 8, 8, 9, 9])
    assert found is not None
    assert (found.between, found.within, found.prompts) == (3.0, 2.0, 3)
    assert found.alike == pytest.approx(0.6)
    assert found.effect(4) == pytest.approx(1 + 3 * 0.6)  # Kish
    assert found.of_prompt(2) == 4.0
    assert spread([1.0, 2.0], [5, 5]) is None
    alone = spread([1.0, 2.0, 4.0], None)
    assert alone is not None
    assert not alone.separate


def test_more_samples_of_a_prompt_are_worth_less_than_more_prompts() -> None:
    of = Spread(0.6, 0.4, 100, True, 0.1)
    for k in (2, 4, 16):
        prompts, alone = prompts_needed(0.1, of, k), prompts_needed(0.1, of, 1)
        assert prompts is not None
        assert alone is not None
        assert prompts < alone < k * prompts
        assert k * prompts / alone == pytest.approx(of.effect(k), rel=0.01)


def test_cells_that_share_prompts_and_not_seeds_are_compared_prompt_by_prompt() -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(400), 4)
    prompt = np.repeat(rng.standard_normal(400), 4)
    first, second = (prompt + 0.5 * rng.standard_normal(1600) for _ in range(2))
    found = paired_spread(first.tolist(), second.tolist(), (ids.tolist(), ids.tolist()), same=False)
    assert found is not None
    assert found.between == pytest.approx(0.0, abs=0.03)  # what prompts add cancels
    assert found.within == pytest.approx(0.5, rel=0.1)
    assert paired_spread([1, 2], [1, 2], (None, None), same=False) is None
    assert paired_spread([1, 2], [1, 2], ([3, 4], [4, 5]), same=False) is None


@pytest.mark.parametrize("paired", [True, False])
def test_a_mean_is_told_apart_as_often_as_forecast(paired: bool) -> None:
    found = simulate(mean_case(4, 0.5), paired=paired, draws=1000)
    assert found.forecast == pytest.approx(0.8, abs=0.02)
    assert found.simulated == pytest.approx(found.forecast, abs=0.05)


@pytest.mark.slow
def test_fid_is_told_apart_as_often_as_forecast() -> None:
    found = simulate(frechet_case(share=0.3), paired=True, draws=200)
    assert found.simulated == pytest.approx(found.forecast, abs=0.05 + 2 * math.sqrt(0.16 / 200))


@pytest.mark.slow
def test_forecast_and_simulation_agree_within_5_points() -> None:
    for case, paired in cases():
        found = simulate(case, paired=paired, draws=1000)
        assert found.simulated == pytest.approx(found.forecast, abs=0.05), found.line()


def test_forecast_power_grows_with_prompts() -> None:
    powers = [forecast_power(0.3, ONE, prompts) for prompts in (10, 50, 200)]
    assert powers == sorted(powers)
