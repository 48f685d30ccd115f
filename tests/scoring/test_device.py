"""Where scores are computed: what a CPU can show of it (the rest is in tests/gpu)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images

from evalkit.metric import Rows, Score
from evalkit.metrics.vendi import Vendi
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.utils import devices


def scored(metric: Vendi, folder: Path) -> Score:
    found = score_sources(
        {"cell": MemorySource(random_images(40))},
        metrics={"vendi": ({}, metric)},
        extractors={"matrix": MatrixExtractor()},
        against=Against(None),
        store=Store(folder),
        device="cpu",
        progress=lambda name, done, total: None,
    )
    return found["cell", "vendi"].score


class Greedy(Vendi):
    """Finds too little memory the first time."""

    asked = 0

    def score(self, *, generated: Rows) -> Score:
        self.asked += 1
        if self.asked == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().score(generated=generated)


def test_a_device_without_memory_leaves_it_to_the_cpu(tmp_path: Path) -> None:
    metric = Greedy("matrix/flat")
    assert scored(metric, tmp_path / "a") == scored(Vendi("matrix/flat"), tmp_path / "b")
    assert metric.asked == 2


def test_a_metric_of_the_cpu_is_not_tried_again(tmp_path: Path) -> None:
    metric = Greedy("matrix/flat")
    metric.on_device = False  # type: ignore[misc]
    score = scored(metric, tmp_path)
    assert (score.value, score.broken, metric.asked) == (None, True, 1)
    assert "out of memory" in str(score.note)


@pytest.mark.parametrize(
    ("picked", "expected"), [("cuda", "cuda"), ("cuda:1", "cuda:1"), ("mps", "cpu"), ("cpu", "cpu")]
)
def test_scores_are_made_where_float64_is(picked: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "pick_device", lambda device: picked)
    assert devices.for_scores("auto") == expected
