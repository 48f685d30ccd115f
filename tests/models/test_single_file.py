"""A pipeline from one file of its makers' layout, and denoisers as trainers save them, over the pipeline of before."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import Saved, make

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.diffusers.model import DiffusersModel


@pytest.fixture(scope="module")
def pipe(saved: Saved) -> Any:
    """The tiny `sd`. Do not change it."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(saved("sd"))


@pytest.fixture(scope="module")
def other_unet(pipe: Any) -> Any:
    """A UNet of other weights: as it is some steps later, or its EMA."""
    import torch

    torch.manual_seed(1)
    unet = copy.deepcopy(pipe.unet)
    for weight in unet.parameters():
        weight.data += torch.randn_like(weight) * 0.1
    return unet


@pytest.fixture(scope="module")
def config(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of `sd` without its weights, as `hf download --include '*.json' '*.txt'` gives it."""
    folder = tmp_path_factory.mktemp("config") / "sd"
    shutil.copytree(saved("sd"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def file(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from original_layout import save_original

    return save_original(pipe, tmp_path_factory.mktemp("single") / "v1-5-tiny.safetensors")


def images(path: Path | str, **options: Any) -> np.ndarray:
    model = DiffusersModel(str(path), **options)
    model.check()
    model.check_call(None, {"guidance_scale": 2.0})
    model.load("cpu")
    return make(model, settings={"guidance_scale": 2.0}).images


def refused(message: str, path: Path | str, error: type[EvalkitError] = ConfigError, **options: Any) -> str:
    with pytest.raises(error, match=message) as caught:  # noqa: PT012
        model = DiffusersModel(str(path), **options)
        model.check()
        model.load("cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_images_are_those_of_the_folder(
    saved: Saved, file: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evalkit")
    assert (images(file, config=str(config)) == images(saved("sd"))).all()
    assert f"model '{file}': prediction type epsilon, weights as stored" in caplog.text


def test_identity_is_the_files_and_the_configurations(file: Path, config: Path, tmp_path: Path, saved: Saved) -> None:
    one = DiffusersModel(str(file), config=str(config)).identity()
    assert json.loads(json.dumps(one)) == one
    assert one["single_file"] == {"prediction_type": "epsilon", "weights": "as stored"}
    moved = Path(shutil.copytree(config, tmp_path / "moved"))
    other_file = shutil.copy(file, tmp_path / "renamed.safetensors")
    assert DiffusersModel(other_file, config=str(moved)).identity() == one
    (moved / "scheduler" / "scheduler_config.json").write_text(
        (config / "scheduler" / "scheduler_config.json").read_text().replace("0.012", "0.013")
    )
    assert DiffusersModel(other_file, config=str(moved)).identity() != one
    plain = DiffusersModel(str(saved("sd"))).identity()
    assert not plain.keys() & {"single_file", "prediction_type", "denoiser"}


def test_without_a_configuration_the_one_line_names_the_repository(file: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    told = refused("is a single file: give config=DIR", file)
    assert "made from (such as stable-diffusion-v1-5/stable-diffusion-v1-5)" in told, "the tiny one has too few blocks"
    import torch

    sdxl = tmp_path / "sdxl.safetensors"
    save_file({"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1)}, sdxl)
    told = refused("is a single file", sdxl)
    assert "configuration of stabilityai/stable-diffusion-xl-base-1.0 (hf download stabilityai/stable-diff" in told


def test_ema_weights_are_taken_where_asked_for(
    pipe: Any, other_unet: Any, config: Path, tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from original_layout import save_original

    caplog.set_level(logging.INFO, "evalkit")
    both = save_original(pipe, tmp_path / "both.safetensors", ema=other_unet)
    plain, averaged = (images(both, config=str(config), ema=ema) for ema in (False, True))
    assert (plain == images(file, config=str(config))).all()
    assert "as trained (EMA weights are there too: ema: true)" in caplog.text
    swapped = copy.copy(pipe)
    swapped.unet = other_unet
    alone = save_original(swapped, tmp_path / "alone.safetensors")
    assert (averaged == images(alone, config=str(config))).all()
    assert (averaged != plain).any()
    identities = [DiffusersModel(str(both), config=str(config), ema=ema).identity() for ema in (False, True)]
    assert identities[0] != identities[1]
    refused("holds no separate EMA weights", file, config=str(config), ema=True)


def test_a_file_that_says_another_prediction_type_is_refused_until_one_is_chosen(
    pipe: Any, config: Path, tmp_path: Path
) -> None:
    import torch
    from original_layout import save_original

    by_tensor = save_original(pipe, tmp_path / "tensor.safetensors", v_pred=torch.zeros(0))
    by_metadata = save_original(pipe, tmp_path / "meta.safetensors", metadata={"modelspec.prediction_type": "v"})
    for file in (by_tensor, by_metadata):
        refused(
            "predicts v_prediction, and .*scheduler says epsilon: set prediction_type: v_prediction",
            file,
            config=str(config),
        )
    v, epsilon = (images(by_metadata, config=str(config), prediction_type=p) for p in ("v_prediction", "epsilon"))
    assert (v != epsilon).any()
    folder = Path(shutil.copytree(config, tmp_path / "config"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "v_prediction"}))
    assert (images(by_metadata, config=str(folder)) == v).all()


def test_prediction_types_of_folders_too(saved: Saved) -> None:
    changed = images(saved("sd"), prediction_type="v_prediction")
    assert (changed != images(saved("sd"))).any()
    refused("Did you mean 'v_prediction'", saved("sd"), prediction_type="v_predicton")
    refused("matches flows", saved("sd3"), prediction_type="epsilon")


def test_what_is_missing_is_one_line(file: Path, config: Path, saved: Saved, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    refused("there is no such file", tmp_path / "nowhere.safetensors", config=str(config))
    refused("may be pickled, and pickled weights are never loaded", tmp_path / "model.ckpt", config=str(config))
    refused(r"config: .*model_index.json is missing: give config=DIR", file, config=str(tmp_path))
    refused("config: .* is no single file", saved("sd"), config=str(config))
    state = load_file(file)
    for name, gone in (("unet", "model.diffusion_model.out.2"), ("vae", "first_stage_model.decoder.conv_in")):
        cut = tmp_path / f"{name}.safetensors"
        save_file({key: value for key, value in state.items() if not key.startswith(gone)}, cut)
        refused(f"{name}.safetensors does not fit .*: it lacks weights of a part", cut, DataError, config=str(config))
    alone = tmp_path / "alone.safetensors"
    save_file({key: value for key, value in state.items() if key.startswith("model.diffusion_model.")}, alone)
    refused("holds no '(text_encoder|vae)', and .*denoiser alone, give path=PIPELINE", alone, config=str(config))


def test_parts_that_the_file_lacks_come_from_the_folder(file: Path, saved: Saved, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    part = tmp_path / "part.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith(("first_stage_model.", "cond_"))}, part)
    assert (images(part, config=str(saved("sd"))) == images(saved("sd"))).all()


# ---------------------------------------------------------------------------------- denoisers over another pipeline


@pytest.fixture(scope="module")
def checkpoint(pipe: Any, other_unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As diffusers' text-to-image trainer writes it: `unet`, its running mean by EMAModel, and the optimiser."""
    from diffusers import UNet2DConditionModel
    from diffusers.training_utils import EMAModel

    folder = tmp_path_factory.mktemp("run") / "checkpoint-500"
    other_unet.save_pretrained(folder / "unet")
    mean = EMAModel(pipe.unet.parameters(), model_cls=UNet2DConditionModel, model_config=pipe.unet.config)
    mean.save_pretrained(str(folder / "unet_ema"))
    (folder / "optimizer.bin").write_bytes(b"")
    (folder / "random_states_0.pkl").write_bytes(b"")
    return folder


def test_a_trainers_checkpoint_over_its_pipeline(
    saved: Saved, pipe: Any, other_unet: Any, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evalkit")
    later = copy.copy(pipe)
    later.unet = other_unet
    later.save_pretrained(tmp_path / "later")
    wanted, base = images(tmp_path / "later"), images(saved("sd"))
    for place in (checkpoint, checkpoint / "unet", checkpoint / "unet" / "diffusion_pytorch_model.safetensors"):
        assert (images(saved("sd"), denoiser=str(place)) == wanted).all()
    assert "unet_ema is there too: ema: true takes it" in caplog.text
    assert (images(saved("sd"), denoiser=str(checkpoint), ema=True) == base).all()
    assert (wanted != base).any()
    identities = [
        DiffusersModel(str(saved("sd")), denoiser=denoiser, ema=ema).identity()
        for denoiser, ema in ((str(checkpoint), False), (str(checkpoint), True), (None, False))
    ]
    assert len({json.dumps(identity) for identity in identities}) == 3


def test_an_original_layouts_unet_and_vae_over_a_folder(saved: Saved, file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(file)
    for option, prefix in (("denoiser", "model.diffusion_model."), ("vae", "first_stage_model.")):
        part = tmp_path / f"{option}.safetensors"
        save_file({key: value for key, value in state.items() if key.startswith(prefix)}, part)
        assert (images(saved("sd"), **{option: str(part)}) == images(saved("sd"))).all()


def test_denoisers_that_do_not_fit_are_one_line(saved: Saved, checkpoint: Path, tmp_path: Path) -> None:
    told = refused("as trainers write it: give path=PIPELINE", checkpoint)
    assert f"denoiser={checkpoint}" in told
    refused("cross_attention_dim=16, that of .* has 32", saved("sdxl"), denoiser=str(checkpoint))
    refused(
        "is a UNet2DConditionModel, and model .* has a FluxTransformer2DModel", saved("flux"), denoiser=str(checkpoint)
    )
    refused(r"config.json is missing; give a folder", saved("sd"), denoiser=str(tmp_path))
    refused("there is no such file", saved("sd"), denoiser=str(tmp_path / "x.safetensors"))
    refused("ema: .* is no single file", saved("sd"), ema=True)


def test_results_tell_what_was_read(file: Path, config: Path, saved: Saved) -> None:
    from evalkit.cell import Cell
    from evalkit.results.rows import single_files

    def cell(name: str, path: Path, **options: Any) -> Cell:
        identity = {"model": DiffusersModel(str(path), **options).identity()}
        return Cell("sd", None, None, {}, 0, 1, name, name, {}, {}, identity)

    cells = [cell("one", file, config=str(config)), cell("folder", saved("sd"))]
    assert single_files(cells) == {"one": {"prediction_type": "epsilon", "weights": "as stored"}}
