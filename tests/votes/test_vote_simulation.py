"""Intervals of ratings hold the truth: a small form of tests/helpers/vote_simulation.py; more among the slow ones."""

from __future__ import annotations

import pytest
from vote_simulation import DESIGNS, Design, simulate


def test_intervals_hold_and_those_of_independent_votes_do_not() -> None:
    """Prompts and voters move cells by much: 30 elections of 4 cells, where the naive intervals fail."""
    design = Design("", (0.6, 0.2, -0.1, -0.7), 60, 8, 400, by_prompt=0.7, by_voter=0.6)
    found = simulate(design, 30)
    assert 0.87 <= found.ratings <= 1.0  # of 120 ratings, 3.5 standard errors below 0.95 if they were independent
    assert found.differences >= 0.85
    assert found.independent < found.ratings - 0.08


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_coverage(design: Design) -> None:
    """90 to 98 %, and what chance adds to 150 elections; of three voters a little less is stated in docs/ratings.md."""
    found = simulate(design, 150)
    low = 0.85 if " 3 unlike" in design.name else 0.9
    assert low <= found.ratings <= 0.985
    assert low <= found.differences <= 0.985
    assert found.pairs >= low - 0.03
