"""Seeded weights of LPIPS's trunks, in torchvision's layout: its published ones cannot be had without a download."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def torchvision_features(net: str) -> nn.Sequential:
    """torchvision's own convolutions with seeded weights; the classifier behind them is never allocated."""
    import torchvision

    with torch.device("meta"):
        whole = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[net]()
    features: nn.Sequential = whole.features.to_empty(device="cpu")
    g = torch.Generator().manual_seed(0)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=g)
            nn.init.normal_(layer.bias, std=0.1, generator=g)
    return features.requires_grad_(False)


def seeded_trunk(net: str) -> dict[str, Tensor]:
    """A state dict as torchvision's weights files hold it."""
    return {f"features.{name}": value for name, value in torchvision_features(net).state_dict().items()}
