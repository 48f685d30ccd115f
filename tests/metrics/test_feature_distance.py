"""Distances between features of pairs: by hand, and a collapsed set of digits that the diversity catches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evalkit.metric import Batch
from evalkit.metrics.feature_distance import KINDS, FeatureDistance, FeatureDiversity


def batch(features: Tensor) -> Batch:
    n = len(features)
    return Batch(None, torch.arange(n), n, [None] * n, {"net/f": features})


@pytest.mark.parametrize(("kind", "expected"), [("squared_euclidean", 20.0), ("euclidean", 20**0.5), ("cosine", 0.4)])
def test_by_hand(kind: str, expected: float) -> None:
    """(0, 5) and (4, 3), both of length 5: squared 4^2 + 2^2 = 20 apart, and 1 - 15/25 = 0.4 by the cosine."""
    a, b = torch.tensor([[0.0, 5.0]]), torch.tensor([[4.0, 3.0]])
    found = FeatureDistance("net/f", kind).distance(batch(a), batch(b))  # type: ignore[arg-type]
    assert float(found) == pytest.approx(expected, rel=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(KINDS))
def test_symmetric_and_zero_for_equal_features(seed: int, kind: str) -> None:
    a, b = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(seed))
    metric = FeatureDistance("net/f", kind)  # type: ignore[arg-type]
    assert metric.distance(batch(a), batch(a)).tolist() == [0.0] * 4
    torch.testing.assert_close(metric.distance(batch(a), batch(b)), metric.distance(batch(b), batch(a)))
    assert bool((metric.distance(batch(a), batch(b)) > 0).all())


def test_collapsed_digits_are_caught() -> None:
    """One real seven with a little noise, against as many different sevens: less than a fifth of the diversity."""
    from evalkit.digits.data import reference_images
    from evalkit.extractors.digits import Digits

    pixels, captions = reference_images()
    sevens = [x.transpose(1, 2, 0) for x, c in zip(pixels, captions, strict=True) if "seven" in c.text.split()][:32]
    rng = np.random.default_rng(0)
    collapsed = [np.clip(sevens[0] + rng.normal(0, 4, sevens[0].shape), 0, 255).astype(np.uint8) for _ in sevens]
    extractor = Digits()
    extractor.load("cpu")
    metric = FeatureDiversity("net/f")
    diverse, same = (
        metric.distance(batch(f[0::2]), batch(f[1::2])).mean()
        for f in (extractor(shown, [], ["features"])["features"] for shown in (sevens, collapsed))
    )
    assert len(sevens) == 32
    assert 0 < float(same) < float(diverse) / 5


def test_contract() -> None:
    assert (FeatureDiversity("a/b").better, FeatureDiversity("a/b").pairs) == ("higher", "prompt")
    assert (FeatureDistance("a/b").better, FeatureDistance("a/b").pairs) == ("lower", "baseline")
    assert FeatureDistance("a/b", "cosine").constants() == {"estimator": "cosine distance"}
    with pytest.raises(ValueError, match="kind=manhattan: choices are squared_euclidean, euclidean, cosine"):
        FeatureDistance("a/b", "manhattan")  # type: ignore[arg-type]
