"""The Inception pass alone, images/s: torch-fidelity's network and ours, in parts of eight and as whole batches.

    python tests/bench/bench_inception.py [--repeats 5] [--batch 32]

Batches of 299 px, seeded weights, interleaved; the median and the fastest turn. The limit is the machine's own matrix
product, measured in the same run, over the network's 11.4 GFLOP an image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from seeded_inception import write_weights

from evalkit.extractors.inception_blocks import PART
from evalkit.extractors.inception_net import load_network
from evalkit.numerics.threads import in_parallel

GFLOP = 11.4  # an image: 2 x 5.7 G multiply-adds
LAYERS = ("pool3", "logits_unbiased")


def matrix_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a product of 2,048 x 2,048 matrices."""
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    torch.mm(a, b)
    start = time.perf_counter()
    for _ in range(8):
        torch.mm(a, b)
    return 8 * 2 * 2048**3 / (time.perf_counter() - start) / 1e9


def peer(weights: Path) -> Callable[[torch.Tensor], object]:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    return lambda x: net(x.to(torch.uint8))


def in_parts(net: Callable[[torch.Tensor], object], x: torch.Tensor) -> list[object]:
    """As the feature pass has it: each part by one thread, several at once."""
    return list(in_parallel(net, torch.split(x, PART)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    x = torch.rand(options.batch, 3, 299, 299) * 255
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "seeded.pth"
        write_weights(weights)
        ways: dict[str, Callable[[torch.Tensor], object]] = {"torch-fidelity float32": peer(weights)}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            net = load_network(weights, "", dtype=dtype)
            ways[f"all cores on one batch {name}"] = lambda x, net=net: net(x, LAYERS)  # type: ignore[misc]
            ways[f"evalkit {name}"] = lambda x, net=net: in_parts(lambda part: net(part, LAYERS), x)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with torch.inference_mode():
        for turn in range(options.repeats + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way(x)
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - start)
            for name, found in rates.items():
                found.append(matrix_rate(getattr(torch, name)))
    first = statistics.median(seconds["torch-fidelity float32"])
    for name, taken in seconds.items():
        median, kind = statistics.median(taken), name.split()[-1]
        limit = statistics.median(rates[kind]) / GFLOP
        print(
            f"{name:32s} {options.batch / median:6.1f} images/s (best {options.batch / min(taken):.1f})  "
            f"{first / median:5.2f}x  {100 * options.batch / median / limit:4.0f} % of the {kind} product's {limit:.0f}"
        )


if __name__ == "__main__":
    main()
