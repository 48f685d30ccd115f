"""How well samples follow the edges that they were given: the control recomputed from each sample, and compared.

Edges by Canny of the sample (`evalkit.numerics.canny`) against the prompt's control image. `EdgeF1` is the boundary F1
of Csurka et al. 2013 ("What is a good evaluation measure for semantic segmentation?", after Martin et al. 2004) with a
tolerance in pixels: precision, the share of the sample's edge pixels that lie near an edge of the control; recall, the
share of the control's that lie near one of the sample's. Several edge pixels may lie near the same one (no matching one
to one). `EdgeSsim` is the SSIM of the two maps. The control image may be the edge map itself, or any image to take
edges of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evalkit.metric import Batch, Pairing, PairMetric
from evalkit.numerics.canny import HIGH, LOW, SIGMA, canny

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LEVEL = 128  # an edge map's pixel is an edge from here on
KERNEL = 11  # SSIM's window


@dataclass(eq=False)
class EdgeF1(PairMetric):
    """0 to 1, higher is better; 1 where neither image has an edge, 0 where one has none.

    Args:
        control: what the control images are: "edges", maps with light edges on black, or "image": their edges are taken
            as the sample's are.
        tolerance: how far apart two edge pixels may lie and be the same, in pixels along each axis, >= 0.
        sigma, low, high: of Canny, see evalkit.numerics.canny.
        pairs: "control", or another image to compare the edges with ("source", "target", "baseline").
    """

    control: Literal["edges", "image"] = "edges"
    tolerance: int = 1
    sigma: float = SIGMA
    low: float = LOW
    high: float = HIGH
    pairs: Pairing = "control"

    title = "edge F1"
    better = "higher"
    resize_own = True

    def __post_init__(self) -> None:
        self.canny = {"sigma": self.sigma, "low": self.low, "high": self.high}
        if self.control not in ("edges", "image"):
            raise ValueError(f"control={self.control!r}: give edges (the control images are edge maps) or image")
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int) or self.tolerance < 0:
            raise ValueError(f"tolerance={self.tolerance!r}: give a whole number of pixels >= 0")
        if self.sigma < 0 or not 0 < self.low <= self.high:
            given = ", ".join(f"{name}={value}" for name, value in self.canny.items())
            raise ValueError(f"{given}: give sigma >= 0 and 0 < low <= high")

    def constants(self) -> dict[str, Any]:
        common = {"control": self.control, "canny": self.canny}
        return {"estimator": "boundary F1", "tolerance": self.tolerance, **common}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        import torch

        ours, theirs = self._maps(first, second)
        precision, recall = _share_near(ours, theirs, self.tolerance), _share_near(theirs, ours, self.tolerance)
        both = precision + recall
        f1 = torch.from_numpy(2 * precision * recall / both.clip(min=1e-300))
        empty = torch.from_numpy(~(ours | theirs).any(axis=(1, 2)))
        return f1.where(~empty, 1.0)  # f64 [B]

    def _maps(self, first: Batch, second: Batch) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The edges of the samples and of their controls, bool [B,H,W] each."""
        ours = canny(_pixels(first), **self.canny)
        given = _pixels(second)
        return ours, canny(given, **self.canny) if self.control == "image" else given.max(axis=-1) >= LEVEL


class EdgeSsim(EdgeF1):
    """-1 to 1 (equal maps), higher is better: SSIM of the edge maps, as levels 0 and 255."""

    title = "edge SSIM"

    def constants(self) -> dict[str, Any]:
        estimator = {"estimator": "ssim, gaussian window", "kernel": KERNEL, "sigma": 1.5, "data_range": 255}
        return {**estimator, "control": self.control, "canny": self.canny}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure

        ours, theirs = (torch.from_numpy(m).double()[:, None] * 255 for m in self._maps(first, second))  # [B,1,H,W]
        if min(ours.shape[2:]) < KERNEL:
            height, width = ours.shape[2:]
            raise ValueError(f"edge SSIM needs images of {KERNEL} pixels or more, not {height}x{width}")
        each = structural_similarity_index_measure(ours, theirs, kernel_size=KERNEL, data_range=255.0, reduction="none")
        assert not isinstance(each, tuple)  # that is where the full image is asked for
        return each  # f64 [B]


def _pixels(batch: Batch) -> NDArray[np.uint8]:
    """u8 [B,3,H,W] -> u8 [B,H,W,3]."""
    assert batch.images is not None
    pixels: NDArray[np.uint8] = batch.images.permute(0, 2, 3, 1).numpy()
    return pixels


def _share_near(edges: NDArray[np.bool_], others: NDArray[np.bool_], tolerance: int) -> NDArray[np.float64]:
    """Of each map [B,H,W], the share of its edge pixels within `tolerance` of one of `others`; 0 where it has none."""
    import numpy as np
    from scipy import ndimage

    side = 2 * tolerance + 1
    near = ndimage.binary_dilation(others, np.ones((1, side, side), bool))
    counts = edges.sum(axis=(1, 2))
    share: NDArray[np.float64] = (edges & near).sum(axis=(1, 2)) / np.maximum(counts, 1)
    return share
