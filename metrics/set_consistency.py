"""How alike the images of one prompt are: the mean cosine between each two of them, averaged over the prompts.

The mean pairwise similarity of a set, as stories and subjects are judged by (ConsiStory, arXiv:2402.03286, with
DreamSim; CLIP and DINO elsewhere): high where a character stays the same, and where all variety is gone. Vendi and the
diversity of LPIPS pairs look at the other end of the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.metric import Batch, Rows, SampleMetric, Score, with_error


@dataclass(eq=False)
class SetConsistency(SampleMetric[Rows]):
    """-1 to 1 (all images of a prompt alike), higher is more consistent.

    Each sample's value is its mean cosine with the other samples of its prompt; the score is their mean, so that a
    prompt counts by its number of samples. A prompt with one sample has none and is left out.

    Args:
        features: the address of the features, f32 [B,D].
    """

    features: str = "clip_vit_b32/image"

    title = "set consistency"
    better = "higher"
    needs = (features,)
    needs_prompts = True

    def __post_init__(self) -> None:
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean over samples of the mean cosine with the others of their prompt"}

    def observe(self, batch: Batch) -> Rows:
        from torch.nn.functional import normalize

        x = normalize(batch.features[self.features].double(), dim=1)  # f64 [B,D]
        return Rows(batch.index, {"x": x, "group": batch.clusters}, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        import torch

        x, group = generated["x"], generated["group"]
        _, place, counts = torch.unique(group, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype).index_add_(0, place, x)  # f64 [G,D]
        of_prompt = counts[place].double()  # f64 [N]
        each = ((x * (sums[place] - x)).sum(1)) / (of_prompt - 1).clamp(min=1)
        counted = of_prompt > 1
        n = int(counted.sum())
        if n == 0:
            return Score(None, len(x), note="no prompt has two samples: raise samples_per_prompt")
        value = float(each[counted].mean())
        # a sample that is left out moves nothing; the others by their share, so that the mean of all is the score
        influence = torch.where(counted, value + (each - value) * (len(x) / n), value)
        details = {"prompts": float((counts > 1).sum()), "samples": float(n)}
        return with_error(Score(value, len(x), details=details), influence, generated.clusters)
