"""A vision model of transformers, from a folder or the hub: its classes are known without torch; loaded in float32."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import sha256_json
from evalkit.utils.hub import WeightsLocation
from evalkit.utils.json_files import read_json
from evalkit.utils.pretrained import CONFIG, Pretrained, quiet
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH, HubFile

UNSET = "(none)"
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network and its image processor, both as transformers' `from_pretrained` reads them.

    Attributes:
        where: how messages name the owner ("extractor 'detector'").
        files: where they are.
    """

    where: str
    files: Pretrained

    @classmethod
    def read(cls, name: str, entry: Any, option: str = "model") -> PretrainedNetwork:
        """From an option: a folder, a hub id, or {path: owner/name, revision: main}; none: `check` refuses it."""
        owner = f"extractor.{name}.{option}"
        entry = entry or {"path": UNSET}
        return cls(f"extractor '{name}'", Pretrained(owner, WeightsLocation.read(owner, entry)))

    def check(self, *, fetch: bool = True) -> None:
        """Finds all files; see `Pretrained.check`. ConfigError: the image processor's are missing as well."""
        if self.files.location.path == UNSET:
            raise ConfigError(f"{self.files.option} is not set: give a folder of a transformers model, or a hub id")
        self.files.check(fetch=fetch)
        if (self.config_file() or Path()).name == CONFIG and not (self.files.folder() / PROCESSOR).is_file():
            raise ConfigError(f"{self.files.option}={self.files.location.path} has no {PROCESSOR}")

    def config_file(self) -> Path | None:
        """config.json, where it is on this machine."""
        place = self.files.location
        if place.on_hub:
            return HubFile(place.path, CONFIG, place.revision).cached()
        file = place.local / CONFIG
        return file if file.is_file() else None

    @functools.cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json. ConfigError: it is not there, or no JSON object."""
        file = self.config_file()
        if file is None:
            raise ConfigError(f"{self.files.option}={self.files.location.path} has no {CONFIG}")
        try:
            found = read_json(file)
        except (DataError, OSError) as error:
            raise ConfigError(f"{self.where}: {one_line(error)}") from error
        if not isinstance(found, Mapping):
            raise ConfigError(f"{self.where}: {file} is no JSON object")
        return found

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from ("DetrForObjectDetection"); "" where config.json does not say."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def label_names(self) -> tuple[str, ...]:
        """By label id the class's name; ConfigError: config.json does not say."""
        names = self.config.get("id2label")
        if not isinstance(names, Mapping) or not names or not all(str(key).isdecimal() for key in names):
            raise ConfigError(f"{self.where}: {self.config_file()} has no id2label: its classes are unknown")
        by_id = {int(key): str(name) for key, name in names.items()}
        return tuple(by_id.get(i, f"LABEL_{i}") for i in range(max(by_id) + 1))

    def identity(self) -> dict[str, Any]:
        """All that its outputs depend on: JSON."""
        return {"network": f"transformers {version('transformers')}", "model": self.architecture, **self._files}

    @functools.cached_property
    def _files(self) -> dict[str, Any]:
        return self.files.identity()

    def tag(self) -> str:
        """For labels: the beginning of a digest of its files."""
        return sha256_json(self._files)[:TAG_LENGTH]

    def load(self, kind: str) -> Any:
        """The module in float32, in eval mode, on the CPU.

        Args:
            kind: a class of transformers, such as "AutoModelForObjectDetection".

        Raises:
            ConfigError: it is no such model, or lacks some of its weights.
        """
        import torch
        import transformers

        folder = self.files.folder()
        options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        try:
            with quiet():
                net, info = getattr(transformers, kind).from_pretrained(
                    folder, **options, dtype=torch.float32, output_loading_info=True
                )
        except Exception as error:  # many kinds: of JSON, of shapes, of packages that are not there
            raise ConfigError(f"{self.where}: transformers cannot load {folder}: {one_line(error)}") from error
        missing = sorted(info["missing_keys"])
        if missing:
            lacks = f"lacks {len(missing)} weights of {type(net).__name__}, such as {missing[0]}"
            raise ConfigError(f"{self.where}: {folder} {lacks}")
        return net.eval().requires_grad_(False)

    def processor(self) -> Any:
        """The image processor. ConfigError: there is none that transformers can read."""
        from transformers import AutoImageProcessor

        folder = self.files.folder()
        try:
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            reason = one_line(error)
            raise ConfigError(f"{self.where}: transformers reads no image processor of {folder}: {reason}") from error
