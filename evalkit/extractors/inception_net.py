"""The FID Inception network as a torch module: TF 2015-12-05 graph, batch norm folded, operations fused.

Imports torch; import it where the network is really needed. torch-fidelity's own network is not used: its import brings
torchvision (3 s), and its constructor unpickles the weights file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from evalkit.errors import ConfigError
from evalkit.extractors.inception_blocks import BlockA, BlockB, BlockC, BlockD, BlockE, Conv, LastBlock, MaxPool, finish
from evalkit.utils.state_dict import read_state

INPUT_SIZE = 299
LAYERS = {"pool3": 2048, "logits_unbiased": 1008, "logits": 1008, "mixed6_conv7": 2023}


class InceptionNet(nn.Module):
    """All `LAYERS` in one pass. Parameter names are those of the published weights file, until they are fused.

    Attributes:
        centre: (x - centre) / centre is the normalisation: 128, or 127.5 for pytorch-fid's 2 x / 255 - 1.
        layout: of the images in memory: channels last, or torch's usual.
        dtype: of the convolutions, float32, bfloat16 or float16; the pooled features and the logits are float32 always.
    """

    def __init__(self) -> None:
        super().__init__()
        self.centre = 128.0
        self.dtype = torch.float32
        self.layout = torch.channels_last
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.MaxPool_1 = MaxPool()
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.MaxPool_2 = MaxPool()
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = LastBlock(2048)
        self.AvgPool = nn.AdaptiveAvgPool2d(output_size=(1, 1))
        self.fc = nn.Linear(2048, 1008)
        self.body = [name for name, _ in self.named_children() if name != "fc"]  # in the order of the graph

    def settle(self, *, cuda: bool, float32: bool) -> None:
        """The layout and the convolutions that are fastest on a device (tests/bench/bench_gpu.py --only net).

        On an H100 with bias and ReLU in the convolution: float32 by 1.34 without channels last, TF32 and bfloat16 by
        1.47 and 1.43 with them.
        """
        self.layout = torch.contiguous_format if cuda and float32 else torch.channels_last
        self.to(memory_format=self.layout)
        for module in self.modules():
            if isinstance(module, Conv):
                module.fused = cuda

    def forward(self, x: Tensor, layers: Sequence[str] = ("pool3", "logits_unbiased", "logits")) -> dict[str, Tensor]:
        """Features, computed no further than the last layer that is asked for.

        Args:
            x: f32 [B,3,299,299], 0 to 255.
            layers: of `LAYERS`.

        Returns:
            By layer, f32 [B,D]. mixed6_conv7 is the tensor mixed_6/conv:0 of the TF graph (here Mixed_6d's 1x1 branch,
            after its ReLU) cut to 7 channels and flattened in the order height, width, channel, as ADM does for sFID
            (guided-diffusion, evaluations/evaluator.py): published mu_s and sigma_s have that order.
        """
        x = (x - self.centre).div_(self.centre).to(self.dtype)  # [-1, 1]
        x = x.contiguous(memory_format=self.layout)
        features: dict[str, Tensor] = {}
        for name in self.body[:-1]:
            if name == "Mixed_6d" and "mixed6_conv7" in layers:
                spatial = self.Mixed_6d.first(x, 7)  # [B,7,17,17]
                features["mixed6_conv7"] = spatial.permute(0, 2, 3, 1).flatten(1).float()
                if len(layers) == 1:
                    return features
            x = self.get_submodule(name)(x)
        features["pool3"] = torch.flatten(self.AvgPool(x.float()), 1)  # [B,2048]
        features["logits_unbiased"] = features["pool3"].mm(self.fc.weight.T)  # [B,1008]
        features["logits"] = features["logits_unbiased"] + self.fc.bias
        return features


def load_network(
    file: Path,
    where: str,
    *,
    key: str | None = None,
    centre: float = 128.0,
    dtype: torch.dtype = torch.float32,
) -> InceptionNet:
    """The network with the weights of a .pth (`weights_only=True`) or .safetensors file, folded, in eval mode.

    Args:
        file: the weights.
        where: who asks, for messages.
        key: which of several state dicts in it.
        centre: of the normalisation.
        dtype: of the convolutions.

    Raises:
        ConfigError: the file is not readable so, or holds other tensors than this network's.
    """
    net = InceptionNet()
    state = read_state(file, where, key)
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}  # play no part in eval mode
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items() if name not in counters}
    given = {name: tuple(value.shape) for name, value in state.items() if name not in counters}
    if expected != given:
        wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise ConfigError(
            f"{where}: {file} does not hold the weights of the FID Inception network: '{wrong[0]}' "
            f"{'is missing' if wrong[0] not in given else f'has shape {given[wrong[0]]}'} "
            f"({len(wrong)} tensors differ): give pt_inception-2015-12-05-6726825d.pth"
        )
    net.load_state_dict({name: state[name] for name in expected}, strict=False)
    net.eval().requires_grad_(False)
    finish(net)
    net.centre, net.dtype = centre, dtype
    for name in net.body:
        net.get_submodule(name).to(dtype)  # after folding, which float32 weights want
    return net.to(memory_format=torch.channels_last)
