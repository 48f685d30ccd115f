"""RKE-MC: how many modes a set has, by the order-2 Renyi entropy of its kernel matrix.

Jalali et al. 2023, arXiv:2302.14015, and their package's `compute_rke_mc`: 1 / the mean over pairs of k(x, x')^2 with
k = exp(-|x - x'|^2 / 2 s^2). The authors draw a million pairs; here all N^2 are taken, each sample with itself too, as
in their `compute_rke_mc_frobenius_norm`, whose inverse it is. Scores of different widths s are different numbers.

Standard error: the delta method on the mean over pairs (a V-statistic): a sample's influence is its mean over partners.
The share 1/N of pairs of a sample with itself bounds the score by N and biases it: only equal N compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import KeepsFeatures, Rows, SampleMetric, Score, with_error
from evalkit.numerics.kernels import Kernel, kernel_product

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class RenyiKernelEntropy(KeepsFeatures, SampleMetric[Rows]):
    """1 (all samples alike) to N, higher is better.

    Args:
        features: the address of the features, f32 [B,D].
        width: s, above 0, in the features' unit.
    """

    features: str = "inception/pool3"
    width: float = 10.0

    title = "RKE"
    better = "higher"
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width={self.width}: must be above 0")
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "1 / mean k(x,x')^2, all pairs", "kernel": "gaussian", "width": self.width}

    def score(self, *, generated: Rows) -> Score:
        x = generated[self.features]  # f32 [N,D]
        n = len(x)
        means = kernel_product(x, x, squared_gaussian(self.width)) / n  # f64 [N]
        mean = float(means.mean())
        influence = -2 * (means - mean) / mean**2
        return with_error(Score(1 / mean, n), influence, generated.clusters)


def squared_gaussian(width: float) -> Kernel:
    """exp(-|a - b|^2 / s^2): [A,D], [B,D] -> [A,B]."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * (a @ b.T)
        return squares.clamp_(min=0).div_(-(width**2)).exp_()

    return kernel
