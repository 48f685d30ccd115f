"""The resizes that peers' scores differ by, each linear, so that two small matrices apply it: `W_h x W_w^T`.

Imports torch; import it where images are really resized. Each axis' matrix comes from the named implementation itself,
or is written as it computes: the images then agree to rounding (5e-3 of 255; tests/extractors/test_resizing.py).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def resize(x: Tensor, out: int, how: str = "tf1") -> Tensor:
    """u8 or f32 [B,C,H,W], 0 to 255 -> f32 [B,C,out,out], 0 to 255."""
    rows = _matrix_on(x.device, x.shape[2], out, how)  # [out,H]
    columns = _matrix_on(x.device, x.shape[3], out, how)  # [out,W]
    resized = rows @ (x.float() @ columns.T)
    return resized.clamp_(0, 255) if how == "clean" else resized  # bicubic alone leaves the range


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """u8 or f32 [B,C,H,W] -> f32 [B,C,*size] by torch, with antialias; as it is where it has the size."""
    x = x.float()
    return x if tuple(x.shape[2:]) == size else functional.interpolate(x, size, mode="bilinear", antialias=True)


@lru_cache(maxsize=64)
def _matrix_on(device: torch.device, size: int, out: int, how: str) -> Tensor:
    """`resize_matrix` on a device: a copy at each call would wait for all that a GPU has to do."""
    return resize_matrix(size, out, how).to(device)


@lru_cache(maxsize=64)
def resize_matrix(size: int, out: int, how: str = "tf1") -> Tensor:
    """The resize of one axis, f32 [out,size]."""
    if how == "tf1":
        return _tf1_matrix(size, out)
    identity = torch.eye(size)  # a picture whose rows are resized, and whose columns stay
    if how == "clean":
        import numpy as np
        from PIL import Image

        picture = Image.fromarray(identity.numpy()).resize((size, out), Image.Resampling.BICUBIC)  # mode F
        return torch.from_numpy(np.array(picture))
    antialias = {"torch": False, "antialias": True}[how]
    resized: Tensor = functional.interpolate(
        identity[None, None], size=(out, size), mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized[0, 0]


def _tf1_matrix(size: int, out: int) -> Tensor:
    """TF1's bilinear resize: source position i * size / out, no antialias.

    Each row holds the two weights that torch-fidelity's gather computes, in the same float32 arithmetic
    (`interpolate_bilinear_2d_like_tensorflow1x`), so that both give the same image up to one rounding.
    """
    position = torch.arange(out, dtype=torch.float32) * torch.tensor(size / out, dtype=torch.float32)
    low = position.long()
    high = (low + 1).clamp_max(size - 1)
    part = position - low.float()
    matrix = torch.zeros(out, size)
    rows = torch.arange(out)
    matrix.index_put_((rows, low), 1 - part, accumulate=True)
    matrix.index_put_((rows, high), part, accumulate=True)
    return matrix
