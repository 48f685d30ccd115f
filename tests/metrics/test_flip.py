"""FLIP: the tool's own numbers on the same files, its ends, and a missing package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from golden import Golden, peer
from options import option, pair_score

from evalkit.config.build import build
from evalkit.errors import ConfigError

flip_evaluator = pytest.importorskip("flip_evaluator")


def images(n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (n, 4, 5, 3)).repeat(6, 1).repeat(6, 2)
    return list(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


def test_equals_the_tool_on_files(golden: Golden, tmp_path: Path) -> None:
    """The tool reads the PNG files itself; the second image is the reference."""
    from PIL import Image

    a, b = images(4, 0), images(4, 1)
    expected = []
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        paths = [str(tmp_path / f"{i}-{side}.png") for side in "xy"]
        for path, image in zip(paths, (x, y), strict=True):
            Image.fromarray(image).save(path)
        expected.append(flip_evaluator.evaluate(paths[1], paths[0], "LDR")[1])
    found = pair_score("flip", tmp_path / "store", a, b)
    golden("flip", found.value, float(np.mean(expected)), rel=1e-5, source=f"{peer('flip-evaluator')}, from PNG files")
    assert found.influence == pytest.approx(expected, rel=1e-5)


def test_its_ends(tmp_path: Path) -> None:
    black, white = np.zeros((24, 24, 3), np.uint8), np.full((24, 24, 3), 255, np.uint8)
    found = pair_score("flip", tmp_path, [black, white, black], [black, white, white]).influence
    assert found is not None
    assert found[:2] == (0, 0)
    assert 0.9 < found[2] <= 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if "flip" in name else known(name, *more))
    with pytest.raises(ConfigError, match="pip install flip-evaluator"):
        build(option("metric", "flip"), "metric.flip")
    with pytest.raises(ConfigError, match="ppd=-1: pixels per degree"):
        build(option("metric", "flip", ppd=-1.0), "metric.flip")
