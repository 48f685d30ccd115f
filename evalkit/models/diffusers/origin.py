"""Where a pipeline's weights come from: a folder, a repository, or a single file next to a folder of configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.diffusers.checkpoint import INDEX, PREDICTIONS, Checkpoint
from evalkit.models.diffusers.sampling import DENOISERS
from evalkit.models.diffusers.single_file import SingleFile, is_single_file, read_single_file
from evalkit.utils.hub import WeightsLocation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """The options of a model that say where it is from; `DiffusersModel` says what each means."""

    path: str
    revision: str | None = None
    variant: str | None = None
    safety_checker: bool = True
    config: str | None = None
    original_config: str | None = None
    ema: bool = False
    prediction_type: str | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in (None, *PREDICTIONS):
            near = nearest(str(self.prediction_type), PREDICTIONS)
            raise ConfigError(f"prediction_type '{self.prediction_type}' is not known. {near}")
        for name in ("config", "original_config", "ema"):
            if getattr(self, name) and not self.is_file:
                raise ConfigError(
                    f"{name}: {self.path} is no single file (.safetensors), which alone is told its {name}"
                )

    @cached_property
    def location(self) -> WeightsLocation:
        return WeightsLocation(self.path, self.revision)

    @property
    def is_file(self) -> bool:
        return is_single_file(self.path)

    @property
    def local(self) -> bool:
        """Whether all is here, or should be."""
        return self.is_file or not self.location.on_hub

    def has_index(self) -> bool:
        """Whether the pipeline's model_index.json is here."""
        if self.is_file:
            return self.config is not None and (Path(self.config).expanduser() / INDEX).is_file()
        return self.local and (self.location.local / INDEX).is_file()

    def checkpoint(self, folder: Path | None = None) -> Checkpoint:
        """The local pipeline; `folder`: where a repository's files are. ConfigError: a single file's are not named."""
        if self.is_file:
            return read_single_file(self.path, self.config, self.original_config, self.ema, self.prediction_type)
        leave_out = frozenset() if self.safety_checker else frozenset({"safety_checker"})
        return Checkpoint(folder or self.location.local, self.variant, leave_out, self.prediction_type)

    def check(self, who: str, *, fetch: bool) -> None:
        """As `Model.check`."""
        if not self.local:
            self.location.check(INDEX, fetch=fetch)
            return
        folder = self.location.local
        if not self.is_file and not folder.is_dir():
            raise ConfigError(
                f"{who}: there is no such folder; give a hub id (owner/name), a folder made by `hf download OWNER/NAME "
                "--local-dir FOLDER` or save_pretrained, or a .safetensors file (and its config)"
            )
        alone = [name for name in DENOISERS for tail in ("", "_ema") if (folder / f"{name}{tail}").is_dir()]
        if not self.is_file and alone and not any((folder / name).exists() for name in (INDEX, "vae", "scheduler")):
            raise ConfigError(
                f"{who} has no {INDEX}, but a denoiser ({alone[0]}), as trainers write it: give path=PIPELINE (that "
                f"it was trained from) and denoiser={self.path}"
            )
        checkpoint = self.checkpoint()
        checkpoint.check()
        if isinstance(checkpoint, SingleFile):
            facts = (f"{key.replace('_', ' ')} {value}" for key, value in checkpoint.facts().items())
            log.info("%s: %s", who, ", ".join(facts))

    def identity(self) -> dict[str, Any]:
        """Digest of what is read, or hub id and revision; of a single file what was made of it."""
        if not self.local:
            more: dict[str, Any] = {"weights": self.location.hub_identity()}
        else:
            checkpoint = self.checkpoint()
            more = {"weights": checkpoint.digest()}
            more |= {"single_file": checkpoint.facts()} if isinstance(checkpoint, SingleFile) else {}
        return more | ({"prediction_type": self.prediction_type} if self.prediction_type is not None else {})

    def fetched(self) -> Checkpoint:
        """The pipeline, fetched if need be. ConfigError: it cannot be had."""
        return self.checkpoint() if self.is_file else self.checkpoint(self.location.get_pipeline(self.variant))
