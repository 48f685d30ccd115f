"""Quantised, cached, compiled and otherwise cheaper pipelines: real torchao and diffusers, on tiny pipelines."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from model_calls import SETTINGS, Saved, ask, make

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler
from evalkit.models.diffusers import optimize
from evalkit.models.diffusers.model import DiffusersModel

LDM = "pkg://evalkit.digits/weights/ldm"
STEPS = 6


def model_of(saved: Saved, kind: str = "sd", **options: Any) -> DiffusersModel:
    model = DiffusersModel(str(saved(kind)), **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def pixels(model: DiffusersModel, kind: str = "sd", count: int = 3, start: int = 0) -> np.ndarray:
    return make(model, ask(model, count, start), settings=SETTINGS.get(kind), steps=STEPS).images.astype(int)


def batch_effect(model: DiffusersModel, kind: str = "sd") -> int:
    """The largest difference between images made in one batch and one by one."""
    parts = [pixels(model, kind, 1, i) for i in range(3)]
    return int(np.abs(np.concatenate(parts) - pixels(model, kind)).max())


def refusal(saved: Saved, kind: str = "sd", **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        model_of(saved, kind, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------- quantisation


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("int8_weight_only", 0.5),
        ("int8_dynamic", 0.7),
        ("fp8_weight_only", 1.0),
        ("int4_weight_only", 8.0),
        ("int2_weight_only", 80.0),
    ],
)
def test_quantised_weights_change_pixels_a_little(name: str, largest: float) -> None:
    """On the shipped digits: a random net's pixels tell nothing of how close a quantised one is."""
    requests = [Request(i, 0, prompt=f"a red {word} on a blue background") for i, word in enumerate(("two", "six"))]
    sampler, settings = Sampler("DDIMScheduler", num_inference_steps=4), {"guidance_scale": 4.0}

    def made(requests: list[Request], model: DiffusersModel) -> np.ndarray:
        return model.generate(requests, sampler=sampler, settings=settings).images.astype(int)

    bare, model = DiffusersModel(LDM), DiffusersModel(LDM, quantize=name)
    for each in (bare, model):
        each.check()
        each.check_call(sampler, settings)
        each.load("cpu")
    layer = model._pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert type(layer.weight.data).__name__ != "Tensor"
    whole = made(requests, model)
    error = np.abs(whole - made(requests, bare))
    assert largest / 20 < error.mean() < largest
    apart = np.concatenate([made([request], model) for request in requests])
    assert np.abs(apart - whole).max() <= 3


def test_what_cannot_be_quantised_is_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert "quantize 'int8' is not known. " in refusal(saved, quantize="int8")
    assert "set lora_fused: true" in refusal(saved, quantize="int8_weight_only", lora="x/y")

    def broken(module: Any, name: str) -> None:
        raise RuntimeError("no kernel\nfor this CPU")

    with monkeypatch.context() as patch:
        patch.setattr(optimize, "_quantize", broken)
        said = refusal(saved, quantize="fp8_weight_only")
    assert said == "quantize: fp8_weight_only does not run on this machine's cpu: no kernel for this CPU"
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "needs the package torchao: pip install 'evalkit[quantization]'" in refusal(
            saved, quantize="int8_dynamic"
        )
        assert "bnb_nf4 needs the package bitsandbytes" in refusal(saved, quantize="bnb_nf4")
    if not torch.cuda.is_available():
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: object())
            said = refusal(saved, quantize="bnb_nf4")
        assert said == "quantize: bnb_nf4 needs CUDA, the device is cpu: try int8_weight_only"


def test_bitsandbytes_is_told_what_to_quantise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself runs on CUDA alone: this looks at what `from_pretrained` is given."""
    import diffusers
    import torch
    from diffusers import quantizers

    monkeypatch.setattr(diffusers, "BitsAndBytesConfig", dict)
    monkeypatch.setattr(quantizers, "PipelineQuantizationConfig", dict)
    told = optimize.Efficiency(quantize="bnb_nf4").loading(["unet", "vae", "text_encoder"], torch.float16)
    assert set(told["quantization_config"]["quant_mapping"]) == {"unet"}
    assert told["quantization_config"]["quant_mapping"]["unet"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.float16,
    }
    assert optimize.Efficiency(quantize="int8_dynamic").loading(["unet"], torch.float16) == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["bnb_int8", "bnb_nf4"])
def test_bitsandbytes(saved: Saved, name: str) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("bitsandbytes needs CUDA")
    pytest.importorskip("bitsandbytes")
    model = DiffusersModel(str(saved("sd")), dtype="float16", quantize=name)
    model.check()
    model.check_call(None, {})
    model.load("cuda")
    bare = DiffusersModel(str(saved("sd")), dtype="float16")
    bare.load("cuda")
    assert 0 < np.abs(pixels(model) - pixels(bare)).mean() < 30


# ------------------------------------------------------------------------------------------------- attention backends


def test_attention_of_a_unet(saved: Saved) -> None:
    """Its processors know no backends: torch's own attention is held to one kernel."""
    import torch

    model = model_of(saved, attention="_native_math")
    seen: list[bool] = []
    attention = model._pipe.unet.mid_block.attentions[0]
    attention.register_forward_hook(lambda *args: seen.append(torch.backends.cuda.flash_sdp_enabled()))
    made = pixels(model)
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.flash_sdp_enabled()
    assert np.abs(made - pixels(model_of(saved))).max() <= 2
    assert batch_effect(model) <= 2


def test_attention_of_a_transformer(saved: Saved) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry.get_active_backend()[0]
    model = model_of(saved, "flux", attention="_native_math")
    assert registry.get_active_backend()[0] == before, "other models of this process keep theirs"
    processors = [block.attn.processor for block in model._pipe.transformer.transformer_blocks]
    assert {processor._attention_backend.value for processor in processors} == {"_native_math"}
    assert np.abs(pixels(model, "flux") - pixels(model_of(saved, "flux"), "flux")).max() <= 2


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("sd", "nativ", "attention: diffusers has no backend 'nativ'. Did you mean 'native'?"),
        ("sd", "xformers", "attention: UNet2DConditionModel of model '"),
        ("flux", "sage_hub", "attention: sage_hub fetches code from the hub, which is never run"),
        (
            "flux",
            "flash",
            "attention: flash does not run on this machine's cpu: Flash Attention backend 'flash' is not",
        ),
        ("flux", "_native_cudnn", "attention: _native_cudnn does not run on this machine's cpu: "),
    ],
)
def test_attention_that_cannot_run_is_refused(saved: Saved, kind: str, name: str, message: str) -> None:
    assert message in refusal(saved, kind, attention=name)


# ------------------------------------------------------------------------------------------------------------ caches


@pytest.mark.parametrize(
    "cache",
    [
        "pyramid_attention_broadcast",
        {"name": "faster_cache", "is_guidance_distilled": True, "spatial_attention_timestep_skip_range": [-1, 901]},
        {"name": "first_block_cache", "threshold": 0.5},
        {"name": "taylorseer", "cache_interval": 2, "disable_cache_before_step": 2},
    ],
    ids=lambda cache: cache if isinstance(cache, str) else cache["name"],
)
def test_caches(saved: Saved, cache: Any) -> None:
    bare, model = model_of(saved, "flux"), model_of(saved, "flux", cache=cache)
    made = pixels(model, "flux")
    assert np.abs(made - pixels(bare, "flux")).max() > 0, "nothing was skipped"
    assert (made == pixels(model, "flux")).all(), "a call begins with an empty cache"
    assert batch_effect(model, "flux") <= 2
    assert model.identity()["cache"] == cache


def test_a_cache_that_decides_by_its_batch_is_given_single_images(saved: Saved) -> None:
    model = model_of(saved, "flux", cache={"name": "first_block_cache", "threshold": 0.05})
    assert batch_effect(model, "flux") == 0


@pytest.mark.parametrize(
    ("kind", "cache", "message"),
    [
        ("sd", "first_block_cache", "cache: UNet2DConditionModel of model '"),
        ("flux", "first_block", "cache 'first_block' is not known. Did you mean 'first_block_cache'?"),
        ("flux", {"threshold": 1}, "cache '' is not known. "),
        ("flux", {"name": "first_block_cache", "treshold": 1}, "takes no such option. Did you mean 'threshold'?"),
    ],
)
def test_caches_that_cannot_run_are_refused(saved: Saved, kind: str, cache: Any, message: str) -> None:
    assert message in refusal(saved, kind, cache=cache)


# ------------------------------------------------------------------------------------------------ compile, identity


def test_compile_takes_a_mode(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    modes: list[dict[str, Any]] = []

    def compile(forward: Any, **options: Any) -> Any:  # the real one takes a minute
        modes.append(options)
        return forward

    monkeypatch.setattr(torch, "compile", compile)
    plain = pixels(model_of(saved, compile="max-autotune"))
    model_of(saved, compile=True)
    assert modes == [{"mode": "max-autotune"}, {}]
    assert plain.shape == (3, 16, 16, 3)
    assert "compile: torch has no mode or backend 'fast'. " in refusal(saved, compile="fast")


def test_compile_needs_a_compiler(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder

    def none() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert "compile: torch.compile finds no C++ compiler (g++): set compile: false" in refusal(saved, compile=True)


def test_channels_last_changes_pixels_by_rounding_alone(saved: Saved) -> None:
    import torch

    model = model_of(saved, channels_last=True)
    for weight in (model._pipe.unet.conv_in.weight, model._pipe.vae.decoder.conv_in.weight):
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(pixels(model) - pixels(model_of(saved))).max() <= 1


def test_identity_holds_what_is_in_use(saved: Saved) -> None:
    def identity(**options: Any) -> Any:
        return DiffusersModel(str(saved("sd")), **options).identity()

    plain = identity()
    assert plain == identity(quantize=None, attention=None, cache=None, compile=False)
    assert not {"quantize", "attention", "cache"} & set(plain)
    for option in ({"quantize": "int8_dynamic"}, {"attention": "_native_math"}, {"cache": "taylorseer"}):
        assert identity(**option) == {**plain, **option}
    assert identity(channels_last=True) == {**plain, "channels_last": True}
    assert identity(compile="max-autotune") == {**plain, "compile": "max-autotune"}
