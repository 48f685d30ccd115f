"""A pipeline's networks as .onnx files: exported from tiny pipelines of real classes, and run against torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import Saved
from packages import need

from evalkit.errors import ConfigError
from evalkit.models.base import Generated, Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel
from evalkit.models.onnx.pipeline import INDEX, OnnxPipeline

need("onnxruntime", "onnxruntime is not installed")
need("onnxscript", "onnxscript is not installed: torch cannot export")

SETTINGS = {"guidance_scale": 4.0}


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL's networks: two text encoders, UNet, VAE's decoder."""
    from evalkit.models.onnx.export_pipeline import export_pipeline

    folder = tmp_path_factory.mktemp("onnx") / "sdxl"
    errors = export_pipeline(DiffusersModel(str(saved("sdxl"))), SETTINGS, folder)
    assert [name for name, _ in errors] == ["text_encoder", "text_encoder_2", "unet", "vae.decode"]
    assert all(0 <= error < 1e-5 for _, error in errors)
    return folder


def opened(saved: Saved, exported: Path, **options: Any) -> OnnxPipeline:
    model = OnnxPipeline(str(saved("sdxl")), str(exported), threads=1, **options)
    model.check()
    model.check_call(None, SETTINGS)
    model.load("cpu")
    return model


def made(model: DiffusersModel, count: int, scheduler: str | None = None, **settings: Any) -> Generated:
    requests = [Request(i, 0, prompt=f"a cat {'abcdefg'[i % 7]}") for i in range(count)]
    sampler = Sampler(scheduler, num_inference_steps=3)
    return model.generate(requests, sampler=sampler, settings={**SETTINGS, **settings})


def test_images_are_torchs(saved: Saved, exported: Path) -> None:
    """Other batches, another sampler and no guidance: none of them was exported."""
    torch_model, model = DiffusersModel(str(saved("sdxl"))), opened(saved, exported)
    torch_model.load("cpu")
    for count, scheduler, settings in ((1, None, {}), (5, "DDIMScheduler", {}), (2, None, {"guidance_scale": 1.0})):
        left, right = (made(each, count, scheduler, **settings) for each in (torch_model, model))
        assert np.abs(left.images.astype(int) - right.images).max() <= 1
        assert left.nfe == right.nfe
    assert left.images.std() > 5
    unet = model._pipe.unet
    before = unet.conv_in.weight.data.clone()
    unet.conv_in.weight.data.zero_()  # torch's network is not what runs
    assert (made(model, 2, guidance_scale=1.0).images == right.images).all()
    unet.conv_in.weight.data.copy_(before)
    assert [part.name for part in model.timed_parts()][:2] == ["vae.encode", "vae.decode"]
    model.unload()
    assert model._files == []


def test_what_was_not_exported_is_refused(saved: Saved, exported: Path) -> None:
    model = opened(saved, exported)
    with pytest.raises(ConfigError, match=r"unet.onnx cannot take .*") as caught:
        made(model, 1, height=24, width=24)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="text_encoder was exported with"):
        model._pipe.text_encoder(np.zeros(1), output_hidden_states=False)


def test_identity(saved: Saved, exported: Path, tmp_path: Path) -> None:
    plain = OnnxPipeline(str(saved("sdxl")), str(exported))
    identity = plain.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert set(identity["onnx"]) == {"text_encoder", "text_encoder_2", "unet", "vae.decode"}
    assert identity != DiffusersModel(str(saved("sdxl"))).identity()
    basic = OnnxPipeline(str(saved("sdxl")), str(exported), session={"graph_optimization_level": "basic"})
    assert basic.identity() != identity
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert OnnxPipeline(str(saved("sdxl")), str(tmp_path)).identity() == identity
    (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text().replace('"false"', "false").replace("x1", "x2"))
    assert OnnxPipeline(str(saved("sdxl")), str(tmp_path)).identity() != identity


def test_what_is_missing(saved: Saved, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"onnx_parts.json is missing: give a folder that .* wrote"):
        OnnxPipeline(str(saved("sdxl")), str(tmp_path)).check()
    (tmp_path / INDEX).write_bytes((exported / INDEX).read_bytes())
    with pytest.raises(ConfigError, match=r"text_encoder.onnx is missing"):
        OnnxPipeline(str(saved("sdxl")), str(tmp_path)).check()
    with pytest.raises(ConfigError, match=r"session.graph_optimisation_level: there is no such session option"):
        OnnxPipeline(str(saved("sdxl")), str(exported), session={"graph_optimisation_level": "all"})


def test_the_command(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit.models.onnx.export import main

    (tmp_path / "f").write_text("x")
    assert main(["digits_ldm", str(tmp_path / "f")]) == 2
    assert "is a file: a pipeline's networks are written into a folder" in capsys.readouterr().err
    assert main(["digits_vae", str(tmp_path / "g.onnx")]) == 2
    assert "or a pipeline (evalkit.models.diffusers.DiffusersModel)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_digits_pipeline_is_exported_by_the_command(tmp_path: Path) -> None:
    from evalkit.models.onnx.export import main

    assert main(["digits_ldm", str(tmp_path / "ldm")]) == 0
    path = "pkg://evalkit.digits/weights/ldm"
    models = [DiffusersModel(path), OnnxPipeline(path, str(tmp_path / "ldm"), threads=1)]
    for model in models:
        model.load("cpu")
    left, right = (made(model, 4).images.astype(int) for model in models)
    assert np.abs(left - right).max() <= 1
