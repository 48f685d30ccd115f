"""Prompts and settings out of the PNGs of AUTOMATIC1111 and ComfyUI, and folders of them."""

from __future__ import annotations

import contextlib
import io
import json
import time
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
from evalkit.data.png_parameters import MAX_TEXT, plain_prompt, read_parameters
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
        "plain_prompt": "a fox, sharp in the snow",
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


def photo(kind: str, comment: bytes | None = None, **tags: str) -> bytes:
    """A JPEG or WebP with EXIF."""
    exif = Image.Exif()
    for name, value in tags.items():
        exif[{"Make": 0x010F, "Model": 0x0110}[name]] = value
    if comment is not None:
        exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    Image.fromarray(image(0)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a (red:1.2) fox", "a red fox"),
        ("a ((very)) [small] fox", "a very small fox"),
        ("(a fox:1.3), <lora:style_v2:0.8>, snow <hypernet:x:1>", "a fox, snow"),
        ("a fox BREAK in the snow,, BREAK", "a fox in the snow"),
        ("a [cat:dog:0.5] and a [cow|horse]", "a cat dog and a cow horse"),
        ("a fox \\(animal\\), 16:9, at 5:30", "a fox (animal), 16:9, at 5:30"),
        ("((a, (b:1.1), [c:0.5]:1.2) d", "a, b, c d"),
        ("a ) b ] c :1.2) d", "a ) b ] c :1.2) d"),
        ("a fox, in the snow", "a fox, in the snow"),
        ("  two\nlines ", "  two\nlines "),  # nothing of the tool's: as it is
        ("BREAKFAST at noon", "BREAKFAST at noon"),
        ("<lora:only:1>", ""),
    ],
)
def test_what_a_reader_sees_of_a_prompt(prompt: str, plain: str) -> None:
    assert plain_prompt(prompt) == plain


def test_square_brackets_are_texts_to_comfyui() -> None:
    assert plain_prompt("a [small] (fox:1.1)", square=False) == "a [small] fox"


def test_dynamic_prompts_lines_are_no_prompt() -> None:
    """They stand behind the settings, which were taken for a part of the prompt, or of the negative one."""
    settings = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Version: v1.9"
    more = "Template: {a|the} fox\nin __place__\nNegative Template: blurry"
    for negative in ("", "Negative prompt: blurry\n"):
        found = made_with(png(parameters=f"a fox\n{negative}{settings}\n{more}"))
        expected = {"prompt": "a fox", "seed": 5, "steps": 20, "sampler": "Euler a", "cfg": 7.0}
        assert found == expected | ({"negative_prompt": "blurry"} if negative else {})
    assert made_with(png(parameters=f"Steps: to the sea\na fox\n{settings}"))["prompt"] == "Steps: to the sea\na fox"


def test_loras_of_a_prompt() -> None:
    found = made_with(png(parameters="a <lora:b:0.5> fox <lyco:a:1> <hypernet:h:1>\nSteps: 2, Seed: 1"))
    assert found is not None
    assert (found["prompt"], found["plain_prompt"]) == ("a <lora:b:0.5> fox <lyco:a:1> <hypernet:h:1>", "a fox")
    assert found["lora"] == "a:1, b:0.5"
    assert "lora" not in (made_with(png(parameters="a fox\nSteps: 2, Seed: 1")) or {"lora": 1})


def test_settings_with_commas_and_colons() -> None:
    line = (
        'Steps: 2, Hires prompt: "a, Seed: 3: \\"b\\"", TI hashes: "x: 1", Size: 5x5, Odd: "open, Seed: 7, CFG scale: 2'
    )
    assert made_with(png(parameters=f"a\n{line}")) == {"prompt": "a", "steps": 2, "seed": 7, "cfg": 2.0}


@pytest.mark.parametrize(
    "rest", ["a ", "a, ", '"', '", ', "a: ", 'a: "', ": ", "(", "[a:", ",", " ,", "<a:", "\\", "<"]
)
def test_long_texts_cost_little(rest: str) -> None:
    """A line of settings of 32 kB took 10 s, and four times that for twice the length."""
    began = time.process_time()
    read_parameters({"parameters": f"x\nSteps: 20, {rest * (1_000_000 // len(rest))}"})
    read_parameters({"parameters": f"{rest * (1_000_000 // len(rest))}\nSteps: 20, Seed: 1"})
    assert time.process_time() - began < 3


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_of_jpeg_and_webp(kind: str) -> None:
    expected = made_with(png(parameters=A1111))
    for comment in (
        b"UNICODE\0" + A1111.encode("utf-16-be"),  # as piexif writes it, for AUTOMATIC1111
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"UNICODE\0" + A1111.encode("utf-16"),
        b"ASCII\0\0\0" + A1111.encode(),
        b"\0" * 8 + A1111.encode(),
    ):
        assert made_with(photo(kind, comment)) == expected
    for comment in (b"", b"ASCII\0\0\0holiday", b"ASCII\0\0\0" + b" " * 60, b"UNICODE\0\xd8", b"\xff" * 40, None):
        assert made_with(photo(kind, comment, Make="Canon", Model="EOS")) is None
    comfy = photo(kind, None, Make="workflow:{}", Model="prompt:" + json.dumps(graph()))
    assert made_with(comfy) == made_with(png(prompt=json.dumps(graph())))


def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}


def lora(name: str, on: bool) -> dict[str, Any]:
    return {"on": on, "lora": name, "strength": 1}


def test_graphs_are_read_by_their_links() -> None:
    """Titles and places mislead: the negative text comes first and is called Positive; two passes, two savers."""
    both = {"positive": ["2", 0], "negative": ["1", 0], "model": ["8", 0]}
    nodes = {
        "1": node("CLIPTextEncode", "Positive", text="blurry", clip=["9", 1]),
        "2": node("CLIPTextEncode", "Negative", text=["3", 0], clip=["9", 1]),
        "3": node("StringConcatenate", string_a="a (red:1.2)", string_b=["4", 0], delimiter=" "),
        "4": node("PrimitiveString", value="fox"),
        "5": node("KSampler", seed=2, steps=9, cfg=1, sampler_name="heun", latent_image=["7", 0], **both),
        "6": node("KSampler", seed=["13", 0], steps=20, cfg=7, sampler_name="euler", latent_image=["11", 0], **both),
        "7": node("LatentUpscale", samples=["6", 0]),
        "8": node("LoraLoader", lora_name="style.safetensors", strength_model=0.8, model=["12", 0], clip=["9", 1]),
        "9": node("CheckpointLoaderSimple", ckpt_name="xl.safetensors"),
        "10": node("SaveImage", images=["14", 0], filename_prefix="x"),
        "11": node("EmptyLatentImage", width=8),
        "12": node("Power Lora Loader (rgthree)", model=["9", 0], lora_1=lora("b", True), lora_2=lora("c", False)),
        "13": node("Seed (rgthree)", seed=41),
        "14": node("VAEDecode", samples=["5", 0], vae=["9", 2]),
        "20": node("KSampler", seed=99, positive=["1", 0], latent_image=["11", 0]),  # saved nowhere
    }
    expected = {
        **{"prompt": "a (red:1.2) fox", "plain_prompt": "a red fox", "negative_prompt": "blurry", "seed": 41},
        **{"steps": 20, "cfg": 7.0, "sampler": "euler", "model": "xl.safetensors", "lora": "b:1, style:0.8"},
    }
    assert made_with(png(prompt=json.dumps(nodes))) == expected
    assert made_with(png(prompt=json.dumps(dict(reversed(nodes.items()))))) == expected


@pytest.mark.parametrize(
    ("nodes", "prompt", "negative"),
    [
        (
            {
                "1": node("Efficient Loader", positive="a fox", negative="blurry", ckpt_name="x"),
                "2": node("", seed=1, positive=["1", 1], negative=["1", 2], latent_image=["1", 3]),
            },
            "a fox",
            "blurry",
        ),
        (
            {
                "1": node("CLIPTextEncode", text="a fox", clip=["9", 0]),
                "2": node("ConditioningZeroOut", conditioning=["1", 0]),
                "3": node("", seed=1, positive=["1", 0], negative=["2", 0], latent_image=["9", 3]),
            },
            "a fox",
            None,
        ),
        (
            {
                "1": node("ImpactWildcard", wildcard_text="{a|b}", populated_text="b", mode="populate", seed=8),
                "2": node("CLIPTextEncodeSDXL", text_g=["1", 0], text_l="c", clip=["9", 0]),
                "3": node("CLIPTextEncode", text="d", clip=["9", 0]),
                "4": node("ConditioningCombine", conditioning_1=["2", 0], conditioning_2=["3", 0]),
                "5": node("", steps=1, positive=["4", 0], negative=["9", 0], latent_image=["9", 3]),
            },
            "b, d",
            None,
        ),
    ],
)
def test_texts_that_links_lead_to(nodes: dict[str, Any], prompt: str, negative: str | None) -> None:
    found = made_with(png(prompt=json.dumps(nodes))) or {}
    assert (found["prompt"], found.get("negative_prompt")) == (prompt, negative)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_graph_makes_it_fail(data: st.DataObject) -> None:
    """Graphs of the right shape in which some parts are something else."""
    odd = st.sampled_from(
        [None, True, 3, 1e300, float("nan"), "", "x", [], ["6", 0], ["3", 0], [None, 1], {}, {"on": True}]
    )

    def spoilt(value: Any) -> Any:
        if data.draw(st.integers(0, 7)) == 0:
            return data.draw(odd)
        return {name: spoilt(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    made = read_parameters({"prompt": json.dumps(spoilt(graph()))})
    assert made is None or (isinstance(made["prompt"], str) and made["prompt"])
    json.dumps(made, allow_nan=False)


def test_hostile_graphs() -> None:
    chain = {str(i): {"inputs": {"text": [str(i + 1), 0], "conditioning": [str(i), 0]}} for i in range(5000)}
    chain["s"] = {"inputs": {"seed": ["s", 0], "positive": ["0", 0], "latent_image": ["s", 0]}}
    tree = {str(i): {"inputs": {f"text{j}": [str(i + 1), 0] for j in range(30)}} for i in range(90)}
    tree["s"] = {"inputs": {"seed": 1, "positive": ["0", 0], "latent_image": ["0", 0]}}
    began = time.process_time()
    for nodes in (chain, tree):
        assert made_with(png(prompt=json.dumps(nodes))) is None
    assert time.process_time() - began < 2


def test_other_tools_by_sd_parsers() -> None:
    pytest.importorskip("sd_parsers")
    about = {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "base_model": "m",
        "base_model_hash": "0",
        "sampler": "euler",
    }
    fooocus = json.dumps(
        {**about, "guidance_scale": 4.0, "scheduler": "karras", "seed": "3", "steps": 30, "version": "Fooocus v2"}
    )
    expected = {
        **{"prompt": "a fox", "negative_prompt": "blurry", "sampler": "euler", "model": "m", "seed": 3, "steps": 30},
        **{"cfg": 4.0, "scheduler": "karras"},
    }
    assert made_with(png(parameters=fooocus, fooocus_scheme="fooocus")) == expected
    assert made_with(photo("JPEG", b"UNICODE\0" + fooocus.encode("utf-16-be"))) == expected
    invokeai = {
        "positive_prompt": "a cat",
        "seed": 7,
        "steps": 5,
        "cfg_scale": 2.5,
        "scheduler": "euler",
        "app_version": "3",
    }
    found = made_with(png(invokeai_metadata=json.dumps(invokeai)))
    assert found is not None
    assert (found["prompt"], found["seed"], found["cfg"]) == ("a cat", 7, 2.5)
    for text in ("{", '{"a": ' * 100_000, '{"a": 1}', '{"prompt": 3}'):
        assert made_with(png(parameters=text)) is None
        assert made_with(png(invokeai_metadata=text)) is None
    assert made_with(png(Comment="Created with GIMP", Software="NovelAI")) is None


def test_grids_are_no_samples(tmp_path: Path) -> None:
    names = ["00000-1.png", "00001-2.png", "grid-0000.png", "xyz_grid-0001-5-a fox.png", "grid-lock.png"]
    for name in names:
        (tmp_path / name).write_bytes(png(parameters=A1111))
    source = open_images(tmp_path)
    assert source.files == ("00000-1.png", "00001-2.png", "grid-lock.png")
    assert source.headers().left_out == {"grids of AUTOMATIC1111": (2, "grid-0000.png")}
    for name in names[:2] + names[4:]:
        (tmp_path / name).unlink()
    assert len(open_images(tmp_path)) == 2  # a folder of grids is meant


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
    own = ("a fox, sharp in the snow", "a glass bottle", None)
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    for _ in range(2):  # the second time from the kept scan
        source = open_images(tmp_path, cache=cache)
        assert source.prompts == own
        assert source.records[0].parameters is not None
        assert source.records[0].parameters["prompt"] == "a fox, (sharp:1.2)\nin the snow"
        assert source.records[0].parameters["seed"] == 3141592653
    np.testing.assert_array_equal(source.read(range(2, 3))[0], np.asarray(Image.open(tmp_path / "c.png")))
    assert open_images(write_zip(tmp_path / "z.zip", files)).prompts == own
    assert open_images(tmp_path, ReadOptions(prompts=None)).prompts == (None,) * 3
    (tmp_path / "b.txt").write_text("mine")  # a text beside the image is meant
    assert open_images(tmp_path).prompts == (own[0], "mine", None)
    (tmp_path / "metadata.csv").write_text("file_name,prompt\na.png,A\n")  # and a metadata file tells of all
    assert open_images(tmp_path).prompts == ("A", None, None)
