"""Optimised forms: pruned and quantisation-aware checkpoints, step-distilled models, compilers, FP8, NVFP4."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_calls import Saved, make

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler
from evalkit.models.diffusers import compiling
from evalkit.models.diffusers.compiling import Compiling
from evalkit.models.diffusers.model import DiffusersModel

LDM = "pkg://evalkit.digits/weights/ldm"


def loaded(path: Any, **options: Any) -> DiffusersModel:
    model = DiffusersModel(str(path), **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def digits(model: DiffusersModel) -> np.ndarray:
    requests = [Request(i, 0, prompt=f"a red {word} on a blue background") for i, word in enumerate(("two", "six"))]
    sampler, settings = Sampler("DDIMScheduler", num_inference_steps=4), {"guidance_scale": 4.0}
    return model.generate(requests, sampler=sampler, settings=settings).images.astype(int)


# ----------------------------------------------------------------------------------- checkpoints that are a plain path


def test_a_pruned_checkpoint_is_a_path(tmp_path: Path) -> None:
    """torch's own pruning, made permanent and saved: the zeros are loaded, and another model is meant."""
    from torch.nn.utils import prune

    bare = loaded(LDM)
    pipe = loaded(LDM)._pipe
    layers = [m for m in pipe.unet.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in layers:
        prune.l1_unstructured(layer, "weight", amount=0.3)
        prune.remove(layer, "weight")
    pipe.save_pretrained(tmp_path / "pruned")
    pruned = loaded(tmp_path / "pruned")
    weights = [w for name, w in pruned._pipe.unet.named_parameters() if name.endswith("weight") and w.ndim > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert 0.25 < zeros < 0.31
    assert 0.5 < np.abs(digits(pruned) - digits(bare)).mean() < 60
    assert pruned.identity() != bare.identity()


def test_a_quantisation_aware_checkpoint_is_a_path(tmp_path: Path) -> None:
    """torchao's own QAT: the weights that it trains are saved as floats; quantised, they are what the training saw."""
    pytest.importorskip("torchao")
    from torchao.quantization import PerAxis, quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    trained = loaded(LDM)
    bare = digits(trained)
    how = IntxFakeQuantizeConfig(torch.int4, PerAxis(0))
    quantize_(trained._pipe.unet, QATConfig(weight_config=how, step="prepare"))
    seen = digits(trained)
    trained._pipe.save_pretrained(tmp_path / "qat")
    assert (digits(loaded(tmp_path / "qat")) == bare).all(), "plain floats, which quantising is left to"
    assert np.abs(seen - bare).mean() > 1
    assert np.abs(digits(loaded(tmp_path / "qat", quantize="int4_weight_only")) - seen).max() <= 1


# ------------------------------------------------------------------------------------------------------ step-distilled


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_an_lcm_distilled_pipeline_is_told_its_guidance(saved: Saved, tmp_path: Path, kind: str) -> None:
    """As LCM's UNets are: guidance is an input (`time_cond_proj_dim`), evaluated once a step."""
    import tiny_pipelines

    torch.manual_seed(0)
    pipe = tiny_pipelines.MAKERS[kind]()
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    pipe.register_modules(unet=type(pipe.unet)(**{**config, "time_cond_proj_dim": 8}))
    pipe.register_modules(scheduler=tiny_pipelines.LCMScheduler(**tiny_pipelines.BETAS))
    tiny_pipelines.awaken(pipe)
    pipe.save_pretrained(tmp_path / kind)
    model = loaded(tmp_path / kind)
    one, eight = (make(model, settings={"guidance_scale": scale}, steps=2) for scale in (1.5, 8.0))
    assert one.nfe == eight.nfe == 2
    assert (one.images != eight.images).any()


def test_a_turbo_pipeline_takes_one_step_without_guidance(saved: Saved) -> None:
    model = loaded(saved("sdxl_turbo"))
    made = make(model, settings={"guidance_scale": 0.0}, steps=1, sampler=Sampler(num_inference_steps=1))
    assert made.nfe == 1
    assert made.images.std() > 1


# ----------------------------------------------------------------------------------------------------------- compilers


@pytest.mark.parametrize(
    ("value", "backend", "arguments"),
    [
        (True, "inductor", {}),
        ("max-autotune", "inductor", {"mode": "max-autotune"}),
        ("openvino", "openvino", {}),
        ({"backend": "tensorrt", "options": {"enabled_precisions": ["fp16"]}}, "tensorrt", {"options": {}}),
        ({"mode": "reduce-overhead", "dynamic": False}, "inductor", {"mode": "reduce-overhead", "dynamic": False}),
    ],
)
def test_what_compile_takes(value: Any, backend: str, arguments: dict[str, Any]) -> None:
    made = Compiling.read(value)
    assert made is not None
    assert made.backend == backend
    assert set(made.arguments) == set(arguments)
    assert Compiling.read(False) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tensort", "compile: torch has no mode or backend 'tensort'. Did you mean 'tensorrt'?"),
        ("max-autotun", "compile: torch has no mode or backend 'max-autotun'. Did you mean 'max-autotune'?"),
        ({"backnd": "x"}, "compile.backnd: torch.compile takes no such argument. Did you mean 'backend'?"),
        ({"backend": "openvino", "mode": "default"}, "compile.mode: 'default' is of inductor alone"),
        ({"mode": "fast"}, "compile.mode: 'fast' is not known."),
        ({"mode": "default", "options": {"x": 1}}, "compile: torch.compile takes a mode or options, not both"),
    ],
)
def test_what_compile_does_not_take(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DiffusersModel("owner/name", compile=value)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "package"), [("tensorrt", "torch_tensorrt: pip install torch-tensorrt")])
def test_a_backend_whose_package_is_missing(saved: Saved, name: str, package: str) -> None:
    if importlib.util.find_spec(package.partition(":")[0]) is not None:
        pytest.skip("it is installed")
    with pytest.raises(ConfigError) as caught:
        DiffusersModel(str(saved("sd")), compile=name).check()
    assert str(caught.value) == f"compile: backend {name} needs the package {package}"


def test_a_backend_runs_the_denoiser(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's eager backend: the graph is captured, and run as it is. What another one cannot run is one line."""
    torch._dynamo.reset()
    plain, compiled = loaded(saved("sd")), loaded(saved("sd"), compile={"backend": "eager"})
    assert (make(plain).images == make(compiled).images).all()
    assert make(compiled).nfe == make(plain).nfe
    assert compiled.identity() == {**plain.identity(), "compile": {"backend": "eager"}}

    def broken(forward: Any, **arguments: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("Guard failed\non the same frame")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiling, "_PACKAGES", {})
    with pytest.raises(ConfigError, match="does not run on this machine's cpu: Guard failed on the same frame"):
        Compiling("tvm").check_device("cpu")
    with pytest.raises(ConfigError, match="compile: tvm cannot run the denoiser: Guard failed on the same frame; give"):
        Compiling("tvm").compiled(print)("x")
    monkeypatch.undo()
    torch._dynamo.reset()


@pytest.mark.slow
def test_openvino_runs_the_denoiser() -> None:
    pytest.importorskip("openvino")
    torch._dynamo.reset()
    model = loaded(LDM, compile={"backend": "openvino", "options": {"aot_autograd": True}})
    error = np.abs(digits(model) - digits(loaded(LDM)))
    assert 0 < error.mean() < 4, "not torch's own kernels, and the same model"


# ---------------------------------------------------------------------------------------------------------- FP8, NVFP4


def test_nvfp4_weights_run_here_and_its_arithmetic_where_a_gpu_has_it() -> None:
    pytest.importorskip("torchao.prototype.mx_formats")
    model = loaded(LDM, quantize="nvfp4_weight_only")
    layer = model._pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert type(layer.weight.data).__name__ == "NVFP4Tensor"
    assert 0.5 < np.abs(digits(model) - digits(loaded(LDM))).mean() < 6
    if torch.cuda.is_available():
        return
    for name in ("fp8_dynamic", "nvfp4_dynamic"):
        with pytest.raises(ConfigError, match=f"quantize: {name} does not run on this machine's cpu: .") as caught:
            loaded(LDM, quantize=name)
        assert "\n" not in str(caught.value)
