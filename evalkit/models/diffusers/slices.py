"""Decoding by parts where a batch of images does not fit: the denoising that led there is dear, and is not lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from evalkit.utils import devices

log = logging.getLogger(__name__)


def decode_in_slices(vae: Any) -> None:
    """Lets `vae.decode` halve what it decodes at a time when memory runs out, and keep to that in later calls.

    As long as it does not run out nothing changes. 64 images of 512 px, or 16 of 1,024, are 17 GB per float32 tensor in
    the last blocks of Stable Diffusion's VAE, and three or four are alive at once. What slicing changes is what another
    batch size changes: rounding, on devices that choose kernels by shape.
    """
    decode = getattr(vae, "decode", None)
    if decode is None:
        return
    largest: int | None = None

    def sliced(z: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal largest
        while True:
            size = min(len(z), largest or len(z))
            made = _decode(decode, size, z, args, kwargs)
            if made is not None:
                return made
            devices.free_memory()
            largest = size // 2
            log.warning("the VAE is out of memory with %d images at a time; going on with %d", size, largest)

    vae.decode = sliced


def _decode(decode: Callable[..., Any], size: int, z: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What `decode` makes of z [B,...], `size` at a time: a DecoderOutput, or a tuple; none where they do not fit."""
    import torch

    try:
        if size >= len(z):
            return decode(z, *args, **kwargs)
        parts = [decode(z[i : i + size], *args, **_cut(kwargs, i, size, len(z))) for i in range(0, len(z), size)]
        if isinstance(parts[0], tuple):
            return (torch.cat([part[0] for part in parts]),)
        return type(parts[0])(sample=torch.cat([part.sample for part in parts]))
    except Exception as error:
        if size == 1 or not devices.is_out_of_memory(error):
            raise
    return None


def _cut(kwargs: dict[str, Any], start: int, size: int, total: int) -> dict[str, Any]:
    """With those generators only, where there is one per image."""
    generators = kwargs.get("generator")
    if not isinstance(generators, list) or len(generators) != total:
        return kwargs
    return {**kwargs, "generator": generators[start : start + size]}
