"""Frechet distance between two sets of features, under a Gaussian each: FID on Inception's pool3.

Heusel et al. 2017, arXiv:1706.08500. Conventions of TTUR and torch-fidelity 0.4.0 (`metric_fid.py`): covariance with
ddof=1 in float64. Equal to torch-fidelity to 1e-5 relative on the same images and weights, where N > D. Where N <= D
its `eigvals` of a singular product adds rounding noise (8e-5 of FID at N = 300, D = 2048); here the value is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, ReferenceMetric, Score, Sums
from evalkit.numerics.frechet import distance, influence
from evalkit.numerics.gaussians import Scatter, moments, scatter_of

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN_N = 10**9  # of statistics that do not say: so many that ddof plays no part


@dataclass(eq=False)
class FrechetDistance(ReferenceMetric[Sums]):
    """`|mu1-mu2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1 S2)^(1/2))`, lower is better, 0 for equal moments.

    Args:
        features: the address of the features, f32 [B,D].
        ddof: 1: covariances divide by N - 1; 0: by N.
        title: how scores are called where the features make another published metric of it ("sFID").
    """

    features: str = "inception/pool3"
    ddof: int = 1
    title: str = "FID"

    better = "lower"
    needs = (features,)
    takes_moments = gives_moments = on_device = True

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        if self.title in (None, "", FrechetDistance.title):  # not given: a subclass may have a title of its own
            self.title = type(self).title

    def constants(self) -> dict[str, Any]:
        return {"estimator": "frechet distance of gaussians", "moments": "float64", "ddof": self.ddof}

    def observe(self, batch: Batch) -> Sums:
        return scatter_of(batch.features[self.features])

    def score(self, *, generated: Sums, reference: Sums) -> Score:
        return Score(distance(generated, reference, self.ddof), int(generated["n"]))

    def influence(self, *, generated: Sums, reference: Sums) -> Callable[[Batch], Tensor] | str:
        """The jackknife's and the delta method's, f64 [B,2] (`numerics.frechet.influence`).

        The reference counts as fixed; the bias of O(1/N), which equal N share, is not seen.
        """
        each = influence(generated, reference, self.ddof)
        return each if isinstance(each, str) else lambda batch: each(batch.features[self.features])

    def from_moments(self, *, mean: Tensor, cov: Tensor, n: int | None) -> Sums:
        import torch

        count = n or UNKNOWN_N
        scatter = (count - 1) * cov  # published covariances are np.cov's: ddof=1
        return Scatter({"n": torch.tensor(float(count)).double(), "mean": mean, "scatter": scatter})

    def to_moments(self, state: Sums) -> tuple[Tensor, Tensor, int]:
        mean, cov = moments(state)
        return mean, cov, int(state["n"])
