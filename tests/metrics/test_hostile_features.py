"""Features that are not finite, far from the origin, very large or very small: the right value, or one clear error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evalkit.metric import Batch, SampleMetric, Score
from evalkit.metrics.cmmd import Cmmd
from evalkit.metrics.fid_infinity import FrechetInfinity
from evalkit.metrics.fld import FeatureLikelihood
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.kernel_distance import KernelDistance
from evalkit.metrics.memorisation import AuthPct, DataCopying, NearestTraining
from evalkit.metrics.mifid import MemorisationInformedFid
from evalkit.metrics.mind import Mind
from evalkit.metrics.path_length import trimmed
from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall
from evalkit.metrics.rke import RenyiKernelEntropy
from evalkit.metrics.topp_r import TopPrecision, TopRecall
from evalkit.metrics.vendi import Vendi
from evalkit.scoring.cache import finite

METRICS = [
    FrechetDistance("x/y"),
    FrechetInfinity("x/y"),
    KernelDistance("x/y", subset_size=20, subsets=10),
    Cmmd("x/y"),
    Vendi("x/y"),
    *(kind("x/y") for kind in (Precision, Recall, Density, Coverage, AuthPct, NearestTraining)),
    DataCopying("x/y", cells=1),
    *(kind("x/y") for kind in (Mind, MemorisationInformedFid, RenyiKernelEntropy, TopPrecision, TopRecall)),
    FeatureLikelihood("x/y"),
]


def normal(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def score(metric: Any, generated: np.ndarray, other: np.ndarray) -> Score:
    def state(x: np.ndarray) -> Any:
        rows = torch.from_numpy(np.asarray(x, np.float32))
        return metric.observe(Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {"x/y": rows}))

    sides = () if isinstance(metric, SampleMetric) else metric.sides
    found: Score = metric.score(generated=state(generated), **{side: state(other) for side in sides})
    return found


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.title)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(metric: Any, bad: float) -> None:
    x, y = normal(80, 6, 1), normal(80, 6, 2)
    x[5, 3] = bad
    with pytest.raises(ValueError, match=r"features of 1 of 80 samples are NaN or infinite \(the first: row 5\)"):
        score(metric, x, y)
    if not isinstance(metric, SampleMetric):
        with pytest.raises(ValueError, match="features of 1 of 80 samples are NaN or infinite"):
            score(metric, y, x)


def test_a_path_of_nan_gives_no_score() -> None:
    found = finite(trimmed([1.0] * 49 + [float("nan")], 0.01, 50))
    assert (found.value, found.note, found.broken) == (None, "the computation gave nan", True)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
@pytest.mark.parametrize("kind", [Precision, Recall, Density, Coverage, AuthPct, NearestTraining, Vendi, Cmmd])
def test_scale_free_metrics_do_not_see_the_scale(kind: Any, scale: float) -> None:
    x, y = normal(120, 6, 3), normal(120, 6, 4) * 1.2
    expected = score(kind("x/y"), x, y)
    found = score(kind("x/y"), x * scale, y * scale)
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-4)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_kernel_distance_far_from_the_origin(mean: float) -> None:
    """One subset of everything is the U-statistic, here in float64; at 1e4, float32 gave ten times its value."""
    x, y = ((normal(60, 64, seed) + mean).astype(np.float32).astype(np.float64) for seed in (5, 6))
    kernels = [(a @ b.T / 64 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((k.sum() - np.trace(k)) / (60 * 59) for k in kernels[:2])
    found = score(KernelDistance("x/y", subsets=1, subset_size=60), x, y)
    assert found.value == pytest.approx(within - 2 * kernels[2].mean(), rel=1e-4, abs=1e-4)
    assert found.stderr is not None
    spread = np.std([np.mean(k, axis=1) for k in kernels[:1]])
    assert found.stderr < 10 * spread


def test_cmmd_of_near_directions() -> None:
    x, y = (np.eye(1, 32) + 1e-4 * (normal(60, 32, seed) + shift) for seed, shift in ((7, 0.0), (8, 0.5)))
    unit = [(s / np.linalg.norm(s, axis=1)[:, None]) for s in (x.astype(np.float32), y.astype(np.float32))]

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.expm1(-np.square(a[:, None] - b[None]).sum(2) / 200).mean())

    expected = 1000 * (mean(unit[0], unit[0]) + mean(unit[1], unit[1]) - 2 * mean(*unit))
    assert expected > 1e-8
    assert score(Cmmd("x/y"), x, y).value == pytest.approx(expected, rel=1e-3)
