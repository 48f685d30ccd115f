"""AuthPct, C_T, nearest training images: one that copies is caught, an honest one is not; the peers' formulas."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import peers
import pytest
import torch
from golden import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from options import score_of
from scipy.stats import mannwhitneyu

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics.memorisation import AuthPct, DataCopying, NearestTraining, mann_whitney, partition

KINDS = (AuthPct, DataCopying, NearestTraining)


def rows(x: np.ndarray, start: int = 0) -> Rows:
    features = {"inception/pool3": torch.from_numpy(np.asarray(x, np.float32))}
    return AuthPct().observe(Batch(None, torch.arange(start, start + len(x)), len(x), [None] * len(x), features))


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, d)) * scale).astype(np.float32)


def score(metric: Any, generated: np.ndarray, training: np.ndarray, held_out: np.ndarray | None = None) -> Score:
    sides = {"training": rows(training)}
    if "reference" in metric.sides:
        assert held_out is not None
        sides["reference"] = rows(held_out)
    found: Score = metric.score(generated=rows(generated), **sides)
    return found


def copies(training: np.ndarray, n: int, seed: int, noise: float = 0.02) -> np.ndarray:
    pick = np.random.default_rng(seed).integers(0, len(training), n)
    return training[pick] + normal(n, training.shape[1], seed + 1, noise)


@pytest.mark.parametrize("d", [8, 100])
def test_a_copying_generator_is_caught_and_an_honest_one_is_not(d: int) -> None:
    training, held_out = normal(500, d, 1), normal(300, d, 2)
    honest, copying = normal(300, d, 3), copies(training, 300, 4)
    assert score(AuthPct(), copying, training).value == 0
    assert (score(AuthPct(), honest, training).value or 0) > 50
    assert (score(DataCopying(), copying, training, held_out).value or 0) < -10
    assert abs(score(DataCopying(), honest, training, held_out).value or 9) < 2
    assert score(NearestTraining(), copying, training).value == 1
    assert score(NearestTraining(), honest, training).value == 0


def test_some_copies_among_honest_samples() -> None:
    """30 copies of 300: each is found, and named with the training image it copies, before all others."""
    training = normal(500, 16, 5)
    samples = normal(300, 16, 6)
    samples[100:130] = training[200:230] + normal(30, 16, 7, 0.02)
    found = score(NearestTraining(top=40), samples, training)
    assert found.value == pytest.approx(0.1)
    assert found.stderr == pytest.approx((0.1 * 0.9 / 299) ** 0.5)
    assert len(found.nearest) == 40
    assert {(i, j) for i, j, _ in found.nearest[:30]} == {(100 + i, 200 + i) for i in range(30)}
    for i, j, distance in found.nearest:
        assert distance == pytest.approx(np.linalg.norm(samples[i].astype(float) - training[j]), rel=1e-6)


def test_nearest_training_by_hand() -> None:
    """Training 0, 10, 10.5. Samples: 1 (1 : 9), 10 (0 : 0.5), 4 (4 : 6), 10.5 - 1/8 (1/8 : 3/8, exactly a third)."""
    training, samples = np.array([[0.0], [10.0], [10.5]]), np.array([[1.0], [10.0], [4.0], [10.375]])
    found = score(NearestTraining(), samples, training)
    assert found.influence == (1, 1, 0, 0)
    assert found.nearest == ((1, 1, 0.0), (0, 0, 1.0), (3, 2, 0.125), (2, 0, 4.0))
    assert score(NearestTraining(top=2), samples, training).nearest == found.nearest[:2]
    assert score(NearestTraining(ratio=0.1), samples, training).influence == (0, 1, 0, 0)


def test_an_exact_copy_of_a_training_image_that_is_there_twice() -> None:
    training = normal(50, 6, 8)
    training[9] = training[31]
    found = score(NearestTraining(), training[[9, 40]], training)
    assert found.value == 1
    assert found.nearest[0][2] == 0


def test_indices_are_those_of_the_sets() -> None:
    training, samples = normal(60, 4, 9), normal(20, 4, 10)
    state = NearestTraining().score(generated=rows(samples, start=1000), training=rows(training, start=5000))
    plain = score(NearestTraining(), samples, training)
    assert [(i - 1000, j - 5000, d) for i, j, d in state.nearest] == list(plain.nearest)


def test_authpct_by_hand() -> None:
    """Training 0, 1, 4: nearest others at 1, 1, 3. Samples 0.5, 2.2, 6, 8: at 0.5 of 0 or 1, 1.2 of 1, 2 and 4 of 4."""
    found = score(AuthPct(), np.array([[0.5], [2.2], [6.0], [8.0]]), np.array([[0.0], [1.0], [4.0]]))
    assert found.influence == (0, 100, 0, 100)
    assert found.value == 50
    assert found.stderr == pytest.approx(np.std([0, 100, 0, 100], ddof=1) / 2)


def test_golden(golden: Golden) -> None:
    """By whole matrices of distances in float64. 30 of the 200 samples are copies."""
    training, samples = normal(300, 20, 11), normal(200, 20, 12, 0.9)
    samples[:30] = training[50:80] + normal(30, 20, 30, 0.02)
    found = score_of("authpct", samples, training=training).value
    source = "dgm-eval's computation by brute force in float64, Gaussian features"
    golden("authpct", found, peers.authpct(samples, training), abs=1e-9, source=source)
    found = score_of("nearest_training", samples, training=training).value
    source = "the criterion by brute force in float64, Gaussian features"
    golden("nearest_training", found, peers.memorised(samples, training), abs=1e-9, source=source)


def test_golden_c_t(golden: Golden) -> None:
    """In three clusters so far apart that they are the cells, by whatever k-means."""
    centres = np.zeros((3, 16), np.float32)
    centres[[0, 1, 2], [0, 1, 2]] = 50
    sizes = {"generated": 300, "reference": 330, "training": 600}
    cells = [np.arange(n) % 3 for n in sizes.values()]
    sets = [centres[c] + normal(len(c), 16, 31 + i, (0.8, 1, 1)[i]) for i, c in enumerate(cells)]
    expected, counted = peers.c_t(*sets, cells)
    found = score_of("c_t", sets[0], reference=sets[1], training=sets[2])
    source = "data-copying's computation by brute force, Gaussian clusters as cells"
    golden("c_t", found.value, expected, rel=1e-9, source=source)
    assert found.details["cells"] == counted == 3


def test_mann_whitney_equals_scipy() -> None:
    """With the z-score of casey-meehan/data-copying; whole numbers, so that there are ties."""
    rng = np.random.default_rng(13)
    a, b = rng.integers(0, 20, 70).astype(float), rng.integers(2, 25, 90).astype(float)
    u = mannwhitneyu(a, b, alternative="less").statistic
    expected = (u - (70 * 90 / 2 - 0.5)) / np.sqrt(70 * 90 * (70 + 90 + 1) / 12)
    assert mann_whitney(torch.from_numpy(a), torch.from_numpy(b))[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [5, 80])
def test_c_t_equals_the_published_computation(d: int) -> None:
    """data_copying_tests.py of casey-meehan/data-copying, by brute force, in the same cells."""
    training, held_out, samples = normal(400, d, 14), normal(250, d, 15), normal(200, d, 16, 0.8)
    found = score(DataCopying(), samples, training, held_out)
    cells = partition(torch.from_numpy(training), 3, 64, 2020)
    (g, of_g), (p, of_p) = (cells.place(torch.from_numpy(s)) for s in (samples, held_out))
    where = [c.numpy() for c in (of_g, of_p, cells.cell)]
    expected, counted = peers.c_t(g.numpy(), p.numpy(), cells.x.numpy(), where)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.details["cells"] == counted >= 2
    assert cells.x.shape == (400, min(d, 64))


def test_partition() -> None:
    """Three clusters far apart are the three cells, and the axes are sklearn's principal components."""
    centres = np.zeros((3, 90), np.float32)
    centres[[0, 1, 2], [0, 1, 2]] = 50
    x = centres[np.arange(300) % 3] + normal(300, 90, 17)
    cells = partition(torch.from_numpy(x), 3, 64, 1)
    assert all(len(set(cells.cell[i::3].tolist())) == 1 for i in range(3))
    assert len(set(cells.cell[:3].tolist())) == 3
    centred = x - x.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)[:64]
    np.testing.assert_allclose(np.sqrt((cells.x**2).sum(0)).numpy()[::-1], singular, rtol=1e-4)
    again = partition(torch.from_numpy(x), 3, 64, 1)
    assert torch.equal(again.cell, cells.cell)


def test_c_t_without_enough_samples_in_any_cell() -> None:
    found = score(DataCopying(more_than=20), normal(21, 4, 18), normal(100, 4, 19), normal(50, 4, 20))
    assert found.value is None
    assert found.note == "no cell holds more than 20 samples, and held-out images: raise num_samples"


def test_standard_errors_against_simulation() -> None:
    training, held_out = rows(normal(400, 8, 21)), rows(normal(300, 8, 22))
    for metric, sides in ((AuthPct(), {}), (DataCopying(), {"reference": held_out})):
        scores = [metric.score(generated=rows(normal(200, 8, 100 + i)), training=training, **sides) for i in range(60)]
        spread = np.std([s.value for s in scores], ddof=1)
        assert 0.75 < np.mean([s.stderr for s in scores]) / spread < 1.3, metric.title


def test_the_training_set_is_not_confused_with_another() -> None:
    samples, held_out = normal(100, 4, 23), normal(100, 4, 24)
    one, other = normal(120, 4, 25), copies(samples, 120, 26)
    for kind in KINDS:
        metric = kind()
        first = score(metric, samples, one, held_out)
        assert score(metric, samples, other, held_out) == score(kind(), samples, other, held_out) != first
        assert score(metric, samples, one, held_out) == first


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 79), max_size=4), st.randoms(use_true_random=False), st.sampled_from(KINDS))
def test_merges_in_any_order(cuts: list[int], rng: object, kind: Any) -> None:
    samples = normal(80, 5, 27)
    sides = {side: rows(normal(90, 5, 28 + i)) for i, side in enumerate(kind.sides)}
    metric = kind()
    parts = [rows(samples[i:j], i) for i, j in pairwise(sorted({0, 80, *cuts}))]
    rng.shuffle(parts)  # type: ignore[attr-defined]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert metric.score(generated=merged, **sides) == metric.score(generated=rows(samples), **sides)


def test_contract() -> None:
    assert AuthPct.sides == NearestTraining.sides == ("training",)
    assert DataCopying.sides == ("reference", "training")
    metric = DataCopying(features="digits/features", cells=5, more_than=30)
    assert metric.needs == ("digits/features",)
    assert (metric.min_samples, metric.min_reference) == (31, 5)
    assert metric.constants()["components"] == 64
    assert NearestTraining().constants()["ratio"] == pytest.approx(1 / 3)
