"""Distance between any features of the images of a pair, and the diversity made of it.

It is to features of choice what LPIPS is to its own, and is never called LPIPS: the label names the extractor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from evalkit.metric import Batch, Better, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["squared_euclidean", "euclidean", "cosine"]
KINDS: tuple[Kind, ...] = ("squared_euclidean", "euclidean", "cosine")


@dataclass(eq=False)
class FeatureDistance(PairMetric):
    """0 (equal features) upwards, lower is better; the cosine distance `1 - cos` is at most 2.

    Args:
        features: address.
        kind: squared_euclidean, euclidean or cosine.
        pairs, max_pairs, seed: see PairMetric.
    """

    features: str
    kind: Kind = "squared_euclidean"
    pairs: Pairing = "baseline"
    max_pairs: int | None = None
    seed: int = 2020

    title = "feature distance"
    on_device = True
    better: Better = field(default="lower", init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind}: choices are {', '.join(KINDS)}")
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": f"{self.kind} distance"}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        from torch.nn.functional import normalize

        a, b = (batch.features[self.features].double() for batch in (first, second))  # f32 -> f64 [B,D]
        if self.kind == "cosine":
            return (normalize(a, dim=1) - normalize(b, dim=1)).square().sum(1) / 2  # 1 - cos, exact 0 for equal rows
        squared = (a - b).square().sum(1)
        return squared.sqrt() if self.kind == "euclidean" else squared


@dataclass(eq=False)
class FeatureDiversity(FeatureDistance):
    """The distance between samples of one prompt, higher is more diverse; near 0: mode collapse."""

    pairs: Pairing = "prompt"

    title = "feature diversity"
    better: Better = field(default="higher", init=False)
