"""CLIP ViT-L/14 and DINOv2-L by their sizes, with random weights: the extractor, and the bare network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpu.bench import Bench, in_memory, pass_rate, tf32

GFLOP = 162.0  # ViT-L/14 at 224 px, per image
SIZES = {256: 4096, 1024: 512}  # pixels: images


def run(bench: Bench) -> None:
    for build in (dino, clip):  # CLIP was measured once
        with bench.attempt(build.__name__, 15) as go:
            if go:
                measure(bench, build)


def measure(bench: Bench, build: Callable[[Bench, str], tuple[str, str, Any]]) -> None:
    """The pass over images in memory, in each precision, and the bare network."""
    sources = {size: in_memory(8 if bench.tiny else count, size) for size, count in SIZES.items()}
    for precision in ("float32", "tf32", "bfloat16") if bench.cuda else ("float32",):
        if bench.left() < 10 and not bench.tiny:
            break
        name, layer, extractor = build(bench, precision)
        pass_rate(bench, in_memory(8 if bench.tiny else 64, 64), extractor, layer)  # the first call of each kernel
        for size, source in sources.items():
            rate = pass_rate(bench, source, extractor, layer)
            bench.say(f"{name} {precision} in a run, {size} px in memory, images/s", round(rate), bench.peak())
        if precision == "float32":
            bare(bench, name, getattr(extractor.network, "visual", extractor.network))
        extractor.unload()


def bare(bench: Bench, name: str, net: Any) -> None:
    batch = 4 if bench.tiny else 128
    for label, fast, half in (("fp32", False, False), ("tf32", True, False), ("bf16", True, True)):
        x = torch.randn(batch, 3, 224, 224, device=bench.device)
        with torch.inference_mode(), tf32(fast), torch.autocast(bench.device, torch.bfloat16, enabled=half):
            rate = bench.rate(lambda x=x: net(x), batch)  # type: ignore[misc]
        bench.say(f"{name} network {label} b{batch}, images/s", round(rate), f"{rate * GFLOP / 1e3:.0f} TFLOP/s")


def clip(bench: Bench, precision: str) -> tuple[str, str, Any]:
    import open_clip

    from evalkit.extractors.clip import Clip

    model = "ViT-B-32" if bench.tiny else "ViT-L-14"
    file = bench.work / f"{model}.safetensors"
    if not file.exists():
        with torch.device(bench.device):
            save(open_clip.create_model(model, pretrained=None).state_dict(), file)
    return f"CLIP {model}", "image", Clip("clip", model, str(file), quick_gelu=False, precision=precision)


def dino(bench: Bench, precision: str) -> tuple[str, str, Any]:
    import timm

    from evalkit.extractors.timm import Timm

    model = "vit_small_patch14_dinov2" if bench.tiny else "vit_large_patch14_dinov2"
    file = bench.work / f"{model}.safetensors"
    options = {"img_size": 224}
    if not file.exists():
        with torch.device(bench.device):
            save(timm.create_model(model, pretrained=False, num_classes=0, **options).state_dict(), file)
    norm = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    made = Timm("dino", model, weights=str(file), model_args=options, precision=precision, **norm)
    return f"DINOv2-L ({model})" if bench.tiny else "DINOv2-L", "features", made


def save(state: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.float().cpu().contiguous().clone() for name, value in state.items()}, file)
