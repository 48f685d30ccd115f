"""Precision, recall, density and coverage: how two sets of features lie in one another's k-nearest-neighbour balls.

Precision and recall: Kynkaanniemi et al. 2019, arXiv:1904.06991; k = 3, closed balls (`<=`), as in stylegan3 and in
torch-fidelity 0.4.0 (`metric_prc.py`), to which they are equal on the same features. Density and coverage: Naeem et
al. 2020, arXiv:2002.09797; k = 5, open balls (`<`), as in prdc 0.2, to which they are equal. Of a copied set, density
is 1 with open balls and (k+1)/k with closed ones. A ball's radius is the distance to the k-th nearest other sample.

Standard errors hold the reference fixed and are those of drawing other generated samples (`evalkit.numerics.spreads`).
Precision and density are means over generated samples: exact. Coverage: the jackknife and its second order; recall, in
which a sample also changes its neighbours' balls: from halves. In simulation (EfficientNet-Lite0 features of CIFAR-10,
N = 250 to 800, d = 64; Gaussians of 2 to 32 dimensions) 0.9 to 1.1 times the true spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, mean_score, standard_error, with_error
from evalkit.numerics.balls import Meeting, meet
from evalkit.numerics.spreads import coverage_influence, half_spread, halves, places_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

FEWEST = 10  # clusters: of fewer, halves tell little
LEAST = 20  # times k: of fewer samples, halves are too few for recall's standard error


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
    on_device = True
    estimator: ClassVar[str]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: must be 1 or more")
        self.needs = (self.features,)
        self.min_reference = self.k + 1

    def constants(self) -> dict[str, Any]:
        return {"estimator": self.estimator, "k": self.k, "comparison": "<=" if self.closed else "<"}

    def _meeting(self, generated: Rows, reference: Rows) -> tuple[Meeting, NDArray[np.int64]]:
        """The two sets in one another's balls, in one pass for all four metrics; the samples' clusters, i64 [N]."""
        places = places_of(len(generated), generated.clusters)
        x, y = generated[self.features], reference[self.features]  # f32 [N,D], [M,D]
        return meet(x, y, self.k, closed=self.closed, parts=halves(places).to(x.device)), places

    def _counts(self, generated: Rows, reference: Rows) -> Tensor:
        """f64 [N]: the number of reference balls that each generated sample lies in."""
        held = self._meeting(generated, reference)[0].x_in_y
        assert held is not None, "the reference is not above `min_reference`"
        return held.balls.cpu().double()  # a mean on a GPU differs in its last bit


class Precision(_Neighbours):
    """The share of generated samples that lie in some ball of the reference: how real they are."""

    title = "precision"
    per_sample = True
    estimator = "share of generated samples in the reference's balls"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        return mean_score((self._counts(generated, reference) > 0).double(), generated.clusters)


@dataclass(eq=False)
class Density(_Neighbours):
    """The mean number of reference balls that a generated sample lies in, over k."""

    k: int = 5
    closed: bool = False

    title = "density"
    per_sample = True
    estimator = "mean number of the reference's balls that hold a generated sample, over k"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        return mean_score(self._counts(generated, reference) / self.k, generated.clusters)


@dataclass(eq=False)
class Coverage(_Neighbours):
    """The share of reference balls that hold a generated sample: how much of the reference is reached."""

    k: int = 5
    closed: bool = False

    title = "coverage"
    estimator = "share of the reference's balls that hold a generated sample"

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        meeting, places = self._meeting(generated, reference)
        held = meeting.x_in_y
        assert held is not None, "the reference is not above `min_reference`"
        influence = coverage_influence(held, places)
        value = float((held.count > 0).cpu().double().mean())
        return with_error(Score(value, len(generated)), influence, generated.clusters)


class Recall(_Neighbours):
    """The share of the reference that lies in some ball of the generated samples: how much of it they span."""

    title = "recall"
    estimator = "share of the reference in the generated samples' balls"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.min_reference, self.min_samples = 2, self.k + 1

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        """The influences are those of radii that do not change (y that one ball alone holds), on the error's scale."""
        n = len(generated)
        meeting, places = self._meeting(generated, reference)
        held, parts = meeting.y_in_x, meeting.parts
        assert held is not None, "the samples are not above `min_samples`"
        assert parts is not None
        value = float((held.balls > 0).cpu().double().mean())
        clusters = int(places.max()) + 1
        if n < LEAST * self.k or clusters < FEWEST:
            few = (
                f"N = {n} is below {LEAST * self.k}" if n < LEAST * self.k else f"{clusters} prompts are below {FEWEST}"
            )
            return Score(value, n, note=f"no standard error: {few}", clusters=clusters)
        stderr = half_spread(parts.double().mean(0))
        each = held.only[held.only >= 0].bincount(minlength=n).double()
        spread = standard_error(each, generated.clusters)
        influence = tuple((each * (stderr / spread)).tolist()) if spread else None
        return Score(value, n, stderr, influence, clusters=clusters)
