"""MiFID: FID, multiplied up where the samples lie suspiciously near to the training images.

Bai et al. 2021, arXiv:2106.03062: FID / s where s, the mean over generated samples of the smallest cosine distance
1 - |cos| to a training image, is below tau; else FID. tau is 0.1 on Inception's pool3, as in Kaggle's competition.
torchmetrics 1.9 takes the smallest distances the other way round, from each training image to the samples, and makes
an FID below 1e-8 0; given the two sets in exchange, its penalty is the same (tests/metrics/test_mifid.py).

Standard error: of FID's influences and the distances', the training set held fixed. It does not know of the step at
tau: `details` tell s, and a score near the step may be on its other side in another draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score, with_error
from evalkit.numerics.blockwise import full_float32, row_blocks
from evalkit.numerics.frechet import score_of_rows

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-14  # added to the distance, so that copies are no division by 0


@dataclass(eq=False)
class MemorisationInformedFid(KeepsFeatures, ReferenceMetric[Rows]):
    """0 upwards, lower is better; huge for copies of the training set.

    Args:
        features: the address of the features, f32 [B,D].
        tau: mean distances below it are punished, 0 to 1.
    """

    features: str = "inception/pool3"
    tau: float = 0.1

    title = "MiFID"
    better = "lower"
    needs = (features,)
    sides: ClassVar[tuple[str, ...]] = ("training",)

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau={self.tau}: must be 0 to 1")
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "FID / mean min (1 - |cos|) where that is below tau", "tau": self.tau, "ddof": 1}

    def score(self, *, generated: Rows, training: Rows) -> Score:
        import torch

        x, y = generated[self.features], training[self.features]  # f32 [N,D], [M,D]
        each = cosine_distance(x, y)  # f64 [N]
        distance = float(each.mean())
        fid = score_of_rows(x, y, generated.clusters)
        assert fid.value is not None
        punished = distance < self.tau
        value = fid.value / (distance + SMALL) if punished else fid.value
        details = {"FID": fid.value, "distance": distance}
        if not punished or fid.influence is None:
            return replace(fid, value=value, details=details)
        of_fid = torch.tensor(fid.influence, dtype=torch.float64)
        influence = (of_fid - value * (each.cpu() - distance)) / (distance + SMALL)
        return with_error(Score(value, len(x), details=details), influence, generated.clusters)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """f64 [N]: the smallest 1 - |cos| of each row of f32 [N,D] to one of f32 [M,D]; rows of zeros are like nothing."""
    import torch
    from torch.nn.functional import normalize

    units = normalize(y, dim=1)
    best = torch.zeros(len(x), device=x.device)
    with full_float32():
        for rows in row_blocks(x):
            some = normalize(x[rows], dim=1)
            for columns in row_blocks(y):
                likeness = (some @ units[columns].T).abs_().max(dim=1).values
                best[rows] = torch.maximum(best[rows], likeness)
    return (1 - best.double()).clamp_(min=0)
