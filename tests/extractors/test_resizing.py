"""Resizes as matrices: the same images as the named implementations', at any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.extractors.resizing import resize, resize_matrix

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


def noise(size: tuple[int, int]) -> torch.Tensor:
    g = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return torch.randint(0, 256, (1, 3, *size), generator=g, dtype=torch.uint8)


@settings(max_examples=12, deadline=None)
@given(SIZES, st.sampled_from([224, 299]))
def test_tf1_equals_torch_fidelity(size: tuple[int, int], out: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = noise(size)
    expected = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(out, out), align_corners=False)
    torch.testing.assert_close(resize(x, out), expected, rtol=0, atol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SIZES)
def test_torch_and_antialias_equal_interpolate(size: tuple[int, int]) -> None:
    x = noise(size)
    for how, antialias in (("torch", False), ("antialias", True)):
        expected = torch.nn.functional.interpolate(
            x.float(), size=(299, 299), mode="bilinear", align_corners=False, antialias=antialias
        )
        torch.testing.assert_close(resize(x, 299, how), expected, rtol=0, atol=5e-3)


@settings(max_examples=10, deadline=None)
@given(SIZES)
def test_clean_equals_pillow_on_floats(size: tuple[int, int]) -> None:
    """clean-fid's `make_resizer("PIL", False, "bicubic", (299, 299))`."""
    from PIL import Image

    x = noise(size)
    planes = [Image.fromarray(plane.numpy().astype(np.float32)) for plane in x[0]]
    bicubic = Image.Resampling.BICUBIC
    expected = np.stack([np.asarray(p.resize((299, 299), bicubic)).clip(0, 255) for p in planes])
    np.testing.assert_allclose(resize(x, 299, "clean")[0].numpy(), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("how", ["tf1", "torch", "antialias", "clean"])
def test_matrices(how: str) -> None:
    """Each row's weights add up to 1, and an image of the right size stays as it is."""
    for size in (1, 2, 100, 299, 640):
        torch.testing.assert_close(resize_matrix(size, 299, how).sum(1), torch.ones(299), rtol=0, atol=1e-5)
    assert torch.equal(resize_matrix(299, 299, how), torch.eye(299))


def test_tf1_by_hand() -> None:
    """2 -> 4: source positions 0, 0.5, 1, 1.5; what lies beyond the last pixel repeats it."""
    expected = torch.tensor([[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    assert torch.equal(resize_matrix(2, 4, "tf1"), expected)


def test_torch_by_hand() -> None:
    """2 -> 4 with half-pixel centres: source positions -0.25 (clamped), 0.25, 0.75, 1.25 (clamped)."""
    expected = torch.tensor([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    torch.testing.assert_close(resize_matrix(2, 4, "torch"), expected, rtol=0, atol=1e-6)


def test_antialias_by_hand() -> None:
    """4 -> 2: a triangle of half-width 2 around 1: (0.5, 1.5, 2.5, 3.5) weigh 3:3:1 (cut at the border)."""
    expected = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    torch.testing.assert_close(resize_matrix(4, 2, "antialias"), expected, rtol=0, atol=1e-6)
