"""Edge F1 and edge SSIM: by hand, against a peer's distance transform, on digits whose outlines are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MemorySource
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import metric_of, option
from scipy import ndimage

from evalkit.digits.conditions import digits_of
from evalkit.digits.data import PROMPTS, colourise
from evalkit.metric import Batch
from evalkit.metrics.control_adherence import EdgeF1, EdgeSsim
from evalkit.numerics.canny import canny
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources


def batch(images: np.ndarray) -> Batch:
    """u8 [B,H,W,3] or bool [B,H,W]."""
    pixels = np.repeat(images[..., None] * np.uint8(255), 3, axis=-1) if images.dtype == bool else images
    n = len(pixels)
    return Batch(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), torch.arange(n), n, [None] * n, {})


def digits(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Coloured held-out digits u8 [N,32,32,3], and their outlines bool [N,32,32]."""
    captions = PROMPTS[:count]
    grey = digits_of(captions)
    inks, grounds = (np.array([getattr(c, f"{k}_index") for c in captions]) for k in ("ink", "background"))
    return colourise(grey, inks, grounds).transpose(0, 2, 3, 1), canny(grey[..., None])


class Given(EdgeF1):
    """The samples are edge maps themselves: the arithmetic alone."""

    def _maps(self, first: Batch, second: Batch) -> tuple[np.ndarray, np.ndarray]:
        assert first.images is not None
        assert second.images is not None
        return (first.images[:, 0] > 0).numpy(), (second.images[:, 0] > 0).numpy()


def test_by_hand() -> None:
    """Four edge pixels of the sample's and three of the control's, counted within a pixel, within two, and exactly."""
    ours, theirs = np.zeros((2, 8, 8), bool), np.zeros((2, 8, 8), bool)
    ours[0, 1, [0, 1, 2, 6]] = True
    theirs[0, 1, 0] = theirs[0, 3, 3] = theirs[0, 7, 7] = True
    precision, recall = 2 / 4, 1 / 3  # (1,0) and (1,1) lie within a pixel of (1,0); of theirs only (1,0) is near
    assert Given().distance(batch(ours), batch(theirs)).tolist() == pytest.approx(
        [2 * precision * recall / (precision + recall), 1.0]  # neither has an edge: 1
    )
    wider = Given(tolerance=2).distance(batch(ours), batch(theirs))[0]
    precision, recall = 3 / 4, 2 / 3  # now (1,2), too, and (3,3)
    assert float(wider) == pytest.approx(2 * precision * recall / (precision + recall))
    exact = Given(tolerance=0).distance(batch(ours), batch(theirs))[0]
    assert float(exact) == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))
    assert Given().distance(batch(ours[:1]), batch(theirs[1:])).tolist() == [0.0]  # one of them has none


def score(name: str, folder: Path, images: np.ndarray, controls: np.ndarray, **changes: Any) -> Any:
    """The option's score of samples with a control image each, as a run takes it."""
    sources = {"cell": MemorySource([*images], [None] * len(images))}
    given = MemorySource([*batch(controls).images.permute(0, 2, 3, 1).numpy()], [None] * 12)
    found = score_sources(
        sources,
        metrics={name: (option("metric", name, **changes), metric_of(name, **changes))},
        extractors={},
        against=Against(own={"cell": {"control": given}}),
        store=Store(folder),
        device="cpu",
        progress=lambda name, done, total: None,
    )
    return found["cell", name]


def test_golden(golden: Golden, tmp_path: Path) -> None:
    """Shifted digits against their outlines: F1 by SciPy's distance transform of scikit-image's edges."""
    feature = pytest.importorskip("skimage.feature")
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    images, outlines = digits()
    shifted = np.roll(images, 2, axis=2)
    expected, maps = [], []
    for image, outline in zip(shifted, outlines, strict=True):
        spans = image.max(axis=(0, 1)).astype(int) - image.min(axis=(0, 1))
        best = image[..., spans.argmax()]  # where ink and ground differ most: a digit has these two colours alone
        found = feature.canny(best, sigma=1.0, low_threshold=100, high_threshold=200)
        maps.append(found)
        near = [ndimage.distance_transform_cdt(~edges, "chessboard") <= 1 for edges in (outline, found)]
        precision, recall = near[0][found].mean(), near[1][outline].mean()
        expected.append(2 * precision * recall / (precision + recall))
    result = score("edge_f1", tmp_path, shifted, outlines)
    assert result.score.influence == pytest.approx(expected, abs=1e-12)
    assert result.label == "edge F1 (control)"
    source = f"{peer('scikit-image')}'s Canny, {peer('scipy')}'s distance transform"
    golden("edge_f1", result.score.value, float(np.mean(expected)), rel=1e-9, source=source)
    pairs = zip(maps, outlines, strict=True)
    each = [ssim(*(torch.from_numpy(m)[None, None].double() * 255 for m in pair), data_range=255.0) for pair in pairs]
    result = score("edge_ssim", tmp_path, shifted, outlines)
    source = f"{peer('scikit-image')}'s Canny, {peer('torchmetrics')}, pair by pair"
    golden("edge_ssim", result.score.value, float(torch.stack(each).mean()), rel=1e-9, source=source)


def test_digits_follow_their_own_outlines_best(tmp_path: Path) -> None:
    """Each digit against its outline, the outline moved by 1 and by 4 pixels, another digit's, and none."""
    images, outlines = digits()
    controls = [outlines, np.roll(outlines, 1, 1), np.roll(outlines, 4, 1), np.roll(outlines, 1, 0), outlines * False]
    found = [score("edge_f1", tmp_path, images, control).score for control in controls]
    values = [s.value for s in found]
    assert values[0] > 0.99
    assert values[1] > 0.99  # the tolerance
    assert values[1] > values[2] > values[4] == 0
    assert values[3] < 0.7
    assert len(found[0].influence) == 12
    ssim = [score("edge_ssim", tmp_path, images, control).score.value for control in controls]
    assert ssim[0] > 0.95
    assert ssim[0] > ssim[1] > ssim[2]


def test_photographs_as_controls(tmp_path: Path) -> None:
    """`control: image` takes their edges first: an image follows itself, and its negative."""
    images, _ = digits()
    assert score("edge_f1", tmp_path, images, images, control="image").score.value == 1.0
    assert score("edge_f1", tmp_path, images, 255 - images, control="image").score.value == 1.0
    assert score("edge_f1", tmp_path, images, images).score.value < 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 2))
def test_symmetric_and_within_bounds(seed: int, tolerance: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(size=(3, 12, 14)) < rng.uniform(0, 0.5) for _ in range(2))
    metric = Given(tolerance=tolerance)
    there, back = metric.distance(batch(a), batch(b)), metric.distance(batch(b), batch(a))
    torch.testing.assert_close(there, back)
    assert bool(((there >= 0) & (there <= 1)).all())
    assert metric.distance(batch(a), batch(a)).tolist() == [1.0] * 3
    wider = Given(tolerance=tolerance + 1).distance(batch(a), batch(b))
    assert bool((wider >= there - 1e-12).all())


def test_contract() -> None:
    metric = EdgeF1(tolerance=2)
    assert (metric.better, metric.pairs, metric.needs, metric.per_sample) == ("higher", "control", (), True)
    assert metric.constants()["tolerance"] == 2
    assert EdgeF1(pairs="source", control="image").pairs == "source"
    assert EdgeSsim().constants()["canny"] == {"sigma": 1.0, "low": 100.0, "high": 200.0}
    small = batch(np.zeros((1, 8, 8), bool))
    with pytest.raises(ValueError, match="edge SSIM needs images of 11 pixels or more, not 8x8"):
        EdgeSsim().distance(small, small)
    for changes, message in (
        ({"control": "edge"}, "control='edge': give edges"),
        ({"tolerance": -1}, "tolerance=-1: give a whole number"),
        ({"tolerance": 0.5}, "tolerance=0.5"),
        ({"low": 300.0}, "0 < low <= high"),
    ):
        with pytest.raises(ValueError, match=message):
            EdgeF1(**changes)  # type: ignore[arg-type]
