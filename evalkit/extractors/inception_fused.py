"""The Inception network made fast, with the same values: fewer and larger operations on the same weights.

On a CPU (2 cores, AVX-512 and AMX): 1.26 times as fast in float32 and 1.35 in bfloat16 as the blocks one by one
(tests/bench/bench_inception.py). Convolution and ReLU in one operation; the 1x1 convolutions that read one tensor as
one; averaging after the 1x1 convolution instead of before (both are linear, and it has fewer channels then); maxima by
rows and then columns. Imports torch; import it where the network is needed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch_fidelity.feature_extractor_inceptionv3 as blocks
from torch import Tensor, nn
from torch.nn import functional as F

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
PART = 8  # images a thread takes: larger activations fall out of the caches (2 to 32 were tried)


class FusedConv(nn.Module):
    """A convolution and its ReLU: one oneDNN operation on a CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = [int(s) for s in conv.stride], [int(p) for p in conv.padding]

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and _ONEDNN:  # what torch.compile emits for this pair
            fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, "relu", [], ""
            )
            return fused
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu_()


class MaxPool(nn.Module):
    """3x3 maxima at stride 2, rows first."""

    def forward(self, x: Tensor) -> Tensor:
        rows = (x.shape[-2] - 1) // 2 * 2
        x = torch.maximum(x[..., 0:rows:2, :], x[..., 1:rows:2, :]).maximum(x[..., 2 : rows + 1 : 2, :])
        columns = (x.shape[-1] - 1) // 2 * 2
        return torch.maximum(x[..., 0:columns:2], x[..., 1:columns:2]).maximum(x[..., 2 : columns + 1 : 2])


def _conv(block: nn.Module, name: str) -> nn.Conv2d:
    conv = block.get_submodule(name).get_submodule("conv")
    assert isinstance(conv, nn.Conv2d)
    return conv


class MergedBlock(nn.Module):
    """A block of four branches that each begin with a 1x1 convolution of the same input, the last after averaging.

    Attributes:
        heads: the first three 1x1 convolutions as one; `widths` of its channels belong to each.
        pool: the last 1x1 convolution.
    """

    def __init__(self, block: nn.Module, heads: tuple[str, str, str]) -> None:
        super().__init__()
        first = [_conv(block, name) for name in heads]
        self.widths = [conv.out_channels for conv in first]
        merged = nn.Conv2d(first[0].in_channels, sum(self.widths), 1)
        merged.weight = nn.Parameter(torch.cat([conv.weight for conv in first]), requires_grad=False)
        merged.bias = nn.Parameter(
            torch.cat([conv.bias for conv in first if conv.bias is not None]), requires_grad=False
        )
        self.heads = FusedConv(merged)
        self.pool = _conv(block, "branch_pool")
        self.tails = nn.ModuleDict(
            {
                name: FusedConv(branch.conv)
                for name, branch in block.named_children()
                if isinstance(branch, blocks.BasicConv2d) and name not in (*heads, "branch_pool")
            }
        )

    def first(self, x: Tensor, channels: int) -> Tensor:
        """The first branch's first channels."""
        return F.conv2d(x, self.heads.weight[:channels], self.heads.bias[:channels]).relu_()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.heads(x).split(self.widths, 1)
        averaged = F.avg_pool2d(F.conv2d(x, self.pool.weight), 3, 1, 1, count_include_pad=False)
        assert self.pool.bias is not None
        last = averaged.add_(self.pool.bias[None, :, None, None]).relu_()
        return torch.cat([first, *self._tail(second, third), last], 1)

    def _tail(self, second: Tensor, third: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def _chain(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.tails[name](x)
        return x


class BlockA(MergedBlock):
    def _tail(self, second: Tensor, third: Tensor) -> list[Tensor]:
        return [self._chain(second, "branch5x5_2"), self._chain(third, "branch3x3dbl_2", "branch3x3dbl_3")]


class BlockC(MergedBlock):
    def _tail(self, second: Tensor, third: Tensor) -> list[Tensor]:
        names = [f"branch7x7dbl_{i}" for i in (2, 3, 4, 5)]
        return [self._chain(second, "branch7x7_2", "branch7x7_3"), self._chain(third, *names)]


class BlockE(MergedBlock):
    def _tail(self, second: Tensor, third: Tensor) -> list[Tensor]:
        third = self._chain(third, "branch3x3dbl_2")
        ends = [self._chain(second, name) for name in ("branch3x3_2a", "branch3x3_2b")]
        return [*ends, *(self._chain(third, name) for name in ("branch3x3dbl_3a", "branch3x3dbl_3b"))]


MERGED = {
    blocks.InceptionA: (BlockA, ("branch1x1", "branch5x5_1", "branch3x3dbl_1")),
    blocks.InceptionC: (BlockC, ("branch1x1", "branch7x7_1", "branch7x7dbl_1")),
    blocks.InceptionE_1: (BlockE, ("branch1x1", "branch3x3_1", "branch3x3dbl_1")),
}


def fuse(net: nn.Module) -> None:
    """Replaces a network's blocks, after its batch norms were folded into the convolutions."""
    for name, block in list(net.named_children()):
        if type(block) in MERGED:
            kind, heads = MERGED[type(block)]
            setattr(net, name, kind(block, heads))
        elif isinstance(block, nn.MaxPool2d):
            setattr(net, name, MaxPool())
        elif isinstance(block, blocks.BasicConv2d):
            setattr(net, name, FusedConv(block.conv))
        else:
            fuse(block)


def forward_in_parts(net: nn.Module, x: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """A batch through the network: on a CPU in parts of `PART` images, each on cores of its own.

    Cores that work on different images need not wait for each other after every operation. Parts are fixed, so that
    the same batch gives the same bits whatever the number of cores.
    """
    if x.device.type != "cpu" or len(x) <= PART:
        found: dict[str, Tensor] = net(x, layers)
        return found
    parts, threads = torch.split(x, PART), torch.get_num_threads()
    workers = min(len(parts), threads)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        done = list(pool.map(partial(_inferred, net, layers=layers), parts))
    torch.set_num_threads(threads)  # MKL's number is the process's, which the workers have set
    return {layer: torch.cat([part[layer] for part in done]) for layer in done[0]}


def _inferred(net: nn.Module, x: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
    with torch.inference_mode():  # a thread's own setting
        found: dict[str, Tensor] = net(x, layers)
        return found
