"""Optimal transport along lines: what sliced Wasserstein distances are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def unit_directions(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Directions of length 1, evenly spread: f32 [count,width], on the CPU."""
    import torch

    drawn = torch.randn(count, width, generator=generator)
    directions: Tensor = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return directions


def potential(values: Tensor, order: Tensor, slopes: Tensor) -> Tensor:
    """How much a distance's first variation is at each point (Santambrogio 2015, 7.2), less its mean over the column.

    It is added up from the slopes by trapezoids.

    Args:
        values: f32 [N,K], ascending in each column.
        order: i64 [N,K], the points' places before they were sorted.
        slopes: f32 or f64 [N,K], of the potential at each value.

    Returns:
        f64 [N,K], in the points' order.
    """
    import torch

    steps = values.double().diff(dim=0) * (slopes[1:] + slopes[:-1]) / 2
    heights = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
    heights -= heights.mean(0)
    return torch.empty_like(heights).scatter_(0, order, heights)
