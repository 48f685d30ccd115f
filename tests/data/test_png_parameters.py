"""Prompts and settings out of the PNGs of AUTOMATIC1111 and ComfyUI, and folders of them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import image, write_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from evalkit.data import codec
from evalkit.data.open import open_images
from evalkit.data.png_parameters import MAX_TEXT, read_parameters
from evalkit.data.records import ReadOptions
from evalkit.errors import DataError

A1111 = (
    "a fox, (sharp:1.2)\nin the snow\nNegative prompt: blurry, text\nand more\n"
    "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, Model: sd15, "
    'Lora hashes: "x: 1, y: 2", Version: v1.9'
)


def png(packed: bool = False, international: bool = False, **texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        if international:
            info.add_itxt(name, text, "en", name, zip=packed)
        else:
            info.add_text(name, text, zip=packed)
    buffer = io.BytesIO()
    Image.fromarray(image(len(str(texts)))).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def made_with(data: bytes) -> dict[str, Any] | None:
    return read_parameters(codec.inspect(data, "a.png").texts)


def graph(**more: Any) -> dict[str, Any]:
    """ComfyUI's default workflow; `more` are nodes instead."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 156680208700286,
                "steps": 20,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a glass bottle", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
        **more,
    }


@pytest.mark.parametrize(("packed", "international"), [(False, False), (True, False), (False, True), (True, True)])
def test_automatic1111(packed: bool, international: bool) -> None:
    assert made_with(png(packed, international, parameters=A1111)) == {
        "prompt": "a fox, (sharp:1.2)\nin the snow",
        "negative_prompt": "blurry, text\nand more",
        "seed": 3141592653,
        "steps": 28,
        "sampler": "DPM++ 2M Karras",
        "cfg": 6.5,
        "model": "sd15",
    }


def test_automatic1111_without_the_rest() -> None:
    assert made_with(png(parameters="只有提示词")) == {"prompt": "只有提示词"}
    assert made_with(png(parameters="a cat\nSteps: x, Seed: 1e, CFG scale: nan")) == {"prompt": "a cat"}
    assert made_with(png(parameters="Negative prompt: x\nSteps: 3")) is None  # no prompt
    assert made_with(png(Software="x")) is None
    buffer = io.BytesIO()
    Image.fromarray(image(0)).save(buffer, "GIF", comment="parameters")
    assert made_with(buffer.getvalue()) is None
    assert made_with(png(parameters="x" * (MAX_TEXT + 1))) is None


def test_comfyui() -> None:
    expected = {
        "prompt": "a glass bottle",
        "negative_prompt": "watermark",
        "seed": 156680208700286,
        "steps": 20,
        "sampler": "euler",
        "cfg": 8.0,
        "scheduler": "normal",
        "model": "v1-5.safetensors",
    }
    assert made_with(png(prompt=json.dumps(graph()), workflow="{}")) == expected
    control = graph(
        **{
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
            "8": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a glass bottle"}},
            "9": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
        }
    )
    control["3"]["inputs"] |= {"positive": ["9", 0], "negative": ["9", 1]}
    assert made_with(png(prompt=json.dumps(control))) == expected


def test_comfyui_with_a_guider() -> None:
    nodes = {
        "1": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["2", 0],
                "guider": ["3", 0],
                "sampler": ["4", 0],
                "sigmas": ["5", 0],
                "latent_image": ["9", 0],
            },
        },
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
        "3": {"class_type": "BasicGuider", "inputs": {"model": ["8", 0], "conditioning": ["6", 0]}},
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "heun"}},
        "5": {"class_type": "BasicScheduler", "inputs": {"steps": 4, "model": ["8", 0]}},
        "6": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["7", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a tower"}},
    }
    found = made_with(png(prompt=json.dumps(nodes)))
    assert found == {"prompt": "a tower", "seed": 7, "steps": 4, "sampler": "heun"}


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[" * 100_000,
        "[]",
        "{}",
        json.dumps({"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "latent_image": ["1", 0]}}}),
        json.dumps(
            {"1": {"class_type": "KSampler", "inputs": {"positive": ["9", 0], "seed": [["x"]], "latent_image": 3}}}
        ),
        json.dumps(graph(**{"6": {"inputs": {"text": 3}}})),
    ],
)
def test_graphs_that_tell_nothing(text: str) -> None:
    assert made_with(png(prompt=text)) is None


@settings(max_examples=150, deadline=2000)
@given(st.binary(max_size=60), st.floats(0, 1), st.sampled_from([A1111, json.dumps(graph())]))
def test_no_bytes_make_it_fail(fresh: bytes, where: float, text: str) -> None:
    data = png(True, True, parameters=text) if text == A1111 else png(prompt=text)
    at = 8 + int(where * (len(data) - 8))
    with contextlib.suppress(DataError):  # no longer an image
        made_with(data[:at] + fresh + data[at + len(fresh) :])


def test_a_folder_of_them_has_prompts_by_itself(tmp_path: Path) -> None:
    files = {"a.png": png(parameters=A1111), "b.png": png(prompt=json.dumps(graph())), "c.png": png()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    own = ("a fox, (sharp:1.2)\nin the snow", "a glass bottle", None)
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    for _ in range(2):  # the second time from the kept scan
        source = open_images(tmp_path, cache=cache)
        assert source.prompts == own
        assert source.records[0].parameters is not None
        assert source.records[0].parameters["seed"] == 3141592653
    np.testing.assert_array_equal(source.read(range(2, 3))[0], np.asarray(Image.open(tmp_path / "c.png")))
    assert open_images(write_zip(tmp_path / "z.zip", files)).prompts == own
    assert open_images(tmp_path, ReadOptions(prompts=None)).prompts == (None,) * 3
    (tmp_path / "b.txt").write_text("mine")  # a text beside the image is meant
    assert open_images(tmp_path).prompts == (own[0], "mine", None)
    (tmp_path / "metadata.csv").write_text("file_name,prompt\na.png,A\n")  # and a metadata file tells of all
    assert open_images(tmp_path).prompts == ("A", None, None)
