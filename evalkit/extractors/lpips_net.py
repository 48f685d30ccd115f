"""LPIPS v0.1 as a map into a Euclidean space: a torch module. Imports torch; import it where it is needed.

Source: Zhang et al. 2018, arXiv:1801.03924; the package `lpips` 0.1.4 (BSD-2-Clause). The trunks are torchvision's
AlexNet and VGG16 up to their last tapped ReLU, under torchvision's parameter names, so that its weights files load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evalkit.errors import ConfigError
from evalkit.utils.weights import Weights

SHIFT = (-0.030, -0.088, -0.188)  # the published scaling layer, for inputs in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to a position's length, as in lpips 0.1.4 (torchmetrics 1.9: 1e-8 under the root)
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the ReLUs whose outputs count, by torchvision's index
_VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: a pooling


def trunk(net: str) -> nn.Sequential:
    """The convolutions of torchvision's `alexnet` or `vgg16` (`features`), up to the last tap, untrained."""
    layers: list[nn.Module] = []
    if net == "alex":
        layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        for before, after in ((192, 384), (384, 256), (256, 256)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers)
    width = 3
    for channels in _VGG:
        if channels:
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class LpipsNet(nn.Module):
    """phi with |phi(a) - phi(b)|^2 = LPIPS(a, b).

    LPIPS is the sum over taps of the mean over positions of sum_c w_c (a_c - b_c)^2, with a and b of unit length over
    the channels and w >= 0: the squared distance of the maps scaled by sqrt(w_c / (H W)).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        self.features = trunk(net)
        self.taps = TAPS[net]
        channels = [m.out_channels for i in self.taps if isinstance(m := self.features[i - 1], nn.Conv2d)]
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(c)) for c in channels])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Embeds images.

        Args:
            x: f32 [B,3,H,W], 0 to 255.

        Returns:
            f32 [B,D], D the sum over taps of C H W.
        """
        x = (x / 127.5 - 1 - self.shift) / self.scale
        taps: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = x.relu_() if isinstance(layer, nn.ReLU) else layer(x)
            if index in self.taps:
                taps.append(x)
        # Written where it stays: at 512 px VGG16's take 128 MB per image, which joining the parts would copy.
        widths = [tap[0].numel() for tap in taps]
        phi = torch.empty(len(x), sum(widths), dtype=torch.float32, device=x.device)
        for head, part in zip(self.heads, torch.split(phi, widths, 1), strict=True):
            tap = taps.pop(0)
            unit = tap / (tap.square().sum(1, keepdim=True).sqrt() + EPSILON)  # [B,C,h,w]
            root = (head / (tap.shape[2] * tap.shape[3])).sqrt()[:, None, None]
            torch.mul(unit, root, out=part.view(unit.shape))
        return phi


def load_network(net: str, weights: Weights, heads: Weights) -> LpipsNet:
    """The network with a torchvision state dict (`features.0.weight` ...) and the heads (`lin0.model.1.weight` ...).

    Raises:
        ConfigError: a file is not readable so, lacks a tensor, or holds one of another shape; a head is negative.
    """
    network = LpipsNet(net)
    state, linear = weights.read(), heads.read()
    state |= {
        f"heads.{i}": linear[name].flatten()
        for i in range(len(network.heads))
        if (name := f"lin{i}.model.1.weight") in linear
    }
    for name, ours in sorted(network.named_parameters()):  # the trunk's come first
        if name not in state or state[name].shape != ours.shape:
            file = (heads if name.startswith("heads.") else weights).find()
            got = f"has shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise ConfigError(f"{weights.where}: {file} does not hold the weights of this network: '{name}' {got}")
    network.load_state_dict({name: state[name] for name, _ in network.named_parameters()}, strict=False)
    if any(bool((head < 0).any()) for head in network.heads):
        raise ConfigError(
            f"{weights.where}: {heads.find()} holds negative weights: with them LPIPS is no squared distance"
        )
    return network.eval().requires_grad_(False)
