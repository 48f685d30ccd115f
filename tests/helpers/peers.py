"""What the metrics are compared with where it is no package: published formulas and code, written out in float64.

All arguments are features or logits [N,D]; distances are whole matrices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu


def frechet(a: np.ndarray, b: np.ndarray, ddof: int = 1) -> float:
    """Frechet distance; the trace of the root is the sum of singular values of A B', the centred rows' product."""
    a, b = (x.astype(np.float64) for x in (a, b))
    rows = [(x - x.mean(0)) / (len(x) - ddof) ** 0.5 for x in (a, b)]
    root = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return float(shift + np.square(rows[0]).sum() + np.square(rows[1]).sum() - 2 * root)


def frechet_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance by SciPy's matrix root, for N well above D."""
    a, b = (x.astype(np.float64) for x in (a, b))
    cov = [np.cov(x, rowvar=False) for x in (a, b)]
    root = np.trace(sqrtm(cov[0] @ cov[1]).real)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov[0]) + np.trace(cov[1]) - 2 * root)


def frechet_infinity(generated: np.ndarray, reference: np.ndarray) -> tuple[float, list[float]]:
    """compute_FD_infinity of dgm-eval, with its generator seeded: the intercept, and the 15 distances."""
    n = len(generated)
    generated = generated.astype(np.float64)
    sizes = np.linspace(min(5000, max(n // 10, 2)), n, 15).astype("int32")
    rng = np.random.default_rng(2020)
    subsets = [rng.choice(generated, size, replace=False) for size in sizes]
    distances = [(frechet_sqrtm if len(x) > x.shape[1] else frechet)(x, reference) for x in subsets]
    design = np.stack([np.ones(15), 1 / sizes], axis=1)
    return float(np.linalg.lstsq(design, np.array(distances), rcond=None)[0][0]), distances


def inception_score_adm(logits: np.ndarray, split_size: int) -> float:
    """`Evaluator.compute_inception_score` of openai/guided-diffusion, on the softmax of the logits."""
    e = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    preds = e / e.sum(1, keepdims=True)
    scores = []
    for i in range(0, len(preds), split_size):
        part = preds[i : i + split_size]
        kl = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    return float(np.mean(scores))


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """google-research/cmmd, distance.py."""
    x, y = (s.astype(np.float64) / np.linalg.norm(s.astype(np.float64), axis=1, keepdims=True) for s in (x, y))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
        return float(np.exp(-squares / (2 * 10**2)).mean())

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def vendi(x: np.ndarray, order: float = 1.0) -> float:
    """The definition, by the N x N matrix of cosines."""
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / len(x))
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    if order == 1:
        return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))
    if np.isinf(order):
        return float(1 / eigenvalues.max())
    return float((eigenvalues**order).sum() ** (1 / (1 - order)))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N,D] and [M,D] -> [N,M], from differences: no digits are lost where points are near."""
    return np.stack([np.sqrt(np.square(row.astype(np.float64) - b).sum(1)) for row in a])


def distances_by_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same by one matrix product: for many features, of points that are not near one another."""
    return np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0))


def prdc(
    real: np.ndarray, fake: np.ndarray, k: int, closed: bool = False, between: Any = distances
) -> dict[str, float]:
    """The formulas of prdc 0.2; with <= in precision and recall where `closed`, as Kynkaanniemi and torch-fidelity."""
    radii = [np.sort(between(s, s), axis=1)[:, k] for s in (real, fake)]
    d = between(real, fake)
    below = np.less_equal if closed else np.less
    return {
        "precision": float(below(d, radii[0][:, None]).any(0).mean()),
        "recall": float(below(d, radii[1][None]).any(1).mean()),
        "density": float((d < radii[0][:, None]).sum(0).mean() / k),
        "coverage": float((d.min(1) < radii[0]).mean()),
    }


def authpct(samples: np.ndarray, training: np.ndarray) -> float:
    """authpct.py of dgm-eval."""
    own = distances(training, training)
    np.fill_diagonal(own, np.inf)
    d = distances(training, samples)
    nearest = d.argmin(0)
    return float(100 * (own.min(0)[nearest] < d.min(0)).mean())


def memorised(samples: np.ndarray, training: np.ndarray) -> float:
    """The share of samples with a nearest training image nearer than a third of the second nearest (Yoon, Gu 2023)."""
    d = np.sort(distances(samples, training), axis=1)
    return float((d[:, 0] < d[:, 1] / 3).mean())


def c_t(samples: np.ndarray, held_out: np.ndarray, training: np.ndarray, cells: list[np.ndarray]) -> tuple[float, int]:
    """C_T of data_copying_tests.py (casey-meehan/data-copying), and how many cells counted.

    Args:
        cells: of the samples, the held-out and the training images, the cell of each.
    """
    total = weight = counted = 0
    for c in range(max(cells[2]) + 1):
        q, p, t = (x[cell == c] for x, cell in zip((samples, held_out, training), cells, strict=True))
        if len(q) <= 20:
            continue
        m, n = len(q), len(p)
        u = mannwhitneyu(distances(q, t).min(1), distances(p, t).min(1)).statistic
        total += n * (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
        weight += n
        counted += 1
    return total / weight, counted


def mind(a: np.ndarray, b: np.ndarray, directions: np.ndarray) -> float:
    """MIND of sets of one size, by float64 sorting: 3 D times the mean squared distance of sorted projections."""
    along = [np.sort(x.astype(np.float64) @ directions.T, axis=0) for x in (a, b)]
    return float(3 * a.shape[1] * np.square(along[0] - along[1]).mean())


def mifid(generated: np.ndarray, training: np.ndarray, tau: float = 0.1) -> float:
    """FID by the mean smallest cosine distance to the training set, where that is below tau."""
    units = [
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (generated, training)
    ]
    distance = (1 - np.abs(units[0] @ units[1].T)).min(1).mean()
    fid = frechet(generated, training)
    return float(fid / (distance + 1e-14)) if distance < tau else fid


def rke(x: np.ndarray, width: float) -> float:
    """1 / mean squared Gaussian kernel over all pairs, each sample with itself too."""
    squares = np.square(x.astype(np.float64)[:, None] - x[None]).sum(2)
    return float(1 / np.square(np.exp(-squares / (2 * width**2))).mean())


def top_pr(real: np.ndarray, fake: np.ndarray, alpha: float = 0.1) -> tuple[float, float]:
    """TopP and TopR as in top-pr, in float64; of up to 32 dimensions, so that nothing is projected."""
    rng, dimension = np.random.RandomState(42), real.shape[1]
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(np.square(a[:, None] - b[None]).sum(2))

    def density(points: np.ndarray, data: np.ndarray, width: float, *weights: np.ndarray) -> np.ndarray:
        d = distances(points, data)
        kernel = np.where(d <= width, np.cos(np.pi / 2 * np.minimum(d / width, 1)), 0)
        return kernel @ np.stack([np.ones(len(data)), *weights], 1) / len(data)

    sides = []
    for data in (real, fake):
        k, d = 5 * dimension, distances(data, data)
        widths = sorted(np.sort(d[i, i + 1 :])[k - 1] for i in range(len(data) - k))
        width = widths[int(len(widths) * 0.5) - 1]
        picks = [rng.choice(np.arange(len(data)), size=len(data), replace=True) for _ in range(10)]
        p = density(data, data, width, *(np.bincount(pick, minlength=len(data)) for pick in picks))
        band = float(np.quantile(np.abs(p[:, 1:] - p[:, :1]).max(0), 1 - alpha))
        sides.append((data, width, band, p[:, 0]))
    (y, of_y, band_y, p_y), (x, of_x, band_x, p_x) = sides
    precision = ((p_x > band_x) & (density(x, y, of_y)[:, 0] > band_y)).sum() / (p_x > band_x).sum()
    recall = ((p_y > band_y) & (density(y, x, of_x)[:, 0] > band_x)).sum() / (p_y > band_y).sum()
    return float(precision), float(recall)
