"""GANs: a torch module of anyone's own with its weights, or a TorchScript file."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Generated, Model, Request, Sampler
from evalkit.models.checkpoint import read_header
from evalkit.paths import resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_DTYPES = ("float32", "float16", "bfloat16")


class TorchModuleModel(Model):
    """A generator `forward(z)` or `forward(z, class_labels)`: latents -> images [B,3,H,W] (or grey, [B,1,H,W]).

    Args:
        module: "package.Class", built with `module_args`; or a mapping {_target_: package.Class, ...}.
        module_args: keyword arguments of the class.
        weights: .safetensors, or a .pt/.pth file that holds tensors alone (`weights_only=True`); it must fit exactly.
        weights_key: the state dict's key in the file ("g_ema"), where it holds more than one.
        torchscript: a TorchScript file, instead of module and weights.
        latent_dim: z is f32 [B, latent_dim], or [B, *latent_dim].
        latent: "normal", or "uniform" in [-1, 1].
        num_classes: gives `forward` class labels: a sample's own, or its index modulo this.
        class_input: "index": i64 [B]; "one_hot": f32 [B, num_classes].
        output_range: what the module's darkest and lightest value are; beyond it is clamped, halves are rounded up.
        dtype: "float32", "float16" or "bfloat16".

    Call setting `truncation`: latent values beyond +-truncation are drawn anew until they are within (the truncation
    trick of BigGAN, Brock et al. 2019, arXiv 1809.11096, section 3.1); those within stay as they are without it, so
    that settings compare sample by sample. None: off.
    """

    call_settings = frozenset({"truncation"})

    def __init__(
        self,
        module: str | Mapping[str, Any] | None = None,
        module_args: Mapping[str, Any] | None = None,
        weights: str | None = None,
        weights_key: str | None = None,
        torchscript: str | None = None,
        latent_dim: int | Sequence[int] = 128,
        latent: Literal["normal", "uniform"] = "normal",
        num_classes: int | None = None,
        class_input: Literal["index", "one_hot"] = "index",
        output_range: Sequence[float] = (-1, 1),
        dtype: str = "float32",
    ) -> None:
        if (module is None) == (torchscript is None):
            raise ConfigError("a GAN needs either `module` (package.Class) with `weights`, or `torchscript` (a file)")
        if module is not None and weights is None:
            raise ConfigError(f"{module}: give its weights (.safetensors, .pt or .pth)")
        for name, value, known in (
            ("latent", latent, ("normal", "uniform")),
            ("class_input", class_input, ("index", "one_hot")),
            ("dtype", dtype, _DTYPES),
        ):
            if value not in known:
                raise ConfigError(f"{name} '{value}' is not known. {nearest(value, known)}")
        if len(output_range) != 2 or not output_range[0] < output_range[1]:
            raise ConfigError(f"output_range {list(output_range)}: give the darkest and the lightest value, as [-1, 1]")
        if num_classes is not None and num_classes < 1:
            raise ConfigError(f"num_classes={num_classes}: give a number >= 1, or null")
        self.module, self.module_args = module, dict(module_args or {})
        self.weights, self.weights_key, self.torchscript = weights, weights_key, torchscript
        self.latent_shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
        self.latent, self.num_classes, self.class_input = latent, num_classes, class_input
        self.output_range, self.dtype = (float(output_range[0]), float(output_range[1])), dtype
        self.conditioning = "none" if num_classes is None else "class"
        self._net: Any = None
        self._device = "cpu"

    @property
    def _file(self) -> Path:
        return resolve_path(str(self.torchscript or self.weights))

    @property
    def _target(self) -> str:
        return str(self.module.get("_target_")) if isinstance(self.module, Mapping) else str(self.module)

    def check(self) -> None:
        """Looks for the weights, and for the module's package.

        Raises:
            ConfigError: a file or the package is missing.
            DataError: a safetensors file is broken.
        """
        key = "torchscript" if self.torchscript else "weights"
        if not self._file.is_file():
            raise ConfigError(f"{self._file} is missing: set {key} to the generator's file")
        if self._file.suffix == ".safetensors":
            read_header(self._file)
        if self.module is not None and importlib.util.find_spec(self._target.partition(".")[0]) is None:
            raise ConfigError(f"module '{self._target}': there is no package '{self._target.partition('.')[0]}'")

    def identity(self) -> dict[str, Any]:
        """Digests of the weights and of the module's source file, with all that goes into a call."""
        return {
            "kind": "torch module",
            "weights": sha256_file(self._file),
            "weights_key": self.weights_key,
            "module": dict(self.module) if isinstance(self.module, Mapping) else self.module,
            "module_args": self.module_args,
            "source": _source_digest(self._target) if self.module is not None else None,
            "latent": [self.latent, *self.latent_shape],
            "classes": [self.num_classes, self.class_input],
            "output_range": list(self.output_range),
            "dtype": self.dtype,
        }

    def load(self, device: str) -> None:
        """Builds the module in evaluation mode with its weights.

        Raises:
            ConfigError: the class cannot be had or built.
            DataError: the weights are broken, or do not fit (keys named).
        """
        import torch

        if self.torchscript is not None:
            try:
                net = torch.jit.load(str(self._file), map_location=device)  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:
                raise DataError(f"{self._file} is no TorchScript file: {_first_line(error)}") from error
        else:
            net = self._build()
            _fill(net, self._state_dict(), self._file)
        dtype = getattr(torch, self.dtype)
        self._net = net.to(device=device, dtype=dtype).eval()
        self._device = device

    def _build(self) -> Any:
        import torch

        from evalkit.config import build

        option = self.module if isinstance(self.module, Mapping) else {"_target_": self.module, **self.module_args}
        net = build(option, f"module '{self._target}'")
        if not isinstance(net, torch.nn.Module):
            raise ConfigError(f"module '{self._target}' makes a {type(net).__name__}, not a torch.nn.Module")
        return net

    def _state_dict(self) -> dict[str, Any]:
        import pickle

        import torch

        file = self._file
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(str(file))
        else:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
                raise DataError(
                    f"{file} holds more than tensors, or is broken: save the generator's state_dict() alone, best as "
                    f"safetensors ({_first_line(error)})"
                ) from error
        if self.weights_key is not None:
            if not isinstance(state, dict) or self.weights_key not in state:
                names = [str(k) for k in state] if isinstance(state, dict) else []
                raise ConfigError(f"{file} has no weights_key '{self.weights_key}'. {nearest(self.weights_key, names)}")
            state = state[self.weights_key]
        if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
            names = [str(k) for k, v in state.items() if isinstance(v, dict)] if isinstance(state, dict) else []
            raise ConfigError(f"{file} is no plain state dict: name the one in it by weights_key ({', '.join(names)})")
        return state

    def unload(self) -> None:
        """Frees the memory of `load`."""
        import gc

        import torch

        self._net = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def check_call(self, sampler: Sampler | None, settings: Mapping[str, Any]) -> None:
        """Refuses settings that the model does not take.

        Raises:
            ConfigError: an unknown setting, or a truncation that makes no sense.
        """
        for name in settings:
            if name not in self.call_settings:
                raise ConfigError(f"a GAN takes no setting '{name}'. {nearest(name, self.call_settings)}")
        limit = settings.get("truncation")
        if limit is None:
            return
        if self.latent != "normal":
            raise ConfigError("truncation is for normal latents: set truncation: null, or latent: normal")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0.01 <= limit < math.inf:
            raise ConfigError(f"truncation={limit!r}: give a number of at least 0.01, or null")

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        """Makes one image a request from a latent of the request's own generator, in one network evaluation.

        Raises:
            ConfigError: a setting, or a shape that `forward` cannot take.
            DataError: the output is no image, holds NaN, or a sample's class is unknown.
        """
        import torch

        if self._net is None:
            raise RuntimeError("load() comes before generate()")
        self.check_call(sampler, settings)
        limit = settings.get("truncation")
        z = torch.stack([self._draw(r.generator(), limit) for r in requests])  # f32 [B, *latent_shape]
        inputs = [z.to(device=self._device, dtype=getattr(torch, self.dtype))]
        if self.num_classes is not None:
            inputs.append(self._labels(requests, self.num_classes).to(self._device))
        with torch.no_grad():
            try:
                output = self._net(*inputs)
            except (TypeError, RuntimeError, IndexError) as error:
                if "out of memory" in str(error):
                    raise
                shapes = ", ".join(str(list(i.shape)) for i in inputs)
                raise ConfigError(
                    f"the generator cannot take {shapes} (latent_dim, num_classes): {_first_line(error)}"
                ) from error
        return Generated(self._pixels(output, len(requests)), 1.0, [[] for _ in requests])

    def _draw(self, generator: torch.Generator, limit: float | None) -> torch.Tensor:
        import torch

        if self.latent == "uniform":
            return torch.rand(self.latent_shape, generator=generator) * 2 - 1
        z = torch.randn(self.latent_shape, generator=generator)
        while limit is not None and (beyond := z.abs() > limit).any():
            z[beyond] = torch.randn(int(beyond.sum()), generator=generator)
        return z

    def _labels(self, requests: Sequence[Request], total: int) -> torch.Tensor:
        import torch

        ids = [r.class_id if r.class_id is not None else r.index % total for r in requests]
        for request, number in zip(requests, ids, strict=True):
            if not 0 <= number < total:
                raise DataError(f"sample {request.index} asks for class {number}; the generator has {total}")
        labels = torch.tensor(ids)
        if self.class_input == "one_hot":
            return torch.nn.functional.one_hot(labels, total).to(getattr(torch, self.dtype))
        return labels

    def _pixels(self, output: Any, count: int) -> NDArray[np.uint8]:
        """The module's [B,C,H,W] as u8 [B,H,W,3]."""
        import torch

        if not isinstance(output, torch.Tensor):
            raise DataError(f"the generator gave a {type(output).__name__}, not a tensor [B,3,H,W]")
        if output.ndim != 4 or output.shape[0] != count or output.shape[1] not in (1, 3):
            raise DataError(f"the generator gave {list(output.shape)} for {count} latents, not [{count},3,H,W]")
        x = output.cpu().double()
        if not x.isfinite().all():
            raise DataError("the generator's output holds NaN or infinite values")
        low, high = self.output_range
        x = ((x - low) / (high - low) * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
        pixels: NDArray[np.uint8] = x.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
        return pixels


def _fill(net: Any, state: Mapping[str, Any], file: Path) -> None:
    """Loads a state dict that must fit exactly."""
    own = net.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has no place for", state.keys() - own.keys())):
        if names:
            some = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            subject = file if what == "lacks" else f"{file} does not fit: the module"
            raise DataError(f"{subject} {what} {some}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise DataError(f"{file}: {name} is {list(state[name].shape)}, the module's {list(value.shape)}")
    net.load_state_dict(state)


def _source_digest(target: str) -> str | None:
    """Digest of the source file that defines a class, found without importing it (its package may import torch)."""
    top, *rest = target.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or []:
        for depth in range(len(rest), 0, -1):
            base = Path(folder).joinpath(*rest[:depth])
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.is_file():
                    return sha256_file(file)
    return sha256_file(Path(spec.origin)) if spec.origin and Path(spec.origin).is_file() else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
