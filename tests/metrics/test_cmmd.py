"""CMMD: by hand, the reference implementation's formula in float64, spread by simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import peers
import pytest
import torch
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics.cmmd import Cmmd


def rows(x: np.ndarray, start: int = 0) -> Rows:
    features = {"digits_clip/image": torch.from_numpy(np.asarray(x, np.float32))}
    metric = Cmmd(features="digits_clip/image")
    return metric.observe(Batch(None, torch.arange(start, start + len(x)), len(x), [None] * len(x), features))


def score(generated: np.ndarray, reference: np.ndarray) -> Score:
    return Cmmd(features="digits_clip/image").score(generated=rows(generated), reference=rows(reference))


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) + shift).astype(np.float32)


def test_by_hand() -> None:
    """All samples along one axis, all references along another: squared distance 2, 1000 * 2 * (1 - exp(-2/200))."""
    x, y = np.tile([[3.0, 0.0]], (5, 1)), np.tile([[0.0, 0.5]], (4, 1))
    assert score(x, y).value == pytest.approx(2000 * (1 - np.exp(-0.01)), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 64), (50, 400, 8), (100, 100, 768)])
def test_equals_the_reference_implementation(n: int, m: int, d: int) -> None:
    x, y = normal(n, d, 1, 0.1), normal(m, d, 2)
    assert score(x, y).value == pytest.approx(peers.cmmd(x, y), rel=1e-4)


def test_golden(golden: Golden) -> None:
    x, y = normal(400, 768, 8, 0.1), normal(300, 768, 9)
    source = "google-research/cmmd's formula in float64, Gaussian embeddings"
    golden("cmmd", score_of("cmmd", x, reference=y).value, peers.cmmd(x, y), rel=1e-4, source=source)


def test_small_distances_keep_their_digits() -> None:
    """CMMD of 1e-3 is 1e-6 of the kernel's means: summed near 1 in float32 little would be left of it."""
    x = normal(200, 16, 3, 2.0)
    y = x + normal(200, 16, 4) * np.float32(0.02)
    expected = peers.cmmd(x, y)
    assert expected < 2e-3
    assert score(x, y).value == pytest.approx(expected, rel=2e-2)
    assert score(x, x).value == pytest.approx(0, abs=1e-5)


def test_standard_error_against_simulation() -> None:
    reference = normal(300, 16, 5, 0.3)
    scores = [score(normal(200, 16, 100 + i, 0.6), reference) for i in range(100)]
    spread = np.std([s.value for s in scores], ddof=1)
    assert 0.8 < np.mean([s.stderr for s in scores]) / spread < 1.25
    influence = np.mean([np.std(s.influence, ddof=1) / 200**0.5 for s in scores])
    assert 0.8 < influence / spread < 1.25


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=4), st.randoms(use_true_random=False))
def test_merges_in_any_order(cuts: list[int], rng: object) -> None:
    generated, reference = normal(40, 5, 6), rows(normal(50, 5, 7))
    metric = Cmmd()
    parts = [rows(generated[i:j], i) for i, j in pairwise(sorted({0, 40, *cuts}))]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    whole = metric.score(generated=rows(generated), reference=reference)
    assert metric.score(generated=merged, reference=reference) == whole


def test_contract() -> None:
    assert Cmmd().needs == ("clip_vit_l14_336/image",)
    assert Cmmd().constants() == {
        "estimator": "biased squared MMD",
        "kernel": "exp(-|x-y|^2 / (2 sigma^2)), x and y of unit length",
        "sigma": 10.0,
        "scale": 1000.0,
    }
