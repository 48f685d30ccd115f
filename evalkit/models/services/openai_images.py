"""An OpenAI-compatible images endpoint: POST <base_url>/images/generations or /edits, answered by b64_json or url.

Source: the Images API of OpenAI (platform.openai.com/docs/api-reference/images). Its fields are the common ground of
vLLM, LocalAI, LiteLLM, Together and others, some of which take a seed as well. vLLM-Omni (protocol/images.py of
vllm_omni/entrypoints/openai at 00a3619) and SGLang (protocol.py and image_api.py of sglang/multimodal_gen/runtime/
entrypoints/openai at 020befb and 0230ddc) take seed, num_inference_steps, guidance_scale, true_cfg_scale and
negative_prompt; neither takes starting noise there.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.http.client import Transient
from evalkit.http.form import Form
from evalkit.http.job import Job, seconds_of
from evalkit.models.base import Request, Sampler, Settings
from evalkit.models.services.base import Service, from_base64, only_image, size_of
from evalkit.models.services.edits import MASKS, check_mask, mask_file, mask_url, source_file

if TYPE_CHECKING:
    from evalkit.prompts.sets import Prompt

_SAMPLING = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt")
_FIELDS = (*_SAMPLING, "latents")  # what services take besides OpenAI's own fields, by our names
_OPENAI = ("quality", "style", "background", "output_format")


@dataclass(eq=False, repr=False, kw_only=True)
class OpenAIImages(Service):
    """Text to image, or with `edits` text and image to image; one image per request.

    Args:
        model: the model's name at the service.
        base_url: up to and with /v1.
        api_key_env, api_key_header, api_key_scheme, version, client: see `Service`.
        response_format: "b64_json" or "url", for services that want to know; none: not sent, either is taken.
        seed_field: the name of the request's field that takes a seed; none: the service takes none (OpenAI's own),
            its images cannot be made again, and every sample is marked `unseeded`.
        fields: which of num_inference_steps, guidance_scale, true_cfg_scale, negative_prompt and latents the service
            takes: a list, or a mapping to what it calls them. Nothing else of them is sent. `latents` goes as a float32
            .npy (without a batch axis) in base64.
        edits: true: the prompts' source images are sent to /images/edits, with their masks; false: they are not sent,
            and /images/generations is asked; none: prompts with source images are refused, since either may be meant.
        mask_field: "mask" (OpenAI's: transparent where it is painted) or "mask_image" (vLLM-Omni's: white there).

    Call settings: height, width (both, or the service's own), quality, style, background, output_format, those of
    `fields` (a prompt's own negative prompt wins), `extra` (further fields of the request) and `load`.
    """

    call_settings = frozenset({"height", "width", *_OPENAI, *_SAMPLING, "extra", "load"})
    reserved = frozenset({"model", "prompt", "n", "size", "response_format", "stream", "image", *MASKS})
    takes_latents = True  # where `fields` says so

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    response_format: str | None = None
    seed_field: str | None = None
    fields: Sequence[str] | Mapping[str, str] = field(default_factory=tuple)
    edits: bool | None = None
    mask_field: str = "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response_format not in (None, "b64_json", "url"):
            raise ConfigError(f"response_format={self.response_format}: give b64_json, url, or null (not sent)")
        if self.seed_field in self.reserved:
            raise ConfigError(f"seed_field={self.seed_field}: this field has another meaning; give seed, or null")
        if self.mask_field not in MASKS:
            raise ConfigError(f"mask_field={self.mask_field}: give mask (OpenAI's) or mask_image (vLLM-Omni's)")
        self.names = _names(self.fields, self.reserved)
        # What prompts set for their own samples goes to services that take it, and passes the others by.
        kept = type(self).call_settings - (set(_SAMPLING) - self.names.keys())
        self.call_settings = kept  # type: ignore[misc]

    def identity(self) -> dict[str, Any]:
        """Address, model and version; what else goes along. The weights behind it are the service's secret."""
        service: dict[str, Any] = {
            "kind": "openai images",
            "url": self.base_url,
            "model": self.model,
            "version": self.version,
        }
        service |= {"fields": self.names} if self.names else {}
        service |= {"edits": True, "mask_field": self.mask_field} if self.edits else {}
        return {**service, "seed_field": self.seed_field, "reproducible": self.seed_field is not None}

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """As `Service`; and settings that the service is not said to take are refused."""
        for name in _SAMPLING:
            if settings.get(name) is not None and name not in self.names:
                raise ConfigError(f"{name}: is it a field of this service? Then say so: fields=[{name}] (else null)")
        super().check_call(sampler, settings)

    def check_prompts(self, prompts: Sequence[Prompt], settings: Settings) -> None:
        """DataError where `edits` does not say what is meant, or a prompt lacks its source image."""
        sources = sum(prompt.source is not None for prompt in prompts)
        if self.edits is None and sources:
            raise DataError(
                f"{sources} of {len(prompts)} prompts name a source image: give edits=true to send them to "
                f"{self.base_url}/images/edits, or edits=false to ask for images from the texts alone"
            )
        for number, prompt in enumerate(prompts if self.edits else ()):
            if prompt.source is None:
                raise DataError(f"edits=true, but prompt {number} names no source image")
            if prompt.mask is not None and self.mask_field == "mask":
                check_mask(prompt.mask, prompt.source)

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """None: it is the service's matter. ConfigError: it is not said to take latents."""
        if "latents" not in self.names:
            raise ConfigError("latents: is it a field of this service? Then say so: fields=[latents]")
        return None

    def ask(self, job: Job, request: Request, settings: Settings) -> tuple[bytes, list[str]]:
        """One attempt at one image."""
        body, warnings = self._fields_of(request, settings)
        began = time.monotonic()
        if self.edits:
            answer = job.json("POST", "/images/edits", self._form(body, request))
        else:
            answer = job.json("POST", "/images/generations", body)
        seconds = seconds_of(answer.get("inference_time_s"))  # SGLang's: the rest of the time was waiting
        if job.queued is None and seconds is not None:
            job.queued = max(time.monotonic() - began - seconds, 0.0)
        image = only_image(answer.get("data"))
        if not isinstance(image, dict):
            raise Transient("the answer holds no image")
        if image.get("revised_prompt") not in (None, "", request.prompt):
            warnings.append("prompt_revised")
        if isinstance(image.get("url"), str) and not image.get("b64_json"):
            return job.client.download(image["url"], deadline=job.deadline), warnings
        return from_base64(image.get("b64_json")), warnings

    def _fields_of(self, request: Request, settings: Settings) -> tuple[dict[str, Any], list[str]]:
        """What is asked for, besides images to start from; and warnings."""
        body: dict[str, Any] = {"model": self.model, "prompt": request.prompt, "n": 1}
        size = size_of(settings)
        if size is not None:
            body["size"] = f"{size[1]}x{size[0]}"
        body |= {name: settings[name] for name in _OPENAI if settings.get(name) is not None}
        given = {name: settings.get(name) for name in _SAMPLING}
        if request.negative_prompt is not None:
            given["negative_prompt"] = request.negative_prompt
        latent = request.latent
        given["latents"] = None if latent is None else _npy(latent)
        body |= {theirs: given[ours] for ours, theirs in self.names.items() if given[ours] is not None}
        body |= settings.get("extra") or {}
        if self.response_format is not None:
            body["response_format"] = self.response_format
        warnings = (
            ["negative_prompt_ignored"] if request.negative_prompt and "negative_prompt" not in self.names else []
        )
        if self.seed_field is not None:
            body[self.seed_field] = request.seed32()
        elif latent is None:
            warnings.append("unseeded")
        return body, warnings

    def _form(self, body: Mapping[str, Any], request: Request) -> Form:
        """A request's fields, its source image and its mask."""
        if request.source is None:
            raise DataError(f"edits=true, but the prompt of sample {request.index} names no source image")
        files = {"image": source_file(request.source)}
        fields = dict(body)
        if request.mask is not None and self.mask_field == "mask":
            files["mask"] = mask_file(request.mask)
        elif request.mask is not None:
            fields[self.mask_field] = mask_url(request.mask)
        return Form(fields, files)


def _names(given: Sequence[str] | Mapping[str, str], reserved: frozenset[str]) -> dict[str, str]:
    """`fields` as a mapping from our names to the service's. ConfigError: an unknown name, or one with another use."""
    names = dict(given) if isinstance(given, Mapping) else {str(name): str(name) for name in given}
    for ours, theirs in names.items():
        if ours not in _FIELDS:
            more = "seed_field names the seed's. " if ours == "seed" else ""
            raise ConfigError(f"fields: '{ours}' is not one of them. {more}{nearest(str(ours), _FIELDS)}")
        if not isinstance(theirs, str) or not theirs or theirs in reserved:
            raise ConfigError(f"fields.{ours}={theirs!r}: give the name of the request's field")
    return names


def _npy(latent: Any) -> str:
    """Starting noise as a float32 .npy in base64."""
    import numpy as np

    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(latent, np.float32), allow_pickle=False)
    return base64.b64encode(out.getvalue()).decode()
