"""LoRA adapters, which are put into a diffusers pipeline next to its own weights.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; loaded by diffusers and peft.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Settings
from evalkit.models.diffusers import compat
from evalkit.models.diffusers.checkpoint import Checkpoint, read_header
from evalkit.models.diffusers.lora_keys import LORA_KEY, Match, match_header, match_loaded
from evalkit.utils.files import sha256_file
from evalkit.utils.hub import WeightsLocation, entries, read_entry
from evalkit.utils.text import one_line

LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name for it
SCALE = "lora_scale"
ADAPTER_KEYS = ("path", "weight_name", "scale", "name", "revision")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """One LoRA.

    Attributes:
        location: a .safetensors file, a folder, or a repository.
        weight_name: the file in the folder or repository; none: diffusers' own name, or the only one there.
        scale: its weight; multiplied by the call setting `lora_scale`.
        name: what the pipeline calls it: lora0, lora1, ... where none is given.
    """

    location: WeightsLocation
    weight_name: str | None = None
    scale: float = 1.0
    name: str = "lora0"

    def file(self) -> Path:
        """The local file. ConfigError: there is none, or which one is meant is not clear."""
        path, given = self.location.local, self.location.path
        if path.is_dir():
            names = sorted(f.name for f in path.glob("*.safetensors"))
            name = self.weight_name or (LORA_FILE if LORA_FILE in names or len(names) != 1 else names[0])
            if name not in names:
                raise ConfigError(f"lora: {path} holds no {name}; give its weight_name. {nearest(name, names)}")
            return path / name
        if not path.is_file():
            raise ConfigError(f"lora: there is no file or folder {given}; give a .safetensors file, or a hub id")
        if path.suffix != ".safetensors":
            raise ConfigError(f"lora: {path} is no .safetensors file, and pickled weights are never loaded")
        return path

    @property
    def hub_file(self) -> str:
        """The file's name in a repository."""
        return self.weight_name or LORA_FILE

    def fetched(self) -> Path:
        """The file, fetched from the hub where it comes from there."""
        if not self.location.on_hub:
            return self.file()
        file = self.location.get([self.hub_file]) / self.hub_file
        if not file.is_file():
            raise ConfigError(f"lora: '{self.location.path}' on the hub holds no {self.hub_file}: give its weight_name")
        return file

    def identity(self) -> dict[str, Any]:
        on_hub = self.location.on_hub
        weights = self.location.hub_identity(file=self.hub_file) if on_hub else sha256_file(self.file())
        return {"weights": weights, "scale": self.scale}


def read_adapters(lora: Any) -> tuple[Adapter, ...]:
    """The adapters that the YAML's `lora` names: a path, a mapping of `ADAPTER_KEYS`, or a list of those.

    Raises:
        ConfigError: it is none of these, or an unknown key (the nearest is offered).
    """
    adapters: list[Adapter] = []
    for entry in entries(lora):
        given = read_entry("lora", entry, ADAPTER_KEYS)
        scale = given.get("scale", 1.0)
        if not _is_number(scale):
            raise ConfigError(f"lora.scale={scale!r}: give a number")
        name = given.get("name") or f"lora{len(adapters)}"
        if not str(name).isidentifier():
            raise ConfigError(f"lora.name='{name}': give a name of letters and digits, such as lora{len(adapters)}")
        location = WeightsLocation(given["path"], given.get("revision"))
        adapters.append(Adapter(location, given.get("weight_name"), float(scale), str(name)))
    names = [adapter.name for adapter in adapters]
    if len(set(names)) < len(names):
        raise ConfigError(f"lora: two adapters have one name ({', '.join(names)})")
    return tuple(adapters)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


class Loras:
    """The LoRA adapters of a pipeline: checked, loaded, and set to a scale from call to call.

    Args:
        lora: as in the YAML; none: no adapters.
        fused: add them to the weights when loading: no slower than the bare model, at one fixed scale.
        who: the model, for messages.
    """

    def __init__(self, lora: Any, fused: bool, who: str) -> None:
        self.adapters = read_adapters(lora)
        self.fused, self.who = fused, who
        if fused and not self.adapters:
            raise ConfigError("lora_fused: there is nothing to fuse; give lora=FILE as well")
        self._set: tuple[float, ...] | None = None
        self._counted: dict[str, Match] = {}  # by adapter what the headers told
        self._faults: dict[str, list[str]] = {}

    def check(self, base: Checkpoint | None, *, fetch: bool) -> None:
        """Looks at each file's header, and whether it fits the local pipeline `base`; `fetch` as of WeightsLocation.

        Raises:
            ConfigError: peft or a file is missing.
            DataError: it is broken, no LoRA, or made for another model.
        """
        if self.adapters and importlib.util.find_spec("peft") is None:
            raise ConfigError("lora needs the package peft: pip install 'evalkit[lora]'")
        for adapter in self.adapters:
            if adapter.location.on_hub:
                adapter.location.check(adapter.hub_file, fetch=fetch)
                continue
            file = adapter.file()
            header = read_header(file)
            if not any(LORA_KEY.search(key) for key in header):
                raise DataError(f"lora: {file} holds no LoRA: none of its tensors is named so")
            match = match_header(header, base, f"lora: {file} does not fit {self.who}") if base is not None else None
            if match is not None:
                match.tell(file, self.who)
                self._counted[adapter.name] = match

    def identity(self) -> dict[str, Any]:
        """Digests and scales; empty without adapters, so that a plain model's identity is what it was."""
        if not self.adapters:
            return {}
        return {"lora": [adapter.identity() for adapter in self.adapters], "lora_fused": self.fused}

    def load(self, pipe: Any) -> None:
        """Puts all adapters into the pipeline, and fuses them where that is asked for. Raises as `Model.load`."""
        if not self.adapters:
            return
        _takes_lora(type(pipe), self.who)
        for adapter in self.adapters:
            file = adapter.fetched()
            try:
                names = {"weight_name": file.name, "adapter_name": adapter.name}
                pipe.load_lora_weights(str(file.parent), **names, use_safetensors=True, local_files_only=True)
            except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
                raise DataError(f"lora: {file} does not fit {self.who}: {one_line(error)}") from error
            self._count(pipe, adapter, file)
        self._set = None
        if self.fused:
            self._activate(pipe, [adapter.scale for adapter in self.adapters])
            if any(adapter.scale for adapter in self.adapters):
                pipe.fuse_lora(components=compat.lora_modules(pipe))
            pipe.unload_lora_weights()

    def _count(self, pipe: Any, adapter: Adapter, file: Path) -> None:
        """Tells how many of the file's keys were put in, which diffusers only logs. DataError: none."""
        unet = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}  # else SDXL's block names stay unread
        read = type(pipe).lora_state_dict(str(file.parent), weight_name=file.name, local_files_only=True, **unet)
        match, zero = match_loaded(pipe, adapter.name, read[0] if isinstance(read, tuple) else read)
        known = self._counted.get(adapter.name)
        if known is None or (known.keys, known.matched) != (match.keys, match.matched):
            match.tell(file, self.who)
        if zero:
            log.warning("lora: %s changes no pixel of %s: its last weights are all zero", file, self.who)
        self._faults[adapter.name] = ["lora_unmatched"] * match.poor + ["lora_zero"] * zero

    def warnings(self, settings: Settings) -> list[str]:
        """What is to be said of each sample made at these settings: an adapter in use did not fit, or does nothing."""
        used = zip(self.adapters, self._scales(settings), strict=True)
        return sorted({fault for adapter, scale in used if scale for fault in self._faults.get(adapter.name, ())})

    def check_call(self, settings: Settings, pipeline: Any) -> dict[str, Any]:
        """The settings without `lora_scale`. ConfigError: see `_scales`; or the pipeline's class takes no LoRA."""
        if self.adapters and pipeline is not None:
            _takes_lora(pipeline, self.who)
        self._scales(settings)
        return {key: value for key, value in settings.items() if key != SCALE}

    def _scales(self, settings: Settings) -> list[float]:
        """One scale per adapter. ConfigError: it is no number, has no adapter, or is fixed since they are fused."""
        given = settings.get(SCALE)
        if given is None:
            return [adapter.scale for adapter in self.adapters]
        if not self.adapters:
            raise ConfigError(f"{SCALE} is set, but no lora is given: give lora=FILE, or take {SCALE} away")
        if self.fused:
            raise ConfigError(
                f"{SCALE} changes adapters from call to call, but these are fused into the weights: set lora_fused: "
                "false, or give the scale with the adapter (lora: {path: ..., scale: 0.5})"
            )
        each = list(given) if isinstance(given, list | tuple) else [given] * len(self.adapters)
        if len(each) != len(self.adapters) or not all(map(_is_number, each)):
            raise ConfigError(f"{SCALE}={given}: give a number, or a list of {len(self.adapters)}, one per adapter")
        return [adapter.scale * scale for adapter, scale in zip(self.adapters, each, strict=True)]

    def set(self, pipe: Any, settings: Settings) -> dict[str, Any]:
        """Brings the adapters to the call's scales (at 0 the pipeline is exactly the bare one); the other settings."""
        scales = self._scales(settings)
        if self.adapters and not self.fused and self._set != tuple(scales):
            self._activate(pipe, scales)
            self._set = tuple(scales)
        return {key: value for key, value in settings.items() if key != SCALE}

    def _activate(self, pipe: Any, scales: Sequence[float]) -> None:
        used = [(adapter.name, scale) for adapter, scale in zip(self.adapters, scales, strict=True) if scale]
        if not used:
            pipe.disable_lora()
            return
        pipe.enable_lora()
        pipe.set_adapters([name for name, _ in used], adapter_weights=[scale for _, scale in used])


def _takes_lora(pipeline: Any, who: str) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"{who}: {pipeline.__name__} takes no LoRA")
