"""An OpenAI-compatible images endpoint: POST <base_url>/images/generations, answered by b64_json or url.

Source: the Images API of OpenAI (platform.openai.com/docs/api-reference/images). Its fields are the common ground of
vLLM, LocalAI, LiteLLM, Together and others, some of which take a seed as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Settings
from evalkit.models.services.base import Service, from_base64, only_image, size_of
from evalkit.models.services.client import Transient
from evalkit.models.services.job import Job


@dataclass(eq=False, repr=False, kw_only=True)
class OpenAIImages(Service):
    """Text to image, one image per request.

    Args:
        model: the model's name at the service.
        base_url: up to and with /v1.
        api_key_env, api_key_header, api_key_scheme, version, client: see `Service`.
        response_format: "b64_json" or "url", for services that want to know; none: not sent, either is taken.
        seed_field: the name of the request's field that takes a seed; none: the service takes none (OpenAI's own),
            its images cannot be made again, and every sample is marked `unseeded`.

    Call settings: height, width (both, or the service's own), quality, style, background, output_format, and `extra`
    (further fields of the request) and `load`.
    """

    call_settings = frozenset({"height", "width", "quality", "style", "background", "output_format", "extra", "load"})
    reserved = frozenset({"model", "prompt", "n", "size", "response_format", "stream"})

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    response_format: str | None = None
    seed_field: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response_format not in (None, "b64_json", "url"):
            raise ConfigError(f"response_format={self.response_format}: give b64_json, url, or null (not sent)")
        if self.seed_field in self.reserved:
            raise ConfigError(f"seed_field={self.seed_field}: this field has another meaning; give seed, or null")

    def identity(self) -> dict[str, Any]:
        """Address, model and version; whether a seed goes along. The weights behind it are the service's secret."""
        service = {"kind": "openai images", "url": self.base_url, "model": self.model, "version": self.version}
        return {**service, "seed_field": self.seed_field, "reproducible": self.seed_field is not None}

    def ask(self, job: Job, request: Request, settings: Settings) -> tuple[bytes, list[str]]:
        """One attempt at one image."""
        body: dict[str, Any] = {"model": self.model, "prompt": request.prompt, "n": 1}
        size = size_of(settings)
        if size is not None:
            body["size"] = f"{size[1]}x{size[0]}"
        body |= {k: v for k, v in settings.items() if k not in ("height", "width", "extra") and v is not None}
        body |= settings.get("extra") or {}
        if self.response_format is not None:
            body["response_format"] = self.response_format
        warnings = ["negative_prompt_ignored"] if request.negative_prompt else []
        if self.seed_field is not None:
            body[self.seed_field] = request.seed32()
        else:
            warnings.append("unseeded")
        answer = job.json("POST", "/images/generations", body)
        image = only_image(answer.get("data"))
        if not isinstance(image, dict):
            raise Transient("the answer holds no image")
        if image.get("revised_prompt") not in (None, "", request.prompt):
            warnings.append("prompt_revised")
        if isinstance(image.get("url"), str) and not image.get("b64_json"):
            return job.client.download(image["url"], deadline=job.deadline), warnings
        return from_base64(image.get("b64_json")), warnings
