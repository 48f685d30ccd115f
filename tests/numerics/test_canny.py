"""Canny: worked by hand, against scikit-image, colours of one lightness, batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from evalkit.numerics.canny import canny


def textures(count: int, size: tuple[int, int] = (40, 57)) -> np.ndarray:
    """u8 [N,H,W] with gentle and steep slopes."""
    noise = np.random.default_rng(0).uniform(size=(count, *size))
    smooth = np.stack([ndimage.gaussian_filter(image, 1 + i % 3) for i, image in enumerate(noise)])
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    return ((smooth - low) / (high - low) * 255).astype(np.uint8)


def step(level: int, width: int = 8) -> np.ndarray:
    """Black on the left, `level` from column 4 on."""
    image = np.zeros((1, 8, width, 1), np.uint8)
    image[:, :, 4:] = level
    return image


def test_a_step_by_hand() -> None:
    """Sobel of a step by L is 4 L in both columns beside it: a tie, two pixels wide, an edge from 4 L = high on."""
    wanted = np.zeros((8, 8), bool)
    wanted[1:-1, 3:5] = True  # not the border
    assert (canny(step(50), sigma=0, low=200, high=200)[0] == wanted).all()
    assert not canny(step(49), sigma=0, low=100, high=200).any()


def test_weak_edges_count_where_they_go_on_from_strong_ones() -> None:
    image = np.zeros((1, 20, 8, 1), np.uint8)
    image[:, :10, 4:], image[:, 10:, 4:] = 60, 30  # 240 above, 120 below
    assert canny(image, sigma=0, low=100, high=200)[0, 15, 3]
    assert not canny(image[:, 12:], sigma=0, low=100, high=200).any()
    assert not canny(image, sigma=0, low=150, high=200)[0, 15, 3]


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.0, 2.0])
def test_equals_scikit_image(sigma: float) -> None:
    feature = pytest.importorskip("skimage.feature")
    images = textures(6)
    found = canny(images[..., None], sigma, 30, 80)
    assert found.any(axis=(1, 2)).all()
    for image, edges in zip(images, found, strict=True):
        assert (edges == feature.canny(image, sigma=sigma, low_threshold=30, high_threshold=80)).all()


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images = np.stack([textures(6)[..., None][[i, (i + 1) % 6, (i + 2) % 6], ..., 0] for i in range(6)], axis=0)
    images = images.transpose(0, 2, 3, 1)  # three channels
    whole = canny(images)
    assert (np.concatenate([canny(image[None]) for image in images]) == whole).all()


def test_each_pixel_goes_by_its_steepest_channel() -> None:
    """Red beside green of the same lightness, as the digits of the embedded models are coloured."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, :4], image[:, :, 4:] = (150, 20, 20), (20, 86, 20)
    grey = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]
    assert not canny(grey).any()
    assert canny(image)[0, 1:-1, 3:5].any(axis=1).all()
    one = textures(2)[..., None]
    assert (canny(np.repeat(one, 3, axis=-1)) == canny(one)).all()
