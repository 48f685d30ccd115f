"""Pairs that are no closer than shuffled ones: the test's level, its power, what is shuffled, and who is warned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import MemorySource, PixelGap, random_images

from evalkit.errors import DataError
from evalkit.metric import Score
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.scoring.unrelated import LEVEL, MOST, Shuffle, p_value, shuffle

N = 24


def scored(folder: Path, a: MemorySource, b: MemorySource) -> Score:
    found = score_sources(
        {"a": a, "b": b},
        metrics={"gap": ({}, PixelGap())},
        extractors={},
        against=Against(baseline=a),
        store=Store(folder),
        progress=lambda name, done, total: None,
    )
    assert found["a", "gap"].score.note == "this is the baseline"
    assert not found["a", "gap"].score.details
    return found["b", "gap"].score


def alike(images: list[np.ndarray], weight: float) -> list[np.ndarray]:
    """Images that hold so much of others."""
    rest = random_images(len(images), 99)
    return [(weight * x + (1 - weight) * y).astype(np.uint8) for x, y in zip(images, rest, strict=True)]


@pytest.mark.parametrize("prompts", [[f"p{i % 3}" for i in range(N)], [f"p{i}" for i in range(N)], [None] * N])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_other_noise_is_told_from_the_same(tmp_path: Path, prompts: list[str | None], weight: float) -> None:
    images = random_images(N)
    score = scored(tmp_path, MemorySource(images, prompts), MemorySource(alike(images, weight), prompts))
    unrelated = weight == 0
    assert score.details["unrelated"] == unrelated
    assert (score.details["unrelated_p"] > LEVEL) == unrelated
    assert ("pairs look unrelated: different noise" in (score.note or "")) == unrelated
    if unrelated:
        several = len(set(prompts)) == 3
        where = "of the same prompts" if several else "of other prompts" if prompts[0] else "shuffled pairs"
        assert (score.note or "").endswith(where)


def test_another_order_is_told(tmp_path: Path) -> None:
    images = random_images(N)
    a, b = (MemorySource(each, ["p"] * N) for each in (images, [*images[1:], images[0]]))
    assert scored(tmp_path, a, b).details["unrelated"] == 1


def test_the_second_time_nothing_is_compared(tmp_path: Path) -> None:
    sets = [MemorySource(random_images(N, seed), ["p"] * N) for seed in (0, 1)]
    first = scored(tmp_path, *sets)
    for source in sets:
        source.reads.clear()
    assert scored(tmp_path, *sets) == first
    assert not sets[0].reads


def test_images_that_are_gone_take_no_score_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [MemorySource(random_images(N, seed), ["p"] * N) for seed in (0, 1)]
    first = scored(tmp_path, *sets)
    for path in (tmp_path / "features").rglob("*.safetensors"):
        path.unlink()

    def gone(self: Any, indices: range) -> list[np.ndarray]:
        raise DataError("gone")

    monkeypatch.setattr(MemorySource, "read", gone)
    again = scored(tmp_path, *sets)
    assert (again.value, again.details["min"]) == (first.value, first.details["min"])
    assert "unrelated" not in again.details


@pytest.mark.parametrize("n", [1, 4, 5, 8, 24, 33, 64, 1000])
@pytest.mark.parametrize("per_prompt", [1, 2, 5, 1000])
def test_what_is_shuffled(n: int, per_prompt: int) -> None:
    prompts = [f"p{i // per_prompt}" for i in range(n)]
    drawn = shuffle(prompts, [None] * n)
    if n < 5:
        assert drawn is None  # 24 orders of four cannot tell at 1 %
        return
    assert drawn is not None
    assert len(drawn.pairs) <= MOST
    flat = [i for block in drawn.blocks for i in block]
    assert len(flat) == len(set(flat))
    assert drawn == shuffle(prompts, [None] * n)
    if drawn.alike == "prompt":
        assert all(prompts[i] == prompts[j] for i, j in drawn.pairs)
    assert (drawn.alike == "prompt") == (per_prompt > 1 and n >= (14 if per_prompt == 2 else 5))


def test_categories_where_each_prompt_is_alone() -> None:
    drawn = shuffle([f"p{i}" for i in range(40)], [f"c{i % 4}" for i in range(40)])
    assert drawn is not None
    assert drawn.alike == "category"
    assert all(i % 4 == j % 4 for i, j in drawn.pairs)


def test_p_of_two_blocks_by_hand() -> None:
    """Of 2 x 2 orders of two blocks of two, the matched one is the best: p is a quarter."""
    drawn = Shuffle(((0, 1), (2, 3)))
    p = p_value(drawn, dict.fromkeys(range(4), 5.0), dict.fromkeys(drawn.pairs, 1.0), higher=True)
    assert p == pytest.approx(0.25, abs=0.02)
    assert p_value(drawn, dict.fromkeys(range(4), 5.0), dict.fromkeys(drawn.pairs, 1.0), higher=False) == 1
    assert p_value(drawn, dict.fromkeys(range(4), 1.0), dict.fromkeys(drawn.pairs, 1.0), higher=True) is None


def test_the_level_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unrelated pairs pass as related in at most 1 % of cases: of 400 sets about 4."""
    monkeypatch.setattr("evalkit.scoring.unrelated.ORDERS", 999)
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        drawn = shuffle(["p"] * 10, [None] * 10)
        assert drawn is not None
        x, y = rng.normal(size=(2, 10, 3))
        gaps = np.square(x[:, None] - y[None]).sum(2)
        matched = {i: gaps[i, i] for i in range(10)}
        p = p_value(drawn, matched, {(i, j): gaps[i, j] for i, j in drawn.pairs}, higher=False)
        missed += p is not None and p <= LEVEL
    assert missed <= 11  # Binomial(400, 0.01) gives more in 1 of 1,000 cases
