"""AUTOMATIC1111's stable-diffusion-webui (and its forks that keep the API: Forge, SD.Next): POST /sdapi/v1/txt2img.

Source: modules/api/api.py and models.py of that project; it has to run with --api.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.http.job import Job
from evalkit.models.base import Request, Settings
from evalkit.models.services.base import Service, from_base64, only_image
from evalkit.utils.json_files import parse_json

# Names that evalkit uses for all models, and what this API calls them.
_FIELDS = {
    **{"num_inference_steps": "steps", "guidance_scale": "cfg_scale", "height": "height", "width": "width"},
    **{"sampler_name": "sampler_name", "scheduler": "scheduler"},
}
_OVERRIDE = {"clip_skip": "CLIP_stop_at_last_layers", "checkpoint": "sd_model_checkpoint"}  # in `override_settings`


@dataclass(eq=False, repr=False, kw_only=True)
class Automatic1111(Service):
    """Text to image, one image per request, its seed in the request.

    Args:
        base_url: of the web UI.
        api_key_env: with --api-auth: the variable that holds user:password.
        api_key_header, api_key_scheme, version, client: see `Service`.

    Call settings: num_inference_steps, guidance_scale, height, width, sampler_name, scheduler, clip_skip,
    negative_prompt (a prompt's own wins), checkpoint (the web UI's name of the weights; none: what it has loaded), and
    `extra` (further fields of the request), `load`.
    """

    call_settings = frozenset({*_FIELDS, *_OVERRIDE, "negative_prompt", "extra", "load"})
    reserved = frozenset(_FIELDS.values()).union(
        ("prompt", "negative_prompt", "seed", "batch_size", "n_iter", "send_images", "save_images", "clip_skip")
    )

    base_url: str = "http://127.0.0.1:7860"
    api_key_scheme: str = "Basic"

    def identity(self) -> dict[str, Any]:
        """Address and version; a `checkpoint` is a setting."""
        return {"kind": "automatic1111", "url": self.base_url, "version": self.version}

    def ask(self, job: Job, request: Request, settings: Settings) -> tuple[bytes, list[str]]:
        """One attempt at one image."""
        seed, negative = request.seed32(), request.negative_prompt
        if negative is None:
            negative = settings.get("negative_prompt") or ""
        given = {name: value for name, value in settings.items() if value is not None}
        body = {theirs: given[ours] for ours, theirs in _FIELDS.items() if ours in given}
        override = {theirs: given[ours] for ours, theirs in _OVERRIDE.items() if ours in given}
        extra = settings.get("extra") or {}
        if override:
            override = {**extra.get("override_settings", {}), **override}
        body |= extra | ({"override_settings": override} if override else {})
        body |= {"prompt": request.prompt, "negative_prompt": negative, "seed": seed}
        body |= {"batch_size": 1, "n_iter": 1, "send_images": True, "save_images": False}
        answer = job.json("POST", "/sdapi/v1/txt2img", body)
        image = from_base64(only_image(answer.get("images")))
        return image, ["seed_ignored"] if _seed_of(answer.get("info")) not in (None, seed) else []


def _seed_of(info: Any) -> int | None:
    """The seed that the web UI says it used."""
    try:
        said = parse_json(info, "info") if isinstance(info, str) else info
    except DataError:
        return None
    seed = said.get("seed") if isinstance(said, dict) else None
    return seed if isinstance(seed, int) else None
