"""SSIM and MS-SSIM: against torchmetrics on single pairs, a flat patch worked by hand, images that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import pair_score
from torch import Tensor

from evalkit.metric import Batch
from evalkit.metrics.ssim import BETAS, MsSsim, MsSsimDiversity, Ssim


def batch(images: Tensor) -> Batch:
    n = len(images)
    return Batch(images, torch.arange(n), n, [None] * n, {})


def smooth(n: int, size: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").byte()


def noisy(images: Tensor, spread: float, seed: int = 9) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * spread
    return (images + noise).clamp(0, 255).byte()


def test_flat_images_by_hand() -> None:
    """No variance: (2 a b + c1) / (a^2 + b^2 + c1) with c1 = (0.01 * 255)^2."""
    a, b = torch.full((1, 3, 16, 16), 100).byte(), torch.full((1, 3, 16, 16), 50).byte()
    c1 = 2.55**2
    expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert float(Ssim().distance(batch(a), batch(b))) == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics_pair_by_pair(golden: Golden, tmp_path: Path) -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    a = smooth(2, 176)
    b = noisy(a, 20)
    pairs = [(x[None].double(), y[None].double()) for x, y in zip(a, b, strict=True)]
    source = f"{peer('torchmetrics')}, pair by pair"
    expected = [float(ssim(x, y, data_range=255.0)) for x, y in pairs]
    assert Ssim().distance(batch(a), batch(b)).tolist() == pytest.approx(expected, rel=1e-9)
    first, second = ([*x.permute(0, 2, 3, 1).numpy()] for x in (a, b))
    for name in ("ssim", "ssim_target"):
        golden(name, pair_score(name, tmp_path, first, second).value, sum(expected) / 2, rel=1e-9, source=source)
    expected = [float(ms_ssim(x, y, data_range=255.0)) for x, y in pairs]
    mixed = [image for pair in zip(first, second, strict=True) for image in pair]  # two of a prompt beside one another
    found = pair_score("ms_ssim_diversity", tmp_path, mixed).value
    golden("ms_ssim_diversity", found, sum(expected) / 2, rel=1e-9, source=source)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.sampled_from([1.0, 30.0]))
def test_symmetric_and_one_for_equal_images(seed: int, spread: float) -> None:
    a = smooth(1, 44, seed)
    b = noisy(a, spread, seed)
    for metric in (Ssim(), MsSsim(betas=BETAS[:3])):
        assert float(metric.distance(batch(a), batch(a))) == pytest.approx(1.0, abs=1e-9)
        there, back = metric.distance(batch(a), batch(b)), metric.distance(batch(b), batch(a))
        torch.testing.assert_close(there, back)
        assert 0 < float(there) < 1


@pytest.mark.parametrize(("scales", "least"), [(1, 11), (2, 22), (3, 44), (4, 99), (5, 176)])
def test_images_too_small(scales: int, least: int) -> None:
    metric = MsSsim(betas=BETAS[:scales])
    a = smooth(1, least)
    assert bool(metric.distance(batch(a), batch(noisy(a, 9))).isfinite().all())
    small = smooth(1, least - 1)
    with pytest.raises(ValueError, match=rf"over {scales} scales .* needs images of {least} pixels or more, not"):
        metric.distance(batch(small), batch(small))


def test_a_collapsed_set_is_less_diverse() -> None:
    """Pairs of nearly one image against pairs of different ones: near 1 against far below."""
    metric = MsSsimDiversity(betas=BETAS[:3])
    one = smooth(1, 64).repeat(4, 1, 1, 1)
    collapsed = metric.distance(batch(noisy(one, 3)), batch(noisy(one, 3, seed=1))).mean()
    diverse = metric.distance(batch(smooth(4, 64, 1)), batch(smooth(4, 64, 2))).mean()
    assert float(collapsed) > 0.95
    assert float(diverse) < 0.7


def test_contract() -> None:
    assert (MsSsimDiversity().better, MsSsimDiversity().pairs) == ("lower", "prompt")
    assert (MsSsim().better, MsSsim().pairs, Ssim().better) == ("higher", "baseline", "higher")
    assert MsSsim(betas=[0.5, 0.5]).constants()["betas"] == [0.5, 0.5]
    with pytest.raises(ValueError, match="all above 0"):
        MsSsim(betas=[0.5, 0.0])
    with pytest.raises(ValueError, match="all above 0"):
        MsSsim(betas=[])
