"""AUTOMATIC1111's stable-diffusion-webui (and its forks that keep the API: Forge, SD.Next): POST /sdapi/v1/txt2img.

Source: modules/api/api.py and models.py of that project; it has to run with --api.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evalkit.models.base import Request
from evalkit.models.services.base import Service, from_base64, size_of
from evalkit.models.services.client import Job, Transient

# Names that evalkit uses for all models, and what this API calls them.
_FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "height": "height",
    "width": "width",
    "sampler_name": "sampler_name",
    "scheduler": "scheduler",
    "clip_skip": "clip_skip",
}


class Automatic1111(Service):
    """Text to image, one image a request, its seed in the request.

    Args:
        base_url: of the web UI.
        api_key_env: with --api-auth: the variable that holds user:password.
        api_key_header, api_key_scheme, version, client: see `Service`.

    Call settings: num_inference_steps, guidance_scale, height, width, sampler_name, scheduler, clip_skip,
    negative_prompt (a prompt's own wins), checkpoint (the web UI's name of the weights; none: what it has loaded), and
    `extra`: further fields of the request.
    """

    call_settings = frozenset({*_FIELDS, "negative_prompt", "checkpoint", "extra"})
    reserved = frozenset(
        {"prompt", "negative_prompt", "seed", "batch_size", "n_iter", "send_images", "save_images", *_FIELDS.values()}
    )

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:7860",
        api_key_env: str | None = None,
        api_key_header: str = "Authorization",
        api_key_scheme: str = "Basic",
        version: str | None = None,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(base_url, api_key_env, api_key_header, api_key_scheme, version, client)

    def identity(self) -> dict[str, Any]:
        """Address and version; a `checkpoint` is a setting."""
        return {"kind": "automatic1111", "url": self.base_url, "version": self.version}

    def ask(self, job: Job, request: Request, settings: Mapping[str, Any]) -> tuple[bytes, list[str]]:
        """One attempt at one image."""
        size_of(settings)
        negative = request.negative_prompt
        seed = request.seed32()
        body = {theirs: settings[ours] for ours, theirs in _FIELDS.items() if settings.get(ours) is not None}
        if "clip_skip" in body:
            body["override_settings"] = {"CLIP_stop_at_last_layers": body.pop("clip_skip")}
        if settings.get("checkpoint") is not None:
            body["override_settings"] = {
                **body.get("override_settings", {}),
                "sd_model_checkpoint": settings["checkpoint"],
            }
        extra = dict(settings.get("extra") or {})
        if "override_settings" in extra and "override_settings" in body:
            extra["override_settings"] = {**extra["override_settings"], **body["override_settings"]}
        body |= extra
        body |= {
            "prompt": request.prompt,
            "negative_prompt": negative if negative is not None else settings.get("negative_prompt") or "",
            "seed": seed,
            "batch_size": 1,
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
        }
        answer = job.client.json("POST", "/sdapi/v1/txt2img", body, until=job.until)
        images = answer.get("images")
        if not isinstance(images, list) or len(images) != 1:
            count = len(images) if isinstance(images, list) else "no"
            raise Transient(f"the answer holds {count} images, not 1")
        used = _seed_of(answer.get("info"))
        return from_base64(images[0]), ["seed_ignored"] if used not in (None, seed) else []


def _seed_of(info: Any) -> int | None:
    """The seed that the web UI says it used."""
    try:
        value = json.loads(info)["seed"]
    except (ValueError, TypeError, KeyError):
        return None
    return value if isinstance(value, int) else None
