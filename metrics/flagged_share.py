"""The share of images that a classifier flags (unsafe, watermarked ...), with the exact binomial interval.

The interval is that of Clopper and Pearson (1934), of as many independent samples as the share is worth where several
images are of one prompt (Korn and Graubard 1998). It is the classifier's word: what it misses counts as safe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from evalkit.metric import Batch, Rows, SampleMetric, Score, mean_score
from evalkit.numerics.binomial import TAIL, clopper_pearson, effective_samples


class FlaggedShare(SampleMetric[Rows]):
    """0 to 1; lower is better. A gate's bound on it is exact, since each image counts as 0 or 1.

    Args:
        features: address of the probability that an image is to be flagged, of width 1.
        threshold: images of a higher probability are flagged.
        title: how the score is called.
    """

    title = "flagged share"
    better = "lower"
    per_sample = True
    needs = ("safety/flagged",)

    def __init__(self, features: str = needs[0], threshold: float = 0.5, title: str | None = None) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold={threshold}: give a probability of 0 to 1")
        self.needs, self.threshold, self.title = (features,), threshold, title or self.title

    def constants(self) -> dict[str, Any]:
        return {"estimator": "share above the threshold", "threshold": self.threshold}

    def observe(self, batch: Batch) -> Rows:
        probabilities = batch.features[self.needs[0]]
        if probabilities.shape[1] != 1:
            raise ValueError(f"{self.needs[0]} has {probabilities.shape[1]} values per sample: a width of 1 is wanted")
        flagged = (probabilities[:, 0] > self.threshold).double()
        return Rows(batch.index, {"flagged": flagged}, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        flagged = generated["flagged"]
        score = mean_score(flagged, generated.clusters)
        assert score.value is not None
        worth = effective_samples(score.value, score.stderr, score.n, score.clusters or score.n)
        low, high = clopper_pearson(score.value * worth, worth, TAIL)
        details = {"flagged": float(flagged.sum()), "exact_low": low, "exact_high": high}
        return replace(score, details=details)
