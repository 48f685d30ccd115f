"""The stated 95 % intervals of differences hold the truth 90..98 % of the time (table: bench/bench_coverage.py)."""

from __future__ import annotations

import pytest
from coverage_simulation import CLIP_SCORE, FRECHET, digits_clip_scores, digits_gan, simulate, synthetic

DRAWS = 300


@pytest.mark.parametrize(
    ("d", "n"), [(8, 40), *(pytest.param(d, n, marks=pytest.mark.slow) for d, n in ((8, 200), (32, 400)))]
)
def test_frechet_differences_of_synthetic_features(d: int, n: int) -> None:
    found = simulate(FRECHET, synthetic(d), n, DRAWS)
    assert 0.90 <= found.paired <= 0.98, found.line()
    assert found.unpaired >= 0.90, found.line()  # wide where seeds are common, never too narrow
    assert 0.8 <= found.ratio <= 1.3, found.line()


@pytest.mark.slow
def test_frechet_differences_of_digits() -> None:
    """A population of 1000 says it as well as one of 4000: draws are with replacement, and the truth is its own."""
    found = simulate(FRECHET, digits_gan(1000, real=1000), 320, DRAWS)
    assert 0.90 <= found.paired <= 0.98, found.line()


@pytest.mark.slow
def test_frechet_differences_of_many_digits() -> None:
    gan = digits_gan()
    for n in (320, 1280):
        found = simulate(FRECHET, gan, n, DRAWS)
        assert 0.90 <= found.paired <= 0.98, found.line()


@pytest.mark.slow
def test_differences_of_clip_scores() -> None:
    found = simulate(CLIP_SCORE, digits_clip_scores(), 200, DRAWS)
    assert 0.90 <= found.paired <= 0.98, found.line()
    assert found.difference == pytest.approx(found.at_infinity, abs=0.3)  # a mean has no bias


def test_below_two_samples_a_dimension_there_is_no_standard_error() -> None:
    with pytest.raises(AssertionError, match="N = 60 is below 2 d = 64"):
        simulate(FRECHET, synthetic(32, 500), 60, 1)
