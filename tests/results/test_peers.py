"""The user's own images by torch-fidelity, torchmetrics and evalkit, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evalkit
from evalkit.errors import ConfigError
from evalkit.results import peers

N = 12  # images a side; Inception is run on them by three programs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, inception_weights: Path) -> tuple[Path, Path, Path]:
    """Two folders of noise, dark and bright, and the seeded weights file."""
    root = tmp_path_factory.mktemp("peers")
    rng = np.random.default_rng(0)
    for name, top in (("dark", 120), ("bright", 256)):
        (root / name).mkdir()
        for i in range(N):
            Image.fromarray(rng.integers(0, top, (24, 24, 3), dtype=np.uint8)).save(root / name / f"{i:02d}.png")
    return root / "dark", root / "bright", inception_weights


@pytest.mark.slow  # torch-fidelity and torchmetrics take a minute; tests/scoring/test_scoring.py compares the scores
def test_all_programs_agree_on_the_same_images(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dark, bright, weights = folders
    scores = evalkit.peer_check(dark, bright, weights=weights, device="cpu")
    assert [score.metric for score in scores] == ["fid", "is", "kid", "fid_torchmetrics"]
    for score in scores:
        assert score.theirs > 0
        assert score.ours == pytest.approx(score.theirs, rel=score.tolerance), score.metric
        assert score.agrees
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 4
    assert "torch-fidelity" in printed
    assert "torchmetrics" in printed


def test_a_difference_is_told() -> None:
    score = peers.PeerScore("fid", "torch-fidelity 0.4.0", 10.1, 10.0, 1e-3)
    assert score.difference == pytest.approx(0.1)
    assert not score.agrees
    assert peers.PeerScore("fid", "torch-fidelity 0.4.0", 10.005, 10.0, 1e-3).agrees


def test_too_few_images_and_missing_weights_are_one_line(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    dark, bright, _ = folders
    (tmp_path / "one").mkdir()
    Image.open(dark / "00.png").save(tmp_path / "one" / "00.png")
    with pytest.raises(ConfigError, match="at least 10 images"):
        evalkit.peer_check(tmp_path / "one", bright)
    with pytest.raises(ConfigError, match="there is no weights file"):
        evalkit.peer_check(dark, bright, weights=tmp_path / "none.pth", device="cpu")
    with pytest.raises(ConfigError, match="there is no folder"):
        evalkit.peer_check(tmp_path / "nowhere", bright)
