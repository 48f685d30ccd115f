"""A small generator of the StyleGAN2 family for the tests: a mapping with its mean w, modulated convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mapping(nn.Module):
    """z on the sphere, with the class -> w; truncation goes towards `w_avg`."""

    w_avg: Tensor

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int) -> None:
        super().__init__()
        self.num_ws, self.c_dim = num_ws, c_dim
        self.embed = nn.Linear(c_dim, z_dim) if c_dim else None
        self.layers = nn.ModuleList([nn.Linear(z_dim * (2 if c_dim else 1), w_dim), nn.Linear(w_dim, w_dim)])
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1, truncation_cutoff: int | None = None) -> Tensor:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        if self.embed is not None:
            y = self.embed(c)
            x = torch.cat([x, y * (y.square().mean(1, keepdim=True) + 1e-8).rsqrt()], 1)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2) * 2**0.5
        w = x[:, None].repeat(1, self.num_ws, 1)  # [B,num_ws,w_dim]
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            w[:, :cutoff] = self.w_avg.lerp(w[:, :cutoff], truncation_psi)
        return w


class Layer(nn.Module):
    """A modulated and demodulated convolution with noise."""

    noise_const: Tensor

    def __init__(self, inner: int, outer: int, w_dim: int, size: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.affine = nn.Linear(w_dim, inner)
        self.weight = nn.Parameter(torch.randn(outer, inner, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outer))
        self.noise_strength = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("noise_const", torch.randn(size, size))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        style = self.affine(w) + 1  # [B,inner]
        weight = self.weight[None] * style[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        batch, channels = x.shape[:2]
        x = F.conv2d(
            x.reshape(1, batch * channels, *x.shape[2:]), weight.flatten(0, 1), padding=1, groups=batch
        ).unflatten(1, (batch, -1))[0]
        if noise_mode == "random":
            x = x + torch.randn(batch, 1, *x.shape[2:]) * self.noise_strength
        elif noise_mode == "const":
            x = x + self.noise_const * self.noise_strength
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


class Synthesis(nn.Module):
    def __init__(self, w_dim: int, resolution: int, channels: int) -> None:
        super().__init__()
        sizes = [4]
        while sizes[-1] < resolution:
            sizes.append(sizes[-1] * 2)
        self.const = nn.Parameter(torch.randn(channels, 4, 4))
        self.layers = nn.ModuleList([Layer(channels, channels, w_dim, s, up=s > 4) for s in sizes])
        self.rgb = nn.Conv2d(channels, 3, 1)
        self.calls: list[dict[str, Any]] = []

    def forward(self, ws: Tensor, noise_mode: str = "random", **arguments: Any) -> Tensor:
        self.calls.append({"noise_mode": noise_mode, **arguments})
        x = self.const[None].repeat(len(ws), 1, 1, 1)
        for i, layer in enumerate(self.layers):
            x = layer(x, ws[:, i], noise_mode)
        image: Tensor = self.rgb(x)
        return image


class Generator(nn.Module):
    """[B,z_dim], [B,c_dim] -> about [-1,1] [B,3,resolution,resolution]."""

    def __init__(
        self, z_dim: int = 16, c_dim: int = 0, w_dim: int = 12, resolution: int = 16, channels: int = 8
    ) -> None:
        super().__init__()
        self.synthesis = Synthesis(w_dim, resolution, channels)
        self.mapping = Mapping(z_dim, c_dim, w_dim, len(self.synthesis.layers))

    def forward(self, z: Tensor, c: Tensor, **arguments: Any) -> Tensor:
        image: Tensor = self.synthesis(self.mapping(z, c, **arguments), noise_mode="const")
        return image


class NoHalves(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z


def save(file: Path, **arguments: Any) -> Generator:
    """A seeded generator with its mean w, its state dict in a safetensors file."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = Generator(**arguments)
    z = torch.randn(2000, net.mapping.layers[0].in_features // (2 if net.mapping.c_dim else 1))
    c = torch.eye(max(net.mapping.c_dim, 1))[torch.arange(2000) % max(net.mapping.c_dim, 1)][:, : net.mapping.c_dim]
    with torch.no_grad():
        net.mapping.w_avg.copy_(net.mapping(z, c)[:, 0].mean(0))
    save_file(net.state_dict(), str(file))
    return net.eval()
