"""A folder of transformers (config.json, safetensors, a processor's JSON): looked at without torch, and loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import resolve_path, sha256_file, sha256_json
from evalkit.utils.json_files import read_json
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class PretrainedFolder:
    """A model of transformers on this machine: read from its files alone, and no code of the folder is run.

    Attributes:
        owner: the option that names it ("extractor.detector").
        path: the folder; `pkg://package/path` where a package ships it.
        option: its key.
    """

    owner: str
    path: str
    option: str = "model"

    @property
    def where(self) -> str:
        """How messages name the owner."""
        kind, _, name = self.owner.partition(".")
        return f"{kind} '{name}'"

    def check(self) -> None:
        """Raises ConfigError where the folder lacks a part: which, and how to get it."""
        folder = resolve_path(self.path)
        if not folder.is_dir():
            fix = f"hf download OWNER/NAME --local-dir DIR, then {self.owner}.{self.option}=DIR"
            raise ConfigError(f"{self.where}: there is no folder {folder} ({self.owner}.{self.option}): {fix}")
        for name in (CONFIG, PROCESSOR):
            if not (folder / name).is_file():
                raise ConfigError(f"{self.where}: {folder} is no folder of a transformers model: it has no {name}")
        if not self._files():
            raise ConfigError(f"{self.where}: {folder} has no *.safetensors: a pickle is not loaded, convert it")
        self.config()

    def config(self) -> Mapping[str, Any]:
        """config.json. ConfigError: it is no JSON object."""
        file = resolve_path(self.path) / CONFIG
        try:
            found = read_json(file)
        except (DataError, OSError) as error:
            raise ConfigError(f"{self.where}: {one_line(error)}") from error
        if not isinstance(found, Mapping):
            raise ConfigError(f"{self.where}: {file} is no JSON object")
        return found

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from ("DetrForObjectDetection"); "" where the file does not say."""
        names = self.config().get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def label_names(self) -> tuple[str, ...]:
        """By label id the class's name; ConfigError: config.json does not say."""
        names = self.config().get("id2label")
        if not isinstance(names, Mapping) or not names or not all(str(key).isdecimal() for key in names):
            raise ConfigError(
                f"{self.where}: {resolve_path(self.path) / CONFIG} has no id2label: its classes are unknown"
            )
        by_id = {int(key): str(name) for key, name in names.items()}
        return tuple(by_id.get(i, f"LABEL_{i}") for i in range(max(by_id) + 1))

    def _files(self) -> list[Path]:
        return sorted(resolve_path(self.path).glob("*.safetensors"))

    @functools.cached_property
    def _digest(self) -> str:
        folder = resolve_path(self.path)
        files = [folder / CONFIG, folder / PROCESSOR, *self._files()]
        return sha256_json({file.name: sha256_file(file) for file in files})

    def identity(self) -> dict[str, Any]:
        """All that its outputs depend on: JSON."""
        return {
            "network": f"transformers {version('transformers')}",
            "model": self.architecture,
            "folder": self._digest,
        }

    def tag(self) -> str:
        """For labels: the beginning of the digest."""
        return self._digest[:TAG_LENGTH]

    def load(self, kind: str) -> Any:
        """The module in float32, in eval mode, on the CPU.

        Args:
            kind: a class of transformers, such as "AutoModelForObjectDetection".

        Raises:
            ConfigError: the folder holds no such model, or lacks some of its weights.
        """
        import torch
        import transformers
        from transformers.utils import logging

        folder = resolve_path(self.path)
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        try:
            net, info = getattr(transformers, kind).from_pretrained(
                folder, **options, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # many kinds: of JSON, of shapes, of packages that are not there
            raise ConfigError(f"{self.where}: transformers cannot load {folder}: {one_line(error)}") from error
        finally:
            if bars:
                logging.enable_progress_bar()
        missing = sorted(info["missing_keys"])
        if missing:
            raise ConfigError(
                f"{self.where}: {folder} lacks {len(missing)} weights of {type(net).__name__}: {missing[0]}"
            )
        return net.eval().requires_grad_(False)

    def processor(self) -> Any:
        """The image processor. ConfigError: there is none that transformers can read."""
        from transformers import AutoImageProcessor

        folder = resolve_path(self.path)
        try:
            return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ConfigError(
                f"{self.where}: transformers reads no image processor of {folder}: {one_line(error)}"
            ) from error
