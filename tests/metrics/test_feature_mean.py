"""The mean of a learned score: by hand, merging in any order, what its options change."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from options import metric_of, score_of
from torch import Tensor

from evalkit.metric import Batch, Rows
from evalkit.metrics.feature_mean import Aesthetic, FeatureMean, ImageReward, VqaScore


def batch(values: Tensor, start: int = 0) -> Batch:
    n = len(values)
    return Batch(None, torch.arange(start, start + n), n, [None] * n, {"net/score": values})


def test_by_hand() -> None:
    """1, 2, 6: mean 3, standard error sqrt((4 + 1 + 9) / 2 / 3)."""
    metric = FeatureMean("net/score")
    score = metric.score(generated=metric.observe(batch(torch.tensor([[1.0], [2.0], [6.0]]))))
    assert score.value == 3.0
    assert score.stderr == pytest.approx((7 / 3) ** 0.5, rel=1e-12)
    assert score.influence == (1.0, 2.0, 6.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 29), max_size=5), st.randoms(use_true_random=False))
def test_merges_in_any_order_to_the_same_bits(cuts: list[int], rng: object) -> None:
    values = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    metric = FeatureMean("net/score")
    edges = sorted({0, 30, *cuts})
    parts = [metric.observe(batch(values[i:j], i)) for i, j in pairwise(edges)]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged: Rows = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert metric.score(generated=merged) == metric.score(generated=metric.observe(batch(values)))


def test_wide_features_are_refused() -> None:
    with pytest.raises(ValueError, match="net/score has 2 values per sample"):
        FeatureMean("net/score").observe(batch(torch.zeros(3, 2)))


def test_contract() -> None:
    """Options change one instance, not the class."""
    own = FeatureMean("net/score", title="blur", better="lower", needs_prompts=True)
    assert (own.title, own.better, own.needs_prompts) == ("blur", "lower", True)
    plain = FeatureMean("net/score")
    assert (plain.title, plain.better, plain.needs_prompts) == ("feature mean", "higher", False)
    assert FeatureMean.per_sample
    with pytest.raises(ValueError, match="better=more"):
        FeatureMean("net/score", better="more")  # type: ignore[arg-type]
    assert [m.needs for m in (Aesthetic(), ImageReward(), VqaScore())] == [
        ("aesthetic/score",),
        ("image_reward/score",),
        ("vqascore/score",),
    ]
    assert [m.needs_prompts for m in (Aesthetic(), ImageReward(), VqaScore())] == [False, True, True]


@pytest.mark.parametrize("name", ["feature_mean", "hpsv3"])
def test_options_over_scorers(golden: Golden, name: str) -> None:
    """The mean of numbers that a scorer elsewhere gives; HPSv3's 10.77 and -0.54 are of no image here."""
    changes = {"features": "scorer/score"} if name == "feature_mean" else {}
    values = torch.tensor([[10.77], [-0.54], [3.0]])
    score = score_of(name, values, changes)
    golden(name, score.value, (10.77 - 0.54 + 3.0) / 3, source="the mean, by hand", abs=1e-6)
    assert metric_of("hpsv3").needs_prompts
