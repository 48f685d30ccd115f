"""LoRA adapters and another VAE in a pipeline: real peft and diffusers, on tiny pipelines and the shipped digits."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import Saved, ask, make, sampler_config

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel

LDM = "pkg://evalkit.digits/weights/ldm"
STRIPED = "pkg://evalkit.digits/weights/lora_striped"


@pytest.fixture(scope="session")
def lora(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A LoRA file of the tiny `sd` by seed. Do not change it."""
    from tiny_adapters import save_lora

    folder = tmp_path_factory.mktemp("lora")

    def get(seed: int = 0, text: bool = False) -> Path:
        place = folder / f"{seed}{text}"
        file = place / "pytorch_lora_weights.safetensors"
        return file if file.is_file() else save_lora(saved("sd"), place, seed, text=text)

    return get


def sd(saved: Saved, **options: Any) -> DiffusersModel:
    model = DiffusersModel(str(saved("sd")), **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def pixels(model: DiffusersModel, scale: Any = None, count: int = 2, start: int = 0) -> np.ndarray:
    settings = {} if scale is None else {"lora_scale": scale}
    return make(model, ask(model, count, start), settings=settings).images.astype(int)


def test_scales_are_set_from_call_to_call(saved: Saved, lora: Callable[..., Path]) -> None:
    bare, model = pixels(sd(saved)), sd(saved, lora=str(lora()))
    full, half, none = (pixels(model, scale) for scale in (1, 0.5, 0))
    assert (none == bare).all(), "at 0 it is the model without the adapter, to the last bit"
    assert 0 < np.abs(half - bare).mean() < np.abs(full - bare).mean()
    assert (pixels(model) == full).all(), "without a scale: the adapter's own, 1"
    assert (pixels(model, 0.5) == half).all(), "what was called before leaves no trace"
    parts = np.concatenate([pixels(model, 1, 1, 0), pixels(model, 1, 1, 1)])
    assert np.abs(parts - full).max() <= 2


def test_several_adapters(saved: Saved, lora: Callable[..., Path]) -> None:
    first, second = str(lora(0)), str(lora(1))
    both = sd(saved, lora=[first, {"path": second, "scale": 0.5, "name": "other"}])
    alone = {name: pixels(sd(saved, lora=file)) for name, file in (("first", first), ("second", second))}
    assert (pixels(both, [1, 0]) == alone["first"]).all()
    assert (pixels(both, [0, 2]) == alone["second"]).all(), "the scale multiplies the adapter's own"
    assert (pixels(both, [0, 0]) == pixels(sd(saved))).all()
    mixed = pixels(both)
    assert (mixed == pixels(both, [1, 1])).all()
    assert (mixed == pixels(both, 1)).all()
    assert all((mixed != other).any() for other in alone.values())


def test_fused_adapters_are_in_the_weights(saved: Saved, lora: Callable[..., Path]) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = sd(saved, lora={"path": str(lora()), "scale": 0.7}, lora_fused=True)
    assert not any(isinstance(module, BaseTunerLayer) for module in model._pipe.unet.modules())
    assert np.abs(pixels(model) - pixels(sd(saved, lora=str(lora())), 0.7)).max() <= 2
    assert np.abs(pixels(model) - pixels(sd(saved))).max() > 10
    for act in (lambda: model.check_call(None, {"lora_scale": 0.5}), lambda: pixels(model, 0.5)):
        with pytest.raises(ConfigError, match=r"fused into the weights: set lora_fused: false, or give the scale with"):
            act()
    none = sd(saved, lora={"path": str(lora()), "scale": 0}, lora_fused=True)
    assert (pixels(none) == pixels(sd(saved))).all()


def test_a_text_encoders_adapter(saved: Saved, lora: Callable[..., Path]) -> None:
    model = sd(saved, lora=str(lora(text=True)))
    assert (pixels(model, 0) == pixels(sd(saved))).all()
    full = pixels(model, 1)
    assert (full != pixels(model, 0)).any()
    fused = sd(saved, lora=str(lora(text=True)), lora_fused=True)
    assert np.abs(pixels(fused) - full).max() <= 2


def test_a_half_precision_file_computes_in_the_models_dtype(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path
) -> None:
    import torch
    from tiny_adapters import in_dtype

    half = in_dtype(lora(), tmp_path / "half.safetensors", torch.float16)
    same = in_dtype(half, tmp_path / "same.safetensors", torch.float32)
    assert (pixels(sd(saved, lora=str(half))) == pixels(sd(saved, lora=str(same)))).all()


def test_a_step_distilled_adapter_is_lora_and_sampler(saved: Saved, lora: Callable[..., Path]) -> None:
    """As of LCM-LoRA: the adapter, LCMScheduler, few steps, no guidance."""
    model = sd(saved, lora=str(lora()))
    lcm, call = sampler_config("lcm", num_inference_steps=2), {"guidance_scale": 1.0, "lora_scale": 1}
    model.check_call(lcm, call)
    made = make(model, ask(model, 4), lcm, call)
    assert made.nfe == 2
    assert (made.images != make(model, ask(model, 4), lcm, {**call, "lora_scale": 0}).images).any()
    parts = [make(model, ask(model, n, start), lcm, call).images for start, n in ((0, 1), (1, 3))]
    assert np.abs(np.concatenate(parts).astype(int) - made.images).max() <= 2


def test_identity(saved: Saved, lora: Callable[..., Path], tmp_path: Path) -> None:
    def identity(**options: Any) -> Any:
        return DiffusersModel(str(saved("sd")), **options).identity()

    plain = identity()
    was = {"kind", "weights", "conditioning", "variant", "dtype", "pipeline", "classes", "safety_checker"}
    assert set(plain) == was | {"compile", "attention_slicing", "vae_tiling", "vae_slicing"}
    with_lora = identity(lora=str(lora()))
    assert {key: value for key, value in with_lora.items() if "lora" not in key} == plain
    moved = shutil.copy(lora(), tmp_path / "elsewhere.safetensors")
    assert identity(lora=moved) == identity(lora={"path": str(tmp_path)}) == with_lora
    others = [{"lora": str(lora(1))}, {"lora": {"path": moved, "scale": 0.5}}, {"lora": moved, "lora_fused": True}]
    assert all(identity(**other) != with_lora for other in others)
    assert identity(lora="owner/name")["lora"][0]["weights"]["hub"] == "owner/name"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lora": "nowhere.safetensors"}, "lora: there is no file or folder nowhere.safetensors; give a .safetensors"),
        ({"lora": {"path": "x", "wieght_name": "y"}}, "lora.wieght_name: no such key. Did you mean 'weight_name'?"),
        ({"lora": {"scale": 1}}, "is no path, hub id or mapping such as"),
        ({"lora": {"path": "x", "scale": "much"}}, "lora.scale='much': give a number"),
        ({"lora": [{"path": "x", "name": "a"}, {"path": "y", "name": "a"}]}, "two adapters have one name"),
        ({"lora_fused": True}, "lora_fused: there is nothing to fuse"),
        ({"vae": 3}, "vae: 3 is no path, hub id or mapping"),
        ({"vae": "nowhere"}, "vae 'nowhere': nowhere/config.json is missing; give a folder"),
    ],
)
def test_wrong_options_are_one_line(saved: Saved, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DiffusersModel(str(saved("sd")), **option).check()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_refused_before_the_run(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path
) -> None:
    from tiny_adapters import renamed

    def refused(file: Path | str, kind: str, message: str, error: type[EvalkitError] = DataError) -> None:
        with pytest.raises(error, match=message) as caught:
            DiffusersModel(str(saved(kind)), lora=str(file)).check()
        assert "\n" not in str(caught.value)

    refused(saved("sd") / "unet" / "diffusion_pytorch_model.safetensors", "sd", "holds no LoRA")
    refused(lora(), "sdxl", r"layer .*attn2.to_k takes \[32\] inputs, the adapter's \[16\]")
    other = renamed(lora(), tmp_path / "a" / "x.safetensors", ("_block", "_blork"))
    refused(other, "sd", "none of its 64 keys has a layer there, such as unet.down_blorks.1")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(lora().read_bytes()[:-5])
    refused(cut, "sd", r"cut.safetensors is no safetensors file, or its end is missing")
    pickled = tmp_path / "lora.bin"
    pickled.write_bytes(b"")
    refused(pickled, "sd", "pickled weights are never loaded", ConfigError)
    shutil.copy(other, other.with_name("y.safetensors"))
    refused(other.parent, "sd", "holds no pytorch_lora_weights.safetensors; give its weight_name", ConfigError)
    with pytest.raises(ConfigError, match="DDPMPipeline takes no LoRA"):
        DiffusersModel(str(saved("ddpm")), lora=str(lora())).check_call(None, {})


def test_a_file_that_does_not_fit_is_told_when_loaded_at_the_latest(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path
) -> None:
    """diffusers loads what fits, and only logs the rest."""
    from tiny_adapters import renamed

    older = (("lora_A", "lora.down"), ("lora_B", "lora.up"))
    good = sd(saved, lora=str(renamed(lora(), tmp_path / "good.safetensors", *older)))
    assert (pixels(good) == pixels(sd(saved, lora=str(lora())))).all()
    for number, change in enumerate((("_block", "_blork"), ("unet.", "transformer."))):
        model = DiffusersModel(
            str(saved("sd")), lora=str(renamed(lora(), tmp_path / f"{number}.safetensors", *older, change))
        )
        with pytest.raises(DataError, match=r"does not fit model .*: none of its 64 keys has a layer") as caught:  # noqa: PT012
            model.check()
            model.load("cpu")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("much", "lora_scale=much: give a number, or a list of 1, one per adapter"),
        ([1, 2], "give a number, or a list of 1"),
        (True, "give a number"),
        (float("inf"), "give a number"),
    ],
)
def test_wrong_scales(saved: Saved, lora: Callable[..., Path], scale: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        DiffusersModel(str(saved("sd")), lora=str(lora())).check_call(None, {"lora_scale": scale})


def test_a_scale_without_an_adapter(saved: Saved) -> None:
    with pytest.raises(ConfigError, match="lora_scale is set, but no lora is given"):
        DiffusersModel(str(saved("sd"))).check_call(None, {"lora_scale": 1})


def test_missing_peft_and_hub_are_one_line(saved: Saved, lora: Callable[..., Path], monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for option in ({"lora": "nobody/nothing"}, {"vae": "nobody/nothing"}):
        with pytest.raises(ConfigError, match=r"nobody/nothing.*is not in the cache, and HF_HUB_OFFLINE is set"):
            DiffusersModel(str(saved("sd")), **option).check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lora needs the package peft: pip install 'evalkit\[lora\]'"):
        DiffusersModel(str(saved("sd")), lora=str(lora())).check()


# ------------------------------------------------------------------------------------------------------- another VAE


def test_another_vae(saved: Saved, tmp_path: Path) -> None:
    import tiny_pipelines
    import torch

    own, bare = str(saved("sd") / "vae"), sd(saved)
    assert (pixels(sd(saved, vae=own)) == pixels(bare)).all()
    torch.manual_seed(5)
    tiny_pipelines.vae().save_pretrained(tmp_path / "other")
    other = sd(saved, vae=str(tmp_path / "other"))
    assert np.abs(pixels(other) - pixels(bare)).mean() > 5
    told = other.identity()
    assert {key: value for key, value in told.items() if key != "vae"} == bare.identity()
    assert told["vae"] != sd(saved, vae=own).identity()["vae"]
    whole = DiffusersModel(str(saved("sd")), vae=str(saved("lcm")))  # of a whole pipeline: its VAE
    whole.check()
    assert whole.identity()["vae"] == DiffusersModel(str(saved("sd")), vae=str(saved("lcm") / "vae")).identity()["vae"]


def test_a_vae_that_does_not_fit(saved: Saved, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(block_out_channels=(8, 8), latent_channels=8, norm_num_groups=4, **blocks).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"has latent_channels=8, that of model .* has 4"):
        DiffusersModel(str(saved("sd")), vae=str(tmp_path)).check()
    with pytest.raises(ConfigError, match="shrinks images by another factor"):
        DiffusersModel(str(saved("sd")), vae="pkg://evalkit.digits/weights/ldm/vae").check()
    with pytest.raises(ConfigError, match="has no VAE to exchange"):
        DiffusersModel(str(saved("ddpm")), vae=str(saved("sd") / "vae")).check()
    with pytest.raises(ConfigError, match="is a UNet2DConditionModel, no Autoencoder"):
        DiffusersModel(str(saved("sd")), vae=str(saved("sd") / "unet")).check()


# ------------------------------------------------------------------------------------------------- the shipped LoRA


def test_the_shipped_style() -> None:
    """The style leaves every other four rows without ink: the more, the higher the scale."""
    from evalkit.digits import weights_path

    files = list(weights_path("lora_striped").iterdir())
    assert sum(file.stat().st_size for file in files) < 500_000
    model = DiffusersModel(LDM, lora=STRIPED)
    model.check()
    model.load("cpu")
    requests = [
        Request(i, 0, prompt=f"a white {word} on a black background") for i, word in enumerate(("two", "six") * 4)
    ]
    sampler = Sampler("DDIMScheduler", num_inference_steps=8)
    inked = np.arange(32) // 4 % 2 == 0

    def made(model: DiffusersModel, **settings: float) -> np.ndarray:
        return model.generate(requests, sampler=sampler, settings={"guidance_scale": 4.0, **settings}).images

    images = {scale: made(model, lora_scale=scale) for scale in (0, 0.5, 1)}
    gaps = {scale: float(i[:, ~inked].mean() / i[:, inked].mean()) for scale, i in images.items()}
    assert gaps[0] > 0.6
    assert gaps[0] > gaps[0.5] > gaps[1]
    assert gaps[1] < 0.3
    bare = DiffusersModel(LDM)
    bare.load("cpu")
    assert (made(bare) == images[0]).all()
