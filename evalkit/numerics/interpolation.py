"""Interpolation between two latents, shared by walks and by path lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the straight line.

    Args:
        a: f [B, ...], where t is 0.
        b: f [B, ...], where t is 1.
        t: f [B].
    """
    return a + (b - a) * t.to(a).reshape(-1, *[1] * (a.ndim - 1))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle (Shoemake 1985), each sample's values as one vector; its length goes linearly.

    Between latents of a normal distribution a straight line passes nearer to the origin than any sample does; this way
    does not. On vectors of length one it is the `slerp` of StyleGAN's path length. Where the two directions are the
    same, or opposite, or one has none, it is `lerp`. In float64 inside.

    Args:
        a, b, t: see `lerp`.
    """
    import torch

    x, y, s = a.double().flatten(1), b.double().flatten(1), t.double()[:, None]  # [B,D], [B,D], [B,1]
    lengths = (x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True))
    u, v = (w / length.clamp(min=1e-300) for w, length in zip((x, y), lengths, strict=True))
    cosine = (u * v).sum(1, keepdim=True).clamp(-1, 1)
    angle, sine = cosine.acos(), (1 - cosine.square()).clamp(min=0).sqrt()
    direction = (u * ((1 - s) * angle).sin() + v * (s * angle).sin()) / sine.clamp(min=1e-300)
    curved = direction * (lengths[0] * (1 - s) + lengths[1] * s)
    straight = (sine < 1e-7) | (lengths[0] == 0) | (lengths[1] == 0)
    return torch.where(straight, x + (y - x) * s, curved).reshape(a.shape).to(a.dtype)
