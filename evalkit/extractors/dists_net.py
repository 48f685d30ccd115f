"""DISTS's network: VGG16 whose max pooling is an L2 pooling. Imports torch; import it where it is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from evalkit.errors import ConfigError
from evalkit.extractors.base import per_channel
from evalkit.extractors.lpips_net import TAPS, trunk
from evalkit.extractors.vgg16 import MEAN, STD
from evalkit.utils.weights import Weights

EPSILON = 1e-12  # under the root of the pooling
HANN = (0.5, 1.0, 0.5)  # numpy.hanning(5) without its zeros


class L2Pool(nn.Module):
    """The root of the Hann-weighted mean of squares in windows of 3, every second one: [B,C,H,W] -> halves, upwards."""

    def forward(self, x: Tensor) -> Tensor:
        window = torch.tensor(HANN, device=x.device)
        window = window[:, None] * window / 4
        squares = conv2d(x.square(), window.expand(x.shape[1], 1, 3, 3).to(x.dtype), None, 2, 1, 1, x.shape[1])
        return (squares + EPSILON).sqrt()


def load_trunk(weights: Weights) -> nn.Sequential:
    """The network with a torchvision state dict (`features.0.weight` ...).

    Raises:
        ConfigError: a tensor is missing, or of another shape.
    """
    network = nn.Sequential(*(L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in trunk("vgg")))
    state = weights.read()
    for name, ours in network.named_parameters():
        theirs = state.get(f"features.{name}")
        if theirs is None or theirs.shape != ours.shape:
            got = "is missing" if theirs is None else f"has shape {tuple(theirs.shape)}"
            what = f"does not hold torchvision's VGG16: 'features.{name}' {got}"
            raise ConfigError(f"{weights.where}: {weights.find()} {what}")
    network.load_state_dict({name: state[f"features.{name}"] for name, _ in network.named_parameters()})
    return network.eval().requires_grad_(False)


def maps(network: nn.Sequential, x: Tensor) -> Tensor:
    """Height, width, the image and the maps of its five stages, as one row each.

    Args:
        network: `load_trunk`.
        x: f32 [B,3,H,W], 0 to 1.

    Returns:
        f32 [B,D], D = 2 + the sum of C H W.
    """
    mean, std = (per_channel(values, str(x.device)) for values in (MEAN, STD))
    size = torch.tensor(x.shape[2:], dtype=torch.float32, device=x.device).expand(len(x), 2)
    parts = [size, x.flatten(1)]
    y = (x - mean) / std
    for index, layer in enumerate(network):
        y = layer(y)
        if index in TAPS["vgg"]:
            parts.append(y.float().flatten(1))
    return torch.cat(parts, 1)
