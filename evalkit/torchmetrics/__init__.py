"""FID, KID, IS and CLIP score with the interface of torchmetrics, over `evalkit.Evaluation`: docs/training.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.torchmetrics.metrics import (
        CLIPScore,
        FrechetInceptionDistance,
        InceptionScore,
        KernelInceptionDistance,
    )
else:
    _, __getattr__ = lazy(__name__, metrics="CLIPScore FrechetInceptionDistance InceptionScore KernelInceptionDistance")

__all__ = ["CLIPScore", "FrechetInceptionDistance", "InceptionScore", "KernelInceptionDistance"]
