"""What files teach a pipeline next to its weights: words (textual inversion), and images as prompts (IP-Adapter).

Gal et al., "An Image is Worth One Word", 2022 (arXiv 2208.01618); Ye et al., "IP-Adapter", 2023 (arXiv 2308.06721).
Both are loaded by diffusers, from safetensors alone, and from here alone.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data import codec
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.diffusers.checkpoint import Checkpoint, Component, read_header, read_json
from evalkit.models.diffusers.single_file import is_single_file
from evalkit.utils.files import resolve_path, sha256_file, sha256_json
from evalkit.utils.hub import entries, read_entry
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from evalkit.prompts.sets import Prompt

log = logging.getLogger(__name__)

_IP_KEYS = ("path", "image_encoder", "image", "scale")
_OF_PROMPT = ("source", "control")  # the prompts' own images that an IP-Adapter may be shown
_A1111 = "emb_params"  # the key of files that AUTOMATIC1111 wrote, which do not name their word
_OF_SDXL = {"clip_l": "", "clip_g": "_2"}  # keys of SDXL's files, by the text encoder that they are for


def _file(option: str, path: str) -> Path:
    """A local .safetensors file. ConfigError: it is none."""
    if not is_single_file(path):
        raise ConfigError(f"{option}: {path} is no .safetensors file")
    file = resolve_path(path)
    if not file.is_file():
        raise ConfigError(f"{option}: there is no file {path}")
    return file


@dataclass(frozen=True)
class Word:
    """A learned word: the token that stands for it in prompts (none: the file's own), and its file."""

    path: str
    token: str | None = None

    @property
    def file(self) -> Path:
        return _file("textual_inversion", self.path)

    def name(self) -> str:
        """The token: as given, or as the file names it, or the file's stem where it names none."""
        keys = list(read_header(self.file))
        own = keys[0] if len(keys) == 1 and keys[0] != _A1111 else self.file.stem
        return self.token or own

    def check(self, base: Checkpoint | None, who: str) -> None:
        """DataError: it holds no embedding, or one of another width than the local pipeline's text encoders have."""
        header = read_header(self.file)
        if not (len(header) == 1 or header.keys() <= _OF_SDXL.keys()):
            raise DataError(f"textual_inversion: {self.file} holds {len(header)} tensors, not one embedding")
        for key, tensor in header.items():
            part = f"text_encoder{_OF_SDXL.get(key, '')}"
            width = base.config_of(part).get("hidden_size") if base is not None else None
            if width is not None and tensor.shape[-1] != width:
                raise DataError(
                    f"textual_inversion: {self.file} is of width {tensor.shape[-1]}, the {part} of {who} of {width}: "
                    "it was made for another model"
                )

    def load(self, pipe: Any) -> None:
        from safetensors.torch import load_file

        for key, embedding in load_file(self.file).items():
            tail = _OF_SDXL.get(key, "")
            parts = {name: getattr(pipe, f"{name}{tail}") for name in ("tokenizer", "text_encoder")}
            pipe.load_textual_inversion(embedding, token=self.name(), **parts)


@dataclass(frozen=True)
class ImagePrompt:
    """An IP-Adapter.

    Attributes:
        path: its .safetensors file.
        image_encoder: a folder with its CLIPVisionModelWithProjection; none: the pipeline has one.
        image: a file that all samples are shown, or "source" or "control": the prompt's own image of that kind.
        scale: how much it counts.
    """

    path: str
    image_encoder: str | None
    image: str
    scale: float

    @classmethod
    def read(cls, entry: Any) -> ImagePrompt:
        """From the option, a mapping of `_IP_KEYS`. ConfigError: it is none, or lacks its image."""
        given = read_entry("ip_adapter", entry, _IP_KEYS)
        if not given.get("image"):
            raise ConfigError("ip_adapter.image: give an image's file, or source or control: the prompt's own image")
        scale = given.get("scale", 1.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < float("inf"):
            raise ConfigError(f"ip_adapter.scale={scale!r}: give a number")
        encoder = given.get("image_encoder")
        return cls(given["path"], None if encoder is None else str(encoder), str(given["image"]), float(scale))

    @property
    def file(self) -> Path:
        return _file("ip_adapter", self.path)

    @property
    def of_prompt(self) -> bool:
        return self.image in _OF_PROMPT

    def _encoder_files(self) -> list[Path]:
        """config.json and weights of the image encoder. ConfigError: they are not there."""
        if self.image_encoder is None:
            return []
        folder = resolve_path(self.image_encoder)
        config = folder / "config.json"
        if not config.is_file():
            raise ConfigError(f"ip_adapter.image_encoder: {config} is missing: give the folder of its image encoder")
        name = (read_json(config).get("architectures") or ["?"])[0]
        if name != "CLIPVisionModelWithProjection":
            raise ConfigError(f"ip_adapter.image_encoder: {folder} is a {name}, no CLIPVisionModelWithProjection")
        part = Component("image_encoder", "transformers", name, folder)
        return [config, *Checkpoint(folder).weight_files(part)]

    def check(self, base: Checkpoint | None, who: str) -> None:
        """Looks at each file. ConfigError, DataError: it is missing, or not what it is said to be."""
        header = read_header(self.file)
        if not any(key.startswith("ip_adapter.") for key in header):
            raise DataError(f"ip_adapter: {self.file} holds no IP-Adapter: none of its tensors is named so")
        for weights in self._encoder_files()[1:]:
            read_header(weights)
        if self.image_encoder is None and base is not None and not base.config_of("image_encoder"):
            raise ConfigError(f"ip_adapter.image_encoder: {who} has none: give a folder")
        if not self.of_prompt:
            codec.inspect(resolve_path(self.image))

    def identity(self) -> dict[str, Any]:
        shown = self.image if self.of_prompt else sha256_file(resolve_path(self.image))
        encoder = sha256_json([[f.name, sha256_file(f)] for f in self._encoder_files()])
        return {"weights": sha256_file(self.file), "image_encoder": encoder, "image": shown, "scale": self.scale}

    def load(self, pipe: Any, dtype: Any) -> None:
        if self.image_encoder is not None:
            from transformers import CLIPVisionModelWithProjection

            folder = str(resolve_path(self.image_encoder))
            encoder = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, dtype=dtype)
            pipe.register_modules(image_encoder=encoder.eval())
        names = {"subfolder": "", "weight_name": self.file.name, "local_files_only": True}
        pipe.load_ip_adapter(str(self.file.parent), **names, image_encoder_folder=None)
        pipe.set_ip_adapter_scale(self.scale)

    def shown(self, request: Request | Prompt, who: str, number: int) -> Path:
        """The image that a sample is shown. DataError: the prompt names none."""
        path = getattr(request, self.image) if self.of_prompt else resolve_path(self.image)
        if path is None:
            raise DataError(
                f"{who}: ip_adapter wants a {self.image} image of each prompt, and that of sample {number} names none: "
                f"give the prompt set a column of paths (prompts.table.{self.image}=COLUMN)"
            )
        return Path(path)


class Concepts:
    """The words and the image prompt of a model; DataError, ConfigError as of `Model.check` and `Model.load`."""

    def __init__(self, textual_inversion: Any, ip_adapter: Any, who: str) -> None:
        given = textual_inversion
        named = (
            given.items() if isinstance(given, Mapping) and "path" not in given else [(None, e) for e in entries(given)]
        )
        self.words = tuple(Word(read_entry("textual_inversion", e, ("path",))["path"], token) for token, e in named)
        self.image = None if ip_adapter is None else ImagePrompt.read(ip_adapter)
        self.who = who
        self._told: set[Word] = set()

    def check(self, base: Checkpoint | None) -> None:
        for word in self.words:
            word.check(base, self.who)
        if self.image:
            self.image.check(base, self.who)

    def check_call(self, pipeline: Any) -> None:
        """ConfigError: a class of pipelines takes no such thing."""
        if self.words and not hasattr(pipeline, "load_textual_inversion"):
            raise ConfigError(f"textual_inversion: {pipeline.__name__} of {self.who} takes none")
        takes = inspect.signature(pipeline.__call__).parameters
        if self.image and not ("ip_adapter_image" in takes and hasattr(pipeline, "load_ip_adapter")):
            raise ConfigError(f"ip_adapter: {pipeline.__name__} of {self.who} takes none")

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Looks for the prompts' images, and whether a prompt holds the words."""
        for word in self.words:
            if word not in self._told and not any(word.name() in (prompt.text or "") for prompt in prompts):
                self._told.add(word)
                log.warning("textual_inversion: no prompt holds '%s', which then changes nothing", word.name())
        for number, prompt in enumerate(prompts if self.image else ()):
            if self.image:
                codec.inspect(self.image.shown(prompt, self.who, number))

    def identity(self) -> dict[str, Any]:
        """Digests; empty where nothing is taught, so that a plain model's identity is what it was."""
        words = {"textual_inversion": [[word.name(), sha256_file(word.file)] for word in self.words]}
        return (words if self.words else {}) | ({"ip_adapter": self.image.identity()} if self.image else {})

    @property
    def alone(self) -> bool:
        """Whether no two samples may share a call: a call shows all of its samples the same image."""
        return self.image is not None and self.image.of_prompt

    def load(self, pipe: Any) -> None:
        """Puts them into a pipeline on the CPU."""
        self.check_call(type(pipe))
        try:
            for word in self.words:
                word.load(pipe)
            if self.image:
                self.image.load(pipe, pipe.dtype)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(f"{self.who}: textual_inversion or ip_adapter does not fit: {one_line(error)}") from error

    def call(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Arguments of the pipeline's call."""
        if self.image is None:
            return {}
        from PIL import Image

        path = self.image.shown(requests[0], self.who, requests[0].index)
        return {"ip_adapter_image": Image.fromarray(codec.decode(path))}
