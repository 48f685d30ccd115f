"""LPIPS v0.1 between the images of a pair (Zhang et al. 2018, arXiv:1801.03924), and the diversity made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Better, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Lpips(PairMetric):
    """0 (equal to the network) upwards, lower is better: the squared distance of the extractor's features.

    Args:
        features: address of features whose squared Euclidean distance is LPIPS (evalkit.extractors.lpips).
        pairs, max_pairs, seed, resize_own: see PairMetric.
    """

    features: str = "lpips_alex/phi"
    pairs: Pairing = "baseline"
    max_pairs: int | None = None
    seed: int = 2020
    resize_own: bool = False

    title = "LPIPS"
    better: Better = field(default="lower", init=False)
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "squared euclidean distance"}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        difference = first.features[self.features] - second.features[self.features]  # f32 [B,D], D up to millions
        return difference.square().double().sum(1)


class LpipsDiversity(Lpips):
    """LPIPS between samples of one prompt, higher is more diverse; near 0: mode collapse."""

    title = "LPIPS diversity"
    better = "higher"

    def __init__(
        self, features: str = Lpips.features, pairs: Pairing = "prompt", max_pairs: int | None = None, seed: int = 2020
    ) -> None:
        super().__init__(features, pairs, max_pairs, seed)
