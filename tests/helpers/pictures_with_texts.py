"""Folders of PNGs as AUTOMATIC1111 and ComfyUI leave them: what made an image stands in its text chunk."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def a1111(pixels: np.ndarray, prompt: str, **settings: Any) -> bytes:
    """A PNG with AUTOMATIC1111's text; `settings` by its names, with _ for a blank."""
    line = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in settings.items())
    return _png(pixels, parameters=f"{prompt}\nNegative prompt: blurry\n{line}")


def comfy(pixels: np.ndarray, prompt: str, checkpoint: str, **inputs: Any) -> bytes:
    """A PNG with ComfyUI's graph; `inputs` of its KSampler."""
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {}},
        "5": {"class_type": "KSampler", "inputs": {**inputs, **links}},
    }
    return _png(pixels, prompt=json.dumps(graph))


def _png(pixels: np.ndarray, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def write_outputs(folder: Path, images: Mapping[tuple[str, int, float], Sequence[tuple[np.ndarray, str]]]) -> Path:
    """AUTOMATIC1111's output folder, all settings mixed: pixels and prompts by (sampler, steps, CFG scale)."""
    folder.mkdir(parents=True)
    number = 0
    for i in range(max(map(len, images.values()))):
        for (sampler, steps, cfg), each in images.items():
            if i < len(each):
                about = {"Steps": steps, "Sampler": sampler, "CFG_scale": cfg, "Seed": i, "Model": "digits"}
                (folder / f"{number:05d}-{i}.png").write_bytes(a1111(*each[i], **about))
                number += 1
    return folder


SAMPLERS = {"ddim": "DDIM", "dpmpp_2m": "DPM++ 2M"}


def main() -> None:
    """python tests/helpers/pictures_with_texts.py EXPORT outputs: the exported cells of the LDM as such a folder."""
    export, out = map(Path, sys.argv[1:])
    images = {}
    for cell in sorted(export.glob("digits_ldm-*/")):
        name = re.fullmatch(r"digits_ldm-(\w+)-guidance_scale_([\d.]+)-num_inference_steps_(\d+)", cell.name)
        sampler, cfg, steps = name.groups()  # type: ignore[union-attr]
        rows = [json.loads(line) for line in (cell / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        each = [(np.asarray(Image.open(cell / row["file_name"])), row["prompt"]) for row in rows]
        images[SAMPLERS[sampler], int(steps), float(cfg)] = each
    print(f"{len(list(write_outputs(out, images).iterdir()))} images in {out}")


if __name__ == "__main__":
    main()
