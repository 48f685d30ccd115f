"""Ways between latents, by hand and against torch-fidelity's."""

from __future__ import annotations

import math

import pytest
import torch

from evalkit.numerics.interpolation import lerp, slerp


def at(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


def test_by_hand() -> None:
    """A quarter turn, a third of the way: 30 degrees; lengths 1 and 3 go linearly."""
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    length = 1 + 2 / 3
    assert slerp(a, b, at(1 / 3))[0].tolist() == pytest.approx([length * math.cos(math.pi / 6), length * 0.5])
    assert lerp(a, b, at(1 / 3))[0].tolist() == pytest.approx([2 / 3, 1.0])
    for way in (lerp, slerp):
        assert torch.equal(way(a, b, at(0)), a)
        assert torch.allclose(way(a, b, at(1)), b, atol=1e-6)


def test_directions_that_are_the_same_opposite_or_none_go_straight() -> None:
    a = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 2.0], [-1.0, -1.0], [3.0, 4.0]])
    found = slerp(a, b, at(0.5, 0.5, 0.5))
    assert torch.allclose(found, torch.tensor([[1.5, 1.5], [0.0, 0.0], [1.5, 2.0]]))


def test_unit_vectors_as_torch_fidelity_has_them() -> None:
    from torch_fidelity.noise import batch_slerp_unit

    g = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(20, 64, generator=g), dim=1) for _ in range(2))
    assert torch.allclose(slerp(a, b, at(*[0.3] * 20)), batch_slerp_unit(a, b, 0.3), atol=1e-6)


def test_shapes_and_lengths_of_noise() -> None:
    """A map is one vector; half-way between two normal latents its length stays, on a straight line it does not."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, 8, 8, generator=g) for _ in range(2))
    half = slerp(a, b, at(*[0.5] * 5))
    assert half.shape == a.shape
    assert half.dtype == torch.float32
    assert half.flatten(1).norm(dim=1).mean() == pytest.approx(16, rel=0.05)
    assert lerp(a, b, at(*[0.5] * 5)).flatten(1).norm(dim=1).mean() == pytest.approx(16 / 2**0.5, rel=0.1)
