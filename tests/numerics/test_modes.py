"""Principal components and k-means: against NumPy's, on what is known."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.numerics.modes import Components, k_means, nearest_centre, spread


@pytest.mark.parametrize("shape", [(200, 12), (9, 40)])
def test_components_are_those_of_the_svd_whatever_is_larger(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32) * np.linspace(3, 0.1, shape[1])
    features = features.astype(np.float32)
    found = Components.of(features, 5)
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.axes.T @ axes[:5].T), np.eye(5), atol=1e-6)
    np.testing.assert_allclose(found.explained, values[:5] ** 2 / (values**2).sum(), rtol=1e-6)
    assert (found.axes[np.abs(found.axes).argmax(axis=0), np.arange(5)] > 0).all()  # no map is turned over
    np.testing.assert_allclose(found.project(features), centred @ found.axes, atol=1e-9)


def test_equal_features_have_no_spread() -> None:
    found = Components.of(np.ones((5, 3), np.float32), 2)
    assert found.explained.tolist() == [0.0, 0.0]
    assert np.isfinite(found.project(np.ones((2, 3), np.float32))).all()


def test_k_means_finds_what_lies_apart_the_largest_first() -> None:
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(6, 4)) * 20
    points = np.concatenate([truth[i] + generator.normal(size=(200 - 30 * i, 4)) for i in range(6)])
    centres = k_means(points, 6)
    np.testing.assert_allclose(centres, truth, atol=0.6)
    np.testing.assert_array_equal(centres, k_means(points, 6))
    assert nearest_centre(truth, centres).tolist() == list(range(6))
    assert k_means(np.zeros((9, 2)), 3).tolist() == [[0.0, 0.0]] * 3


def test_spread_indices_are_even_and_see_every_class_of_a_set_that_repeats_them() -> None:
    found = spread(1000, 100)
    assert found.tolist() == sorted(set(found.tolist()))
    assert np.array_equal(found // 10, np.arange(100))
    assert set((found % 10).tolist()) == set(range(10))
    assert spread(3, 100).tolist() == [0, 1, 2]
    assert spread(0, 100).tolist() == []
