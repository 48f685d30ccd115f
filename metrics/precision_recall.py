"""Precision, recall, density and coverage: how two sets of features lie in one another's k-nearest-neighbour balls.

Precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991; k = 3, closed balls (`<=`), as in stylegan3 and in
torch-fidelity 0.4.0 (`metric_prc.py`), to which they are equal on the same features. Density and coverage: Naeem et
al. 2020, arXiv:2002.09797; k = 5, open balls (`<`), as in prdc 0.2, to which they are equal. Of a copied set, density
is 1 with open balls and (k+1)/k with closed ones. A ball's radius is the distance to the k-th nearest other sample.

Standard errors hold the reference fixed and are those of drawing other generated samples. Precision and density are
means over generated samples: exact. Coverage: the jackknife; recall, in which a sample also changes its neighbours'
balls: the jackknife over ten groups. By Efron and Stein's inequality the jackknife errs upward: in simulation
(N = 500 and 1000, 2 to 64 dimensions) it gave 1.0 to 2.2 times coverage's spread, and 1.1 to 1.8 times recall's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, mean_score, standard_error
from evalkit.numerics.neighbours import ball_counts, in_any_ball, knn_radii, nearest_in, nearest_others

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = 10  # of recall's jackknife: ten further sets of radii in the same pass over the distances
SEED = 2020  # of the groups


@dataclass(eq=False)
class _Neighbours(KeepsFeatures, ReferenceMetric[Rows]):
    """What the four share: 0 to 1 (density: 0 upwards), higher is better.

    Args:
        features: the address of the features, f32 [B,D].
        k: which neighbour's distance is a ball's radius, 1 upwards.
        closed: whether a sample at exactly a ball's radius lies in it (`<=`) or not (`<`).
    """

    features: str = "inception/pool3"
    k: int = 3
    closed: bool = True

    better = "higher"
    needs = (features,)
    estimator: ClassVar[str]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: must be 1 or more")
        self.needs = (self.features,)
        self.min_reference = self.k + 1

    def constants(self) -> dict[str, Any]:
        return {"estimator": self.estimator, "k": self.k, "comparison": "<=" if self.closed else "<"}

    def _counts(self, generated: Rows, reference: Rows) -> Tensor:
        """f64 [N]: the number of reference balls that each generated sample lies in."""
        x, y = generated[self.features], reference[self.features]  # f32 [N,D], [M,D]
        return ball_counts(x, y, knn_radii(y, self.k), closed=self.closed).double()


class Precision(_Neighbours):
    """The share of generated samples that lie in some ball of the reference: how real they are."""

    title = "precision"
    per_sample = True
    estimator = "share of generated samples in the reference's balls"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        return mean_score((self._counts(generated, reference) > 0).double())


@dataclass(eq=False)
class Density(_Neighbours):
    """The mean number of reference balls that a generated sample lies in, over k."""

    k: int = 5
    closed: bool = False

    title = "density"
    per_sample = True
    estimator = "mean number of the reference's balls that hold a generated sample, over k"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        return mean_score(self._counts(generated, reference) / self.k)


@dataclass(eq=False)
class Coverage(_Neighbours):
    """The share of reference balls that hold a generated sample: how much of the reference is reached."""

    k: int = 5
    closed: bool = False

    title = "coverage"
    estimator = "share of the reference's balls that hold a generated sample"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        """A sample's influence is (N-1) times what the score loses without it: the balls that it alone lies in."""
        import torch

        x, y = generated[self.features], reference[self.features]  # f32 [N,D], [M,D]
        n, m = len(x), len(y)
        radii = knn_radii(y, self.k)[:, None]
        distance, index = nearest_in(y, x, k=2)  # f64 [M,2], i64 [M,2]
        inside = distance <= radii * (1 + 1e-12) if self.closed else distance < radii * (1 - 1e-12)  # bool [M,2]
        alone = index[inside[:, 0] & ~inside[:, 1], 0]
        influence = torch.bincount(alone, minlength=n).double() * ((n - 1) / m)  # f64 [N]
        value = float(inside[:, 0].double().mean())
        return Score(value, n, standard_error(influence), tuple(influence.tolist()))


class Recall(_Neighbours):
    """The share of the reference that lies in some ball of the generated samples: how much of it they span."""

    title = "recall"
    estimator = "share of the reference in the generated samples' balls"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.min_reference, self.min_samples = 2, self.k + 1

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        import numpy as np
        import torch

        x, n = generated[self.features], len(generated)
        distance, index = nearest_others(x, min(2 * self.k + 1, n - 1))
        radii = distance[:, self.k - 1, None]  # f64 [N,1]
        enough = n >= 2 * GROUPS * self.k
        if enough:
            order = np.random.default_rng(SEED).permutation(n) % GROUPS
            group = torch.from_numpy(order).to(x.device)  # i64 [N]
            radii = torch.cat([radii, without_a_group(distance, index, group, self.k)], 1)
        spanned = in_any_ball(reference[self.features], x, radii, closed=self.closed)
        recalls = spanned.double().mean(0)  # f64 [1 + GROUPS]
        if not enough:
            return Score(float(recalls[0]), n, note=f"no standard error: N = {n} is below {2 * GROUPS * self.k}")
        stderr = (GROUPS - 1) ** 0.5 * float(recalls[1:].std(correction=0))
        return Score(float(recalls[0]), n, stderr)


def without_a_group(distance: Tensor, index: Tensor, group: Tensor, k: int) -> Tensor:
    """The balls' radii without each group of samples, f64 [N,GROUPS]; its own samples have none (NaN).

    Args:
        distance: f64 [N,C] to each sample's nearest others, ascending. Where fewer than k of them are left (2 in 10,000
            at k = 3 with C = 7), the farthest counts.
        index: i64 [N,C], which those are.
        group: i64 [N], 0 to GROUPS - 1.
    """
    import torch

    radii = []
    for left_out in range(GROUPS):
        remaining = (group[index] != left_out).cumsum(1)  # i64 [N,C]
        kth = (remaining < k).sum(1, keepdim=True).clamp(max=distance.shape[1] - 1)  # [N,1]
        radii.append(distance.gather(1, kth).masked_fill((group == left_out)[:, None], float("nan")))
    return torch.cat(radii, 1)
