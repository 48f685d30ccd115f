"""Scores of tensors on the device are the CPU's; pairs are measured there; memory is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images
from lpips_weights import seeded_trunk
from options import CONFIGS, metric_of
from torch import Tensor

from evalkit.extractors.base import Extractor
from evalkit.extractors.lpips import Lpips
from evalkit.metric import Batch, Metric, PairMetric, ReferenceMetric, Rows, SampleMetric, Score, StateMetric
from evalkit.metrics.vendi import Vendi
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources

pytestmark = pytest.mark.gpu

N, D = 1200, 64
COUNT = 8  # images of pairs
STATES = [
    path.stem
    for path in sorted((CONFIGS / "metric").glob("*.yaml"))
    if isinstance(metric := metric_of(path.stem), StateMetric) and metric.on_device
]
EXACT = ("precision", "recall", "density", "coverage", "authpct", "nearest_training", "c_t", "ct")


def features(seed: int, n: int = N) -> Tensor:
    """f32 [N,D] of unequal spread; the first rows are copies of one another."""
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.1, 2, D) + 0.01 * seed
    x[:4] = x[0]
    return x


def batches(x: Tensor, metric: Metric, device: str) -> Iterator[Batch]:
    prompts = [f"text {i // 2}" for i in range(len(x))]
    for start in range(0, len(x), 256):
        part = slice(start, start + 256)
        index = torch.arange(start, min(start + 256, len(x)))
        yield Batch(None, index, len(x), prompts[part], dict.fromkeys(metric.needs, x[part])).to(device)


def scored(name: str, device: str) -> tuple[Score, Tensor | None]:
    """The score of an option on states on a device, and the influences that a second pass gives."""
    metric = metric_of(name)
    states: dict[str, Any] = {}
    sides = metric.sides if isinstance(metric, ReferenceMetric) else ()
    for seed, side in enumerate(("generated", *sides)):
        for batch in batches(features(seed), metric, device):
            state = metric.observe(batch)
            states[side] = states[side] + state if side in states else state
        values = states[side].values.items()
        assert all(value.device.type == torch.device(device).type for key, value in values if key != "n")
    score = metric.score(**states)
    influence = metric.influence(**states) if isinstance(metric, ReferenceMetric) else None
    if not callable(influence):
        return score, None
    return score, torch.cat([influence(batch).cpu() for batch in batches(features(0), metric, device)])


@pytest.mark.parametrize("name", STATES)
def test_the_score_is_the_cpus(name: str, device: str) -> None:
    here, there = scored(name, "cpu"), scored(name, device)
    kernel = metric_of(name).title in ("KID", "CMMD")
    exact = name.startswith(EXACT)
    assert here[0].value is not None
    unseen = 1e-3 * (here[0].stderr or 0) if kernel else 0  # float32 sums, of which a small difference is left
    assert there[0].value == pytest.approx(here[0].value, rel=0 if exact else 1e-9, abs=max(unseen, 1e-9))
    assert there[0].n == here[0].n
    assert [pair[:2] for pair in there[0].nearest] == [pair[:2] for pair in here[0].nearest]
    if here[0].stderr is not None:
        assert there[0].stderr == pytest.approx(here[0].stderr, rel=1e-3)
    if here[0].influence is not None:
        scale = float(np.std(here[0].influence)) or 1.0
        np.testing.assert_allclose(there[0].influence, here[0].influence, atol=1e-3 * scale)
    if here[1] is not None:
        assert there[1] is not None
        torch.testing.assert_close(there[1], here[1], rtol=1e-6, atol=1e-8)


def test_the_same_score_twice_has_the_same_bits(device: str) -> None:
    for name in STATES:
        first, second = scored(name, device)[0], scored(name, device)[0]
        assert (first.value, first.stderr) == (second.value, second.stderr), name


def pair_options() -> list[str]:
    options = {path.stem: metric_of(path.stem) for path in sorted((CONFIGS / "metric").glob("*.yaml"))}
    wanted = ("lpips_alex/phi",)
    return [
        name
        for name, metric in options.items()
        if isinstance(metric, PairMetric) and metric.pairs in ("baseline", "prompt") and set(metric.needs) <= {*wanted}
    ]


def run(names: Mapping[str, Metric], device: str, folder: Path, size: int, *extractors: Extractor) -> dict[str, Score]:
    """Scores of 8 random images, two per prompt, with a baseline."""
    sources = {
        name: MemorySource(random_images(COUNT, seed, size), [f"prompt {i // 2}" for i in range(COUNT)])
        for seed, name in enumerate(("cell", "other"))
    }
    found = score_sources(
        sources,
        metrics={name: ({"name": name}, metric) for name, metric in names.items()},
        extractors={extractor.name: extractor for extractor in extractors},
        against=Against(sources["other"], baseline=sources["other"]),
        store=Store(folder),
        device=device,
        progress=lambda name, done, total: None,
    )
    return {metric: scored.score for (cell, metric), scored in found.items() if cell == "cell"}


def test_pairs(device: str, tmp_path: Path) -> None:
    torch.save(seeded_trunk("alex"), tmp_path / "alex.pth")
    metrics = {name: metric_of(name) for name in pair_options()}
    assert {"lpips", "ssim", "psnr"} <= metrics.keys()
    scores = {
        where: run(metrics, where, tmp_path / where, 192, Lpips("lpips_alex", weights=str(tmp_path / "alex.pth")))
        for where in ("cpu", device)
    }
    for name, score in scores["cpu"].items():
        assert score.value is not None, (name, score.note)
        assert scores[device][name].value == pytest.approx(score.value, rel=1e-5 if "lpips" in name else 1e-9), name


class Where(SampleMetric[Rows]):
    """Says where it is given tensors; `on_device` is the test's."""

    better = "higher"
    title = "where"
    needs = ("matrix/flat",)

    def observe(self, batch: Batch) -> Rows:
        x = batch.features["matrix/flat"]
        assert batch.index.device.type == "cpu"
        return Rows(batch.index, {"cuda": torch.full((len(x),), float(x.is_cuda), device=x.device)}, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        assert generated.index.device.type == "cpu"
        return Score(float(generated["cuda"].mean()) + 10 * generated["cuda"].is_cuda, len(generated))


class Greedy(Vendi):
    """Finds no memory on the device."""

    def score(self, *, generated: Rows) -> Score:
        if generated[self.features].is_cuda:
            torch.empty(2**50, device="cuda")
        return super().score(generated=generated)


def test_only_metrics_that_say_so_get_tensors_on_the_device(device: str, tmp_path: Path) -> None:
    there, here = Where(), Where()
    there.on_device = True  # type: ignore[misc]
    scores = run({"there": there, "here": here}, device, tmp_path, 8, MatrixExtractor())
    assert scores["here"].value == 0
    assert scores["there"].value == (11 if device.startswith("cuda") else 0)


def test_without_memory_on_the_device_a_score_is_the_cpus(device: str, tmp_path: Path) -> None:
    expected = run({"vendi": Vendi("matrix/flat")}, "cpu", tmp_path / "cpu", 8, MatrixExtractor())["vendi"]
    found = run({"vendi": Greedy("matrix/flat")}, device, tmp_path / "device", 8, MatrixExtractor())["vendi"]
    assert found == expected


def test_memory_is_given_back(device: str, tmp_path: Path) -> None:
    if not device.startswith("cuda"):
        pytest.skip("the CPU's memory is not counted")
    names = ("precision", "recall", "coverage", "vendi", "frechet")
    built = {name: metric_of("fid" if name == "frechet" else name, features="matrix/flat") for name in names}
    run(built, device, tmp_path / "first", 8, MatrixExtractor())  # what libraries keep for themselves
    gc.collect()
    before = torch.cuda.memory_allocated()
    run(built, device, tmp_path / "second", 8, MatrixExtractor())
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 2**20


def test_selfcheck(device: str) -> None:
    from evalkit.selfcheck import selfcheck

    wrong = [(c.what, c.golden.expected, c.got) for c in selfcheck(device) if c.right is not True]
    assert wrong == []


def test_what_is_scored_on_the_device() -> None:
    assert {"fid", "is", "kid", "cmmd", "precision", "recall", "density", "coverage", "vendi"} <= {*STATES}
