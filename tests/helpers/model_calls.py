"""How the tests ask a model for images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evalkit.models.base import Generated, Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"height": 16, "width": 16}
SETTINGS: dict[str, dict[str, Any]] = {
    "flux": {**SMALL, "guidance_scale": 0.0},
    "pixart": {**SMALL, "use_resolution_binning": False, "clean_caption": False},
    "sdxl_turbo": {"guidance_scale": 0.0},
}
Saved = Callable[[str], Path]
Loaded = Callable[[str], DiffusersModel]


def ask(model: DiffusersModel, count: int = 2, start: int = 0, seed: int = 0) -> list[Request]:
    text = model.conditioning == "text"
    return [Request(i, seed, prompt=f"a cat {'abcdefg'[i % 7]}" if text else None) for i in range(start, start + count)]


def make(
    model: DiffusersModel,
    requests: list[Request] | None = None,
    sampler: Sampler | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int = 3,
) -> Generated:
    sampler = sampler or Sampler(num_inference_steps=steps)
    return model.generate(requests or ask(model), sampler=sampler, settings=settings or {})


def sampler_config(name: str, **changes: Any) -> Sampler:
    from omegaconf import OmegaConf

    option: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "sampler" / f"{name}.yaml"))[name]  # type: ignore[index]
    option.pop("_target_")
    return Sampler(**{**option, **changes})
