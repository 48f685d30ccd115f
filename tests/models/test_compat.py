"""The private names of diffusers and torch that are leaned on (evalkit/models/diffusers/compat.py): each is there."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from evalkit.models.diffusers import compat
from evalkit.models.diffusers.noise import FirstNoise


def test_the_dtype_argument_is_one_that_from_pretrained_reads() -> None:
    from diffusers import DiffusionPipeline
    from diffusers.utils import deprecation_utils

    assert callable(deprecation_utils._resolve_dtype)
    assert compat.dtype_argument() == "dtype"
    source = inspect.getsource(DiffusionPipeline.from_pretrained)
    assert f'"{compat.dtype_argument()}"' in source


def test_lora_modules_are_named_by_the_pipelines() -> None:
    from diffusers import FluxPipeline, StableDiffusionPipeline

    for cls, names in ((StableDiffusionPipeline, ["unet"]), (FluxPipeline, ["transformer"])):
        pipe = cls.__new__(cls)
        for name in names:
            object.__setattr__(pipe, name, object())
        assert compat.lora_modules(pipe) == names  # of the text encoders none is there


def test_tiling() -> None:
    import diffusers

    known = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
    assert [compat.knows_tiling(getattr(diffusers, name)) for name in (*known, "VQModel")] == [True, True, True, False]


def test_attention() -> None:
    """What `set_attention_backend` does is undone for all other networks, and reaches the processors that are asked."""
    import torch
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry, _check_attention_backend_requirements
    from diffusers.models.transformers.transformer_flux import FluxAttention

    assert "native" in compat.attention_backends()
    query = torch.ones(1, 4, 2, 8)
    compat.run_attention("_native_math", query)
    with pytest.raises(RuntimeError):
        compat.run_attention("flash", query)  # a package that is not installed, or no CUDA
    assert callable(_check_attention_backend_requirements)
    layer = FluxAttention(query_dim=16, heads=2, dim_head=8)
    assert compat.takes_attention_backend(layer)
    assert not compat.takes_attention_backend(torch.nn.Linear(1, 1))
    before = _AttentionBackendRegistry.get_active_backend()[0]
    with compat.active_backend_kept():
        _AttentionBackendRegistry.set_active_backend("_native_math")
        assert _AttentionBackendRegistry.get_active_backend()[0] != before
    assert _AttentionBackendRegistry.get_active_backend()[0] == before


def test_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch.utils import _triton

    monkeypatch.setattr(_triton, "has_triton", lambda: False)
    assert not compat.has_compiler("cuda")
    monkeypatch.setattr(_triton, "has_triton", lambda: True)
    assert compat.has_compiler("cuda:0")
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    assert compat.has_compiler("cpu")

    def none() -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert not compat.has_compiler("cpu")


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"])
def test_pipelines_draw_their_noise_in_prepare_latents(name: str) -> None:
    import diffusers

    pipeline: Any = getattr(diffusers, name)
    assert callable(pipeline.prepare_latents)
    assert "self.prepare_latents(" in inspect.getsource(pipeline.__call__)


def test_first_noise_is_no_exception() -> None:
    assert not issubclass(FirstNoise, Exception)


def test_classes_that_moved_are_found_again() -> None:
    import diffusers

    compat.restore_moved(["PaellaVQModel", "UNet2DModel"])
    assert diffusers.PaellaVQModel.__module__.startswith("diffusers.pipelines.deprecated.wuerstchen")
    assert diffusers.pipelines.wuerstchen.PaellaVQModel is diffusers.PaellaVQModel  # as published folders name it


def test_a_combined_pipelines_parts_get_the_scheduler() -> None:
    import zoo_unet
    from diffusers import DDIMScheduler

    pipe, other = zoo_unet.kandinsky22(), DDIMScheduler()
    own, prior = pipe.scheduler, pipe.prior_scheduler
    compat.put_scheduler(pipe, other)
    assert pipe.scheduler is pipe.decoder_pipe.scheduler is other
    assert pipe.prior_pipe.scheduler is prior
    compat.put_scheduler(pipe, own)
    assert pipe.decoder_pipe.scheduler is own


def test_which_pipelines_scale_their_input() -> None:
    from diffusers import LDMTextToImagePipeline, StableDiffusionPipeline

    assert compat.scales_its_input(StableDiffusionPipeline)
    assert not compat.scales_its_input(LDMTextToImagePipeline)
