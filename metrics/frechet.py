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
from evalkit.numerics.gaussians import Scatter, Seen, moments, root_trace, scatter_of

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
        mean1, cov1 = moments(generated, self.ddof)
        mean2, cov2 = (part.to(mean1.device) for part in moments(reference, self.ddof))
        n1, n2 = int(generated["n"]), int(reference["n"])
        spread = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
        value = float(spread - 2 * root_trace(cov1, cov2, n1 - 1, n2 - 1))
        return Score(max(value, 0.0), n1)  # rounding may put equal sets a little below zero

    def influence(self, *, generated: Sums, reference: Sums) -> Callable[[Batch], Tensor] | str:
        """N - 1 times what the score loses without a sample (the jackknife), and the delta method's, f64 [B,2].

        The delta method's is `2 y'(mu1-mu2) + y'Gy - Tr(G S1)` with y = x - mu1, G = I - T, T the map from S1 to S2:
        the slope. Where N is a few times D, a sample that lies far out in a direction that few others span changes the
        root term by twice that and more, so that of heavy-tailed features the slope's spread is a fifth too small.
        Where a few samples share one large factor, in all directions, it is the other way round. Of two approximations
        that both err downward the wider one counts.

        The reference counts as fixed; the bias of O(1/N), which equal N share, is not seen.
        """
        n, dimension = int(generated["n"]), len(generated["mean"])
        if n < 2 * dimension:
            return f"no standard error: N = {n} is below 2 d = {2 * dimension}"
        mean1, cov1 = moments(generated, self.ddof)
        mean2, cov2 = (part.to(mean1.device) for part in moments(reference, self.ddof))
        trace = float(cov1.trace())
        seen = Seen.of(cov1, cov2, int(reference["n"]) - 1)
        overlap, shift = float(seen.values.sqrt().sum()), mean1 - mean2
        grown = (n - self.ddof) / (n - 1 - self.ddof)  # S1 without a sample is grown (S1 - share yy')
        share = n / ((n - 1) * (n - self.ddof))

        def influence(batch: Batch) -> Tensor:
            import torch

            y = batch.features[self.features].to(mean1.device).double() - mean1  # f64 [B,D]
            along, length = y @ shift, y.square().sum(1)  # f64 [B] each
            slope, change = seen.without(y, share)
            delta = 2 * along + length - slope - (trace - overlap)
            means = (2 * along - length / (n - 1)) / (n - 1)
            roots = 2 * (grown**0.5 * (overlap + change) - overlap)
            without = (n - 1) * (means + trace - grown * (trace - share * length) + roots)
            return torch.stack([without, delta], 1)

        return influence

    def from_moments(self, *, mean: Tensor, cov: Tensor, n: int | None) -> Sums:
        import torch

        count = n or UNKNOWN_N
        scatter = (count - 1) * cov  # published covariances are np.cov's: ddof=1
        return Scatter({"n": torch.tensor(float(count)).double(), "mean": mean, "scatter": scatter})

    def to_moments(self, state: Sums) -> tuple[Tensor, Tensor, int]:
        mean, cov = moments(state)
        return mean, cov, int(state["n"])
