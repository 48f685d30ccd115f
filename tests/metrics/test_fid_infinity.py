"""FID-infinity: a case by hand, dgm-eval's computation, the bias that it takes away, sides and sizes."""

from __future__ import annotations

import numpy as np
import peers
import pytest
import torch
from golden import Golden
from options import score_of

from evalkit.metric import Batch, Rows, Score
from evalkit.metrics.fid_infinity import FrechetInfinity
from evalkit.metrics.frechet import FrechetDistance

ADDRESS = "inception/pool3"


def batch(x: np.ndarray, start: int = 0) -> Batch:
    n = len(x)
    features = {ADDRESS: torch.from_numpy(x.astype(np.float32))}
    return Batch(None, torch.arange(start, start + n), n, [None] * n, features)


def score(a: np.ndarray, b: np.ndarray, **options: int) -> Score:
    metric = FrechetInfinity(**options)  # type: ignore[arg-type]
    return metric.score(generated=metric.observe(batch(a)), reference=metric.observe(batch(b)))


def normal(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def test_by_hand() -> None:
    """{0, 2} thrice over against {0, 0}: sizes 3 and 6. At 6: mean 1, variance 1.2. The line runs through both."""
    metric = FrechetInfinity(sizes=2, min_size=3)
    x = np.array([[0.0], [2.0]] * 3)
    found = metric.score(generated=metric.observe(batch(x)), reference=metric.observe(batch(np.zeros((2, 1)))))
    at3, at6 = found.details["fd@3"], found.details["fd@6"]
    assert at6 == pytest.approx(1 + 1.2, rel=1e-12)
    assert any(at3 == pytest.approx(v, rel=1e-12) for v in (0.0, 4 / 9 + 4 / 3, 16 / 9 + 4 / 3, 4.0))  # 0 to 3 twos
    assert found.value == pytest.approx(2 * at6 - at3, rel=1e-12)  # at 1/n = 1/3 and 1/6; at 0: f6 + (f6 - f3)
    assert found.details["fit_residual"] == pytest.approx(0, abs=1e-12)


def test_equals_dgm_eval(golden: Golden) -> None:
    generated, reference = ((normal(600, 8, 1) * 1.2 + 0.1).astype(np.float32), normal(700, 8, 2).astype(np.float32))
    expected, distances = peers.frechet_infinity(generated, reference)
    found = score_of("fid_infinity", generated, reference=reference)
    source = "dgm-eval's computation written out, Gaussian features"
    golden("fid_infinity", found.value, expected, rel=1e-9, source=source)
    assert [v for k, v in found.details.items() if k.startswith("fd@")] == pytest.approx(distances, rel=1e-9)


def test_takes_most_of_the_bias_away() -> None:
    """Against the true moments of the same distribution: FD at N = 1000 is bias alone; at infinity it is 0."""
    d = 16
    truth = FrechetInfinity().from_moments(mean=torch.zeros(d).double(), cov=torch.eye(d).double(), n=None)
    values, biased = [], []
    for seed in range(10):
        metric = FrechetInfinity()
        found = metric.score(generated=metric.observe(batch(normal(1000, d, seed))), reference=truth)
        assert found.value is not None
        values.append(found.value)
        biased.append(found.details["fd@1000"])
    assert np.mean(biased) > 0.05
    assert abs(np.mean(values)) < 0.15 * np.mean(biased)


def test_sides_and_statistics() -> None:
    """The generated side is cut into subsets; statistics of the reference give what its samples give."""
    a, b = normal(300, 4, 3), normal(500, 4, 4) * 2
    metric = FrechetInfinity()
    x = b.astype(np.float32).astype(np.float64)
    stats = metric.from_moments(mean=torch.from_numpy(x.mean(0)), cov=torch.from_numpy(np.cov(x.T)), n=500)
    by_stats = metric.score(generated=metric.observe(batch(a)), reference=stats)
    by_rows = score(a, b)
    assert by_stats.value == pytest.approx(by_rows.value, rel=1e-9)
    assert "fd@300" in by_rows.details
    assert "fd@500" in score(b, a).details


def test_the_whole_set_is_the_frechet_distance() -> None:
    a, b = normal(200, 6, 5), normal(250, 6, 6) + 1
    fid = FrechetDistance()
    whole = fid.score(generated=fid.observe(batch(a)), reference=fid.observe(batch(b)))
    assert score(a, b).details["fd@200"] == pytest.approx(whole.value, rel=1e-9)


def test_merges_in_any_order_and_is_seeded() -> None:
    a, b = normal(120, 3, 7), normal(100, 3, 8)
    metric = FrechetInfinity()
    parts: list[Rows] = [metric.observe(batch(a[i : i + 40], i)) for i in (80, 0, 40)]
    merged = metric.score(generated=parts[0] + parts[1] + parts[2], reference=metric.observe(batch(b)))
    assert merged == score(a, b)
    assert score(a, b, seed=1).value != score(a, b).value


def test_sizes() -> None:
    a, b = normal(400, 3, 9), normal(100, 3, 10)
    sizes = [int(k[3:]) for k in score(a, b, min_size=100, sizes=4).details if k.startswith("fd@")]
    assert sizes == [100, 200, 300, 400]
    assert FrechetInfinity(min_size=100).min_samples == 200
    assert score(a, b).note is None
    assert "no more than the 3 dimensions" in str(score(a, b, min_size=3).note)


def test_no_standard_error_says_why() -> None:
    metric = FrechetInfinity()
    state = metric.observe(batch(normal(20, 2, 11)))
    assert "overlap" in metric.influence(generated=state, reference=state)
    assert metric.constants()["smallest"] == "min(5000, max(N // 10, 2))"
