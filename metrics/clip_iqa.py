"""CLIP-IQA (Wang et al. 2023, arXiv:2207.12396): quality by two texts that CLIP compares an image with; no reference.

The value of an image is made by the extractor (evalkit.extractors.clip_iqa); the score is the mean, as of torchmetrics.
It follows people's opinions of photographs in part, and is no measure of how well an image fits its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.metric import Batch, Rows, SampleMetric, Score, mean_score


@dataclass(eq=False)
class ClipIqa(SampleMetric[Rows]):
    """0 ("Bad photo.") to 1 ("Good photo."), higher is better. Each image's value is kept.

    Args:
        features: address of the attribute; of another than "quality" the label names it.
    """

    features: str = "clip_iqa/quality"

    title = "CLIP-IQA"
    better = "higher"
    per_sample = True
    needs = (features,)

    def __post_init__(self) -> None:
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean"}

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {"score": batch.features[self.features][:, 0].double()}, batch.clusters)  # f64 [B]

    def score(self, *, generated: Rows) -> Score:
        return mean_score(generated["score"], generated.clusters)
