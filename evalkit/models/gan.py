"""GANs: the user's own torch module with its weights, or a TorchScript file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Settings
from evalkit.models.diffusers.checkpoint import read_header
from evalkit.models.latent import GanModel, cannot_take
from evalkit.utils.files import resolve_path, sha256_file
from evalkit.utils.state_dict import is_torchscript, read_state, what_it_is
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = ("float32", "float16", "bfloat16")


class TorchModuleModel(GanModel):
    """A generator `forward(z)` or `forward(z, class_labels)`: latents -> images [B,3,H,W] (or grey, [B,1,H,W]).

    Args:
        module: "package.Class", built with `module_args`; or a mapping {_target_: package.Class, ...}.
        module_args: keyword arguments of the class.
        weights: .safetensors, or a .pt/.pth file that holds tensors alone (`weights_only=True`); it must fit exactly.
        weights_key: the state dict's key in the file ("g_ema"), where it holds more than one.
        torchscript: a TorchScript file, instead of module and weights.
        latent_dim, latent, num_classes, class_input, output_range: see GanModel in latent.py.
        dtype: "float32", "float16" or "bfloat16".

    Call setting `truncation`: latent values beyond +-truncation are drawn again until they are within (the truncation
    trick of BigGAN, Brock et al. 2019, arXiv 1809.11096, section 3.1); those within stay as they are without it, so
    that settings compare sample by sample. None: off.
    """

    weights_option = "weights"

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
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype '{dtype}' is not known. {nearest(dtype, _DTYPES)}")
        super().__init__(latent_dim, latent, num_classes, class_input, output_range)
        self.module, self.module_args = module, dict(module_args or {})
        self.weights, self.weights_key, self.torchscript = weights, weights_key, torchscript
        self.dtype = dtype
        self._net: Any = None
        self._device = "cpu"

    @property
    def _file(self) -> Path:
        return resolve_path(str(self.torchscript or self.weights))

    @property
    def _target(self) -> str:
        return str(self.module.get("_target_")) if isinstance(self.module, Mapping) else str(self.module)

    @property
    def _who(self) -> str:
        return f"module '{self._target}'"

    def check(self, *, fetch: bool = True) -> None:
        """Looks for the weights, and for the module's package."""
        key = "torchscript" if self.torchscript else "weights"
        if not self._file.is_file():
            raise ConfigError(f"{self._file} is missing: set {key} to the generator's file")
        if self._file.suffix == ".safetensors":
            read_header(self._file)
        other = what_it_is(self._file)
        if other is not None and not (self.torchscript and is_torchscript(self._file)):
            raise ConfigError(f"{key}: {self._file} is {other[0]}: {other[1]}")
        package = self._target.partition(".")[0]
        if self.module is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(f"module '{self._target}': there is no package '{package}'")

    def identity(self) -> dict[str, Any]:
        """Digests of the weights and of the module's source file, with all that goes into a call."""
        module = {
            "module": dict(self.module) if isinstance(self.module, Mapping) else self.module,
            "module_args": self.module_args,
            "source": source_digest(self._target) if self.module is not None else None,
        }
        weights = {"weights": sha256_file(self._file), "weights_key": self.weights_key, "dtype": self.dtype}
        return {"kind": "torch module", **weights, **module, **self._about_latents()}

    def load(self, device: str) -> None:
        """Builds the module in evaluation mode with its weights."""
        import torch

        if self.torchscript is not None:
            try:
                net = torch.jit.load(str(self._file), map_location=device)  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:
                raise DataError(f"{self._file} is no TorchScript file: {one_line(error)}") from error
        else:
            net = self._build()
            _fill(net, read_state(self._file, self._who, self.weights_key), self._file)
        dtype = getattr(torch, self.dtype)
        self._net = net.to(device=device, dtype=dtype).eval()
        self._device = device

    def _build(self) -> Any:
        import torch

        from evalkit.config.build import build

        option = self.module if isinstance(self.module, Mapping) else {"_target_": self.module, **self.module_args}
        return build(option, f"module '{self._target}'", torch.nn.Module)

    def unload(self) -> None:
        self._net = None

    @property
    def _loaded(self) -> bool:
        return self._net is not None

    def _output(self, latents: Tensor, labels: Tensor | None, *, space: str, settings: Settings) -> Any:
        return self._evaluate(self._net, latents, labels)

    def _evaluate(self, call: Callable[..., Any], *inputs: Tensor | None, **arguments: Any) -> Any:
        """One call of (a part of) the module: floating-point inputs in its dtype, none left out.

        Raises:
            ConfigError: it cannot take them.
        """
        import torch

        dtype = getattr(torch, self.dtype)
        given = [x.to(self._device) for x in inputs if x is not None]
        given = [x.to(dtype) if x.is_floating_point() else x for x in given]
        with torch.no_grad():
            try:
                return call(*given, **arguments)
            except (TypeError, RuntimeError, IndexError) as error:
                if "out of memory" in str(error):
                    raise
                raise cannot_take(given, error) from error


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


def source_digest(target: str) -> str | None:
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
