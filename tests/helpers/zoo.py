"""The register of tiny pipelines: one entry per class of diffusers that can stand in the grid, made of its own classes.

`zoo_*.py` fill it. Weights are random, and few; a prompt, a class and the noise change pixels all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """A pipeline, and how it is asked.

    Attributes:
        name: its class in diffusers.
        make: the pipeline.
        settings: what the tiny one has to be told (its size).
        guidance: the setting that guides it by the text or class; none: there is none.
        swap: a sampler of configs/sampler that fits; none: it takes no other scheduler.
        latents: whether its first noise can be had and put in its place, as walks do.
        given: whether it takes the option `latents`, then.
        note: what a user should know.
        slow: runs under the mark of that name: one of the long tail, or one that makes large images alone.
    """

    name: str
    make: Callable[[], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    guidance: str | None = "guidance_scale"
    swap: str | None = None
    latents: bool = True
    given: bool = True
    note: str = ""
    slow: bool = False


# One of each family that no other test makes tiny; the others run under the mark `slow`.
QUICK = (
    *("AuraFlow", "CogView4", "ConsistencyModel", "Flux2Klein", "HunyuanDiT", "KandinskyV22Combined", "Lumina2"),
    *("PRX", "QwenImage", "Sana", "StableCascadeCombined", "ZImage"),
)
ZOO: dict[str, Tiny] = {}


def tiny(name: str, **kwargs: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers the function below as the maker of a pipeline."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        ZOO[name] = Tiny(name, make, **{"slow": name.removesuffix("Pipeline") not in QUICK, **kwargs})
        return make

    return register


def save(name: str, folder: Path) -> Path:
    """Makes a pipeline and saves it, with other weights than zero in all layers."""
    import torch
    from tiny_pipelines import awaken

    torch.manual_seed(0)
    pipe = ZOO[name].make()
    awaken(pipe)
    pipe.save_pretrained(folder)
    return folder
