"""Absolute differences of bytes: by hand, against numpy, and what equal images alone have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import pair_score

from evalkit.metric import Batch
from evalkit.metrics.pixel_difference import PixelDifference

OF = {
    "pixel_difference": lambda d: d.mean(),
    "pixel_difference_p99": lambda d: np.percentile(d, 99, method="inverted_cdf"),
    "pixel_difference_max": lambda d: d.max(),
}


def batch(images: np.ndarray) -> Batch:
    n = len(images)
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.arange(n), n, [None] * n, {})


def images(n: int, seed: int, size: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size + 3, 3), dtype=np.uint8)


def test_by_hand() -> None:
    """Of 300 bytes three differ, by 255, 7 and 7: the mean is 269 / 300; 297 of 300 are 0."""
    black = np.zeros((2, 10, 10, 3), np.uint8)
    other = black.copy()
    other[0, 0, 0], other[0, 0, 1, 0] = (255, 7, 7), 0
    found = {of: PixelDifference(of).distance(batch(black), batch(other)) for of in ("mean", "p99", "max")}
    assert found["mean"].tolist() == pytest.approx([269 / 300, 0])
    assert (found["p99"].tolist(), found["max"].tolist()) == ([0, 0], [255, 0])
    other[0, 5, 5, 2] = 3  # a fourth
    assert PixelDifference("p99").distance(batch(black), batch(other)).tolist() == [3, 0]


@pytest.mark.parametrize("name", OF)
def test_equals_numpy_pair_by_pair(name: str, golden: Golden, tmp_path: Path) -> None:
    a, b = images(5, 0), images(5, 1)
    expected = np.mean([OF[name](np.abs(x.astype(int) - y.astype(int))) for x, y in zip(a, b, strict=True)])
    golden(name, pair_score(name, tmp_path, [*a], [*b]).value, float(expected), rel=1e-12, source=peer("numpy"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_symmetric_and_ordered(seed: int, other: int) -> None:
    a, b = batch(images(2, seed, 3)), batch(images(2, other, 3))
    mean, p99, most = (PixelDifference(of).distance(a, b) for of in ("mean", "p99", "max"))  # type: ignore[arg-type]
    torch.testing.assert_close(mean, PixelDifference().distance(b, a))
    assert bool((mean <= most).all())
    assert bool((p99 <= most).all())
    assert bool((most == 0).all()) == bool((mean == 0).all()) == (seed == other)


def test_contract() -> None:
    known: Any = PixelDifference("max")
    assert (known.title, known.better, known.equal, known.needs) == ("pixel difference, max", "lower", 0, ())
    assert not hasattr(PixelDifference("p99"), "equal")
    with pytest.raises(ValueError, match="of=p95: give mean, p99, max"):
        PixelDifference("p95")  # type: ignore[arg-type]
