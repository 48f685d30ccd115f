"""FJD, the Frechet joint distance: FID of an image's features together with those of what it was asked for.

DeVries et al. 2019, arXiv:1907.08175, and their code (facebookresearch/fjd): an image's features and its condition's,
times alpha, side by side; alpha is the mean length of the reference's image features by that of its condition features,
unless it is given. At alpha = 0 it is FID. Samples that look right and show what others were asked for are far away.

The reference needs a text per image (its captions). Standard error as of FID, with alpha held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.metric import KeepsFeatures, ReferenceMetric, Rows, Score
from evalkit.numerics.frechet import score_of_rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class FrechetJointDistance(KeepsFeatures, ReferenceMetric[Rows]):
    """0 upwards, lower is better.

    Args:
        features: the address of the images' features, f32 [B,D].
        condition: the address of the texts' features, f32 [B,C].
        alpha: how much conditions count, 0 upwards; none: as much as images, by their lengths in the reference.
    """

    features: str = "inception/pool3"
    condition: str = "clip_vit_l14/text"
    alpha: float | None = None

    title = "FJD"
    better = "lower"
    needs = (features, condition)
    needs_prompts = True

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha >= 0:
            raise ValueError(f"alpha={self.alpha}: must be 0 or more")
        self.needs = (self.features, self.condition)

    def constants(self) -> dict[str, Any]:
        alpha = "|reference's images| / |reference's conditions|" if self.alpha is None else self.alpha
        return {"estimator": "frechet distance of gaussians, image and condition joined", "alpha": alpha, "ddof": 1}

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        images, conditions = reference[self.features], reference[self.condition]
        alpha = self.alpha
        if alpha is None:
            length = float(conditions.double().norm(dim=1).mean())
            alpha = float(images.double().norm(dim=1).mean()) / length if length else 0.0
        mine, theirs = (self._joined(rows, alpha) for rows in (generated, reference))  # f32 [N,D+C]
        fid = score_of_rows(mine, theirs, generated.clusters)
        return replace(fid, details={"alpha": alpha})

    def _joined(self, rows: Rows, alpha: float) -> Tensor:
        import torch

        return torch.cat([rows[self.features], alpha * rows[self.condition]], dim=1)
