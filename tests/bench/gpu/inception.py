"""Inception's network: each precision and batch, against torch-fidelity's on the same device and the matrix rate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu.bench import Bench, in_memory, pass_rate, relative, tf32
from gpu.environment import matrix_rate

GFLOP = 11.42  # per image
LAYERS = ["pool3", "logits_unbiased"]
WAYS = (("fp32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, True))


def run(bench: Bench) -> None:
    batches = (4,) if bench.tiny else (64, 256)
    limits = {name: matrix_rate(bench, dtype, fast) for name, dtype, fast in WAYS}
    peers = torch_fidelity(bench, batches[-1])
    whole_extractor(bench)
    bare(bench, batches, limits, peers)
    variants(bench, 2 if bench.tiny else 128)


def torch_fidelity(bench: Bench, batch: int) -> dict[str, float]:
    """Its network in TF32, its default, and in full float32: images/s."""
    rates: dict[str, float] = {}
    with bench.attempt("torch-fidelity") as go:
        if go:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            file = str(bench.inception_weights())
            net = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=file)
            net = net.to(bench.device)
            images = torch.randint(0, 256, (batch, 3, 299, 299), dtype=torch.uint8, device=bench.device)
            for name, fast in (("tf32", True), ("fp32", False)):
                with torch.inference_mode(), tf32(fast):
                    rates[name] = bench.rate(lambda: net(images), batch)
                note = "its default" if fast else ""
                bench.say(f"torch-fidelity's network {name} b{batch}, images/s", round(rates[name]), note)
    return rates


def bare(bench: Bench, batches: tuple[int, ...], limits: dict[str, float], peers: dict[str, float]) -> None:
    """Our network alone, on input that is on the device."""
    from evalkit.extractors.inception_net import load_network

    for name, dtype, fast in WAYS:
        with bench.attempt(f"network {name}", 10) as go:
            if not go:
                continue
            net = load_network(bench.inception_weights(), "", dtype=dtype).to(bench.device)
            for batch in batches:
                x = torch.rand(batch, 3, 299, 299, device=bench.device) * 255
                with torch.inference_mode(), tf32(fast):
                    told(bench, f"network {name} b{batch}", lambda x=x: net(x, LAYERS), batch, limits[name], peers)  # type: ignore[misc]


def variants(bench: Bench, batch: int) -> None:
    """Layouts, convolutions with bias and ReLU in one, a CUDA graph: which is fastest in which arithmetic."""
    from evalkit.extractors.inception_blocks import Conv
    from evalkit.extractors.inception_net import load_network

    layouts = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    x = torch.rand(batch, 3, 299, 299, device=bench.device) * 255
    for name, dtype, fast in WAYS if bench.cuda else WAYS[:1]:
        expected = None
        net = load_network(bench.inception_weights(), "", dtype=dtype).to(bench.device)
        for layout, memory_format in layouts.items():
            for fused in (False, True) if bench.cuda else (False,):
                what = f"network {name} {layout}{' fused' if fused else ''}"
                with bench.attempt(what, 3) as go, torch.inference_mode(), tf32(fast):
                    if not go:
                        continue
                    net.layout, Conv.fused = memory_format, fused
                    net.to(memory_format=memory_format)
                    rates = [bench.rate(lambda net=net: net(x, LAYERS), batch, 0.4, 1)]  # type: ignore[misc]
                    found = net(x, LAYERS)["pool3"]
                    expected = found if expected is None else expected
                    note = f"{relative(found, expected):.1e} off the first"
                    if bench.cuda:
                        rates.append(bench.rate(graph(lambda net=net: net(x, LAYERS)), batch, 0.4, 1))  # type: ignore[misc]
                    bench.say(f"{what} b{batch}, images/s; as a graph", [round(rate) for rate in rates], note)
                Conv.fused = False


def graph(call: Callable[[], object]) -> Callable[[], object]:
    """The call's kernels as one CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        call()
    return captured.replay


def told(
    bench: Bench, name: str, call: Callable[[], object], batch: int, limit: float, peers: dict[str, float]
) -> None:
    """A rate, as a share of the matrix rate and against the peer."""
    rate = bench.rate(call, batch)
    share = rate * GFLOP / 1e3 / limit
    peer = peers.get("fp32" if "fp32" in name else "tf32")
    against = f", {rate / peer:.2f}x torch-fidelity" if peer else ""
    bench.say(f"{name}, images/s", round(rate), f"{100 * share:.0f} % of the product's rate{against}")


def whole_extractor(bench: Bench) -> None:
    """Images in memory to stored features, as a run makes them, in each precision."""
    from evalkit.extractors.base import PRECISIONS
    from evalkit.extractors.inception import Inception

    source = in_memory(64 if bench.tiny else 8192, 64 if bench.tiny else 256)
    for precision in PRECISIONS if bench.cuda else ("float32",):
        with bench.attempt(f"extractor {precision}", 8) as go:
            if not go:
                continue
            extractor = Inception(weights=str(bench.inception_weights()), precision=precision)
            pass_rate(bench, in_memory(64, 64), extractor, "pool3")  # the first call of each kernel
            rate = pass_rate(bench, source, extractor, "pool3")
            batch = extractor.batch_on(bench.device)
            bench.say(f"Inception {precision} b{batch} in a run, images/s", round(rate), f"in memory; {bench.peak()}")
            extractor.unload()
