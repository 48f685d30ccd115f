"""Images that are rounded where they were made: the bits of diffusers' own way through NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalkit.errors import DataError
from evalkit.models.device_images import DeviceImages, Rounded, joined, rounded


def by_numpy(images: torch.Tensor) -> np.ndarray:
    """VaeImageProcessor.pt_to_numpy and numpy_to_pil, without PIL."""
    array = images.cpu().permute(0, 2, 3, 1).float().numpy()
    return np.repeat((array * 255).round().clip(0, 255).astype(np.uint8), 3 // array.shape[3], axis=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bits_are_those_of_numpy(dtype: torch.dtype, channels: int) -> None:
    drawn = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    halves = (torch.arange(2 * channels * 256).reshape(2, channels, 16, 16) % 256 + 0.5) / 255  # n + 1/2, both parities
    beyond = torch.linspace(-0.1, 1.1, 2 * channels * 64).reshape(2, channels, 8, 8)
    for images in (drawn, halves, beyond):
        images = images.to(dtype)
        made = rounded(images)
        assert made.pixels.dtype == torch.uint8
        np.testing.assert_array_equal(made.pixels.numpy(), by_numpy(images))
        assert not made.bad.any()


def test_the_processor_of_diffusers_rounds_alike() -> None:
    from types import SimpleNamespace

    from diffusers.image_processor import VaeImageProcessor

    from evalkit.models.diffusers.sampling import round_on_device

    plain, ours = VaeImageProcessor(), VaeImageProcessor()
    round_on_device(SimpleNamespace(image_processor=ours))
    for dtype in (torch.float32, torch.bfloat16):
        decoded = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
        for flags in (None, [True, False, True]):
            array = plain.postprocess(decoded, output_type="np", do_denormalize=flags)
            made = ours.postprocess(decoded, output_type="np", do_denormalize=flags)
            np.testing.assert_array_equal(made.pixels.numpy(), (array * 255).round().clip(0, 255).astype(np.uint8))
    assert isinstance(ours.postprocess(decoded, output_type="pil"), list)


def test_values_that_are_not_finite_are_told_by_image() -> None:
    images = torch.zeros(3, 3, 4, 4)
    images[1, 0, 0, 0] = torch.nan
    images[2, 0, 0, 0] = -torch.inf
    assert rounded(images).bad.tolist() == [False, True, True]
    with pytest.raises(DataError, match="2 of 3 spoilt"):
        DeviceImages(rounded(images), lambda bad, total: f"{bad} of {total} spoilt")


def test_parts_are_put_in_order() -> None:
    one, two = (Rounded(torch.full((n, 1, 1, 3), n, dtype=torch.uint8), torch.zeros(n).bool()) for n in (2, 1))
    whole = joined([one, two], [0, 2, 1])
    assert whole.pixels[:, 0, 0, 0].tolist() == [2, 1, 2]
    assert joined([one], [0, 1]) is one
