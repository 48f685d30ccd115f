"""KID: by hand, torch-fidelity's, torchmetrics' and clean-fid's results on the same features, spread by simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics.kernel_distance import KernelDistance, cubic, subset_sums
from evalkit.numerics import blockwise


def rows(x: np.ndarray, start: int = 0) -> Rows:
    features = {"inception/pool3": torch.from_numpy(np.asarray(x, np.float32))}
    return KernelDistance().observe(Batch(None, torch.arange(start, start + len(x)), len(x), [None] * len(x), features))


def score(metric: KernelDistance, generated: np.ndarray, reference: np.ndarray) -> Score:
    return metric.score(generated=rows(generated), reference=rows(reference))


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) * scale + shift).astype(np.float32)


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """The squared MMD with the cubic kernel, float64, all pairs."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    kxx, kyy, kxy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy))
    return float(within - 2 * kxy.mean())


def test_by_hand() -> None:
    """One dimension, x = 0, 1 and y = 2, 3, the only subset: k = (ab + 1)^3.

    k(0,1) = 1 and k(2,3) = 343 off the diagonals; across: 1, 1, 27, 64. 1 + 343 - 2 * 93 / 4 = 297.5.
    """
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    of = [torch.arange(2)]
    sums = [
        float(subset_sums(*(torch.from_numpy(s).float() for s in pair), of, of)) for pair in ((x, x), (y, y), (x, y))
    ]
    assert sums == [1 + 2 * 1 + 8, 125 + 2 * 343 + 1000, 93]
    repeated = np.repeat([[0.0], [1.0]], 2, axis=0), np.repeat([[2.0], [3.0]], 2, axis=0)
    metric = KernelDistance(subsets=3, subset_size=4)
    expected = (4 * 1 * 2 + 2 * 1 + 2 * 8) / 12 + (4 * 343 * 2 + 2 * 125 + 2 * 1000) / 12 - 2 * 93 / 4
    found = score(metric, *repeated)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.details == {"std": pytest.approx(0, abs=1e-9), "subsets": 3, "subset_size": 4}


@pytest.mark.parametrize(
    ("n", "m", "d", "size"),
    [(1200, 1200, 64, 1000), (2500, 1100, 16, 700), (900, 4000, 8, 200), (300, 300, 2048, 100)],
)
def test_equals_torch_fidelity(n: int, m: int, d: int, size: int) -> None:
    """Both ways of adding up: all pairs once (sets little larger than a subset), and subset by subset."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = np.maximum(normal(n, d, 1, 0.9, 0.3), 0), np.maximum(normal(m, d, 2), 0)
    options = {"kid_subsets": 20, "kid_subset_size": size, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    found = score(KernelDistance(subsets=20, subset_size=size), x, y)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    assert found.details["std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert found.n == n


def test_golden(golden: Golden) -> None:
    """The option as it is: 100 subsets of 1000."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = np.maximum(normal(1200, 32, 16, 0.9, 0.3), 0), np.maximum(normal(1100, 32, 17), 0)
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), verbose=False)
    found = score_of("kid", x, reference=y)
    source = f"{peer('torch-fidelity')}, the same features"
    golden("kid", found.value, theirs["kernel_inception_distance_mean"], abs=1e-6, source=source)
    golden("kid, std", found.details["std"], theirs["kernel_inception_distance_std"], abs=1e-6, source=source)


def test_both_ways_of_adding_up_agree() -> None:
    x, y = (torch.from_numpy(normal(n, 12, 3)) for n in (60, 90))
    rng = np.random.default_rng(4)
    of_x, of_y = ([torch.from_numpy(rng.choice(n, 20, replace=False)) for _ in range(40)] for n in (60, 90))
    at_once = subset_sums(x, y, of_x, of_y)
    one_by_one = torch.cat([subset_sums(x, y, [i], [j]) for i, j in zip(of_x, of_y, strict=True)])
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-6, atol=0)


def test_equals_torchmetrics_where_a_subset_is_all() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(200, 32, 5, 1.1), normal(200, 32, 6)
    theirs = float(poly_mmd(torch.from_numpy(y), torch.from_numpy(x)))
    found = score(KernelDistance(subset_size=200, subsets=2), x, y)
    assert found.value == pytest.approx(theirs, abs=1e-5)  # theirs sums in float32
    assert found.value == pytest.approx(unbiased(x, y), abs=1e-6)


def test_clamp() -> None:
    """Subsets of all of the smaller set; without it the engine refuses such sets by min_samples and min_reference."""
    x, y = normal(120, 16, 7, 1.2), normal(120, 16, 8)
    found = score(KernelDistance(clamp=True, subsets=5), x, y)
    assert found.details["subset_size"] == 120
    assert found.value == pytest.approx(unbiased(x, y), abs=1e-6)
    strict, clamped = KernelDistance(), KernelDistance(clamp=True)
    assert (strict.min_samples, strict.min_reference) == (1000, 1000)
    assert (clamped.min_samples, clamped.min_reference) == (4, 4)


def test_unbiased() -> None:
    """Equal distributions: the mean over draws is 0 within three standard errors of it."""
    metric = KernelDistance(subsets=10, subset_size=50)
    values = [score(metric, normal(100, 8, 100 + i), normal(100, 8, 500 + i)).value for i in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / 60**0.5


@pytest.mark.parametrize(
    ("n", "m", "size", "subsets", "scale", "shift"),
    [(300, 300, 100, 50, 1.0, 0.0), (300, 400, 300, 10, 1.0, 0.3), (900, 900, 60, 20, 1.0, 0.2)],
)
def test_standard_error_against_simulation(n: int, m: int, size: int, subsets: int, scale: float, shift: float) -> None:
    """Other samples and other subsets, the same reference: equal distributions, different ones, and subsets so few
    that they are what makes half of the spread."""
    reference = normal(m, 16, 9)
    scores = [
        score(
            KernelDistance(subsets=subsets, subset_size=size, seed=i), normal(n, 16, 1000 + i, scale, shift), reference
        )
        for i in range(60)
    ]
    stated = np.mean([s.stderr for s in scores])
    assert 0.75 < stated / np.std([s.value for s in scores], ddof=1) < 1.3


def test_influence_is_the_linear_part() -> None:
    """Scores of sets that share all but a few samples differ by the samples' influences, to first order."""
    x, y = normal(400, 8, 10, 1.0, 0.5), normal(400, 8, 11)
    metric = KernelDistance(subset_size=400, subsets=1)
    before = score(metric, x, y)
    assert before.influence is not None
    assert before.value is not None
    changed = x.copy()
    changed[3] = x[7]
    after = score(metric, changed, y)
    assert after.value is not None
    expected = (before.influence[7] - before.influence[3]) / 400
    assert after.value - before.value == pytest.approx(expected, rel=0.1)
    std = float(np.std(before.influence, ddof=1))
    assert std / 400**0.5 == pytest.approx(before.stderr, rel=0.1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=4), st.randoms(use_true_random=False))
def test_merges_in_any_order(cuts: list[int], rng: object) -> None:
    generated, reference = normal(40, 5, 12), normal(50, 5, 13)
    metric = KernelDistance(subset_size=20, subsets=5)
    parts = [rows(generated[i:j], i) for i, j in pairwise(sorted({0, 40, *cuts}))]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    other = rows(reference)
    assert metric.score(generated=merged, reference=other) == metric.score(generated=rows(generated), reference=other)


def test_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(150, 9, 14), normal(130, 9, 15)
    metric = KernelDistance(subset_size=60, subsets=7)
    whole = score(metric, x, y)
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 4000)
    cut = score(metric, x, y)
    assert cut.value == pytest.approx(whole.value, abs=1e-7)
    assert cut.stderr == pytest.approx(whole.stderr, rel=1e-5)


def test_contract() -> None:
    metric = KernelDistance(features="digits/features", subset_size=500)
    assert metric.needs == ("digits/features",)
    assert metric.constants() == {
        "estimator": "unbiased squared MMD, mean over subsets",
        "kernel": "(x.y/d + 1)^3",
        "subsets": 100,
        "subset_size": 500,
        "clamp": False,
        "draws": "RandomState(2020)",
    }
    with pytest.raises(ValueError, match="subset_size=1"):
        KernelDistance(subset_size=1)
    assert cubic(torch.ones(1, 2), torch.ones(1, 2)).item() == 8
