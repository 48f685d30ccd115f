"""One .onnx file, run by ONNX Runtime: found, checked, opened, called."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest, whole_number
from evalkit.utils.files import resolve_path, sha256_file, sha256_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_TAIL = "ExecutionProvider"
_CPU = f"CPU{_TAIL}"
_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_INTEGERS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}
INSTALL = "pip install 'evalkit[onnx]' (or onnxruntime-gpu, where CUDA is)"


# Which wheel has which execution provider; onnxruntime itself has the CPU's alone (on macOS CoreML's too).
_WHEELS = {
    **{"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "nvtensorrtrtx": "onnxruntime-trt-rtx"},
    **{"openvino": "onnxruntime-openvino", "dml": "onnxruntime-directml", "qnn": "onnxruntime-qnn"},
    **{"rocm": "onnxruntime-rocm", "migraphx": "onnxruntime-migraphx"},
}
# What `session` may set: attributes of onnxruntime.SessionOptions that change how a graph is run.
_LEVELS = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
_LEVELS |= {"all": "ORT_ENABLE_ALL"}
_CHOICES = {
    "graph_optimization_level": ("GraphOptimizationLevel", _LEVELS),
    "execution_mode": ("ExecutionMode", {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}),
}
_SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "use_deterministic_compute")
SESSION = (*_CHOICES, *_SWITCHES, "inter_op_num_threads", "config_entries")


class OnnxFile:
    """One .onnx file and how it is run.

    Args:
        path: the file; weights that lie next to it under names that begin with its own ("g.onnx.data") belong to it.
        providers: execution providers in order, as ONNX Runtime calls them or without "ExecutionProvider": "cpu",
            "cuda", "tensorrt", "openvino", "coreml", "dml" ...; one that is not available is refused, never silently
            left out.
        threads: of one operator; none: as many as ONNX Runtime thinks best.
        session: ONNX Runtime's session options: graph_optimization_level ("disable", "basic", "extended", "all"),
            execution_mode ("sequential", "parallel"), inter_op_num_threads, enable_mem_pattern, ..., and
            config_entries, a mapping of its own keys ("session.set_denormal_as_zero": "1").
        provider_options: by provider (as in `providers`) its options: {tensorrt: {trt_fp16_enable: true}}.

    Raises:
        ConfigError: an option or a value that is not known (the nearest is offered).
    """

    def __init__(
        self,
        path: str,
        providers: str | Sequence[str] = "cpu",
        threads: int | None = None,
        session: Mapping[str, Any] | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path = resolve_path(path)
        names = [providers] if isinstance(providers, str) else list(providers)
        if not names:
            raise ConfigError("providers: give at least one, such as cpu")
        if threads is not None:
            whole_number(threads, "threads")
        self.providers, self.threads = [str(name) for name in names], threads
        self.session = _check_session(session or {})
        shorts = [_short(name) for name in self.providers]
        self.provider_options = {_short(name): dict(given) for name, given in (provider_options or {}).items()}
        for name in self.provider_options:
            if name not in shorts:
                raise ConfigError(f"provider_options.{name}: not one of the providers. {nearest(name, shorts)}")
        self._session: Any = None

    def check(self) -> None:
        """Looks for the package, the file, and the execution providers (ConfigError); imports nothing for the CPU."""
        if importlib.util.find_spec("onnxruntime") is None:
            raise ConfigError(f"an .onnx model needs ONNX Runtime: {INSTALL}")
        if not self.path.is_file():
            raise ConfigError(f"{self.path} is missing: set path to the .onnx file")
        self.provider_names()

    def provider_names(self) -> list[str]:
        """The execution providers by ONNX Runtime's own names. ConfigError: one is not available here."""
        if all(name.lower() in ("cpu", _CPU.lower()) for name in self.providers):
            return [_CPU]
        import onnxruntime

        known = {_short(name): name for name in onnxruntime.get_available_providers()}
        inputs = []
        for name in self.providers:
            short = _short(name)
            if short not in known:
                wheel = f" (it comes with {_WHEELS[short]}, instead of onnxruntime)" if short in _WHEELS else ""
                raise ConfigError(
                    f"execution provider '{name}' is not available in onnxruntime {onnxruntime.__version__} on this "
                    f"machine{wheel}; available: {', '.join(known)}"
                )
            inputs.append(known[short])
        return inputs

    def identity(self) -> dict[str, Any]:
        data_files = sorted(self.path.parent.glob(f"{self.path.name}?*"))
        digests = [sha256_file(self.path), *([f.name, sha256_file(f)] for f in data_files if f.is_file())]
        weights = digests[0] if len(digests) == 1 else sha256_json(digests)
        later = {"session": self.session, "provider_options": self.provider_options}
        options = {name: value for name, value in later.items() if value}
        return {
            "weights": weights,
            "providers": [p.lower() for p in self.providers],
            "threads": self.threads,
            **options,
        }

    def load(self) -> None:
        """Opens a session.

        Raises:
            ConfigError: a provider cannot work here.
            DataError: the file is no model that ONNX Runtime takes.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads or 0
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors alone: they are raised as well
        _set_session(options, self.session)
        providers = self.provider_names()
        given = [{k: str(v) for k, v in self.provider_options.get(_short(name), {}).items()} for name in providers]
        try:
            session = onnxruntime.InferenceSession(
                str(self.path), options, providers=providers, provider_options=given if any(given) else None
            )
        except Exception as error:  # its own exceptions have no common base but this
            raise DataError(f"{self.path} cannot be loaded by ONNX Runtime: {one_line(error)}") from error
        if session.get_providers()[0] != providers[0]:
            raise ConfigError(
                f"{self.path}: {providers[0]} did not start (are its libraries here?), and ONNX Runtime fell back to "
                f"{session.get_providers()[0]}: give providers: cpu, or install them"
            )
        self._session = session

    def unload(self) -> None:
        self._session = None

    @property
    def loaded(self) -> bool:
        return self._session is not None

    def inputs(self) -> dict[str, tuple[str, list[Any]]]:
        """The graph's inputs in order: name -> (type, shape); a free dimension is a name or none."""
        return {i.name: (i.type, list(i.shape)) for i in self._session.get_inputs()}

    def name_of(self, role: str, given: str | None, position: int) -> str:
        """The name of the input that plays a role: the given one, or the one at a position.

        Raises:
            ConfigError: there is none.
        """
        names = list(self.inputs())
        if given is not None:
            if given not in names:
                raise ConfigError(f"{self.path} has no input '{given}' ({role}). {nearest(given, names)}")
            return given
        if position >= len(names):
            raise ConfigError(f"{self.path} takes {', '.join(names)}: there is no input for the {role}")
        return names[position]

    def outputs(self, feed: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """All outputs of one call, in the graph's order and types; inputs as of `run`.

        ConfigError: an input does not fit.
        """
        import torch

        arrays = self._arrays(feed)
        try:
            made = self._session.run(None, arrays)
        except Exception as error:  # see load
            raise self._cannot_take(arrays, error) from error
        return [torch.from_numpy(array) for array in made]

    def _arrays(self, feed: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
        """The inputs in the types that the graph declares. ConfigError: one of a type that is not known."""
        kinds, arrays = self.inputs(), {}
        for name, value in feed.items():
            if name not in kinds:  # a graph leaves out what changes nothing
                continue
            dtype = (_FLOATS | _INTEGERS).get(kinds[name][0])
            if dtype is None:
                raise ConfigError(f"{self.path}: input '{name}' is a {kinds[name][0]}, which is not known here")
            arrays[name] = value.cpu().numpy().astype(dtype)
        return arrays

    def _cannot_take(self, arrays: Mapping[str, NDArray[Any]], error: Exception) -> ConfigError:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arrays.items())
        return ConfigError(f"{self.path} cannot take {shapes}: {one_line(error)}")

    def run(self, feed: Mapping[str, torch.Tensor], output: str | None) -> torch.Tensor:
        """One call; each input is cast to the type that the graph declares. A graph of batch one is called B times.

        ConfigError: an input is missing or does not fit, or there is no such output.
        """
        import torch

        kinds = self.inputs()
        missing = sorted(kinds.keys() - feed.keys())
        if missing:
            raise ConfigError(f"{self.path} also takes the input {', '.join(missing)}: name the inputs by `inputs`")
        arrays = self._arrays(feed)
        names = [o.name for o in self._session.get_outputs()]
        if output is not None and output not in names:
            raise ConfigError(f"{self.path} has no output '{output}'. {nearest(output, names)}")
        outputs, count = [output or names[0]], max(len(value) for value in arrays.values() if value.ndim)
        alone = count > 1 and any(shape[:1] == [1] for _, shape in kinds.values())
        calls = [slice(i, i + 1) for i in range(count)] if alone else [slice(None)]
        try:
            parts: list[NDArray[np.float32]] = [
                self._session.run(outputs, {n: value[part] if value.ndim else value for n, value in arrays.items()})[0]
                for part in calls
            ]
        except Exception as error:  # see load
            raise self._cannot_take(arrays, error) from error
        return torch.cat([torch.from_numpy(part) for part in parts]).float()


def _short(provider: str) -> str:
    """ "cuda" of "CUDAExecutionProvider"."""
    return provider.lower().removesuffix(_TAIL.lower())


def _check_session(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in SESSION:
            raise ConfigError(f"session.{name}: there is no such session option. {nearest(str(name), SESSION)}")
        if name in _CHOICES and value not in _CHOICES[name][1]:
            raise ConfigError(f"session.{name}={value}: {nearest(str(value), _CHOICES[name][1])}")
        if name in _SWITCHES and not isinstance(value, bool):
            raise ConfigError(f"session.{name}={value}: give true or false")
        if name == "inter_op_num_threads":
            whole_number(value, f"session.{name}")
        if name == "config_entries" and not isinstance(value, Mapping):
            raise ConfigError(f"session.{name}={value}: give a mapping, such as {{session.set_denormal_as_zero: 1}}")
    return dict(given)


def _set_session(options: Any, given: Mapping[str, Any]) -> None:
    import onnxruntime

    for name, value in given.items():
        if name in _CHOICES:
            kind, values = _CHOICES[name]
            setattr(options, name, getattr(getattr(onnxruntime, kind), values[value]))
        elif name == "config_entries":
            for key, entry in value.items():
                options.add_session_config_entry(str(key), str(entry))
        else:
            setattr(options, name, value)
