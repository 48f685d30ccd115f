"""How a classifier spreads the generated samples over its classes: classes that are never made, distance, entropy.

Each sample counts for its most probable class. The distance of two histograms is the total variation, half the sum of
absolute differences: 0 to 1, the share of samples that would have to be of another class. It is biased upward, so that
what chance alone gives at the same N stands next to it (`by_chance`; the reference counts as exact), by de Moivre's
closed form of a binomial's mean deviation. A class is collapsed where it has less than a given part of its due share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.metric import Batch, ReferenceMetric, SampleMetric, Score, Sums
from evalkit.numerics.binomial import mean_deviations

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    F64 = NDArray[np.float64]
    Flags = NDArray[np.bool_]

NAMED = 10  # collapsed classes that a note names


class _Histogram:
    """What both metrics share: a state of counts by class."""

    def __init__(self, features: str, below: float) -> None:
        if not 0 <= below <= 1:
            raise ValueError(f"below={below}: give a part of the due share, 0 (never made) to 1")
        self.needs, self.below = (features,), below

    def observe(self, batch: Batch) -> Sums:
        """Counts by class, f64 [C]."""
        import torch

        logits = batch.features[self.needs[0]]
        return Sums({"counts": torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double()})

    def collapsed(self, counts: F64, due: F64) -> Flags:
        """Which classes have less than their due, bool [C]; those that are due nothing have not."""
        n = counts.sum()
        least = np.maximum(self.below * due * n, np.nextafter(0, 1))  # with below=0: none at all
        lost: Flags = (due > 0) & (counts < least)
        return lost


def entropy(shares: F64) -> float:
    """In nats."""
    known = shares[shares > 0]
    return float(-(known * np.log(known)).sum())


class CollapsedClasses(_Histogram, SampleMetric[Sums]):
    """The number of classes that are made too rarely, each due as often as any other; lower is better.

    `details`: never_made, by_chance (how many would be collapsed if all were made alike), entropy [nats], classes.

    Args:
        features: address of a classifier's logits.
        below: of its due share 1 / C, below which a class is collapsed; 0: classes never made alone.
    """

    title = "collapsed classes"
    better = "lower"
    needs = ("classifier/logits",)

    def __init__(self, features: str = needs[0], below: float = 0.1) -> None:
        super().__init__(features, below)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "classes below their due share", "due": "equal", "below": self.below}

    def score(self, *, generated: Sums) -> Score:
        from scipy.stats import binom

        counts = generated["counts"].cpu().numpy()
        n, classes = int(counts.sum()), len(counts)
        due = np.full(classes, 1 / classes)
        lost = self.collapsed(counts, due)
        most = np.ceil(max(self.below * n / classes, np.nextafter(0, 1))) - 1  # the largest count that is too small
        details = {
            "never_made": float((counts == 0).sum()),
            "by_chance": float(classes * binom.cdf(most, n, 1 / classes)),
            "entropy": entropy(counts / n),
            "classes": float(classes),
        }
        return Score(float(lost.sum()), n, details=details, note=_named(lost))


class ClassHistogram(_Histogram, ReferenceMetric[Sums]):
    """The total variation between the histograms of the generated and the reference images: 0 to 1, lower is better.

    `details`: by_chance (the distance that a draw of N from the reference's histogram has on average), collapsed
    (classes with less than `below` of their share in the reference), never_made, entropy, reference_entropy [nats].

    Args:
        features: address of a classifier's logits.
        below: of its share in the reference, below which a class is collapsed; 0: classes never made alone.
    """

    title = "class histogram"
    better = "lower"
    needs = ("classifier/logits",)

    def __init__(self, features: str = needs[0], below: float = 0.1) -> None:
        super().__init__(features, below)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "total variation of class histograms", "below": self.below}

    def score(self, *, generated: Sums, reference: Sums) -> Score:
        counts, others = (side["counts"].cpu().numpy() for side in (generated, reference))
        n = int(counts.sum())
        shares, due = counts / n, others / others.sum()
        lost = self.collapsed(counts, due)
        details = {
            "by_chance": float(mean_deviations(n, due).sum() / 2),
            "collapsed": float(lost.sum()),
            "never_made": float(((counts == 0) & (due > 0)).sum()),
            "entropy": entropy(shares),
            "reference_entropy": entropy(due),
        }
        return Score(float(abs(shares - due).sum() / 2), n, details=details, note=_named(lost))

    def influence(self, *, generated: Sums, reference: Sums) -> Callable[[Batch], Tensor]:
        """Of a sample of class c: half the sign of its class's difference, less the mean of that."""
        import torch

        shares, due = (side["counts"] / side["counts"].sum() for side in (generated, reference))
        signs = (shares - due).sign() / 2  # f64 [C]
        value, mean = float((shares - due).abs().sum() / 2), float(signs @ shares)

        def of(batch: Batch) -> Tensor:
            each: Tensor = value + signs[batch.features[self.needs[0]].argmax(1)] - mean
            return each.to(torch.float64)

        return of


def _named(lost: Flags) -> str | None:
    places = np.flatnonzero(lost).tolist()
    if not places:
        return None
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"hardly made: classes {', '.join(map(str, places[:NAMED]))}{more}"
