"""The mean of a learned score of each image: aesthetic and preference models, and any other feature of width 1.

The error of a mean is exact, and each sample's own value is kept.
"""

from __future__ import annotations

from typing import Any

from evalkit.metric import Batch, Better, Rows, SampleMetric, Score, mean_score


class FeatureMean(SampleMetric[Rows]):
    """The mean of a feature of width 1.

    Args:
        features: address of the feature.
        title: how the score is called.
        better: "higher" or "lower".
        needs_prompts: whether the feature depends on the prompts as well.
    """

    title = "feature mean"
    better: Better = "higher"
    per_sample = True

    def __init__(
        self, features: str, title: str | None = None, better: Better | None = None, needs_prompts: bool = False
    ) -> None:
        if better not in (None, "higher", "lower"):
            raise ValueError(f"better={better}: give higher or lower")
        self.needs = (features,)
        self.needs_prompts = needs_prompts
        self.title = title or self.title
        self.better = better or self.better

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean"}

    def observe(self, batch: Batch) -> Rows:
        x = batch.features[self.needs[0]]  # f32 [B,1]
        if x.shape[1] != 1:
            raise ValueError(f"{self.needs[0]} has {x.shape[1]} values per sample: the mean is of a feature of width 1")
        return Rows(batch.index, {"score": x[:, 0].double()}, batch.clusters)  # f64 [B]

    def score(self, *, generated: Rows) -> Score:
        return mean_score(generated["score"], generated.clusters)


class Aesthetic(FeatureMean):
    """LAION's aesthetic predictor v2 (Schuhmann 2022): about 1 to 10, higher is better. Of the images alone."""

    title = "LAION aesthetic"
    needs = ("aesthetic/score",)

    def __init__(self, features: str = needs[0]) -> None:
        super().__init__(features)


class ImageReward(FeatureMean):
    """ImageReward (Xu et al. 2023, arXiv:2304.05977): about mean 0 and spread 1 over its raters' images, no bounds."""

    title = "ImageReward"
    needs = ("image_reward/score",)

    def __init__(self, features: str = needs[0]) -> None:
        super().__init__(features, needs_prompts=True)


class VqaScore(FeatureMean):
    """VQAScore (Lin et al. 2024, arXiv:2404.01291): the probability of "Yes" to "Does this figure show ...?"."""

    title = "VQAScore"
    needs = ("vqascore/score",)

    def __init__(self, features: str = needs[0]) -> None:
        super().__init__(features, needs_prompts=True)
