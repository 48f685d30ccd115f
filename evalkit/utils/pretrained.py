"""A model as transformers' `from_pretrained` reads it: a folder, or a repository on the hub. Safetensors alone.

Nothing of transformers is imported, and no code that lies next to weights is ever run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.hub import WeightsLocation
from evalkit.utils.weights import HubFile

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # weights, configuration, tokenizer, templates


@dataclass(frozen=True)
class Pretrained:
    """Where such a model is.

    Attributes:
        option: the option that names it, for messages ("extractor.judge_local.path").
        location: the folder, or the hub id and its revision.
    """

    option: str
    location: WeightsLocation

    def check(self, *, fetch: bool = True) -> None:
        """Finds all files; fetches those of a repository once, where it may.

        Raises:
            ConfigError: there is no such folder, or it lacks its configuration or its weights.
        """
        self.location.check(CONFIG, fetch=fetch)
        if self.location.on_hub and not fetch:
            return
        folder = self.folder()
        if not folder.is_dir():
            self._refuse("is no folder; give one made by save_pretrained or `hf download`, or a hub id (owner/name)")
        if not (folder / CONFIG).is_file():
            self._refuse(f"has no {CONFIG}: it is no model of transformers")
        index = folder / INDEX
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.is_file() else set()
        for shard in sorted(shards):
            if not (folder / shard).is_file():
                self._refuse(f"lacks {shard}, which {INDEX} names")
        if not any(folder.glob("*.safetensors")):
            self._refuse("has no weights in safetensors, and pickled ones are never loaded")

    def check_sees(self) -> None:
        """ConfigError where its configuration names no part that sees images: a model of texts alone."""
        text = (self.folder() / CONFIG).read_text("utf-8").lower()
        if not any(word in text for word in ("vision", "visual", "image")):
            self._refuse("is a model of texts alone; give one that sees images (Qwen2.5-VL, SmolVLM ...)")

    def _refuse(self, reason: str) -> None:
        raise ConfigError(f"{self.option}={self.location.path} {reason}")

    def folder(self) -> Path:
        """The folder; of a repository the one in the hub's cache, fetched if need be."""
        return self.location.get(FILES)

    def identity(self) -> dict[str, Any]:
        """What the weights are, after `check`: a digest of all files that are read; on the hub the commit."""
        if self.location.on_hub:
            cached = HubFile(self.location.path, CONFIG, self.location.revision).cached()
            commit = {"commit": cached.parent.name} if cached else {}
            return self.location.hub_identity(**commit)
        folder = self.location.local
        files = sorted({path for pattern in FILES for path in folder.glob(pattern)})
        return {"weights": sha256_json({path.name: sha256_file(path) for path in files})}


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' warnings and progress bars; what was set before is set again."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
