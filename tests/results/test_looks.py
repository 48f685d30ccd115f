"""The boundary against Pocock's table and against draws; the error rates of the rule that uses it."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from sequential_simulation import LOOKS, cases, halving, of_statistic, of_within, ruled, verdicts

from evalkit.results.looks import Grown, Looks, Stopped, level


@pytest.mark.parametrize(("count", "published"), [(2, 2.178), (3, 2.289), (5, 2.413), (10, 2.555)])
def test_the_boundary_is_pococks(count: int, published: float) -> None:
    each = level(tuple(range(1, count + 1)), 0.05, False)
    assert NormalDist().inv_cdf(1 - each / 2) == pytest.approx(published, abs=1e-3)


def test_sizes_double_up_to_the_ceiling() -> None:
    assert Looks.doubling(256, 1024).sizes == (256, 512, 1024)
    assert Looks.doubling(256, 700).sizes == (256, 512, 700)
    assert Looks.doubling(256, 256).sizes == (256,)
    one = Looks((256,))
    assert one.confidence == pytest.approx(0.95)
    assert one.one_sided == pytest.approx(0.95)


@pytest.mark.parametrize("one_sided", [True, False])
def test_all_looks_together_have_the_level(one_sided: bool) -> None:
    looks = Looks.doubling(16, 500)
    steps = np.random.default_rng(0).standard_normal((20_000, 500)).astype(np.float32)
    sizes = np.array(looks.sizes)
    z = steps.cumsum(1)[:, sizes - 1] / np.sqrt(sizes)
    tails = 1 if one_sided else 2
    reach = NormalDist().inv_cdf(1 - looks.level(0.05, one_sided=one_sided) / tails)
    beyond = ((z if one_sided else np.abs(z)) > reach).any(1).mean()
    assert beyond == pytest.approx(0.05, abs=0.005)
    assert looks.level(0.05, one_sided=one_sided) > 0.05 / len(sizes)  # it costs less than Bonferroni


def test_equal_cells_are_seldom_told_apart_however_often_one_looks() -> None:
    found = verdicts(150)
    assert found.rule <= 0.05 + 2 * (0.05 * 0.95 / 150) ** 0.5
    assert found.plain is not None
    assert found.plain > found.rule + 0.03


def test_rules_of_margins_and_statistics_are_seldom_wrong_however_often_one_looks() -> None:
    for name, status in (("within", of_within), ("median", of_statistic("median", math.log(2) - 1))):
        found = ruled(80, name, "fail", status)
        assert found.rule <= 0.05 + 2.5 * (0.05 * 0.95 / 80) ** 0.5, found.line()
        assert found.plain is not None
        assert found.plain > found.rule + 0.03, found.line()


def test_the_best_cell_is_seldom_stopped() -> None:
    found = halving(60, np.array([0.0, 0.0, 0.0, 0.5, 0.5]), "")
    assert found.rule <= 0.1
    assert found.samples < 0.8  # those that are worse stop


@pytest.mark.slow
def test_error_rates_hold_in_every_case() -> None:
    for found in cases(1000):
        assert found.rule <= 0.05 + 3 * (0.05 * 0.95 / 1000) ** 0.5, found.line()


def test_what_is_told_of_a_run_that_grew() -> None:
    grown = Grown(LOOKS, 2, "the gate passed", {"a": Stopped(256, "fid", "b", 3.25)})
    assert grown.note.startswith(f"N = {LOOKS.sizes[1]} was settled by look 2 of at most {len(LOOKS.sizes)}: the gate")
    told = grown.to_json()
    assert told["stopped"] == {"a": {"n": 256, "metric": "fid", "than": "b", "by": 3.25}}
    assert 0.95 < told["confidence"] < 1
