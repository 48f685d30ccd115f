"""Inception's network: each precision and batch, against torch-fidelity's on the same device and the matrix rate."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpu.bench import Bench, in_memory, pass_rate, tf32
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
