"""LPIPS v0.1 between the images of a pair (Zhang et al. 2018, arXiv:1801.03924), and the diversity made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Better, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor


class Lpips(PairMetric):
    """0 (equal to the network) upwards, lower is better: the squared distance of the extractor's features.

    Args:
        features: address of features whose squared Euclidean distance is LPIPS (evalkit.extractors.lpips).
        pairs, max_pairs, seed, resize_own: see PairMetric.
    """

    title = "LPIPS"
    better: Better = "lower"
    needs = ("lpips_alex/phi",)

    def __init__(
        self,
        features: str = needs[0],
        pairs: Pairing = "baseline",
        max_pairs: int | None = None,
        seed: int = 2020,
        resize_own: bool = False,
    ) -> None:
        self.needs = (features,)
        self.pairs = pairs
        self.resize_own = resize_own
        self.max_pairs = max_pairs
        self.seed = seed

    def constants(self) -> dict[str, Any]:
        return {"estimator": "squared euclidean distance"}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        difference = first.features[self.needs[0]] - second.features[self.needs[0]]  # f32 [B,D], D up to millions
        return difference.square().double().sum(1)


class LpipsDiversity(Lpips):
    """LPIPS between samples of one prompt, higher is more diverse; near 0: mode collapse."""

    title = "LPIPS diversity"
    better = "higher"

    def __init__(
        self,
        features: str = Lpips.needs[0],
        pairs: Pairing = "prompt",
        max_pairs: int | None = None,
        seed: int = 2020,
    ) -> None:
        super().__init__(features, pairs, max_pairs, seed)
