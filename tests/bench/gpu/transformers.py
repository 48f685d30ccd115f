"""CLIP ViT-L/14 and DINOv2-L by their sizes, with random weights: the extractor, and the bare network."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from gpu.bench import Bench, pictures, tf32

GFLOP = 162.0  # ViT-L/14 at 224 px, per image


def run(bench: Bench) -> None:
    for build in (clip, dino):
        with bench.attempt(build.__name__, 15) as go:
            if go:
                name, extractor = build(bench)
                measure(bench, name, extractor)


def clip(bench: Bench) -> tuple[str, Any]:
    import open_clip

    from evalkit.extractors.clip import Clip

    model = "ViT-B-32" if bench.tiny else "ViT-L-14"
    file = bench.work / f"{model}.safetensors"
    if not file.exists():
        with torch.device(bench.device):
            save(open_clip.create_model(model, pretrained=None).state_dict(), file)
    return f"CLIP {model}", Clip("clip", model, pretrained=str(file), quick_gelu=False)


def dino(bench: Bench) -> tuple[str, Any]:
    import timm

    from evalkit.extractors.timm import Timm

    model = "vit_tiny_patch16_224" if bench.tiny else "vit_large_patch14_dinov2"
    file = bench.work / f"{model}.safetensors"
    options = {} if bench.tiny else {"img_size": 224}
    if not file.exists():
        with torch.device(bench.device):
            save(timm.create_model(model, pretrained=False, num_classes=0, **options).state_dict(), file)
    norm = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return f"DINOv2-L ({model})", Timm("dino", model, weights=str(file), model_args=options, **norm)


def save(state: dict[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.float().cpu().contiguous().clone() for name, value in state.items()}, file)


def measure(bench: Bench, name: str, extractor: Any) -> None:
    extractor.check()
    extractor.load(bench.device)
    (layer,) = [layer for layer in extractor.layers if layer in ("image", "features")]
    for size in (64,) if bench.tiny else (256, 1024):
        images = pictures(extractor.batch_size, size)
        rate = bench.rate(lambda images=images: extractor(images, [], [layer]), len(images))  # type: ignore[misc]
        bench.say(f"{name} as a run calls it, {size} px, images/s", round(rate), f"batch {len(images)}, {bench.peak()}")
    precisions = [
        p for p in ("tf32", "bfloat16") if "precision" in inspect.signature(type(extractor).__init__).parameters
    ]
    bench.say(f"{name}, precisions besides float32", precisions)
    net = extractor.network
    net = getattr(net, "visual", net)
    for label, dtype, fast in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, True),
    ):
        net.to(dtype)
        batch = 4 if bench.tiny else 128
        x = torch.randn(batch, 3, 224, 224, device=bench.device, dtype=dtype)
        with torch.inference_mode(), tf32(fast):
            rate = bench.rate(lambda x=x: net(x), batch)  # type: ignore[misc]
        bench.say(f"{name} network {label} b{batch}, images/s", round(rate), f"{rate * GFLOP / 1e3:.0f} TFLOP/s")
    extractor.unload()
