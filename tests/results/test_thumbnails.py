"""The pictures that a run's folder holds: which samples are chosen, how small they are, whatever the images lie in."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import MemorySource, random_images
from finished_run import row
from PIL import Image

from evalkit.errors import DataError
from evalkit.results import thumbnails
from evalkit.results.side_by_side import LIMIT, SampleScores, Scale, choose, make_scales
from evalkit.results.table import ResultTable
from evalkit.results.thumbnails import Thumbnail, Thumbnailer, read_thumbnails, write_thumbnails


class DamagedSource(MemorySource):
    """Its image 2 cannot be read."""

    def read(self, indices: range) -> list[np.ndarray]:
        if 2 in indices:
            raise DataError("2.png: damaged")
        return super().read(indices)


def outcome_of(*sources: MemorySource, scores: Any = None) -> Any:
    """What `write_thumbnails` reads of an outcome, with a precision of each sample where `scores` are given."""
    cells = [SimpleNamespace(name=source.name) for source in sources]
    influences = {(source.name, "precision"): values for source, values in zip(sources, scores or [], strict=False)}
    return SimpleNamespace(
        cells=cells,
        sources={source.name: source for source in sources},
        metrics={"precision": SimpleNamespace(per_sample=True)},
        influences=influences,
    )


def table_of(*cells: str) -> ResultTable:
    rows = [row(cell, "precision", 0.5 - i / 10, None, better="higher") for i, cell in enumerate(cells)]
    return ResultTable({"name": "t", "pairing": dict.fromkeys(cells, "same")}, rows)


def pixels_of(thumbnail: Thumbnail | None) -> np.ndarray:
    assert thumbnail is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail.webp))).convert("RGB"))


def test_every_cells_images_are_stored_as_they_are(tmp_path: Path) -> None:
    a, b = MemorySource(random_images(5), name="a"), DamagedSource(random_images(3, seed=1), name="b")
    write_thumbnails(outcome_of(a, b), table_of("a", "b"), tmp_path)
    stored = read_thumbnails(tmp_path / thumbnails.NAME)
    assert sorted(stored) == [*(("a", i) for i in range(5)), *(("b", i) for i in range(3))]
    assert stored["b", 2] is None  # damaged since it was scored: the results are written all the same
    for i in range(5):
        np.testing.assert_array_equal(pixels_of(stored["a", i]), a.images[i])


def test_the_worst_of_a_large_set_is_stored_and_the_same_set_is_not_read_again(tmp_path: Path) -> None:
    a, b = (MemorySource(random_images(200, seed=i, size=4), name=name) for i, name in enumerate("ab"))
    scores = [[50.0 + i / 100 for i in range(200)], [50.0 + i / 100 for i in range(200)]]
    scores[1][177] = 1.0
    outcome = outcome_of(a, b, scores=scores)
    write_thumbnails(outcome, table_of("a", "b"), tmp_path)
    assert {("a", 177), ("b", 177)} <= set(read_thumbnails(tmp_path / thumbnails.NAME))
    a.reads.clear()
    write_thumbnails(outcome, table_of("a", "b"), tmp_path)
    assert not a.reads
    scores[1][155] = 2.0  # another one is shown
    write_thumbnails(outcome, table_of("a", "b"), tmp_path)
    assert ("b", 155) in read_thumbnails(tmp_path / thumbnails.NAME)


def test_the_images_stay_within_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = MemorySource(random_images(100, size=32), name="a")
    scores = [[1.0 + i for i in range(100)]]
    scores[0][88] = 0.0
    outcome = outcome_of(a, scores=scores)
    write_thumbnails(outcome, table_of("a"), tmp_path)
    whole = read_thumbnails(tmp_path / thumbnails.NAME)
    size = sum(len(base64.b64decode(thumbnail.webp)) for thumbnail in whole.values() if thumbnail)
    monkeypatch.setattr(thumbnails, "BUDGET", size // 2)
    (tmp_path / thumbnails.NAME).unlink()
    write_thumbnails(outcome, table_of("a"), tmp_path)
    half = read_thumbnails(tmp_path / thumbnails.NAME)
    assert 0.4 * len(whole) < len(half) < 0.6 * len(whole)
    assert ("a", 88) in half  # the lowest score comes before most of the first


def test_small_images_stay_crisp_and_large_ones_shrink() -> None:
    rng = np.random.default_rng(0)
    small_pixels, large_pixels = (rng.integers(0, 256, shape, np.uint8) for shape in ((10, 20, 3), (500, 1000, 3)))
    thumbnailer = Thumbnailer(images=2, budget=thumbnails.BUDGET)
    small, large = thumbnailer.make(small_pixels), thumbnailer.make(large_pixels)
    assert (small.width, small.height, small.crisp) == (100, 50, True)  # five times
    np.testing.assert_array_equal(pixels_of(small), small_pixels)
    assert (large.width, large.height, large.crisp) == (128, 64, False)
    assert pixels_of(large).shape == (80, 160, 3)
    middle = thumbnailer.make(rng.integers(0, 256, (100, 100, 3), np.uint8))
    assert (middle.width, middle.crisp) == (128, False)
    tight = Thumbnailer(images=1000, budget=1_000_000)
    tight.make(large_pixels)
    assert tight.side < thumbnailer.side


def test_the_worst_regressions_are_among_the_chosen_samples() -> None:
    scores = {"a": [50.0] * 500, "b": [50.0] * 500, "c": [50.0 + i / 1000 for i in range(500)]}
    scores["b"][444], scores["c"][333], scores["c"][222] = 1.0, 40.0, 30.0
    scale = Scale("clip", "CLIP", 1, "a", ["b", "c"])
    chosen = choose(SampleScores(dict.fromkeys(scores, 500), {"clip": scores}), [scale])
    assert {444, 333, 222} <= set(chosen[:12])  # a full page keeps these before the rest
    assert set(range(20)) <= set(chosen)
    assert len(chosen) == len(set(chosen)) <= LIMIT


def test_drops_are_counted_from_the_baseline_and_metrics_without_values_are_left_out() -> None:
    table = table_of("a", "b")
    samples = SampleScores.of(
        {"a": 6, "b": 6}, {"precision": {"a": [1.0] * 6, "b": [0.0] * 6}, "none": {"a": [np.nan]}}
    )
    assert list(samples.scores) == ["precision"]
    assert [(s.base, s.paired, s.sign) for s in make_scales(table, samples)] == [("a", ["b"], 1)]
    baseline = replace(table, run={**table.run, "baseline": "b"})
    assert [(s.base, s.paired) for s in make_scales(baseline, samples)] == [("b", ["a"])]


def test_a_broken_file_is_made_again(tmp_path: Path) -> None:
    (tmp_path / thumbnails.NAME).write_text(json.dumps([1]))
    write_thumbnails(outcome_of(MemorySource(random_images(2), name="a")), table_of("a"), tmp_path)
    assert len(read_thumbnails(tmp_path / thumbnails.NAME)) == 2


def test_an_altered_picture_is_never_shown(tmp_path: Path) -> None:
    path, outcome = tmp_path / thumbnails.NAME, outcome_of(MemorySource(random_images(2), name="a"))
    write_thumbnails(outcome, table_of("a"), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"width": ', b'"width": 1'))
    with pytest.raises(DataError, match=r"thumbnails\.json: altered or cut short"):
        read_thumbnails(path)
    write_thumbnails(outcome, table_of("a"), tmp_path)
    assert path.read_bytes() == whole


def test_pictures_of_before_are_read(tmp_path: Path) -> None:
    write_thumbnails(outcome_of(MemorySource(random_images(2), name="a")), table_of("a"), tmp_path)
    path = tmp_path / thumbnails.NAME
    expected, data = read_thumbnails(path), json.loads(path.read_text())
    path.write_text(json.dumps({"mark": data["mark"], "images": data["images"]}))
    assert read_thumbnails(path) == expected
