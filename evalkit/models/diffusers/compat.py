"""Private names of diffusers and torch that evalkit leans on, all in one place; tests/models/test_compat.py has each.

Besides these names, `noise.py` leans on how pipelines are built: each draws its first noise in its own method
`prepare_latents`, which is replaced on the pipeline for the time of one call, and an exception that is no `Exception`
(`FirstNoise`) leaves that call as soon as the noise is there, since pipelines and their hooks catch `Exception`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from evalkit.errors import ConfigError

# Pipelines that fail with several prompts at once, or whose images then depend on their neighbours (diffusers 0.42.1).
_ONE_BY_ONE = {
    "PRXPipeline": "its timestep is made for a batch of two, guidance's halves of one image",
    "PRXPixelPipeline": "the same",
    "DreamLitePipeline": "its prompt is one text",
    "DreamLiteMobilePipeline": "the same",
}
_ONE_TEXT = ("DreamLitePipeline", "DreamLiteMobilePipeline")


def one_by_one(pipeline: Any) -> bool:
    """Whether a class of pipelines is called once per image; tests/models/test_pipelines.py has each."""
    return pipeline.__name__ in _ONE_BY_ONE


# Classes of pipelines' parts that moved into diffusers' deprecated pipelines, where `from_pretrained` does not look.
_MOVED = {"PaellaVQModel": "wuerstchen", "WuerstchenPrior": "wuerstchen", "WuerstchenDiffNeXt": "wuerstchen"}


def one_text(pipeline: Any) -> bool:
    """Whether a class of pipelines takes its prompt as a text, never as a list."""
    return pipeline.__name__ in _ONE_TEXT


def restore_moved(names: Iterable[str]) -> None:
    """Puts classes of a pipeline's parts back where `from_pretrained` looks for them."""
    import diffusers

    for name in names:
        if name not in _MOVED or hasattr(diffusers, name):
            continue
        with suppress(ImportError):  # an older diffusers finds it itself
            module = importlib.import_module(f"diffusers.pipelines.deprecated.{_MOVED[name]}")
            setattr(diffusers, name, getattr(module, name))
            if not hasattr(diffusers.pipelines, _MOVED[name]):  # published folders name this module
                setattr(diffusers.pipelines, _MOVED[name], module)


def scales_its_input(pipeline: Any) -> bool:
    """Whether a class of pipelines calls its scheduler's `scale_model_input`, by its source."""
    return "scale_model_input" in inspect.getsource(sys.modules[pipeline.__module__])


def put_scheduler(pipe: Any, scheduler: Any) -> None:
    """Gives a pipeline its scheduler, and the pipelines that it is combined of: they hold the same one."""
    from diffusers import DiffusionPipeline

    own = pipe.scheduler
    combined = [part for part in vars(pipe).values() if isinstance(part, DiffusionPipeline)]
    for part in (pipe, *combined):
        if getattr(part, "scheduler", None) is own:
            part.scheduler = scheduler


def dtype_argument() -> str:
    """What `from_pretrained` calls the dtype: renamed in diffusers 0.36 or so; the old name warns, the new is ignored.

    Leans on `diffusers.utils.deprecation_utils._resolve_dtype`, which came with the new name.
    """
    from diffusers.utils import deprecation_utils

    return "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"


def lora_modules(pipe: Any) -> list[str]:
    """Names of a pipeline's networks that take LoRA layers and are there; leans on `_lora_loadable_modules`."""
    return [name for name in pipe._lora_loadable_modules if getattr(pipe, name, None) is not None]


def knows_tiling(autoencoder: Any) -> bool:
    """Whether a class of autoencoders encodes in tiles: each has `enable_tiling`, but some do nothing then.

    Leans on the method that does: `_tiled_encode` of AutoencoderKL and AutoencoderTiny, `tiled_encode` of the others.
    """
    return hasattr(autoencoder, "_tiled_encode") or hasattr(autoencoder, "tiled_encode")


def attention_backends() -> list[str]:
    """Names of diffusers' attention backends. ConfigError: this diffusers has none."""
    try:
        from diffusers.models.attention_dispatch import AttentionBackendName
    except ImportError as error:
        raise ConfigError("attention: this diffusers has no attention backends: install diffusers>=0.35") from error
    return sorted(backend.value for backend in AttentionBackendName)


def run_attention(name: str, query: Any) -> None:
    """Attention of `query` [B,T,H,D] with itself by a backend; raises what the backend raises where it cannot run.

    Leans on `_check_attention_backend_requirements`, which `set_attention_backend` calls too.
    """
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _check_attention_backend_requirements,
        dispatch_attention_fn,
    )

    _check_attention_backend_requirements(AttentionBackendName(name))
    dispatch_attention_fn(query, query, query, backend=AttentionBackendName(name))


def takes_attention_backend(module: Any) -> bool:
    """Whether `set_attention_backend` reaches a layer of a network; leans on the processors' `_attention_backend`."""
    return any(hasattr(getattr(m, "processor", None), "_attention_backend") for m in module.modules())


@contextmanager
def active_backend_kept() -> Iterator[None]:
    """Puts the process's attention backend back, which `set_attention_backend` of one network changes for all.

    Leans on `_AttentionBackendRegistry`.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    active = registry.get_active_backend()[0]
    try:
        yield
    finally:
        registry.set_active_backend(active)


def has_compiler(device: str) -> bool:
    """Whether torch.compile can work: with triton on CUDA, with a C++ compiler elsewhere.

    Leans on `torch.utils._triton.has_triton` and `torch._inductor.cpp_builder.get_cpp_compiler`.
    """
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        return bool(has_triton())
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except (RuntimeError, OSError):
        return False
    return True


def single_file_repository(header: Any) -> tuple[str, bool]:
    """The repository on the hub whose configuration a single file is of, by its tensors' names and shapes, and whether
    they say so (others are taken for Stable Diffusion 1's).

    Leans on `fetch_diffusers_config` and `CHECKPOINT_KEY_NAMES` of `diffusers.loaders.single_file_utils`.
    """
    from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, fetch_diffusers_config

    repository = str(fetch_diffusers_config(header)["pretrained_model_name_or_path"])
    return repository, "v1-5" not in repository or CHECKPOINT_KEY_NAMES["v1"] in header


def single_file_error() -> type[Exception]:
    """What `from_single_file` raises where a part is not in the file: a class that is no ValueError."""
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    error: type[Exception] = SingleFileComponentError
    return error
