"""Pairs of images: how they are formed, that each is read once, and what their mean rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import Folders, MatrixExtractor, MemorySource, random_images

from evalkit.errors import DataError
from evalkit.metric import Batch, PairMetric
from evalkit.pairs import form_pairs
from evalkit.scoring import score_sources

if TYPE_CHECKING:
    from torch import Tensor


class PixelGap(PairMetric):
    """Mean absolute difference of pixels."""

    title = "gap"
    better = "lower"

    def __init__(self, pairs: Any = "baseline", max_pairs: int | None = None) -> None:
        self.pairs = pairs
        self.max_pairs = max_pairs

    def distance(self, first: Batch, second: Batch) -> Tensor:
        assert first.images is not None
        assert second.images is not None
        return (first.images.double() - second.images.double()).abs().mean(dim=(1, 2, 3))


class FeatureGap(PixelGap):
    needs = ("matrix/flat",)

    def distance(self, first: Batch, second: Batch) -> Tensor:
        return (first.features["matrix/flat"] - second.features["matrix/flat"]).double().square().sum(1)


def scores(tmp_path: Path, metrics: dict[str, PairMetric], baseline: str | None = "a", **sets: MemorySource) -> Any:
    return score_sources(
        sets,
        metrics={name: ({}, metric) for name, metric in metrics.items()},
        extractors={"matrix": MatrixExtractor()},
        reference=None,
        store=Folders(tmp_path),
        baseline=baseline,
    )


def test_a_cell_with_the_baseline(tmp_path: Path) -> None:
    a = MemorySource(random_images(70, 0), ["x"] * 70)
    b = MemorySource([255 - image for image in a.images], ["x"] * 70)
    found = scores(tmp_path, {"gap": PixelGap(), "features": FeatureGap()}, a=a, b=b)
    expected = [np.abs(255 - 2 * image.astype(float)).mean() for image in a.images]
    score = found["b", "gap"].score
    assert score.value == pytest.approx(np.mean(expected))
    assert score.stderr == pytest.approx(np.std(expected, ddof=1) / 70**0.5)
    assert score.influence == pytest.approx(expected)
    assert found["b", "features"].score.value > 0
    assert found["a", "gap"].score.note == "this is the baseline"
    assert set(a.reads.values()) == {1}  # of both metrics together
    assert found["b", "gap"].protocol["baseline"] == {"digest": a.digest, "n": 70}
    assert not (tmp_path / "features").exists()  # wide features are not kept


def test_a_second_run_finds_pair_scores(tmp_path: Path) -> None:
    sets = {"a": MemorySource(random_images(6)), "b": MemorySource(random_images(6, 1))}
    first = scores(tmp_path, {"gap": PixelGap()}, **sets)
    sets["b"].reads.clear()
    again = scores(tmp_path, {"gap": PixelGap()}, **sets)
    assert again["b", "gap"].cached
    assert again["b", "gap"].score == first["b", "gap"].score
    assert not sets["b"].reads


@pytest.mark.parametrize("changed", [{"prompts": ["y"] * 6}, {"images": random_images(5, 1)}])
def test_other_prompts_or_sizes_are_not_paired(tmp_path: Path, changed: dict[str, Any]) -> None:
    other = MemorySource(**{"images": random_images(6, 1), **changed})
    found = scores(tmp_path, {"gap": PixelGap()}, a=MemorySource(random_images(6)), b=other)
    assert found["b", "gap"].score.value is None
    assert "other prompts" in found["b", "gap"].score.note


def test_images_of_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be paired"):
        scores(tmp_path, {"gap": PixelGap()}, a=MemorySource(random_images(4)), b=MemorySource(random_images(4, 1, 9)))


def test_pairs_within_a_prompt_are_disjoint_and_seeded() -> None:
    source = MemorySource(random_images(20), [f"p{i % 3}" for i in range(20)])
    pairs = form_pairs(PixelGap("prompt"), source, None)
    assert not isinstance(pairs, str)
    used = [i for pair in pairs for i in pair]
    assert len(used) == len(set(used)) == 18  # 7 + 7 + 6 samples a prompt: one of each 7 stays alone
    assert all(i % 3 == j % 3 for i, j in pairs)
    assert pairs == form_pairs(PixelGap("prompt"), source, None)
    assert form_pairs(PixelGap("prompt", max_pairs=4), source, None) == pairs[:4]
    assert len(form_pairs(PixelGap("any"), source, None)) == 10


def test_one_sample_a_prompt_has_no_pairs(tmp_path: Path) -> None:
    source = MemorySource(random_images(4), list("abcd"))
    found = scores(tmp_path, {"gap": PixelGap("prompt")}, None, a=source)
    assert "samples_per_prompt" in found["a", "gap"].score.note


def test_without_a_baseline_there_is_no_pair_score(tmp_path: Path) -> None:
    found = scores(tmp_path, {"gap": PixelGap()}, None, a=MemorySource(random_images(4)))
    assert "give baseline=" in found["a", "gap"].score.note
