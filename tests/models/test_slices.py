"""A VAE that runs out of memory decodes by parts: the same images, and no denoising is made again."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_calls import Loaded, make

from evalkit.models.base import Request
from evalkit.models.diffusers.slices import decode_in_slices


class Vae:
    """Twice its input; holds only so many images at a time."""

    def __init__(self, holds: int) -> None:
        self.holds, self.asked = holds, list[int]()

    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        assert generator is None or len(generator) == len(z)
        self.asked.append(len(z))
        if len(z) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 17.00 GiB")
        return SimpleNamespace(sample=2 * z) if return_dict else (2 * z,)


@pytest.mark.parametrize("holds", [1, 3, 8])
def test_halves_until_it_fits_and_keeps_to_it(holds: int, caplog: pytest.LogCaptureFixture) -> None:
    vae, z = Vae(holds), torch.arange(7.0).reshape(7, 1)
    decode_in_slices(vae)
    generators = [torch.Generator() for _ in z]
    with caplog.at_level(logging.WARNING):
        assert torch.equal(vae.decode(z, return_dict=False, generator=generators)[0], 2 * z)
    assert len([m for m in caplog.messages if "out of memory" in m]) <= {1: 2, 3: 1, 8: 0}[holds]
    vae.asked.clear()
    assert torch.equal(vae.decode(z).sample, 2 * z)
    assert vae.asked == {1: [1] * 7, 3: [3, 3, 1], 8: [7]}[holds]
    assert torch.equal(vae.decode(z[:1]).sample, 2 * z[:1])


def test_other_errors_and_a_single_image_are_raised() -> None:
    vae = Vae(0)
    decode_in_slices(vae)
    with pytest.raises(torch.OutOfMemoryError):
        vae.decode(torch.zeros(4, 1))
    with pytest.raises(TypeError):
        vae.decode(torch.zeros(4, 1), wrong=1)
    decode_in_slices(None)


def test_a_pipelines_images_stay(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("sd")
    requests = [Request(i, 0, prompt="a") for i in range(4)]
    whole = make(model, requests)
    vae, calls = model._pipe.vae, [0, 0]
    inner = type(vae).decode

    def decode(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(vae, z, *args, **kwargs)

    kept = vae.decode
    try:
        vae.decode = decode
        decode_in_slices(vae)
        made = make(model, requests)
    finally:
        vae.decode = kept
    assert calls[0] == 3  # once for all four, then two and two
    assert made.nfe == whole.nfe
    assert abs(made.images.astype(int) - whole.images).max() <= 1
