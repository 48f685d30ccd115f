"""The networks of a loaded pipeline, by the names that it has for them."""

from __future__ import annotations

from typing import Any

from evalkit.models.base import ModelPart


def parts_of(pipe: Any) -> list[ModelPart]:
    """A part per network: its `forward`, or of autoencoders `encode` and `decode`, in the pipeline's order."""
    import torch

    parts: list[ModelPart] = []
    seen: set[int] = set()
    for name, network in pipe.components.items():
        if not isinstance(network, torch.nn.Module) or id(network) in seen:
            continue
        seen.add(id(network))
        dtype = _dtype(network)
        halves = [half for half in ("encode", "decode") if callable(getattr(network, half, None))]
        if "decode" in halves:
            parts += [ModelPart(f"{name}.{half}", network, half, dtype) for half in halves]
        else:
            parts.append(ModelPart(name, network, "forward", dtype))
    return parts


def _dtype(network: Any) -> str | None:
    floats = (weight.dtype for weight in network.parameters() if weight.is_floating_point())
    return next((str(dtype).removeprefix("torch.") for dtype in floats), None)
