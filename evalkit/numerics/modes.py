"""Where samples lie in feature space: principal components, and clusters by k-means. NumPy and SciPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

RESTARTS, ROUNDS = 4, 100  # of k-means


@dataclass(frozen=True)
class Components:
    """Principal components.

    Attributes:
        mean: f64 [D].
        axes: f64 [D,K], the widest first; each one's largest entry is positive, so that no library turns a map over.
        explained: f64 [K], of each the share of all variance.
    """

    mean: F64
    axes: F64
    explained: F64

    @classmethod
    def of(cls, features: F32, most: int) -> Components:
        """Of features f32 [N,D], N >= 2: `most` axes, or as many as they have."""
        from scipy.linalg import eigh

        points = features.astype(np.float64)
        mean = points.mean(axis=0)
        points -= mean
        n, wide = points.shape
        k = min(most, n - 1, wide)
        gram = points @ points.T if n < wide else points.T @ points
        values, vectors = eigh(gram, subset_by_index=(len(gram) - k, len(gram) - 1))
        values, axes = values[::-1], vectors[:, ::-1]
        if n < wide:
            axes = points.T @ axes / np.sqrt(np.maximum(values, np.finfo(float).tiny))
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(k)]
        total = float(np.trace(gram))
        return cls(mean, axes * np.where(largest < 0, -1.0, 1.0), np.clip(values, 0, None) / (total or 1.0))

    def project(self, features: F32) -> F64:
        """Features f32 [N,D] -> f64 [N,K]."""
        return (features.astype(np.float64) - self.mean) @ self.axes


def nearest_centre(points: F64, centres: F64) -> I64:
    """Of each point [N,K] the nearest of the centres [C,K], i64 [N]; the first of several as near."""
    squares = (centres**2).sum(axis=1) - 2 * points @ centres.T  # less the point's own square, the same for all
    return np.asarray(squares.argmin(axis=1), np.int64)


def k_means(points: F64, k: int, seed: int = 0) -> F64:
    """Centres f64 [k,K] of points f64 [N,K]: the best of some starts by k-means++; the largest cluster first."""
    generator = np.random.default_rng(seed)
    best, least = points[:k], np.inf
    for _ in range(RESTARTS):
        centres = _plus_plus(points, k, generator)
        ids = nearest_centre(points, centres)
        for _ in range(ROUNDS):
            centres = np.stack([points[ids == i].mean(axis=0) if (ids == i).any() else centres[i] for i in range(k)])
            before, ids = ids, nearest_centre(points, centres)
            if np.array_equal(before, ids):
                break
        cost = float(((points - centres[ids]) ** 2).sum())
        if cost < least:
            best, least = centres, cost
    sizes = np.bincount(nearest_centre(points, best), minlength=k)
    return best[np.argsort(-sizes, kind="stable")]


def _plus_plus(points: F64, k: int, generator: np.random.Generator) -> F64:
    chosen = [int(generator.integers(len(points)))]
    far = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < k:
        total = far.sum()
        next_one = generator.choice(len(points), p=far / total) if total > 0 else generator.integers(len(points))
        chosen.append(int(next_one))
        far = np.minimum(far, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return points[chosen]


def spread(n: int, most: int, seed: int = 0) -> I64:
    """At most `most` of n indices, i64, ascending: one of each of as many equal parts, by chance within it, since a
    fixed stride would see one class alone of a set that repeats its classes in turn."""
    edges = np.linspace(0, n, min(n, most) + 1).astype(np.int64)
    return np.asarray(np.random.default_rng(seed).integers(edges[:-1], edges[1:]), np.int64)
