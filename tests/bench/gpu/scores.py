"""Scores of 50,000 x 2,048 features on the device: neighbours, kernels, spectra, moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu.bench import Bench


def run(bench: Bench) -> None:
    from evalkit.metric import Rows
    from evalkit.metrics.cmmd import Cmmd
    from evalkit.metrics.fid_infinity import FrechetInfinity
    from evalkit.metrics.inception_score import InceptionScore
    from evalkit.metrics.kernel_distance import KernelDistance
    from evalkit.metrics.memorisation import AuthPct, DataCopying, NearestTraining
    from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall
    from evalkit.metrics.vendi import Vendi

    n, d = (1000, 64) if bench.tiny else (50_000, 2048)
    x, y, train = (features(n, d, seed, bench.device) for seed in (1, 2, 3))
    rows: Callable[[Tensor], Rows] = lambda t: Rows(torch.arange(len(t)), {"x": t})  # noqa: E731
    sides: dict[str, Any] = {"generated": rows(x), "reference": rows(y)}

    def score(name: str, metric: Any, note: str = "", **given: Any) -> None:
        found = bench.timed(f"{name} of {n:,}", lambda: metric.score(**given), note, needs=6)
        if found is not None:
            bench.say(f"{name}, value, standard error", f"{found.value}, {found.stderr}")

    score("precision", Precision("x"), "all balls in one pass: 20.5 TFLOP", **sides)
    for kind in (Recall, Density, Coverage):
        score(kind.title, kind("x"), "the pass is kept", **sides)
    score("KID", KernelDistance("x", clamp=True), **sides)
    unit = {side: Rows(r.index, {"x": torch.nn.functional.normalize(r["x"][:, :768])}) for side, r in sides.items()}
    score("CMMD (768)", Cmmd("x"), "7.7 TFLOP", **unit)
    score("Vendi", Vendi("x"), generated=sides["generated"])
    score("IS (1,008 classes)", InceptionScore("x"), generated=rows(x[:, :1008].contiguous() * 4))
    frechet(bench, x, y)
    training = {"generated": sides["generated"], "training": rows(train)}
    score("AuthPct", AuthPct("x"), "15.4 TFLOP", **training)
    score("nearest training images", NearestTraining("x"), "10.2 TFLOP", **training)
    score("FID-infinity", FrechetInfinity("x"), "15 roots", **sides)
    if bench.left() > 25 or bench.tiny:
        score("C_T", DataCopying("x"), "k-means is SciPy's, on the CPU", **training, reference=sides["reference"])
    on_the_cpu(bench)


def frechet(bench: Bench, x: Tensor, y: Tensor) -> None:
    """Moments chunk by chunk as a run forms them, the root, the influences."""
    from evalkit.metric import Batch
    from evalkit.metrics.frechet import FrechetDistance

    metric = FrechetDistance("x")

    def batches(t: Tensor) -> Any:
        for start in range(0, len(t), 256):
            part = t[start : start + 256]
            yield Batch(None, torch.arange(start, start + len(part)), len(t), [None] * len(part), {"x": part})

    def observe(t: Tensor) -> Any:
        state: Any = None
        for batch in batches(t):
            state = metric.observe(batch) if state is None else state + metric.observe(batch)
        return state

    states = [bench.timed("FID: moments of one side", lambda t=t: observe(t), "0.42 TFLOP in float64") for t in (x, y)]
    if None in states:
        return
    given = dict(zip(("generated", "reference"), states, strict=True))
    found = bench.timed("FID: root", lambda: metric.score(**given))
    near = bench.timed("FID: root on the CPU", lambda: metric.score(**{k: s.to("cpu") for k, s in given.items()}))
    if found and near:
        bench.check("FID, device less CPU, of the value", abs(found.value - near.value) / near.value, 1e-9)
    influence = metric.influence(**given)
    if callable(influence):
        bench.timed("FID: influences", lambda: [influence(batch).cpu() for batch in batches(x)])


def on_the_cpu(bench: Bench) -> None:
    """The same pass on all cores, at a size that they manage: 1/150 of the products."""
    from evalkit.metric import Rows
    from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall

    n, d = (300, 64) if bench.tiny else (4096, 2048)
    scores: dict[str, list[float]] = {}
    for device in dict.fromkeys(("cpu", bench.device)):
        x, y = (features(n, d, seed, "cpu").to(device) for seed in (1, 1.3))
        given = {side: Rows(torch.arange(n), {"x": t}) for side, t in (("generated", x), ("reference", y))}
        values = bench.timed(
            f"precision, recall, density, coverage of {n:,}, {device}",
            lambda given=given: [kind("x").score(**given).value for kind in (Precision, Recall, Density, Coverage)],
        )
        scores[device] = values or []
    if len(scores) == 2:
        cpu, cuda = scores.values()
        bench.check(
            "precision .. coverage, device less CPU", max(abs(a - b) for a, b in zip(cpu, cuda, strict=True)), 0
        )


def features(n: int, d: int, seed: float, device: str) -> Tensor:
    """f32 [N,D], not negative and of unequal spread, as Inception's pool3."""
    g = torch.Generator(device=device).manual_seed(int(10 * seed))
    x = torch.empty(n, d, device=device).normal_(generator=g)
    return x.mul_(torch.linspace(0.2, 1, d, device=device)).add_(0.02 * seed).clamp_(min=0)
