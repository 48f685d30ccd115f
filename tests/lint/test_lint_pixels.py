"""What the lint tells of pixels: enlarged images and duplicates, and what only looks like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lint_faults import arrays, findings_of, kinds
from pictures import Pixels, jpeg, picture, pictures, resized
from PIL import Image, ImageFilter

from evalkit.lint import pixels

KERNELS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
COUNT = 20


# Enlarged images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 2.5, 3, 4])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name.lower())
def test_one_enlarged_image_among_others_is_found(tmp_path: Path, factor: float, kernel: Image.Resampling) -> None:
    if kernel == Image.Resampling.NEAREST and factor == 2.5:
        pytest.skip("told for whole factors alone: which pixel is the nearest is a matter of rounding")
    large = round(40 * factor)
    images = [*pictures(3, large), resized(picture(1, 40), large, kernel)]
    finding = kinds(findings_of(arrays(images), tmp_path))["upscaled"]
    assert finding.files == ("arrays[3]",)
    assert f"(by {factor:.3g})" in finding.message


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    factor=st.sampled_from([2, 2.5, 3, 4]),
    side=st.integers(28, 60),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0),
)
def test_an_enlarged_set_is_found(factor: float, side: int, kernel: Image.Resampling, seed: int) -> None:
    side += side % 2  # 2.5 times an even side is whole
    factor = round(factor) if kernel == Image.Resampling.NEAREST else factor
    images = [resized(picture((seed + i) % 2**32, side), round(side * factor), kernel) for i in range(16)]
    measured, _ = pixels.PixelScan(arrays(images), pixels.Counter()).finish()
    assert len(measured.enlarged) >= 15
    assert sum(found == factor for _, found in measured.enlarged) >= 15


def test_a_set_that_was_enlarged_and_saved_as_jpeg_is_found(tmp_path: Path) -> None:
    images = [jpeg(resized(picture(i, 48), 96), 92) for i in range(24)]
    finding = kinds(findings_of(arrays(images), tmp_path))["upscaled"]
    assert finding.count >= 20
    assert "(by 2)" in finding.message


def test_pictures_as_enlarged_by_torch_are_found(tmp_path: Path) -> None:
    import torch

    small = torch.from_numpy(np.stack(pictures(16, 40))).permute(0, 3, 1, 2).float()
    for mode in ("nearest", "bilinear", "bicubic"):
        large = torch.nn.functional.interpolate(small, scale_factor=3, mode=mode).round().clamp(0, 255)
        images = list(large.permute(0, 2, 3, 1).to(torch.uint8).numpy())
        assert kinds(findings_of(arrays(images), tmp_path))["upscaled"].count >= 15, mode


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def rectangles(seed: int) -> Pixels:
    """A plain picture of a few boxes, whose edges may all lie at even places."""
    rng = np.random.default_rng(seed)
    image = np.full((64, 64, 3), 255, np.uint8)
    for _ in range(2):
        y, x, height, width = (*rng.integers(0, 24, 2) * 2, *rng.integers(2, 8, 2) * 2)
        image[y : y + height, x : x + width] = rng.integers(0, 200, 3)
    return image


@pytest.mark.parametrize(
    "change",
    [
        lambda i: blurred(picture(i, 96), 1.0),
        lambda i: blurred(picture(i, 96), 2.0),
        lambda i: jpeg(picture(i, 96), 40),
        lambda i: jpeg(blurred(picture(i, 96), 1.5), 60),
        lambda i: resized(picture(i, 96), 64, Image.Resampling.LANCZOS),
        rectangles,
    ],
    ids=["blurred", "out of focus", "compressed", "both", "made smaller", "boxes"],
)
def test_smooth_and_plain_pictures_are_not_called_enlarged(tmp_path: Path, change: Callable[[int], Pixels]) -> None:
    assert "upscaled" not in kinds(findings_of(arrays([change(i) for i in range(24)]), tmp_path))


# Duplicates ----------------------------------------------------------------------------------------------------------


def small_thing(place: int) -> Pixels:
    """The same plain backdrop, with another thing on it."""
    y, x = np.mgrid[:64, :64]
    image = np.repeat((120 + y)[..., None], 3, axis=2).astype(np.uint8)
    image[((y - 10 - 5 * (place // 8)) ** 2 + (x - 8 - 7 * (place % 8)) ** 2) < 12] = (190, 30, 40)
    return image


def test_a_shared_backdrop_is_no_near_duplicate(tmp_path: Path) -> None:
    assert findings_of(arrays([small_thing(i) for i in range(40)]), tmp_path) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.one_of(st.floats(0.02, 0.13), st.floats(0.3, 0.6)), bias=st.floats(-1, 1))
def test_a_copy_that_differs_little_is_a_near_duplicate(seed: int, share: float, bias: float) -> None:
    first = picture(seed, 32)
    noise = np.random.default_rng(seed).normal(bias, 1, first.shape)
    noise *= share * pixels.contrasts(first[None])[0] / np.sqrt((noise**2).mean())
    copy = np.clip(first + noise, 0, 255).astype(np.uint8)
    found = pixels.near_duplicates(np.stack([picture(seed + 1, 32), first, picture(seed + 2, 32), copy]))
    assert found == ([(3, 1)] if share < pixels.NEAR else [])


def test_a_collapsed_set_is_an_error_and_counted_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same = picture(1).astype(int)
    images = [np.clip(same + rng.integers(-3, 4, same.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    finding = kinds(findings_of(arrays([*images, *pictures(4, seed=2)]), tmp_path))["near_duplicates"]
    assert (finding.count, finding.severity) == (29, "error")


def test_copies_are_counted_without_their_first(tmp_path: Path) -> None:
    images = pictures(COUNT)
    findings = kinds(findings_of(arrays([*images, images[0], images[0], images[7]]), tmp_path))
    assert findings.keys() == {"duplicates"}  # an exact copy is not told again as a near one
    assert findings["duplicates"].count == 3
    assert findings["duplicates"].files == ("arrays[20]", "arrays[0]", "arrays[21]", "arrays[0]", "arrays[22]")


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(14)))
def test_the_order_of_the_images_changes_no_count(order: list[int]) -> None:
    base = pictures(8)
    near = [np.clip(base[i].astype(int) + 3 * j, 0, 255).astype(np.uint8) for j, i in ((1, 0), (2, 0), (1, 1))]
    images = [*base, *near, base[2], np.zeros_like(base[0]), resized(picture(50, 24), 48)]
    views = []
    for chosen in (range(14), order):
        measured, bad = pixels.PixelScan(arrays([images[i] for i in chosen]), pixels.Counter()).finish()
        assert bad == {}
        names = [list(chosen)[int(i)] for i, _ in measured.enlarged]
        views.append((len(measured.near), sorted(measured.pixels), len(measured.black), names, measured.zeros))
    assert views[0] == views[1]
