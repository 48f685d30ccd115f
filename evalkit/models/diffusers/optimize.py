"""What makes a diffusers pipeline cheaper: compiling, quantising, attention backends, caches, slicing.

Each changes pixels a little, so each belongs to a model's identity and can be swept. What this machine or model cannot
run is refused before the run. Token merging is not here: diffusers ships none, and tomesd was last released in 2023.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.diffusers import compat
from evalkit.models.diffusers.compiling import Compiling
from evalkit.models.diffusers.sampling import DENOISERS, denoisers
from evalkit.utils.text import one_line

_TORCHAO = {
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int8_dynamic": "Int8DynamicActivationInt8WeightConfig",
    "fp8_weight_only": "Float8WeightOnlyConfig",
    "fp8_dynamic": "Float8DynamicActivationFloat8WeightConfig",  # CUDA, compute capability 8.9 and later
    "nvfp4_weight_only": "NVFP4WeightOnlyConfig",
    "nvfp4_dynamic": "NVFP4DynamicActivationNVFP4WeightConfig",  # CUDA, compute capability 10.0 and later
    "int4_weight_only": "IntxWeightOnlyConfig",  # one scale per row; computed in plain torch, so it is no faster
    "int2_weight_only": "IntxWeightOnlyConfig",
}
_BITSANDBYTES = {"bnb_int8": "load_in_8bit", "bnb_nf4": "load_in_4bit"}
QUANTIZE = (*_TORCHAO, *_BITSANDBYTES)
_CACHES = {
    "pyramid_attention_broadcast": "PyramidAttentionBroadcastConfig",
    "faster_cache": "FasterCacheConfig",
    "first_block_cache": "FirstBlockCacheConfig",
    "taylorseer": "TaylorSeerCacheConfig",
}
# These decide what to skip from the whole batch: an image would depend on its neighbours, so they run one by one.
_ALONE = ("first_block_cache",)
# What torch, torchao and the attention packages raise where a machine lacks a kernel, a device or a package of theirs.
_CANNOT_RUN = (RuntimeError, ImportError, NotImplementedError, ValueError, AssertionError, AttributeError, OSError)
# What torch's own attention can be told; diffusers' older processors (all UNets') know nothing else.
_NATIVE = {
    "native": (),
    "_native_math": ("MATH",),
    "_native_flash": ("FLASH_ATTENTION",),
    "_native_efficient": ("EFFICIENT_ATTENTION",),
    "_native_cudnn": ("CUDNN_ATTENTION",),
}


@dataclass(frozen=True)
class Efficiency:
    """The options; `DiffusersModel` says what each means. ConfigError: a name is not known (the nearest is offered)."""

    compile: bool | str | Mapping[str, Any] = False
    attention_slicing: bool = False
    vae_tiling: bool = False
    vae_slicing: bool = False
    quantize: str | None = None
    attention: str | None = None
    cache: str | Mapping[str, Any] | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        Compiling.read(self.compile)
        if self.quantize is not None and self.quantize not in QUANTIZE:
            raise ConfigError(f"quantize '{self.quantize}' is not known. {nearest(str(self.quantize), QUANTIZE)}")
        name = self._cache()[0]
        if name is not None and name not in _CACHES:
            raise ConfigError(f"cache '{name}' is not known. {nearest(str(name), _CACHES)}")

    def _cache(self) -> tuple[str | None, dict[str, Any]]:
        """Its name, and options for diffusers' class of its settings."""
        given = {"name": self.cache} if isinstance(self.cache, str) else dict(self.cache or {})
        return given.pop("name", None if not given else ""), given

    def identity(self) -> dict[str, Any]:
        """The options; those that came later only where they are in use."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        options["compile"] = dict(self.compile) if isinstance(self.compile, Mapping) else self.compile
        later = ("quantize", "attention", "cache", "channels_last")
        return {name: value for name, value in options.items() if name not in later or value not in (None, False)}

    def check(self, adapters: int, fused: bool) -> None:
        """Looks for packages, without importing them; `adapters`: how many LoRAs there are, `fused` into the weights.

        Raises:
            ConfigError: a package is missing, or two options exclude each other.
        """
        package = "torchao" if self.quantize in _TORCHAO else "bitsandbytes" if self.quantize in _BITSANDBYTES else None
        if package and importlib.util.find_spec(package) is None:
            how = "pip install 'evalkit[quantization]'" if package == "torchao" else "pip install bitsandbytes"
            raise ConfigError(f"quantize: {self.quantize} needs the package {package}: {how}")
        if package and adapters and not fused:
            raise ConfigError("quantize: adapters on quantised layers are not supported: set lora_fused: true")
        if package == "bitsandbytes" and adapters:
            raise ConfigError(f"quantize: {self.quantize} quantises before adapters are added: use int8_weight_only")
        if self.quantize in _BITSANDBYTES and self.compile:
            raise ConfigError(f"quantize: {self.quantize} is not compiled: set compile: false")
        if (compiling := Compiling.read(self.compile)) is not None:
            compiling.check()

    def check_denoiser(self) -> None:
        """ConfigError: it cannot be done to a denoiser that is loaded apart from the pipeline."""
        if self.quantize in _BITSANDBYTES:
            raise ConfigError(
                f"quantize: {self.quantize} quantises a pipeline's own denoiser alone: try int8_weight_only"
            )

    def check_call(self, parts: Sequence[Any], who: str, device: str | None = None) -> None:
        """Tries on small layers whether this machine can do what is asked for; ConfigError: it, or the model, cannot.

        Args:
            parts: the denoisers' classes, as far as they are known.
            who: the model, for messages.
            device: where it will run; none: the best that there is.
        """
        from evalkit.utils.devices import pick_device

        device = device or pick_device("auto")
        if (compiling := Compiling.read(self.compile)) is not None:
            compiling.check_device(device)
        if self.quantize is not None:
            _check_quantize(self.quantize, device)
        if self.attention is not None:
            _check_attention(self.attention, parts, device, who)
        name, options = self._cache()
        if name is not None:
            _cache_config(name, options, None)
            for part in parts:
                if not hasattr(part, "enable_cache"):
                    raise ConfigError(f"cache: {part.__name__} of {who} takes none; some transformers do")

    def loading(self, names: Sequence[str], dtype: Any) -> dict[str, Any]:
        """What `from_pretrained` is told, where bitsandbytes quantises those of the parts `names` that denoise."""
        if self.quantize not in _BITSANDBYTES:
            return {}
        from diffusers import BitsAndBytesConfig
        from diffusers.quantizers import PipelineQuantizationConfig

        options: dict[str, Any] = {_BITSANDBYTES[self.quantize]: True}
        if self.quantize == "bnb_nf4":
            options |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        mapping = {name: BitsAndBytesConfig(**options) for name in DENOISERS if name in names}
        return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}

    def apply(self, pipe: Any, device: str, who: str) -> None:
        """Does all of it to a loaded pipeline on its device. ConfigError: the pipeline or the device cannot."""
        import torch

        parts = denoisers(pipe)
        self.check_call([type(part) for part in parts], who, device)
        vae = getattr(pipe, "vae", None)
        if self.quantize in _TORCHAO:
            for module in parts:
                try:
                    _quantize(module, self.quantize)
                except _CANNOT_RUN as error:  # a layer of a size that it has no kernel for
                    raise ConfigError(f"quantize: {self.quantize} cannot take {who}: {one_line(error)}") from error
        if self.channels_last:
            for module in (*parts, *([vae] if isinstance(vae, torch.nn.Module) else [])):
                module.to(memory_format=torch.channels_last)
        if self.attention_slicing:
            pipe.enable_attention_slicing()
        for option, method in (("vae_tiling", "enable_tiling"), ("vae_slicing", "enable_slicing")):
            if getattr(self, option):
                if not hasattr(vae, method):
                    raise ConfigError(f"{who} has no VAE that takes {option}: set {option}: false")
                getattr(vae, method)()
        if self.attention is not None:
            for module in parts:
                _set_attention(module, self.attention, who)
        name, options = self._cache()
        if name is not None:
            for module in parts:
                module.enable_cache(_cache_config(name, options, pipe))
        if (compiling := Compiling.read(self.compile)) is not None:
            for module in parts:
                # The forward alone: the module keeps its hooks, which count evaluations outside of the compiled code.
                module.forward = compiling.compiled(module.forward)

    @property
    def alone(self) -> bool:
        """Whether no two requests may share a batch."""
        return self._cache()[0] in _ALONE


def _check_quantize(name: str, device: str) -> None:
    """Quantises a small layer and runs it."""
    import torch

    if name in _BITSANDBYTES:
        if not device.startswith("cuda"):
            raise ConfigError(f"quantize: {name} needs CUDA, the device is {device}: try int8_weight_only")
        return
    layers, x = torch.nn.Sequential(torch.nn.Linear(32, 32)).to(device), torch.ones(2, 32, device=device)
    try:
        with torch.no_grad():
            _quantize(layers, name)
            good = bool(layers(x).isfinite().all())
    except _CANNOT_RUN as error:
        raise ConfigError(f"quantize: {name} does not run on this machine's {device}: {one_line(error)}") from error
    if not good:
        raise ConfigError(f"quantize: {name} gives infinite values on this machine's {device}")


def _quantize(module: Any, name: str) -> None:
    """All linear layers of a module, in place; convolutions stay as they are."""
    import torch
    from torchao import quantization

    options = {"weight_dtype": getattr(torch, name.partition("_")[0])} if name[:4] in ("int4", "int2") else {}
    package = quantization
    if name.startswith("nvfp4"):
        package = importlib.import_module("torchao.prototype.mx_formats")
    quantization.quantize_(module, getattr(package, _TORCHAO[name])(**options))


def _check_attention(name: str, parts: Sequence[Any], device: str, who: str) -> None:
    """Runs a small attention by the backend."""
    import torch

    names = compat.attention_backends()
    if name not in names:
        raise ConfigError(f"attention: diffusers has no backend '{name}'. {nearest(name, names)}")
    if name.endswith("_hub"):
        raise ConfigError(f"attention: {name} fetches code from the hub, which is never run; give an installed backend")
    for part in parts:
        if name not in _NATIVE and part.__name__.startswith("UNet"):
            raise ConfigError(f"attention: {part.__name__} of {who} takes no '{name}', but {', '.join(_NATIVE)}")
    half = torch.float16 if device.startswith("cuda") else torch.float32
    query = torch.ones(1, 8, 2, 64, device=device, dtype=half)  # [B,T,H,D]
    try:
        compat.run_attention(name, query)
    except _CANNOT_RUN as error:
        raise ConfigError(f"attention: {name} does not run on this machine's {device}: {one_line(error)}") from error


def _set_attention(module: Any, name: str, who: str) -> None:
    if compat.takes_attention_backend(module):
        with compat.active_backend_kept():
            module.set_attention_backend(name)
    elif name in _NATIVE:
        module.forward = _within(module.forward, _NATIVE[name])
    else:
        raise ConfigError(f"attention: {type(module).__name__} of {who} takes no '{name}', but {', '.join(_NATIVE)}")


def _within(forward: Callable[..., Any], backends: Sequence[str]) -> Callable[..., Any]:
    """`forward` with torch's attention held to some of its kernels; none: to none in particular."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if not backends:
        return forward

    @functools.wraps(forward)
    def held(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel([getattr(SDPBackend, name) for name in backends]):
            return forward(*args, **kwargs)

    return held


def _cache_config(name: str, options: Mapping[str, Any], pipe: Any) -> Any:
    """diffusers' settings of a cache, for one denoiser of `pipe`."""
    import diffusers

    cls = getattr(diffusers, _CACHES[name], None)
    if cls is None:
        raise ConfigError(f"cache: diffusers {diffusers.__version__} has no {_CACHES[name]}: install a newer one")
    known = [f.name for f in fields(cls) if not f.name.startswith("_")]
    for option in options:
        if option not in known:
            raise ConfigError(f"cache.{option}: {_CACHES[name]} takes no such option. {nearest(option, known)}")
    ours: dict[str, Any] = {}
    if "current_timestep_callback" in known:
        ours["current_timestep_callback"] = lambda: pipe.current_timestep
    if name == "pyramid_attention_broadcast":
        ours["spatial_attention_block_skip_range"] = 2  # what diffusers falls back to
    if name == "faster_cache":
        ours["tensor_format"] = "BCHW"  # images; its default is video's
    if name == "taylorseer":
        ours["taylor_factors_dtype"] = denoisers(pipe)[0].dtype if pipe is not None else None
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        return cls(**{**ours, **values})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cache: {name}: {one_line(error)}") from error
