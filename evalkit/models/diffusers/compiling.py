"""`compile`: torch.compile of the denoiser by a mode or a backend, which may be another package's."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.diffusers import compat
from evalkit.utils import devices
from evalkit.utils.text import one_line

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's, for inductor
_OWN = ("inductor", "cudagraphs", "aot_eager", "eager")  # torch's own backends
# Others' backends: the package that makes each known to torch, once it is imported, and how to install it.
_PACKAGES = {
    "tensorrt": ("torch_tensorrt", "pip install torch-tensorrt"),
    "torch_tensorrt": ("torch_tensorrt", "pip install torch-tensorrt"),
    "openvino": ("openvino", "pip install openvino"),
    "tvm": ("tvm", "pip install apache-tvm"),
    "openxla": ("torch_xla", "pip install torch_xla"),
}
_KEYS = ("backend", "mode", "options", "dynamic", "fullgraph")


@dataclass(frozen=True)
class Compiling:
    """How a denoiser is compiled.

    Attributes:
        backend: torch's name for it.
        arguments: what else torch.compile is given.
    """

    backend: str = "inductor"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, value: bool | str | Mapping[str, Any]) -> Compiling | None:
        """From the option: false; true; a mode or a backend by name; or a mapping of torch.compile's arguments.

        Raises:
            ConfigError: an unknown name (the nearest is offered). Nothing heavy is imported.
        """
        if not value:
            return None
        if value is True:
            return cls()
        given = {("mode" if value in MODES else "backend"): value} if isinstance(value, str) else dict(value)
        for key in given:
            if key not in _KEYS:
                raise ConfigError(f"compile.{key}: torch.compile takes no such argument. {nearest(str(key), _KEYS)}")
        backend, mode = given.pop("backend", None) or "inductor", given.get("mode")
        known = {*_OWN, *_PACKAGES, *(point.name for point in _registered())}
        if backend not in known:
            choices = [*known, *MODES]
            raise ConfigError(f"compile: torch has no mode or backend '{backend}'. {nearest(str(backend), choices)}")
        if mode is not None and (mode not in MODES or backend != "inductor"):
            why = "is of inductor alone" if mode in MODES else f"is not known. {nearest(str(mode), MODES)}"
            raise ConfigError(f"compile.mode: '{mode}' {why}")
        if mode is not None and given.get("options"):
            raise ConfigError("compile: torch.compile takes a mode or options, not both")
        return cls(backend, {name: argument for name, argument in given.items() if argument is not None})

    def check(self) -> None:
        """ConfigError where the backend's package is missing; it is not imported."""
        if self.backend in _PACKAGES and self.backend not in {point.name for point in _registered()}:
            package, install = _PACKAGES[self.backend]
            if importlib.util.find_spec(package) is None:
                raise ConfigError(f"compile: backend {self.backend} needs the package {package}: {install}")

    def check_device(self, device: str) -> None:
        """Compiles a small layer and runs it, where the backend is another package's. ConfigError: it cannot."""
        if self.backend == "inductor" and not compat.has_compiler(device):
            cuda = device.startswith("cuda")
            lacks = "needs triton on CUDA, which is not installed" if cuda else "finds no C++ compiler (g++)"
            raise ConfigError(f"compile: torch.compile {lacks}: set compile: false")
        if self.backend in _OWN:
            return
        import torch

        layer = torch.nn.Linear(8, 8).to(device)
        try:
            with torch.no_grad():
                good = bool(self._compile(layer.forward)(torch.ones(2, 8, device=device)).isfinite().all())
        except Exception as error:  # each backend has errors of its own
            why = one_line(error)
            raise ConfigError(f"compile: {self.backend} does not run on this machine's {device}: {why}") from error
        if not good:
            raise ConfigError(f"compile: {self.backend} gives infinite values on this machine's {device}")

    def compiled(self, forward: Any) -> Any:
        """A module's `forward`, to be compiled when it is first called."""
        made = self._compile(forward)
        return made if self.backend in _OWN else self._told(made)

    def _compile(self, forward: Any) -> Any:
        import torch

        if self.backend in _PACKAGES and self.backend not in {point.name for point in _registered()}:
            importlib.import_module(_PACKAGES[self.backend][0])  # as it is imported, torch gets to know it
        if self.backend == "inductor":
            return torch.compile(forward, **self.arguments)
        return torch.compile(forward, backend=self.backend, **self.arguments)

    def _told(self, call: Any) -> Any:
        """`call`, whose errors are one line: a graph that a backend cannot take shows when it is first run."""

        @functools.wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except Exception as error:
                if devices.is_out_of_memory(error):
                    raise
                raise ConfigError(
                    f"compile: {self.backend} cannot run the denoiser: {one_line(error, 200)}; give other arguments, "
                    f"as compile: {{backend: {self.backend}, dynamic: false}}, or another backend"
                ) from error

        return run


def _registered() -> Any:
    """Backends that installed packages name to torch."""
    return entry_points(group="torch_dynamo_backends")
