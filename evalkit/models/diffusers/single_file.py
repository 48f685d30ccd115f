"""A pipeline whose weights lie in one file of its makers' layout (SD 1.5, SDXL, SD 3, FLUX ...), next to a folder that
holds the configuration of its parts. diffusers' `from_single_file` reads it; nothing is fetched."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError
from evalkit.models.diffusers import compat
from evalkit.models.diffusers.checkpoint import INDEX, Checkpoint, Component, dtype_of, read_header
from evalkit.utils.files import resolve_path, sha256_file, sha256_json
from evalkit.utils.text import one_line

SUFFIX = ".safetensors"
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_EMA, _LEAST_EMA = "model_ema.", 100  # diffusers takes fewer such tensors for none
_VAE = ("first_stage_model.", "vae.")
_TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_T5 = ("text_encoders.t5xxl.",)
_PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon"}  # as Stability's model specification calls them


@dataclass(frozen=True)
class SingleFile(Checkpoint):
    """A pipeline in one file.

    Attributes:
        file: the .safetensors file; parts that it does not hold are read from `folder`.
        ema: its EMA weights, where it holds both.
        original_config: its makers' YAML, which tells the UNet's and the VAE's shape in place of `folder`.
    """

    file: Path = Path()
    ema: bool = False
    original_config: Path | None = None

    def check(self) -> None:
        """As of a folder. ConfigError also: EMA weights are asked for and not there, or the prediction types differ."""
        header = read_header(self.file)
        if not (self.folder / INDEX).is_file():
            raise ConfigError(f"config: {self.folder / INDEX} is missing: {config_advice(self.file)}")
        if self.original_config is not None and not self.original_config.is_file():
            raise ConfigError(f"original_config: there is no file {self.original_config}")
        super().check()
        if self.ema and not _has_ema(header):
            raise ConfigError(f"ema: {self.file} holds no separate EMA weights (model_ema): set ema: false")
        configured, said = self._configured(), _said(self.file, header)
        if said and configured and said != configured and self.prediction_type is None:
            raise ConfigError(
                f"{self.file} says of itself that it predicts {said}, and {self.folder}/scheduler says {configured}: "
                f"set prediction_type: {said} (or {configured})"
            )

    def _configured(self) -> str | None:
        return self.config_of("scheduler").get("prediction_type")

    def facts(self) -> dict[str, str]:
        """What a reader should know of it, and what its pixels depend on."""
        has_ema = _has_ema(read_header(self.file))
        weights = "EMA" if self.ema else "as trained (EMA weights are there too: ema: true)" if has_ema else "as stored"
        return {"prediction_type": self._configured() or "the scheduler's own", "weights": weights}

    def _holds(self, part: Component) -> bool:
        """Whether a part's weights are in the file."""
        if part.library != "diffusers":
            prefixes: tuple[str, ...] = _T5 if part.class_name.startswith(("T5", "UMT5")) else _TEXT
        elif part.name == "vae":
            prefixes = _VAE
        else:
            return True
        return any(key.startswith(prefixes) for key in read_header(self.file))

    def weight_files(self, part: Component) -> list[Path]:
        """The file, or those of the configuration's folder. ConfigError: the part is in neither."""
        if self._holds(part):
            return [self.file]
        try:
            return super().weight_files(part)
        except ConfigError as error:
            raise ConfigError(
                f"{self.file} holds no '{part.name}', and {part.folder} has no weights of it: if the file is a "
                f"denoiser alone, give path=PIPELINE denoiser={self.file.name}"
            ) from error

    def digest(self) -> str:
        """Digest of the file, of the configuration, and of the parts' weights that are read from its folder."""
        parts = [self.folder / INDEX]
        for part in self.components():
            parts += [f for f in part.folder.iterdir() if f.suffix in (".json", ".txt", ".model") and f.is_file()]
            parts += [f for f in self.weight_files(part) if f != self.file] if part.has_weights else []
        listed = [[f.relative_to(self.folder).as_posix(), sha256_file(f)] for f in sorted(set(parts))]
        original = sha256_file(self.original_config) if self.original_config is not None else None
        return sha256_json([sha256_file(self.file), self.ema, original, listed])

    def stored_dtype(self) -> str:
        return dtype_of(read_header(self.file))

    def _read(self, pipeline: Any, options: Mapping[str, Any]) -> Any:
        """By `from_single_file`. DataError also: the file lacks weights that the configuration names."""
        given = {name: value for name, value in options.items() if name not in ("use_safetensors", "variant")}
        for part in self.components():
            if part.has_weights and part.name not in given and not self._holds(part):
                cls = getattr(importlib.import_module(part.library), part.class_name)
                dtype = {name: value for name, value in options.items() if name == compat.dtype_argument()}
                given[part.name] = cls.from_pretrained(str(part.folder), local_files_only=True, **dtype)
        if self.ema:
            given["extract_ema"] = True
        if self.original_config is not None:
            given["original_config"] = str(self.original_config)
        given |= {"safety_checker": None, "requires_safety_checker": False} if _checks(pipeline) else {}

        with whole(f"{self.file} does not fit {self.folder}"):
            try:
                return pipeline.from_single_file(str(self.file), config=str(self.folder), **given)
            except compat.single_file_error() as error:
                raise DataError(f"{self.file}: {one_line(error)}") from error


@contextmanager
def whole(what: str) -> Iterator[None]:
    """DataError where `from_single_file` did not find all weights: it then fails to bring those to a device."""
    try:
        yield
    except NotImplementedError as error:
        if "meta tensor" not in str(error):
            raise
        raise DataError(f"{what}: it lacks weights of a part; was it made for another pipeline?") from error


def _checks(pipeline: Any) -> bool:
    """Whether a class of pipelines has a safety checker, which no single file holds."""
    return "safety_checker" in pipeline._get_signature_keys(pipeline)[0]


def _has_ema(header: Mapping[str, Any]) -> bool:
    return sum(key.startswith(_EMA) for key in header) > _LEAST_EMA


def _said(file: Path, header: Mapping[str, Any]) -> str | None:
    """The prediction type that a file names itself: by its metadata, or by a tensor `v_pred` (as of NoobAI's)."""
    from safetensors import safe_open

    if "v_pred" in header:
        return "v_prediction"
    with safe_open(file, framework="np") as opened:
        return _PREDICTIONS.get((opened.metadata() or {}).get("modelspec.prediction_type", ""))


def is_single_file(path: str | os.PathLike[str]) -> bool:
    """Whether a model's path names a file. ConfigError: one that is never loaded."""
    path = str(path)
    if path.endswith(_PICKLED):
        raise ConfigError(f"{path} may be pickled, and pickled weights are never loaded: give it as .safetensors")
    return path.endswith(SUFFIX)


def config_advice(file: Path) -> str:
    """Which repository's folder a file wants, told by its tensors; diffusers' own inference. Imports diffusers."""
    repository, known = compat.single_file_repository(read_header(file))
    like = repository if known else f"the pipeline that it was made from (such as {repository})"
    return (
        f"give config=DIR, a folder with the configuration of {like} "
        f"(hf download {repository} --include '*.json' '*.txt' '*.model' --local-dir DIR)"
    )


def read_single_file(
    path: str, config: str | None, original_config: str | None, ema: bool, prediction_type: str | None
) -> SingleFile:
    """From a model's options. ConfigError: the file or `config` is missing."""
    file = resolve_path(path)
    if not file.is_file():
        raise ConfigError(f"model '{path}': there is no such file")
    if config is None:
        raise ConfigError(f"model '{path}' is a single file: {config_advice(file)}")
    original = resolve_path(original_config) if original_config is not None else None
    leave_out = frozenset({"safety_checker"})
    return SingleFile(resolve_path(config), None, leave_out, prediction_type, file, ema, original)
