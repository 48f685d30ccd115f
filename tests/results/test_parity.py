"""parity.json: which pairs are the worst, what their pictures are, and where in the image the difference lies."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import MemorySource
from options import metric_of
from PIL import Image

from evalkit.config.schema import RunConfig
from evalkit.errors import DataError, UnsuitedError
from evalkit.metric import Score
from evalkit.plan.grid import make_grid
from evalkit.results import parity
from evalkit.results.parity import NAME, read_parity, write_parity
from evalkit.results.rows import Outcome, make_rows
from evalkit.results.table import ResultTable
from evalkit.results.thumbnails import Thumbnail
from evalkit.scoring.scoring import Scored

N, SIDE = 30, 16


def images_of(gaps: dict[int, int]) -> list[np.ndarray]:
    """Grey images; those of an index are as many levels brighter in their upper left quarter."""
    images = [np.full((SIDE, SIDE, 3), 100, np.uint8) for _ in range(N)]
    for index, gap in gaps.items():
        images[index][: SIDE // 2, : SIDE // 2] += gap
    return images


def outcome_of(*sets: list[np.ndarray], values: list[list[float] | None], metric: str = "psnr") -> Outcome:
    cell = make_grid(RunConfig(model={"m": {"_target_": "grid_models.Bare"}})).cells[0]
    cells = [replace(cell, name=name, num_samples=N) for name in "ab"[: len(sets)]]
    sources: dict[str, Any] = {c.name: MemorySource(images, name=c.name) for c, images in zip(cells, sets, strict=True)}
    scored = {}
    for one, each in zip(cells, values, strict=True):
        score = Score(None, N) if each is None else Score(sum(each) / N, N, 0.1, tuple(each))
        scored[one.name, metric] = Scored(score, {"pairs": {"of": "baseline"}}, "hash", "PSNR")
    return Outcome(cells, {metric: metric_of(metric)}, sources, scored)


def table_of(outcome: Outcome, baseline: str | None = "a") -> ResultTable:
    return ResultTable({"baseline": baseline, "cells": {}}, tuple(make_rows(outcome)))


def pixels_of(thumb: Thumbnail) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(thumb.webp))).convert("RGB"))


GAPS = {3: 60, 7: 40, 11: 3, **dict.fromkeys(range(12, 30), 1)}
VALUES = [100.0 - GAPS.get(i, 0) - i / 100 for i in range(N)]


def test_the_worst_pairs_with_the_difference_of_their_own_pixels(tmp_path: Path) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    write_parity(outcome, table_of(outcome), tmp_path)
    found = read_parity(tmp_path / NAME)
    assert found.metric == "psnr"
    assert list(found.cells) == ["b"]
    worst = found.cells["b"].worst
    assert [pair.index for pair in worst] == sorted(range(N), key=lambda i: VALUES[i])[:10]
    first, third = worst[0], worst[2]
    assert (first.index, first.most, first.gain, first.value) == (3, 60, 4, VALUES[3])
    assert (third.index, third.most, third.gain) == (11, 3, 85)
    expected = np.zeros((SIDE, SIDE, 3), np.uint8)
    expected[: SIDE // 2, : SIDE // 2] = 240
    assert np.array_equal(pixels_of(first.difference), expected)  # small pictures are kept without loss
    assert np.array_equal(pixels_of(first.baseline), images_of({})[3])
    assert np.array_equal(pixels_of(first.cell), images_of(GAPS)[3])


def test_of_a_distance_the_largest_are_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    monkeypatch.setattr(outcome.metrics["psnr"], "better", "lower")
    write_parity(outcome, table_of(outcome), tmp_path)
    assert read_parity(tmp_path / NAME).cells["b"].worst[0].index == 0


def test_the_map_is_the_mean_absolute_difference(tmp_path: Path) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    write_parity(outcome, table_of(outcome), tmp_path)
    drawn = read_parity(tmp_path / NAME).cells["b"].map
    assert drawn is not None
    assert drawn.pairs == N
    assert drawn.most == pytest.approx(sum(GAPS.values()) / N)
    assert drawn.mean == pytest.approx(sum(GAPS.values()) / N / 4)
    shown = pixels_of(drawn.picture)
    assert np.array_equal(shown[0, 0], [252, 255, 164])  # the last colour of the scale
    assert np.array_equal(shown[-1, -1], [0, 0, 4])


def test_the_map_of_many_pairs_is_of_a_seeded_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "MAP_PAIRS", 10)
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    maps = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_parity(outcome, table_of(outcome), tmp_path / name)
        maps.append(read_parity(tmp_path / name / NAME).cells["b"].map)
    assert maps[0] is not None
    assert maps[0].pairs == 10
    assert maps[0] == maps[1]


def test_it_is_written_once_and_goes_with_its_pairs(tmp_path: Path) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    write_parity(outcome, table_of(outcome), tmp_path)
    before = (tmp_path / NAME).stat().st_mtime_ns
    write_parity(outcome, table_of(outcome), tmp_path)
    assert (tmp_path / NAME).stat().st_mtime_ns == before
    other = outcome_of(images_of({}), images_of({3: 1}), values=[None, VALUES])
    write_parity(other, table_of(other), tmp_path)
    assert (tmp_path / NAME).stat().st_mtime_ns != before
    write_parity(outcome, table_of(outcome, None), tmp_path)
    assert not (tmp_path / NAME).exists()  # without a baseline there are no pairs


def test_images_that_were_not_kept_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])

    def gone(indices: range) -> Any:
        raise UnsuitedError("these images were not kept")

    monkeypatch.setattr(outcome.sources["b"], "read", gone)
    write_parity(outcome, table_of(outcome), tmp_path)
    found = read_parity(tmp_path / NAME).cells["b"]
    assert (found.worst, found.map, found.why) == ([], None, "these images were not kept")


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    write_parity(outcome, table_of(outcome), tmp_path)
    (tmp_path / NAME).write_text((tmp_path / NAME).read_text().replace('"psnr"', '"ssim"'))
    with pytest.raises(DataError):
        read_parity(tmp_path / NAME)


def test_the_pictures_keep_to_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "BUDGET", 400)
    outcome = outcome_of(images_of({}), images_of(GAPS), values=[None, VALUES])
    write_parity(outcome, table_of(outcome), tmp_path)
    assert 0 < len(read_parity(tmp_path / NAME).cells["b"].worst) < 10
