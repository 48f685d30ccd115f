"""Do the stated 95 % intervals hold where a prompt has k samples? Repeated draws of prompts from known populations.

A population is P paired samples of two models, and of each the 20 samples that are most like it: a prompt is one of
them, its k samples are drawn from its 20. The truth is the mean over all draws at that N and k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalkit.metric import Batch, Rows, Score, cluster_ids, widest_of, with_error
from evalkit.metrics.feature_mean import FeatureMean
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.inception_score import InceptionScore
from evalkit.metrics.kernel_distance import KernelDistance
from evalkit.metrics.precision_recall import Coverage, Precision
from evalkit.results.stats import Estimate, align, difference, interval

Features = Mapping[str, NDArray[np.float32]]  # "a", "b": paired rows [P,D]; "reference": [M,D]
ALIKE = 20  # samples from which a prompt's are drawn
HEADING = f"{'metric':10s} {'N':>5s} {'k':>3s} {'prompts':>7s}  " + "  ".join(
    f"{name:>20s}" for name in ("paired, by sample", "paired, by prompt", "score, by sample", "score, by prompt")
)


@dataclass(frozen=True)
class Case:
    """A metric, what it reads of a population, and how many samples of it are drawn."""

    name: str
    metric: Any
    read: Mapping[str, NDArray[np.float32]]
    n: int


def synthetic(d: int = 32, size: int = 6000, seed: int = 0) -> Features:
    """Heavy-tailed features of two models on common latents, and of a reference."""
    rng = np.random.default_rng(seed)
    threshold = np.linspace(0, 1.5, d)
    mixes = [np.eye(d) + 0.5 * rng.standard_normal((d, d)) / d**0.5 for _ in range(2)]
    mixes[1] = mixes[0] + 0.4 * mixes[1]
    one, two = (mix / np.linalg.norm(mix, axis=0) for mix in mixes)
    factors = rng.standard_normal((5, d)) / 5**0.5  # images differ in few directions: those alike are near

    def latent(count: int) -> NDArray[np.float64]:
        each: NDArray[np.float64] = rng.standard_normal((count, 5)) @ factors + 0.4 * rng.standard_normal((count, d))
        return each

    def active(x: NDArray[np.float64]) -> NDArray[np.float32]:
        return (np.maximum(x - threshold, 0) ** 1.3 * np.exp(threshold / 2)).astype(np.float32)

    common = latent(size)
    return {"a": active(common @ one), "b": active(1.1 * common @ two) + 0.05, "reference": active(latent(3000) @ one)}


def cases(data: Features, n: int, seed: int = 3) -> Iterator[Case]:
    """CLIP-like means, FID, KID, IS of 10 classes, precision and coverage."""
    rng = np.random.default_rng(seed)
    d = data["a"].shape[1]
    scale = data["reference"].std(0) + 1e-6
    logits = rng.standard_normal((d, 10)).astype(np.float32)
    read = {side: (4 * (x - x.mean(0)) / scale @ logits / d**0.5).astype(np.float32) for side, x in data.items()}
    mean = {side: x / scale @ logits[:, :1] for side, x in data.items()}
    few = {**data, "reference": data["reference"][:600]}
    yield Case("mean", FeatureMean("x/y"), {side: x.astype(np.float32) for side, x in mean.items()}, n)
    yield Case("FID", FrechetDistance("x/y"), data, n)
    yield Case("KID", KernelDistance("x/y", subsets=50, subset_size=min(n, 200)), few, n)
    yield Case("IS", InceptionScore("x/y", splits=1), read, n)
    yield Case("precision", Precision("x/y"), few, n)
    yield Case("coverage", Coverage("x/y"), few, n)


def alike(data: Features) -> NDArray[np.int64]:
    """i64 [P,ALIKE]: the samples of the first model that lie nearest to each, itself among them."""
    x = torch.from_numpy(data["a"]).double()
    parts = [torch.cdist(part, x).topk(ALIKE, largest=False).indices for part in x.split(1000)]
    found: NDArray[np.int64] = torch.cat(parts).numpy()
    return found


def scored(metric: Any, x: NDArray[np.float32], prompts: list[str | None], sides: Mapping[str, Any]) -> Score:
    """A score as the scoring stage forms it."""
    batch = Batch(None, torch.arange(len(x)), len(x), prompts, {"x/y": torch.from_numpy(x)})
    state = metric.observe(batch)
    if isinstance(state, Rows):
        state = replace(state, clusters=batch.clusters)
    score: Score = metric.score(generated=state, **sides)
    influence = metric.influence(generated=state, **sides) if sides else None
    if callable(influence):
        score = with_error(score, widest_of(influence(batch), batch.clusters), batch.clusters)
    assert score.stderr is not None, score.note
    return score


def simulate(case: Case, near: NDArray[np.int64], k: int, draws: int, seed: int = 1) -> dict[str, tuple[float, float]]:
    """By kind of interval the share that holds the truth, and mean standard error over true spread."""
    rng = np.random.default_rng(seed)
    metric, n, g = case.metric, case.n, case.n // k
    sides = {}
    if hasattr(metric, "sides"):
        y = torch.from_numpy(case.read["reference"])
        sides = {"reference": metric.observe(Batch(None, torch.arange(len(y)), len(y), [None] * len(y), {"x/y": y}))}
    asked: list[str | None] = [f"p{i // k}" for i in range(g * k)]
    known: dict[str, list[tuple[float, float, float, float]]] = {}  # value, low, high, standard error
    for _ in range(draws):
        anchors = rng.choice(len(near), g, replace=False)
        rows = np.concatenate([rng.choice(near[anchor], k, replace=False) for anchor in anchors])
        for kind, prompts in (("by sample", [None] * len(rows)), ("by prompt", asked)):
            ids = cluster_ids(prompts)
            scores = [scored(metric, case.read[side][rows], prompts, sides) for side in ("a", "b")]
            a, b = (Estimate(s.value, s.stderr, n, s.influence, ids, s.clusters) for s in scores)  # type: ignore[arg-type]
            gap = difference((a.value, a.stderr), (b.value, b.stderr), align(a, b, same=True))
            low, high = interval(a) or (a.value, a.value)
            known.setdefault(f"score, {kind}", []).append((a.value, low, high, a.stderr or 0.0))
            assert gap.low is not None
            assert gap.high is not None
            known.setdefault(f"paired, {kind}", []).append((gap.value, gap.low, gap.high, gap.stderr or 0.0))
    found = {}
    for name, rows_of in known.items():
        value, low, high, error = np.asarray(rows_of).T
        truth = value.mean()
        found[name] = float(((low <= truth) & (truth <= high)).mean()), float(error.mean() / value.std(ddof=1))
    return found


def line(case: Case, near: NDArray[np.int64], k: int, draws: int, seed: int = 1) -> str:
    """A line of the table: coverage in %, two binomial errors, and in brackets standard error over true spread."""
    found = simulate(case, near, k, draws, seed)
    cells = []
    for name in ("paired, by sample", "paired, by prompt", "score, by sample", "score, by prompt"):
        held, ratio = found[name]
        cells.append(f"{100 * held:5.1f} ±{196 * (held * (1 - held) / draws) ** 0.5:4.1f} ({ratio:.2f})")
    return f"{case.name:10s} {case.n:5d} {k:3d} {case.n // k:7d}  " + "  ".join(f"{cell:>20s}" for cell in cells)
