"""The blocks of the FID Inception network: TF 2015-12-05 graph, with fewer and larger operations of the same values.

Architecture and parameter names are those of torch-fidelity 0.4.0 (Apache-2.0, after mseitzer/pytorch-fid). Once the
weights are in, `finish` folds each batch norm into the convolution before it and merges the 1x1 convolutions that read
one tensor. Convolution and ReLU are one operation on a CPU; averages are taken after the 1x1 convolution instead of
before (both are linear, and there are fewer channels then), maxima by rows and then columns. What it gains:
tests/bench/bench_inception.py. Imports torch; import it where the network is needed.
"""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
PART = 8  # images at a time: larger activations fall out of the caches (2 to 32 were tried)


class Conv(nn.Module):
    """Convolution, batch norm (folded by `finish`) and ReLU.

    Attributes:
        fused: whether a GPU makes one operation of convolution, bias and ReLU (cuDNN's; else three kernels).
    """

    fused = False

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out, eps=0.001)
        self.stride = [int(s) for s in self.conv.stride]
        self.padding = [int(p) for p in self.conv.padding]
        self.packed: Tensor | None = None

    def finish(self) -> None:
        """Puts the batch norm's scale and shift into the convolution; computed in float64, rounded once."""
        norm = self.bn
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)  # [C]
        shift = norm.bias.double() - norm.running_mean.double() * scale
        weight = (self.conv.weight.double() * scale[:, None, None, None]).float()
        self.conv.weight = nn.Parameter(weight, requires_grad=False)
        self.conv.bias = nn.Parameter(shift.float(), requires_grad=False)
        self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.device.type == "cpu" and _ONEDNN and x.dtype != torch.float16
        ):  # what torch.compile emits for this pair, with frozen weights
            where = self.padding, self.stride, [1, 1], 1
            if self.packed is None:  # in oneDNN's own order, for full parts: else it reorders all weights for each part
                shape = [PART, *x.shape[1:]]
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.conv.weight, *where, shape)
            fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed, self.conv.bias, *where, "relu", [], ""
            )
            return fused
        if x.is_cuda and self.fused:
            return torch.cudnn_convolution_relu(
                x, self.conv.weight, self.conv.bias, self.stride, self.padding, [1, 1], 1
            )
        return F.conv2d(x, self.conv.weight, self.conv.bias, self.stride, self.padding).relu_()


class MaxPool(nn.Module):
    """3x3 maxima at stride 2, rows first."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.max_pool2d(x, 3, 2)  # one kernel there; on a CPU it is slower than these
        rows = (x.shape[-2] - 1) // 2 * 2
        x = torch.maximum(x[..., 0:rows:2, :], x[..., 1:rows:2, :]).maximum(x[..., 2 : rows + 1 : 2, :])
        columns = (x.shape[-1] - 1) // 2 * 2
        return torch.maximum(x[..., 0:columns:2], x[..., 1:columns:2]).maximum(x[..., 2 : columns + 1 : 2])


class Block(nn.Module):
    """Branches of convolutions, by their published names."""

    def __init__(self, **convs: Conv) -> None:
        super().__init__()
        for name, conv in convs.items():
            self.add_module(name, conv)

    def chain(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class Merged(Block):
    """Four branches that begin with a 1x1 convolution of the block's input, the last one after averaging.

    `finish` makes one convolution (`heads`) of the first three; each has its share of `widths` of the channels.
    """

    HEADS: ClassVar[tuple[str, str, str]]

    def finish(self) -> None:
        first = [self.get_submodule(name) for name in self.HEADS]
        convs = [conv.conv for conv in first if isinstance(conv, Conv)]
        self.widths = [conv.out_channels for conv in convs]
        self.heads = Conv(convs[0].in_channels, sum(self.widths))
        self.heads.bn = nn.Identity()
        weights, biases = [conv.weight for conv in convs], [conv.bias for conv in convs if conv.bias is not None]
        self.heads.conv.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
        self.heads.conv.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
        for name in self.HEADS:
            delattr(self, name)

    def first(self, x: Tensor, channels: int) -> Tensor:
        """The first branch's first channels."""
        assert self.heads.conv.bias is not None
        return F.conv2d(x, self.heads.conv.weight[:channels], self.heads.conv.bias[:channels]).relu_()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.split(self.heads(x), self.widths, 1)
        pool = self.get_submodule("branch_pool").get_submodule("conv")
        assert isinstance(pool, nn.Conv2d)
        assert pool.bias is not None
        averaged = F.avg_pool2d(F.conv2d(x, pool.weight), 3, 1, 1, count_include_pad=False)
        last = averaged.add_(pool.bias[None, :, None, None]).relu_()
        return torch.cat([first, *self.tails(second, third), last], 1)

    def tails(self, second: Tensor, third: Tensor) -> list[Tensor]:
        raise NotImplementedError


class BlockA(Merged):
    HEADS = ("branch1x1", "branch5x5_1", "branch3x3dbl_1")

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__(
            branch1x1=Conv(channels, 64),
            branch5x5_1=Conv(channels, 48),
            branch5x5_2=Conv(48, 64, 5, padding=2),
            branch3x3dbl_1=Conv(channels, 64),
            branch3x3dbl_2=Conv(64, 96, 3, padding=1),
            branch3x3dbl_3=Conv(96, 96, 3, padding=1),
            branch_pool=Conv(channels, pooled),
        )

    def tails(self, second: Tensor, third: Tensor) -> list[Tensor]:
        return [self.chain(second, "branch5x5_2"), self.chain(third, "branch3x3dbl_2", "branch3x3dbl_3")]


class BlockB(Block):
    def __init__(self, channels: int) -> None:
        super().__init__(
            branch3x3=Conv(channels, 384, 3, stride=2),
            branch3x3dbl_1=Conv(channels, 64),
            branch3x3dbl_2=Conv(64, 96, 3, padding=1),
            branch3x3dbl_3=Conv(96, 96, 3, stride=2),
        )
        self.pool = MaxPool()

    def forward(self, x: Tensor) -> Tensor:
        third = self.chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.chain(x, "branch3x3"), third, self.pool(x)], 1)


class BlockC(Merged):
    HEADS = ("branch1x1", "branch7x7_1", "branch7x7dbl_1")

    def __init__(self, channels: int, c7: int) -> None:
        wide = functools.partial(Conv, kernel=(1, 7), padding=(0, 3))
        tall = functools.partial(Conv, kernel=(7, 1), padding=(3, 0))
        super().__init__(
            branch1x1=Conv(channels, 192),
            branch7x7_1=Conv(channels, c7),
            branch7x7_2=wide(c7, c7),
            branch7x7_3=tall(c7, 192),
            branch7x7dbl_1=Conv(channels, c7),
            branch7x7dbl_2=tall(c7, c7),
            branch7x7dbl_3=wide(c7, c7),
            branch7x7dbl_4=tall(c7, c7),
            branch7x7dbl_5=wide(c7, 192),
            branch_pool=Conv(channels, 192),
        )

    def tails(self, second: Tensor, third: Tensor) -> list[Tensor]:
        names = [f"branch7x7dbl_{i}" for i in (2, 3, 4, 5)]
        return [self.chain(second, "branch7x7_2", "branch7x7_3"), self.chain(third, *names)]


class BlockD(Block):
    def __init__(self, channels: int) -> None:
        super().__init__(
            branch3x3_1=Conv(channels, 192),
            branch3x3_2=Conv(192, 320, 3, stride=2),
            branch7x7x3_1=Conv(channels, 192),
            branch7x7x3_2=Conv(192, 192, (1, 7), padding=(0, 3)),
            branch7x7x3_3=Conv(192, 192, (7, 1), padding=(3, 0)),
            branch7x7x3_4=Conv(192, 192, 3, stride=2),
        )
        self.pool = MaxPool()

    def forward(self, x: Tensor) -> Tensor:
        second = self.chain(x, *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
        return torch.cat([self.chain(x, "branch3x3_1", "branch3x3_2"), second, self.pool(x)], 1)


class BlockE(Merged):
    """The first of the two; its pooled branch averages."""

    HEADS = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")

    def __init__(self, channels: int) -> None:
        super().__init__(
            branch1x1=Conv(channels, 320),
            branch3x3_1=Conv(channels, 384),
            branch3x3_2a=Conv(384, 384, (1, 3), padding=(0, 1)),
            branch3x3_2b=Conv(384, 384, (3, 1), padding=(1, 0)),
            branch3x3dbl_1=Conv(channels, 448),
            branch3x3dbl_2=Conv(448, 384, 3, padding=1),
            branch3x3dbl_3a=Conv(384, 384, (1, 3), padding=(0, 1)),
            branch3x3dbl_3b=Conv(384, 384, (3, 1), padding=(1, 0)),
            branch_pool=Conv(channels, 192),
        )

    def tails(self, second: Tensor, third: Tensor) -> list[Tensor]:
        third = self.chain(third, "branch3x3dbl_2")
        ends = [self.chain(second, name) for name in ("branch3x3_2a", "branch3x3_2b")]
        return [*ends, *(self.chain(third, name) for name in ("branch3x3dbl_3a", "branch3x3dbl_3b"))]


class LastBlock(BlockE):
    """The second: the TF graph takes maxima where the paper has averages, so its 1x1 convolution stays behind them."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.split(self.heads(x), self.widths, 1)
        last = self.chain(F.max_pool2d(x, 3, 1, 1), "branch_pool")
        return torch.cat([first, *self.tails(second, third), last], 1)


def finish(net: nn.Module) -> None:
    """Folds and merges a whole network, once, after its weights are in."""
    for part in [module for module in net.modules() if isinstance(module, Conv)]:
        part.finish()
    for block in net.children():
        if isinstance(block, Merged):
            block.finish()
