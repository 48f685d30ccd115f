"""CLIP score: how well an image fits the text it was asked for, by the cosine of CLIP's two embeddings.

Hessel et al. 2021, arXiv:2104.08718. `ClipScore` is on the scale of torchmetrics (`functional.multimodal.clip_score`):
`max(mean(100 cos), 0)`, clamped after the mean, no prefix to the prompt. `HesselClipScore` is the paper's own
(`jmhessel/clipscore`): `mean(2.5 max(cos, 0))`, each text after "A photo depicts ", which the text's extractor adds.
`PickScore` and `Hps` are CLIP models tuned to people's choices; their authors clamp nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from evalkit.metric import Batch, Rows, SampleMetric, Score, mean_score

Clamp = Literal["mean", "each", "none"]


@dataclass(eq=False)
class ClipScore(SampleMetric[Rows]):
    """0 to `scale`; higher is better. A mean over samples: its standard error is exact, and each sample's is kept.

    Args:
        image, text: addresses of the two embeddings.
        scale: what the cosine is multiplied with.
        clamp: whether negative values become 0 after the mean ("mean"), in each sample ("each"), or not at all.
        unit: whether the embeddings are brought to length 1; false where the extractor has scaled them.
    """

    image: str = "clip_vit_b32/image"
    text: str = "clip_vit_b32/text"
    scale: float = 100.0
    clamp: Clamp = "mean"
    unit: bool = True

    title = "CLIP score"
    better = "higher"
    per_sample = True
    needs = (image, text)
    needs_prompts = True

    def __post_init__(self) -> None:
        if self.clamp not in ("mean", "each", "none"):
            raise ValueError(f"clamp={self.clamp}: give mean, each or none")
        self.needs = (self.image, self.text)

    def constants(self) -> dict[str, Any]:
        product = "cos" if self.unit else "dot"
        formula = f"mean(scale * max({product}, 0))" if self.clamp == "each" else f"mean(scale * {product})"
        return {"estimator": f"max({formula}, 0)" if self.clamp == "mean" else formula, "scale": self.scale}

    def observe(self, batch: Batch) -> Rows:
        from torch.nn.functional import normalize

        image, text = (batch.features[name].double() for name in self.needs)  # f64 [B,D]
        if self.unit:
            image, text = normalize(image, dim=1), normalize(text, dim=1)
        each = self.scale * (image * text).sum(1)  # [B]
        return Rows(batch.index, {"score": each.clamp(min=0) if self.clamp == "each" else each}, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        score = mean_score(generated["score"], generated.clusters)
        if self.clamp == "mean" and score.value is not None and score.value < 0:
            return replace(score, value=0.0, note=f"the mean is {score.value:.4g}, clamped to 0")
        return score


class HesselClipScore(ClipScore):
    """The paper's own: 0 to 2.5."""

    title = "CLIPScore (Hessel)"
    needs = ("clip_vit_b32/image", "clip_vit_b32_hessel/text")

    def __init__(self, image: str = needs[0], text: str = needs[1], scale: float = 2.5, clamp: Clamp = "each") -> None:
        super().__init__(image, text, scale, clamp)


class PickScore(ClipScore):
    """PickScore (Kirstain et al. 2023, arXiv:2305.01569): exp(logit_scale) cos, with the learned scale; 18 to 24."""

    title = "PickScore"
    needs = ("pickscore/image_unit", "pickscore/text_logit")

    def __init__(self, image: str = needs[0], text: str = needs[1]) -> None:
        super().__init__(image, text, scale=1.0, clamp="none", unit=False)


class Hps(ClipScore):
    """Human preference score v2.1 (Wu et al. 2023, arXiv:2306.09341): 100 cos, about 20 to 35."""

    title = "HPS v2.1"
    needs = ("hpsv2/image", "hpsv2/text")

    def __init__(self, image: str = needs[0], text: str = needs[1], scale: float = 100.0) -> None:
        super().__init__(image, text, scale, clamp="none")
