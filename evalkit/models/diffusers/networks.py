"""The denoising networks of a pipeline."""

from __future__ import annotations

from typing import Any

DENOISERS = ("unet", "transformer", "transformer_2", "prior", "decoder")


def denoisers(pipe: Any) -> list[Any]:
    """The networks that a pipeline evaluates once per step."""
    import torch

    parts = (getattr(pipe, name, None) for name in DENOISERS)
    return [part for part in parts if isinstance(part, torch.nn.Module)]
