"""The FID Inception network as a torch module: TF 2015-12-05 graph, batch norm folded, TF1 resize as two matrices.

Imports torch and torch-fidelity; import it where the network is really needed. The blocks are torch-fidelity's own
(Apache-2.0, after mseitzer/pytorch-fid); its constructor is not used, since it unpickles the weights file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch_fidelity.feature_extractor_inceptionv3 as blocks
from torch import Tensor, nn

from evalkit.errors import ConfigError

INPUT_SIZE = 299


class InceptionNet(nn.Module):
    """pool3 [B,2048] and the 1008-way logits. Parameter names are those of the published weights file."""

    def __init__(self) -> None:
        super().__init__()
        conv = blocks.BasicConv2d
        self.Conv2d_1a_3x3 = conv(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = conv(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = conv(32, 64, kernel_size=3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Conv2d_3b_1x1 = conv(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = conv(80, 192, kernel_size=3)
        self.MaxPool_2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self.AvgPool = nn.AdaptiveAvgPool2d(output_size=(1, 1))
        self.fc = nn.Linear(2048, 1008)
        self.body = [name for name, _ in self.named_children() if name != "fc"]  # in the order of the graph

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features.

        Args:
            x: f32 [B,3,299,299], 0 to 255.

        Returns:
            pool3 [B,2048], logits_unbiased [B,1008], logits [B,1008], all f32.
        """
        x = (x - 128) / 128  # [-1, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self.body:
            x = self.get_submodule(name)(x)
        pool3 = torch.flatten(x, 1)  # [B,2048]
        unbiased = pool3.mm(self.fc.weight.T)  # [B,1008]
        return {"pool3": pool3, "logits_unbiased": unbiased, "logits": unbiased + self.fc.bias}


def load_network(file: Path, where: str) -> InceptionNet:
    """The network with the weights of a .pth (`weights_only=True`) or .safetensors file, folded, in eval mode.

    Raises:
        ConfigError: the file is not readable so, or holds other tensors than this network's.
    """
    net = InceptionNet()
    state = _read_state(file, where)
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}  # play no part in eval mode
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items() if name not in counters}
    found = {name: tuple(value.shape) for name, value in state.items() if name not in counters}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ConfigError(
            f"{where}: {file} does not hold the weights of the FID Inception network: '{wrong[0]}' "
            f"{'is missing' if wrong[0] not in found else f'has shape {found[wrong[0]]}'} "
            f"({len(wrong)} tensors differ): give pt_inception-2015-12-05-6726825d.pth"
        )
    net.load_state_dict({name: state[name] for name in wanted}, strict=False)
    net.eval().requires_grad_(False)
    _fold_batch_norms(net)
    return net.to(memory_format=torch.channels_last)


def _read_state(file: Path, where: str) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Any] = load_file(str(file))
            return tensors
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{where}: {file} cannot be read as a state dict: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{where}: {file} is not a state dict (a mapping from names to tensors)")
    return state


def _fold_batch_norms(net: nn.Module) -> None:
    """Puts each batch norm's scale and shift into the convolution before it; computed in float64, rounded once."""
    for block in net.modules():
        if isinstance(block, blocks.BasicConv2d):
            norm: nn.BatchNorm2d = block.bn
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)  # [C]
            shift = norm.bias.double() - norm.running_mean.double() * scale
            old: nn.Conv2d = block.conv
            weight = (old.weight.double() * scale[:, None, None, None]).float()
            block.conv.weight = nn.Parameter(weight, requires_grad=False)
            block.conv.bias = nn.Parameter(shift.float(), requires_grad=False)
            block.bn = nn.Identity()


@lru_cache(maxsize=64)
def resize_matrix(size: int, out: int = INPUT_SIZE) -> Tensor:
    """The TF1 bilinear resize of one axis, f32 [out,size]: source position i * size / out, no antialias.

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


def resize(x: Tensor) -> Tensor:
    """u8 or f32 [B,3,H,W], 0 to 255 -> f32 [B,3,299,299]."""
    rows = resize_matrix(x.shape[2]).to(x.device)  # [299,H]
    columns = resize_matrix(x.shape[3]).to(x.device)  # [299,W]
    return rows @ (x.float() @ columns.T)
