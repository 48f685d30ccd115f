"""Values of pairs are computed block by block, and kept: what is there is compared no second time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FeatureGap, MatrixExtractor, MemorySource, PixelGap, random_images
from read_only import read_only

from evalkit.metric import Batch, PairMetric
from evalkit.samples.store import Store
from evalkit.scoring import Against, pair_pass, score_sources, sources

N, BLOCK = 40, 8


@pytest.fixture(autouse=True)
def no_shuffled_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted here are the matched pairs alone (tests/scoring/test_unrelated.py has the others)."""
    monkeypatch.setattr(sources, "shuffle", lambda prompts, categories: None)


@dataclass
class InBlocks(MemorySource):
    """In chunks of `BLOCK` images."""

    @property
    def chunks(self) -> Sequence[range]:
        return [range(start, min(start + BLOCK, len(self))) for start in range(0, len(self), BLOCK)]


class Counting(PixelGap):
    """Knows how many pairs it was asked for at a time, and fails, or gives what is no number, from one pair on."""

    def __init__(self, pairs: Any = "baseline", *, fails: int = N, odd: int = N) -> None:
        super().__init__(pairs)
        self.asked: list[int] = []
        self.fails, self.odd = fails, odd

    def distance(self, first: Batch, second: Batch) -> Any:
        self.asked.append(len(first.index))
        if int(first.index[-1]) >= self.fails:
            raise ValueError("no more")
        each = super().distance(first, second)
        return each.masked_fill(first.index >= self.odd, float("nan"))


def sets(n: int = N) -> dict[str, InBlocks]:
    """A baseline and another set; shorter ones begin as longer ones do."""
    a, b = random_images(N)[:n], random_images(N, 1)[:n]
    return {"a": InBlocks(a, [f"p{i % 5}" for i in range(n)]), "b": InBlocks(b, [f"p{i % 5}" for i in range(n)])}


def scores(folder: Path, metrics: dict[str, PairMetric], images: dict[str, InBlocks]) -> dict[str, Any]:
    """The second set's score by metric: value and standard error in hex, values per sample, or why there is none."""
    found = score_sources(
        images,
        metrics={name: ({}, metric) for name, metric in metrics.items()},
        extractors={"matrix": MatrixExtractor()},
        against=Against(baseline=images["a"]),
        store=Store(folder),
        progress=lambda name, done, total: None,
    )
    each = {name: found["b", name].score for name in metrics}
    return {n: (s.value and s.value.hex(), s.stderr and s.stderr.hex(), s.influence, s.note) for n, s in each.items()}


def forget_scores(folder: Path) -> None:
    for path in (folder / "scores").iterdir():
        path.unlink()


def reads(images: dict[str, InBlocks]) -> list[int]:
    return [sum(each.reads.values()) for each in images.values()]


def test_a_run_that_was_stopped_goes_on_by_the_block(tmp_path: Path) -> None:
    whole = scores(tmp_path / "whole", {"gap": PixelGap(), "features": FeatureGap()}, sets())
    stopped = sets()
    stopped["b"].fail_at = 2 * BLOCK  # the first of the third block
    with pytest.raises(KeyboardInterrupt):
        scores(tmp_path, {"gap": PixelGap(), "features": FeatureGap()}, stopped)
    again, metric = sets(), Counting()
    assert scores(tmp_path, {"gap": PixelGap(), "features": FeatureGap()}, again) == whole
    left = reads(again)
    assert left == [N - BLOCK * done for done in (2, 2)]
    assert scores(tmp_path, {"other": metric}, again)["other"] == whole["gap"]  # another metric: all of its own
    assert metric.asked == [BLOCK] * 5


@pytest.mark.parametrize("kept", [24, 20])
def test_a_set_that_grows_is_compared_in_its_new_blocks(tmp_path: Path, kept: int) -> None:
    """A short last block is another one once it is longer."""
    scores(tmp_path, {"gap": Counting()}, sets(kept))
    metric, images = Counting(), sets()
    grown = scores(tmp_path, {"gap": metric}, images)
    assert metric.asked == [BLOCK] * (5 - kept // BLOCK)
    assert reads(images) == [N - kept // BLOCK * BLOCK] * 2
    assert grown == scores(tmp_path / "anew", {"gap": Counting()}, sets())


def test_pairs_within_a_set_are_kept_too(tmp_path: Path) -> None:
    first = scores(tmp_path, {"within": Counting("prompt")}, sets())
    forget_scores(tmp_path)
    metric, images = Counting("prompt"), sets()
    assert scores(tmp_path, {"within": metric}, images) == first
    assert metric.asked == []
    assert reads(images) == [0, 0]


def test_a_network_s_batches_are_the_metric_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide features are compared few at a time; metrics next to them are not, and the values do not depend on it."""
    monkeypatch.setattr(pair_pass, "BATCH_VALUES", 3 * 8)  # three images' features
    counted, sizes = Counting(), list[int]()

    class Wide(FeatureGap):
        def distance(self, first: Batch, second: Batch) -> Any:
            sizes.append(len(first.index))
            return super().distance(first, second)

    both = scores(tmp_path / "both", {"wide": Wide(), "gap": counted}, sets(BLOCK))
    assert (sizes, counted.asked) == ([3, 3, 2], [BLOCK])
    assert both["wide"] == scores(tmp_path / "alone", {"wide": Wide()}, sets(BLOCK))["wide"]


def test_a_metric_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    metrics = {"gap": PixelGap(), "fails": Counting(fails=20)}
    found = scores(tmp_path, metrics, sets())
    assert found["fails"][3] == "no more"
    assert found["gap"] == scores(tmp_path / "alone", {"gap": PixelGap()}, sets())["gap"]
    mended = Counting()
    assert scores(tmp_path, {"fails": mended}, sets())["fails"][0] == found["gap"][0]
    assert mended.asked == [BLOCK] * 3  # two blocks came before


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    assert "the computation gave nan" in scores(tmp_path, {"gap": Counting(odd=N - 1)}, sets())["gap"][3]
    metric = Counting()
    assert scores(tmp_path, {"gap": metric}, sets())["gap"][0] is not None
    assert metric.asked == [BLOCK]


def test_too_few_distances_are_told(tmp_path: Path) -> None:
    class Short(PixelGap):
        def distance(self, first: Batch, second: Batch) -> Any:
            return super().distance(first, second)[1:]

    assert scores(tmp_path, {"gap": Short()}, sets())["gap"][3] == "7 distances for 8 pairs: give one per pair"


def test_a_damaged_file_of_values_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = scores(tmp_path, {"gap": Counting()}, sets())
    forget_scores(tmp_path)
    damaged = sorted((tmp_path / "features").rglob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    metric = Counting()
    assert scores(tmp_path, {"gap": metric}, sets()) == first
    assert metric.asked == [BLOCK]
    assert f"{damaged.name}: altered" in caplog.text
    forget_scores(tmp_path)
    metric = Counting()
    assert scores(tmp_path, {"gap": metric}, sets()) == first
    assert metric.asked == []  # it is whole again


def test_a_store_that_takes_nothing_gives_scores_all_the_same(tmp_path: Path) -> None:
    expected = scores(tmp_path / "there", {"gap": PixelGap()}, sets())
    (tmp_path / "here").mkdir()
    with read_only(tmp_path / "here"):
        assert scores(tmp_path / "here", {"gap": PixelGap()}, sets()) == expected
    assert list((tmp_path / "here").iterdir()) == []
