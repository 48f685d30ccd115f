"""A diffusers pipeline on disk: what it is, what is missing, which files it is read from. No torch, no diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Conditioning
from evalkit.utils import json_files
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.text import one_line

_LONGEST_NAME = 100  # characters of a component's name
INDEX = "model_index.json"
# diffusers' models are saved under the first name, those of transformers under the second.
_STEMS = ("diffusion_pytorch_model", "model")
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.json", "spiece.model")
_TOKENIZER = "(Tokenizer(Fast)?|TokenizersBackend)"  # the latter is what transformers 5 calls a plain fast one
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "image_processor_config.json")
_DENOISERS = ("unet", "transformer", "prior")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Component:
    """One part of a pipeline as model_index.json names it, and the folder that it lies in."""

    name: str
    library: str
    class_name: str
    folder: Path

    @property
    def has_weights(self) -> bool:
        return (
            re.search(rf"(Scheduler|{_TOKENIZER}|Processor(Fast)?|FeatureExtractor|Guidance)$", self.class_name) is None
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. DataError: the file is no JSON object."""
    try:
        value = json_files.read_json(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise DataError(f"{file} holds no JSON object")
    return value


@dataclass(frozen=True)
class Checkpoint:
    """A pipeline folder, as written by `save_pretrained` or `hf download`.

    Attributes:
        folder: where model_index.json lies. The parts lie in folders of their own, or all next to it (as in
            google/ddpm-cifar10-32).
        variant: "fp16", say: weights named `*.fp16.safetensors` are preferred.
        leave_out: names of parts that are not loaded.
        prediction_type: what the denoiser predicts, in place of what the scheduler's configuration says.
    """

    folder: Path
    variant: str | None = None
    leave_out: frozenset[str] = frozenset()
    prediction_type: str | None = None

    def index(self) -> dict[str, Any]:
        """The content of model_index.json. ConfigError: there is none."""
        file = self.folder / INDEX
        if not file.is_file():
            raise ConfigError(f"{file} is missing: a diffusers pipeline starts with it. {self._remedy()}")
        return read_json(file)

    def pipeline_class(self) -> str:
        """Name of the pipeline's class in diffusers."""
        name = self.index().get("_class_name")
        if not isinstance(name, str):
            raise ConfigError(f"{self.folder / INDEX}: the pipeline {name!r} needs code of its own, which is never run")
        return name

    def components(self) -> list[Component]:
        """The parts that will be loaded."""
        parts = []
        for name, value in self.index().items():
            named = isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
            if name.startswith("_") or not named or name in self.leave_out:
                continue
            if not name.isidentifier() or len(name) > _LONGEST_NAME:  # it names a folder, and an argument
                raise ConfigError(f"{self.folder / INDEX}: {name[:40]!r} is no name of a pipeline's part")
            own = self.folder / name
            parts.append(Component(name, value[0], value[1], own if own.is_dir() else self.folder))
        return parts

    def conditioning(self) -> Conditioning:
        """What the pipeline asks for: a text, a class, or nothing."""
        if any(re.search(r"(^|_)(tokenizer|text_encoder|bert)(_\d)?$", part.name) for part in self.components()):
            return "text"
        configs = [self.config_of(name) for name in _DENOISERS]
        knows_classes = any(c.get("num_class_embeds") or c.get("num_embeds_ada_norm") for c in configs)
        return "class" if knows_classes else "none"

    def config_of(self, name: str) -> dict[str, Any]:
        """The configuration of one part ("scheduler", "unet"), empty where there is none."""
        for part in self.components():
            file = part.folder / ("scheduler_config.json" if name == "scheduler" else "config.json")
            if part.name == name and file.is_file():
                swapped = name == "scheduler" and self.prediction_type is not None
                return read_json(file) | ({"prediction_type": self.prediction_type} if swapped else {})
        return {}

    def load(self, pipeline: Any, options: Mapping[str, Any]) -> Any:
        """The pipeline on the CPU; `options` go to the `from_pretrained` of its class. Raises what that raises."""
        pipe = self._read(pipeline, options)
        if self.prediction_type is not None:
            config = pipe.scheduler.config
            pipe.scheduler = type(pipe.scheduler).from_config(config, prediction_type=self.prediction_type)
        return pipe

    def _read(self, pipeline: Any, options: Mapping[str, Any]) -> Any:
        return pipeline.from_pretrained(str(self.folder), **options)

    def check(self) -> None:
        """Looks for every file, and at the header of every weight file, as `Model.check`; pickles do not count."""
        self.pipeline_class()
        if self.prediction_type is not None and "FlowMatch" in str(self.config_of("scheduler").get("_class_name")):
            raise ConfigError("prediction_type: the model matches flows, and predicts nothing else: set it to null")
        found_variant = False
        for part in self.components():
            if part.class_name.endswith("Scheduler"):
                self._need_one(part, ("scheduler_config.json",))
            elif re.search(rf"{_TOKENIZER}$", part.class_name):
                self._need_one(part, _TOKENIZER_FILES)
            elif not part.has_weights:
                self._need_one(
                    part, ("guider_config.json",) if part.class_name.endswith("Guidance") else _PROCESSOR_FILES
                )
            else:
                self._need_one(part, ("config.json",))
                for file in self.weight_files(part):
                    read_header(file)
                    found_variant |= f".{self.variant}" in file.name
        if self.variant and not found_variant:
            raise ConfigError(f"{self.folder} has no weights of the variant '{self.variant}': set variant: null")

    def _need_one(self, part: Component, names: tuple[str, ...]) -> None:
        files = [part.folder / name for name in names]
        for file in files:
            if file.is_file():
                if file.suffix == ".json":
                    read_json(file)
                return
        raise ConfigError(f"{files[0]} is missing ('{part.name}' of the pipeline). {self._remedy()}")

    def _remedy(self) -> str:
        return f"Get the whole pipeline again (hf download OWNER/NAME --local-dir {self.folder}) or save_pretrained it."

    def weight_files(self, part: Component) -> list[Path]:
        """The safetensors files that a part is read from, as diffusers chooses them. ConfigError: there are none."""
        for tail in (f".{self.variant}", "") if self.variant else ("",):
            for stem in _STEMS:
                single = part.folder / f"{stem}{tail}.safetensors"
                if single.is_file():
                    return [single]
                index = part.folder / f"{stem}.safetensors.index{tail}.json"
                if index.is_file():
                    return list(self._shards(index))
        raise self._no_weights(part)

    def _shards(self, index: Path) -> Iterator[Path]:
        for name in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (index.parent / name).is_file():
                raise ConfigError(f"{index.parent / name} is missing ({index.name} names it). {self._remedy()}")
            yield index.parent / name

    def _no_weights(self, part: Component) -> ConfigError:
        others = {
            m[1] for f in part.folder.iterdir() if (m := re.match(r"[a-z_]+\.([\w-]+?)(-\d+.*)?\.safetensors", f.name))
        }
        if others:
            return ConfigError(
                f"{part.folder} has only weights of the variant {sorted(others)}: set variant: {min(others)}"
            )
        pickled = [f.name for f in sorted(part.folder.iterdir()) if f.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickled:
            return ConfigError(
                f"{part.folder} has only pickled weights ({pickled[0]}), which are never loaded; "
                "if you trust them, convert: "
                f"diffusers.DiffusionPipeline.from_pretrained('{self.folder}', use_safetensors=False)"
                f".save_pretrained('{self.folder}-safetensors')"
            )
        stem = "model" if part.library == "transformers" else _STEMS[0]
        return ConfigError(
            f"{part.folder / stem}.safetensors is missing ('{part.name}' of the pipeline). {self._remedy()}"
        )

    def digest(self) -> str:
        """Digest of the files that the pipeline is read from, by name; other files in the folder do not matter."""
        files = {self.folder / INDEX}
        for part in self.components():
            files |= {f for f in part.folder.iterdir() if f.suffix in (".json", ".txt", ".model") and f.is_file()}
            if part.has_weights:
                files |= set(self.weight_files(part))
        return sha256_json([[f.relative_to(self.folder).as_posix(), sha256_file(f)] for f in sorted(files)])

    def stored_dtype(self) -> str:
        """The dtype that the denoiser's weights are stored in: "float32", "float16" or "bfloat16"."""
        for part in self.components():
            if part.name in _DENOISERS:
                return dtype_of(read_header(self.weight_files(part)[0]))
        return "float32"


class TensorHeader(NamedTuple):
    """What a safetensors file's header says of a tensor."""

    dtype: str  # "F32", "BF16", ...
    shape: list[int]


def dtype_of(header: Mapping[str, TensorHeader]) -> str:
    """The dtype that a file's tensors are stored in; of several the smallest."""
    stored = {tensor.dtype for tensor in header.values()}
    return next((_DTYPES[name] for name in ("BF16", "F16", "F32") if name in stored), "float32")


def read_header(file: Path) -> dict[str, TensorHeader]:
    """The header of a safetensors file, by the tensors' names; the tensors are not read.

    Raises:
        DataError: it is no such file, or its end is missing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  # not a mapping
            return {name: TensorHeader(part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        raise DataError(
            f"{file} is no safetensors file, or its end is missing ({one_line(error)}): get it again"
        ) from error
