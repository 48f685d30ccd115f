"""Metrics of pairs at 512 px: on images in memory, through the scoring stage, and the device's part alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu.bench import Bench, pictures

GFLOP_VGG = 160.0  # LPIPS-VGG per image of 512 px


def run(bench: Bench) -> None:
    from evalkit.extractors.lpips import Lpips
    from evalkit.metrics.lpips import Lpips as LpipsMetric
    from evalkit.metrics.psnr import Psnr
    from evalkit.metrics.ssim import MsSsim, Ssim

    size, count = (192, 4) if bench.tiny else (512, 256)
    nets = ("alex",) if bench.tiny else ("alex", "vgg")
    extractors = {
        f"lpips_{net}": Lpips(f"lpips_{net}", net, weights=str(trunk(bench, net)), batch_size=4) for net in nets
    }
    for extractor in extractors.values():
        extractor.check()
        extractor.load(bench.device)
    kinds: dict[str, Any] = {"SSIM": Ssim(), "MS-SSIM": MsSsim(), "PSNR": Psnr()}
    kinds |= {f"LPIPS-{net}": LpipsMetric(f"lpips_{net}/phi") for net in nets}
    base = pictures(8, size)
    images = np.stack([np.roll(base[i % 8], i, 1) for i in range(2 * count)])
    if "lpips_vgg" in extractors:
        with bench.attempt("LPIPS-vgg network", 10) as go:
            if go:
                vgg_alone(bench, extractors["lpips_vgg"], images[:16])
    for name, metric in kinds.items():
        with bench.attempt(f"{name} pairs", 12) as go:
            if go:
                few = 32 if name == "LPIPS-vgg" and not bench.tiny else count
                rate, note = through_the_stage(bench, metric, extractors, images[: 2 * few])
                bench.say(f"{name} at {size} px, pairs/s", round(rate, 1), note)


def through_the_stage(bench: Bench, metric: Any, extractors: dict[str, Any], images: Any) -> tuple[float, str]:
    """Pairs per second of `score_sources`, images decoded already; the second of two runs."""
    from evalkit.data.arrays import ArrayImages
    from evalkit.samples.store import Store
    from evalkit.scoring import Against, score_sources

    half = len(images) // 2
    sides = [ArrayImages(str(i), images[i * half : (i + 1) * half], [f"{k}" for k in range(half)]) for i in (0, 1)]
    seconds = 0.0
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    for turn in range(2):
        folder = bench.work / f"pairs-{time.monotonic_ns()}"
        seconds = bench.seconds(
            lambda folder=folder: score_sources(  # type: ignore[misc]
                {"cell": sides[0]},
                metrics={"metric": ({"turn": turn}, metric)},
                extractors=extractors,
                against=Against(sides[1], baseline=sides[1]),
                store=Store(folder),
                device=bench.device,
                progress=lambda name, done, total: None,
            )
        )
    return half / seconds, bench.peak()


def vgg_alone(bench: Bench, extractor: Any, images: Any) -> None:
    """The network on images that are on the device: by batch and arithmetic, as cuDNN chooses and deterministic."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().to(bench.device)
    for batch in (1, 2, 4, 8):
        for fast, fixed in ((False, False), (False, True), (True, True)):
            if batch == 2 and fast:
                continue
            label = f"LPIPS-vgg network b{batch} {'tf32' if fast else 'fp32'}{', deterministic' if fixed else ''}"
            if bench.cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=fixed, allow_tf32=fast)
            with torch.inference_mode(), flags:
                rate = bench.rate(lambda batch=batch: extractor.network(x[:batch]), batch, 0.3)  # type: ignore[misc]
            bench.say(f"{label}, images/s", round(rate, 1), f"{rate * GFLOP_VGG / 1e3:.0f} TFLOP/s, {bench.peak()}")


def trunk(bench: Bench, net: str) -> Path:
    from lpips_weights import seeded_trunk

    file = bench.work / f"{net}.pth"
    if not file.exists():
        torch.save(seeded_trunk(net), file)
    return file
