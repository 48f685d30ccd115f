"""Where the weights of DiffusersModel come from: files, dtypes, the hub; what identifies them; what loading leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import ROOT, Saved, make, sampler_config

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Request
from evalkit.models.diffusers.checkpoint import Checkpoint
from evalkit.models.diffusers.model import DiffusersModel

# ------------------------------------------------------------------------------------------------- files, identity


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_missing_file_is_named(copy: Callable[[str], Path], missing: str) -> None:
    folder = copy("sd")
    (folder / missing).unlink()
    if missing.startswith("tokenizer"):  # any one of a tokenizer's files will do
        for file in (folder / "tokenizer").iterdir():
            file.unlink()
    with pytest.raises(ConfigError) as caught:
        DiffusersModel(str(folder)).check()
    assert str(folder / missing) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:100], b"", b"garbage, not a header", b"\xff" * 64):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"vae/diffusion_pytorch_model.safetensors"):
            DiffusersModel(str(folder)).check()
    file.write_bytes(whole)
    DiffusersModel(str(folder)).check()
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"unet/config.json: not JSON"):
        DiffusersModel(str(folder)).check()


@pytest.mark.parametrize("name", ["../../etc", "a/b", "s" * 5000, "é" * 300, ""])
def test_parts_are_named_as_arguments_are(tmp_path: Path, name: str) -> None:
    index = {"_class_name": "DDPMPipeline", name: ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="is no name of a pipeline's part"):
        Checkpoint(tmp_path).components()


def test_pickled_weights_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    model = DiffusersModel(str(folder))
    for act in (model.check, lambda: model.load("cpu")):
        with pytest.raises(ConfigError, match=r"pytorch_model.bin.*never loaded; if you trust them, convert"):
            act()


def test_weights_that_do_not_fit_their_config(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 24]}))
    with pytest.raises(DataError, match="cannot be loaded"):
        DiffusersModel(str(folder)).load("cpu")


def test_flat_folder_as_of_google_ddpm_cifar10(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    wanted = DiffusersModel(str(folder))
    wanted.load("cpu")
    images = make(wanted).images
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    flat = DiffusersModel(str(folder))
    flat.check()
    flat.load("cpu")
    assert flat.conditioning == "none"
    assert (make(flat).images == images).all()


def test_dtypes_and_variants(saved: Saved, tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(saved("sd")).to(torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    model = DiffusersModel(str(tmp_path / "half"))
    model.load("cpu")
    for part in ("unet", "vae", "text_encoder"):
        assert getattr(model._pipe, part).dtype == torch.float32
    auto = DiffusersModel(str(tmp_path / "half"), dtype="auto")
    auto.load("cpu")
    assert auto._pipe.unet.dtype == auto._pipe.text_encoder.dtype == torch.float16
    brain = DiffusersModel(str(tmp_path / "half"), dtype="bfloat16")
    brain.load("cpu")
    images = make(brain).images.astype(int)
    assert np.abs(images - make(model).images).mean() < 10
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    with pytest.raises(ConfigError, match="set variant: fp16"):
        DiffusersModel(str(tmp_path / "variant")).check()
    variant = DiffusersModel(str(tmp_path / "variant"), variant="fp16")
    variant.check()
    variant.load("cpu")
    assert (make(variant).images == make(model).images).all()
    with pytest.raises(ConfigError, match="no weights of the variant 'fp16': set variant: null"):
        DiffusersModel(str(tmp_path / "half"), variant="fp16").check()


def test_identity(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    one = DiffusersModel(str(folder)).identity()
    assert json.loads(json.dumps(one)) == one
    (folder / "README.md").write_text("a note")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert DiffusersModel(str(folder)).identity() == one, "files that are not loaded do not matter"
    for change in ({"dtype": "float16"}, {"compile": True}, {"vae_tiling": True}, {"attention_slicing": True}):
        assert DiffusersModel(str(folder), **change).identity() != one  # type: ignore[arg-type]
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert DiffusersModel(str(folder)).identity() != one
    hub = DiffusersModel("owner/name", revision="abc")
    assert hub.identity()["weights"] == {"hub": "owner/name", "revision": "abc"}
    assert DiffusersModel("owner/name").identity() != hub.identity()


# ------------------------------------------------------------------------------------------------------ the hub


class GatedRepoError(OSError):
    pass


class RevisionNotFoundError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("401"), "gated: accept its licence at https://huggingface.co/owner/name"),
        (RevisionNotFoundError("404"), r"\(revision abc\) does not exist: see"),
        (RepositoryNotFoundError("404"), "not on the hub, or is private"),
        (OSError("no `safetensors` weights in owner/name"), "no safetensors weights.*convert"),
        (OSError("Cannot load:\n no network"), "cannot be fetched .*hf download owner/name --revision abc --local-dir"),
    ],
)
def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    from diffusers import DiffusionPipeline

    def fail(*args: Any, **kwargs: Any) -> None:
        assert kwargs["use_safetensors"] is True
        try:
            raise error
        except OSError as cause:
            raise OSError(str(cause)) from cause

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    with pytest.raises(ConfigError, match=message) as caught:
        DiffusersModel("owner/name", revision="abc").load("cpu")
    assert "\n" not in str(caught.value)


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"not in the cache.*hf download owner/nothing --local-dir FOLDER"):
        DiffusersModel("owner/nothing").check()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    DiffusersModel("owner/nothing").check()
    with pytest.raises(ConfigError, match="there is no such folder"):
        DiffusersModel(str(tmp_path / "nowhere")).check()
    with pytest.raises(ConfigError, match="there is no such folder"):
        DiffusersModel("pkg://evalkit.digits/weights/nowhere").check()


def test_a_snapshot_is_loaded_like_a_folder(monkeypatch: pytest.MonkeyPatch, saved: Saved) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *args, **kwargs: str(saved("ddpm")))
    hub, local = DiffusersModel("owner/name", conditioning="none"), DiffusersModel(str(saved("ddpm")))
    hub.load("cpu")
    local.load("cpu")
    assert (make(hub).images == make(local).images).all()


# ------------------------------------------------------------------------------------------------ memory, silence


def test_memory_options(saved: Saved) -> None:
    model = DiffusersModel(str(saved("sd")), attention_slicing=True, vae_tiling=True, vae_slicing=True)
    model.load("cpu")
    assert model._pipe.vae.use_tiling
    assert model._pipe.vae.use_slicing
    assert make(model).images.shape == (2, 16, 16, 3)
    with pytest.raises(ConfigError, match="no VAE that takes vae_tiling"):
        DiffusersModel(str(saved("ddpm")), vae_tiling=True).load("cpu")


def test_compile_wraps_the_denoiser_and_keeps_the_count(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    import torch

    calls: list[int] = []

    def compile(forward: Callable[..., Any]) -> Callable[..., Any]:  # the real one takes a minute
        @functools.wraps(forward)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return forward(*args, **kwargs)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    model = DiffusersModel(str(saved("sd")), compile=True)
    model.load("cpu")
    assert make(model, settings={"guidance_scale": 1.0}).nfe == 4
    assert len(calls) == 4


def test_another_pipeline_class(saved: Saved) -> None:
    model = DiffusersModel(str(saved("ddpm")), pipeline="DDIMPipeline")
    model.load("cpu")
    assert type(model._pipe).__name__ == "DDIMPipeline"
    with pytest.raises(ConfigError, match="Did you mean 'DDIMPipeline'"):
        DiffusersModel(str(saved("ddpm")), pipeline="DDIMPipelin").load("cpu")


def test_load_and_unload_leave_no_trace(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    import diffusers
    import torch
    import transformers

    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [s.allow_tf32 for s in switches] + [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    levels = [m.utils.logging.get_verbosity() for m in (diffusers, transformers)]
    model = DiffusersModel(str(saved("sd")))
    model.load("cpu")
    make(model, [Request(0, 0, prompt="a prompt that is much too long for sixteen tokens")])
    assert capfd.readouterr() == ("", "")
    after = [s.allow_tf32 for s in switches] + [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    assert after == before
    assert [m.utils.logging.get_verbosity() for m in (diffusers, transformers)] == levels
    model.unload()
    with pytest.raises(RuntimeError, match="load"):
        make(model)


# ----------------------------------------------------------------------------------------- the configs, the digits


def test_model_configs_build_and_name_their_files() -> None:
    from omegaconf import OmegaConf

    from evalkit.config.build import build, locate
    from evalkit.models.base import ExistingImages, Model
    from evalkit.models.services.base import Service

    samplers = {f.stem for f in (ROOT / "configs" / "sampler").glob("*.yaml")}
    for file in sorted((ROOT / "configs" / "model").glob("*.yaml")):
        config: Any = OmegaConf.load(file)
        assert list(config) == [file.stem]
        cls = locate(config[file.stem]["_target_"])
        if issubclass(cls, ExistingImages | Service) or file.stem == "callable":
            continue  # no weights of their own
        option: dict[str, Any] = {k: config[file.stem]._get_node(k)._value() for k in config[file.stem]}
        option = {
            k: OmegaConf.to_container(config[file.stem][k])
            if OmegaConf.is_config(config[file.stem]._get_node(k))
            else v
            for k, v in option.items()
        }
        option = {k: "owner/name" if v == "???" else v for k, v in option.items()}
        option |= {"module": "a.B", "weights": "file"} if file.stem in ("gan", "stylegan") else {}
        assert set(option.pop("samplers", None) or []) <= samplers, file.stem
        option.pop("latents", None)
        text = file.read_text()
        assert text.startswith("# "), "a config says what it is, the weights' licence and their source"
        assert "Weights:" in text.split(f"{file.stem}:")[0]
        model = build({k: v for k, v in option.items() if k not in cls.call_settings}, f"model.{file.stem}")
        assert isinstance(model, Model)


@pytest.mark.parametrize("name", ["ldm", "ddpm"])
def test_digits_weights(name: str) -> None:
    model = DiffusersModel(f"pkg://evalkit.digits/weights/{name}")
    try:
        model.check()
    except EvalkitError as error:
        pytest.skip(f"the weights are not there: {error}")
    model.load("cpu")
    requests = [Request(i, 0, prompt="a red seven on a blue background" if name == "ldm" else None) for i in range(2)]
    made = make(model, requests, sampler_config("dpmpp_2m", num_inference_steps=10))
    assert made.images.shape == (2, 32, 32, 3)
    assert made.images.std() > 10
