"""FID-infinity: the Frechet distance without its bias of finite N, extrapolated from subsets.

Chong & Forsyth 2020, arXiv:1911.07023. Conventions of dgm-eval (`metrics/fd.py`, `compute_FD_infinity`): distances of
15 subsets of the generated samples, drawn without replacement, of sizes linspace(min(5000, max(N // 10, 2)), N), to the
whole reference; a straight line over 1/n; its value at 1/n = 0. dgm-eval draws unseeded; this is seeded. The bias that
the reference's own finite N brings stays.

The bias is O(1/n) for n well above the dimension D alone: below it the covariances are singular, and a line is a poor
model of what the distances do. At N = 50,000 the smallest size is 5,000, above D = 2048. With fewer samples give
`min_size`, or features of a smaller D; a note says so where the smallest size is not above D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, Sums
from evalkit.numerics.blockwise import finite_mean
from evalkit.numerics.gaussians import root_trace
from evalkit.numerics.threads import gram

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4096  # rows that are float64 at a time


@dataclass(eq=False)
class FrechetInfinity(KeepsFeatures, ReferenceMetric[Rows | Sums]):
    """The intercept: lower is better; it can fall a little below zero. `details` holds each "fd@n", and the fit.

    The distances of overlapping subsets err together, so that the spread around the line ("fit_residual") is far less
    than what another draw of N samples would change: no standard error is made of it, and none is given.

    Args:
        features: the address of the features, f32 [B,D].
        sizes: number of subsets, 2 or more.
        min_size: samples in the smallest one; none: dgm-eval's rule, above.
        seed: of the drawing.
        title: how scores are called where the features make another published metric of it.
    """

    features: str = "inception/pool3"
    sizes: int = 15
    min_size: int | None = None
    seed: int = 2020
    title: str = "FID-infinity"

    better = "lower"
    needs = (features,)
    takes_moments = on_device = True

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        self.sizes = max(self.sizes, 2)
        self.min_samples = max(4, 2 * (self.min_size or 2))  # a line needs sizes that differ
        if self.title in (None, "", FrechetInfinity.title):  # not given: a subclass may have a title of its own
            self.title = type(self).title

    def constants(self) -> dict[str, Any]:
        return {
            "estimator": "frechet distance, linear in 1/n, at 1/n = 0",
            "sizes": self.sizes,
            "smallest": self.min_size or "min(5000, max(N // 10, 2))",
            "draw": f"default_rng({self.seed}), without replacement",
            "ddof": 1,
        }

    def from_moments(self, *, mean: Tensor, cov: Tensor, n: int | None) -> Sums:
        return gaussian(mean, cov, (n or len(mean) + 1) - 1)

    def influence(self, *, generated: Rows, reference: Rows | Sums) -> str:
        return "no standard error: the subsets overlap"

    def score(self, *, generated: Rows, reference: Rows | Sums) -> Score:
        import numpy as np

        x = generated[self.features]  # f32 [N,D]
        total, dimension = x.shape
        finite_mean(x)  # before subsets of it tell another row
        given = fit(reference[self.features]) if isinstance(reference, Rows) else reference
        target = Sums({name: value.to(x.device) for name, value in given.values.items()})
        smallest = self.min_size or min(5000, max(total // 10, 2))
        sizes = np.linspace(smallest, total, self.sizes).astype(np.int64)
        rng = np.random.default_rng(self.seed)
        distances = [frechet(fit(x[rng.choice(total, size, replace=False)]), target) for size in sizes]
        slope, intercept = np.polyfit(1 / sizes, distances, 1)
        residual = np.asarray(distances) - (intercept + slope / sizes)
        details = {f"fd@{size}": value for size, value in zip(sizes.tolist(), distances, strict=True)}
        details |= {"slope": float(slope), "fit_residual": float(np.sqrt(np.mean(np.square(residual))))}
        note = None
        if smallest <= dimension:
            note = f"subsets from {smallest} samples on, no more than the {dimension} dimensions: the line fits poorly"
        return Score(float(intercept), total, details=details, note=note)


def gaussian(mean: Tensor, cov: Tensor, rank: int) -> Sums:
    """Mean f64 [D], covariance f64 [D,D] (ddof=1) and the largest rank it can have; never added up."""
    import torch

    return Sums({"mean": mean, "cov": cov, "rank": torch.tensor(rank)})


def fit(x: Tensor) -> Sums:
    """The Gaussian of features f32 [N,D]; two passes, in blocks, so that no float64 copy of all of them is made."""
    import torch

    finite_mean(x)
    n, parts = len(x), torch.split(x, BLOCK)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / n  # f64 [D]
    cov = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in parts:
        y = part.double() - mean
        cov += gram(y)
    return gaussian(mean, cov / (n - 1), n - 1)


def frechet(a: Sums, b: Sums) -> float:
    """Two Gaussians' Frechet distance; the first one's covariance is overwritten."""
    spread = (a["mean"] - b["mean"]).square().sum() + a["cov"].trace() + b["cov"].trace()
    return float(spread - 2 * root_trace(b["cov"].clone(), a["cov"], int(b["rank"]), int(a["rank"])))
