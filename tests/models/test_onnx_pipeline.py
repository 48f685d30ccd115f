"""A pipeline's networks as .onnx files: exported from tiny pipelines of real classes, and run against torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_calls import Saved
from packages import need

from evalkit.errors import ConfigError
from evalkit.models.base import Generated, Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel
from evalkit.models.onnx.pipeline import INDEX, OnnxPipeline

need("onnxruntime", "onnxruntime is not installed")
need("onnxscript", "onnxscript is not installed: torch cannot export")

LDM = "pkg://evalkit.digits/weights/ldm"


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of a DDPM in pixel space; pipelines with more of them are slow to export."""
    from evalkit.models.onnx.export_pipeline import export_pipeline

    folder = tmp_path_factory.mktemp("onnx") / "ddpm"
    ((name, error),) = export_pipeline(DiffusersModel(str(saved("ddpm"))), {}, folder)
    assert name == "unet"
    assert 0 <= error < 1e-5
    return folder


def opened(path: Path | str, exported: Path, **options: Any) -> OnnxPipeline:
    model = OnnxPipeline(str(path), str(exported), threads=1, **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def made(model: DiffusersModel, count: int, scheduler: str | None = None, **settings: Any) -> Generated:
    text = model.conditioning == "text"
    requests = [Request(i, 0, prompt=f"a cat {'abcdefg'[i % 7]}" if text else None) for i in range(count)]
    sampler = Sampler(scheduler, num_inference_steps=3)
    return model.generate(requests, sampler=sampler, settings=settings)


def compare(torch_model: DiffusersModel, model: OnnxPipeline, count: int, *how: Any, **settings: Any) -> None:
    left, right = (made(each, count, *how, **settings) for each in (torch_model, model))
    assert np.abs(left.images.astype(int) - right.images).max() <= 1
    assert left.nfe == right.nfe
    assert left.images.std() > 5


def test_images_are_torchs(saved: Saved, exported: Path) -> None:
    """Other batches and another sampler: none of them was exported."""
    torch_model, model = DiffusersModel(str(saved("ddpm"))), opened(saved("ddpm"), exported)
    torch_model.load("cpu")
    compare(torch_model, model, 1)
    compare(torch_model, model, 5, "DDIMScheduler")
    before = made(model, 2).images
    model._pipe.unet.conv_in.weight.data.zero_()  # torch's network is not what runs
    assert (made(model, 2).images == before).all()
    assert [part.name for part in model.timed_parts()] == ["unet"]
    model.unload()
    assert model._files == []


def test_what_was_not_exported_is_refused(saved: Saved, exported: Path) -> None:
    model = opened(saved("ddpm"), exported)
    unet, x, t = model._pipe.unet, torch.zeros(1, 3, 8, 8), torch.tensor(3)
    assert unet(x, t, class_labels=None).sample.shape == (1, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"unet.onnx cannot take x0 \[1, 3, 16, 16\]") as caught:
        unet(torch.zeros(1, 3, 16, 16), t, class_labels=None)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"unet.onnx: unet was exported with other arguments: export it with"):
        unet(x, t, return_dict=False)
    with pytest.raises(ConfigError, match=r"unet was exported with null where it is given tensor\(\[3\]\)"):
        unet(x, t, class_labels=torch.tensor([3]))


def test_identity(saved: Saved, exported: Path, tmp_path: Path) -> None:
    path = str(saved("ddpm"))
    identity = OnnxPipeline(path, str(exported)).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert set(identity["onnx"]) == {"unet"}
    assert identity != DiffusersModel(path).identity()
    assert OnnxPipeline(path, str(exported), session={"graph_optimization_level": "basic"}).identity() != identity
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert OnnxPipeline(path, str(tmp_path)).identity() == identity
    (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text().replace("x1", "x2"))
    assert OnnxPipeline(path, str(tmp_path)).identity() != identity


def test_what_is_missing(saved: Saved, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"onnx_parts.json is missing: give a folder that .* wrote"):
        OnnxPipeline(str(saved("ddpm")), str(tmp_path)).check()
    (tmp_path / INDEX).write_bytes((exported / INDEX).read_bytes())
    with pytest.raises(ConfigError, match=r"unet.onnx is missing"):
        OnnxPipeline(str(saved("ddpm")), str(tmp_path)).check()
    with pytest.raises(ConfigError, match=r"session.graph_optimisation_level: there is no such session option"):
        OnnxPipeline(str(saved("ddpm")), str(exported), session={"graph_optimisation_level": "all"})


def test_the_command(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit.models.onnx.export import main

    (tmp_path / "f").write_text("x")
    assert main(["digits_ldm", str(tmp_path / "f")]) == 2
    assert "is a file: a pipeline's networks are written into a folder" in capsys.readouterr().err
    assert main(["digits_vae", str(tmp_path / "g.onnx")]) == 2
    assert "or a pipeline (evalkit.models.diffusers.DiffusersModel)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_sdxl(saved: Saved, tmp_path: Path) -> None:
    """Two text encoders, a UNet and the VAE's decoder; guidance, and none, though none was exported with it."""
    from evalkit.models.onnx.export_pipeline import export_pipeline

    path, settings = str(saved("sdxl")), {"guidance_scale": 4.0}
    errors = export_pipeline(DiffusersModel(path), settings, tmp_path)
    assert [name for name, _ in errors] == ["text_encoder", "text_encoder_2", "unet", "vae.decode"]
    assert all(0 <= error < 1e-5 for _, error in errors)
    torch_model, model = DiffusersModel(path), opened(path, tmp_path)
    torch_model.load("cpu")
    compare(torch_model, model, 1, **settings)
    compare(torch_model, model, 5, "DDIMScheduler", **settings)
    compare(torch_model, model, 2, guidance_scale=1.0)
    with pytest.raises(ConfigError, match=r"\.onnx cannot take "):
        made(model, 1, height=24, width=24, **settings)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_digits_pipeline_is_exported_by_the_command(tmp_path: Path) -> None:
    from evalkit.models.onnx.export import main

    assert main(["digits_ldm", str(tmp_path / "ldm")]) == 0
    torch_model, model = DiffusersModel(LDM), opened(LDM, tmp_path / "ldm")
    torch_model.load("cpu")
    compare(torch_model, model, 4, guidance_scale=4.0)
