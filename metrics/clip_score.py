"""CLIP score: how well an image fits the text it was asked for, by the cosine of CLIP's two embeddings.

Hessel et al. 2021, arXiv:2104.08718, on the scale of torchmetrics (`functional.multimodal.clip_score`):
`max(mean(100 cos), 0)`, clamped after the mean, no prefix to the prompt.
"""

from __future__ import annotations

from typing import Any

from evalkit.metric import Batch, Rows, SampleMetric, Score


class ClipScore(SampleMetric):
    """0 to `scale`; higher is better. A mean over samples: its standard error is exact, and each sample's is kept."""

    title = "CLIP score"
    better = "higher"
    needs_prompts = True

    def __init__(
        self, image: str = "clip_vit_b32/image", text: str = "clip_vit_b32/text", scale: float = 100.0
    ) -> None:
        self.needs = (image, text)
        self.scale = scale

    def constants(self) -> dict[str, Any]:
        return {"estimator": "max(mean(scale * cos), 0)", "scale": self.scale, "prefix": ""}

    def observe(self, batch: Batch) -> Rows:
        from torch.nn.functional import normalize

        image, text = (normalize(batch.features[name].double(), dim=1) for name in self.needs)  # f64 [B,D]
        return Rows(batch.index, {"score": self.scale * (image * text).sum(1)})  # [B]

    def score(self, *, generated: Rows) -> Score:
        each = generated["score"]
        mean, n = float(each.mean()), len(each)
        note = f"the mean is {mean:.4g}, clamped to 0" if mean < 0 else None
        return Score(max(mean, 0.0), n, float(each.std(correction=1)) / n**0.5, tuple(each.tolist()), note=note)
