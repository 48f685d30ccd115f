"""A weights file for the FID Inception network, random but seeded, in the format of the published one.

The scales are chosen so that neither features nor class probabilities are degenerate: He-scaled convolutions, batch
norms near the identity, and a last layer without the direction that all images share.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn


def write_weights(path: Path, seed: int = 0) -> None:
    """Saves a state dict as torch-fidelity reads it (95 MB)."""
    from evalkit.extractors.inception_blocks import finish
    from evalkit.extractors.inception_net import InceptionNet

    g = torch.Generator().manual_seed(seed)
    net = InceptionNet().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=g) * (2 / fan) ** 0.5)
        if isinstance(module, nn.BatchNorm2d):
            c = module.num_features
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.copy_(torch.rand(c, generator=g) * 0.5 + 0.75)
            module.bias.copy_(torch.randn(c, generator=g) * 0.1)
            module.running_mean.copy_(torch.randn(c, generator=g) * 0.1)
            module.running_var.copy_(torch.rand(c, generator=g) * 0.5 + 0.5)
    finished = copy.deepcopy(net)
    finish(finished)
    shared = finished(torch.rand(2, 3, 299, 299, generator=g) * 255)["pool3"].mean(0)
    shared = shared / shared.norm()
    weight = torch.randn(1008, 2048, generator=g)
    net.fc.weight.copy_((weight - (weight @ shared)[:, None] * shared) * 0.01)
    net.fc.bias.copy_(torch.randn(1008, generator=g) * 0.1)
    torch.save(net.state_dict(), path)
