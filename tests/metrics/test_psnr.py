"""PSNR: by hand, against torchmetrics on single pairs, and the cap of identical images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from golden import Golden, peer
from hypothesis import given, settings
from hypothesis import strategies as st
from options import pair_score
from torch import Tensor

from evalkit.metric import Batch
from evalkit.metrics.psnr import Psnr


def batch(images: Tensor) -> Batch:
    n = len(images)
    return Batch(images, torch.arange(n), n, [None] * n, {})


def pixels(n: int, seed: int, height: int = 12, width: int = 9) -> Tensor:
    return torch.randint(0, 256, (n, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def test_by_hand() -> None:
    """Black against white 0 dB; one level everywhere 20 log10 255; equal images the cap."""
    black, white = torch.zeros(1, 3, 4, 4).byte(), torch.full((1, 3, 4, 4), 255).byte()
    first = torch.cat([black, black, black])
    found = Psnr(cap=90.0).distance(batch(first), batch(torch.cat([white, black + 1, black])))
    assert found.tolist() == pytest.approx([0.0, 20 * math.log10(255), 90.0], abs=1e-5)


def test_equals_torchmetrics_pair_by_pair(golden: Golden, tmp_path: Path) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = pixels(5, 0), pixels(5, 1)
    expected = [
        float(peak_signal_noise_ratio(x.float(), y.float(), data_range=255.0)) for x, y in zip(a, b, strict=True)
    ]
    assert Psnr().distance(batch(a), batch(b)).tolist() == pytest.approx(expected, rel=1e-6)
    found = pair_score("psnr", tmp_path, *([*x.permute(0, 2, 3, 1).numpy()] for x in (a, b))).value
    source = f"{peer('torchmetrics')}, pair by pair"
    golden("psnr", found, sum(expected) / len(expected), rel=1e-6, source=source)
    found = pair_score("psnr_target", tmp_path, *([*x.permute(0, 2, 3, 1).numpy()] for x in (a, b))).value
    golden("psnr_target", found, sum(expected) / len(expected), rel=1e-6, source=source)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_symmetric_finite_and_capped(seed: int, other: int) -> None:
    a, b = batch(pixels(2, seed)), batch(pixels(2, other))
    found = Psnr().distance(a, b)
    torch.testing.assert_close(found, Psnr().distance(b, a))
    assert bool(found.isfinite().all())
    assert bool((found <= 100).all())
    assert bool((found == 100).all()) == (seed == other)


def test_contract() -> None:
    assert Psnr(cap=80.0).constants()["cap_db"] == 80.0
    assert (Psnr().better, Psnr().pairs, Psnr().needs) == ("higher", "baseline", ())
