"""Does a sample follow its control's segmentation or depth? The control is made again from the sample, and compared.

As ControlNet++ (Li et al. 2024, arXiv:2404.07987) measures controllability: mIoU of segmentation maps, RMSE of depth
maps. Two differences. It sums intersections and unions over a whole data set, while here each pair has its own mIoU,
over the classes that either map holds, so that pairs have errors and cells are compared pair by pair; and the model is
yours, by path: only scores by the same model compare.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evalkit.metric import Batch, Better, Pairing, PairMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Control = Literal["image", "map"]


@dataclass(eq=False)
class SegMiou(PairMetric):
    """0 to 1 (equal maps), higher is better: the mean, over classes that either map holds, of intersection over union.

    Args:
        features: address of maps of labels, f32 [B,S*S] (evalkit.extractors.dense.Segmentation).
        control: what the control images are: "image": photographs, segmented as the sample is; "map": maps in colours.
        palette: of maps a JSON file, by label the colour [[r, g, b], ...]: a pixel is of the label whose colour is
            nearest.
        pairs: "control", or another image to compare with ("source", "target", "baseline").
        resize_own: see PairMetric.
    """

    features: str = "segmentation/labels"
    control: Control = "image"
    palette: str | None = None
    pairs: Pairing = "control"
    resize_own: bool = True

    title = "mIoU"
    better = "higher"
    needs = (features,)

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        if self.control not in ("image", "map"):
            raise ValueError(f"control={self.control}: give image or map")
        if (self.control == "map") != (self.palette is not None):
            raise ValueError("control=map needs palette=FILE, a JSON list of a colour [r, g, b] per label; image none")
        self._colours = None if self.palette is None else _read_palette(self.palette)

    def constants(self) -> dict[str, Any]:
        palette = {} if self._colours is None else {"palette": self._colours.tolist()}
        return {"estimator": "mean of each pair's mIoU over classes of either map", "control": self.control, **palette}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        import torch

        ours = first.features[self.features].long()  # i64 [B,S*S]
        if self._colours is None:
            theirs = second.features[self.features].long()
        else:
            theirs = torch.from_numpy(_labels(second, round(ours.shape[1] ** 0.5), self._colours))
        return torch.stack([_miou(a, b) for a, b in zip(ours, theirs, strict=True)])  # f64 [B]


@dataclass(eq=False)
class DepthRmse(PairMetric):
    """0 (equal maps) to 255 levels, lower is better: root mean squared difference of two depth maps.

    Estimated depth has neither unit nor zero, so both maps are first brought to 0 to 255.

    Args:
        features: address of depth maps, f32 [B,S*S] (evalkit.extractors.dense.Depth).
        control: what the control images are: "map": depth maps, near is white; "image": photographs, whose depth is
            estimated as the sample's is.
        align: "minmax": each map by its own smallest and greatest value; "affine": the control so, and the sample's by
            the factor and offset that fit best, which asks for the shape alone.
        pairs, resize_own: as of SegMiou.
    """

    features: str = "depth/depth"
    control: Control = "map"
    align: Literal["minmax", "affine"] = "minmax"
    pairs: Pairing = "control"
    resize_own: bool = True

    title = "depth RMSE"
    better: Better = "lower"
    needs = (features,)
    levels: ClassVar[float] = 255.0

    def __post_init__(self) -> None:
        self.needs = (self.features,)
        for option, choices in (("control", ("image", "map")), ("align", ("minmax", "affine"))):
            if getattr(self, option) not in choices:
                raise ValueError(f"{option}={getattr(self, option)}: give {' or '.join(choices)}")

    def constants(self) -> dict[str, Any]:
        return {"estimator": "rmse of depth as levels", "control": self.control, "align": self.align}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        ours = first.features[self.features].double()  # f64 [B,S*S]
        theirs = second.features[self.features].double()
        if self.control == "map":
            theirs = _greys(second, round(ours.shape[1] ** 0.5))
        wanted = _to_levels(theirs, self.levels)
        given = _to_levels(ours, self.levels) if self.align == "minmax" else _fitted(ours, wanted)
        return (given - wanted).square().mean(1).sqrt()


def _miou(a: Tensor, b: Tensor) -> Tensor:
    """Of two maps of labels i64 [P]: f64 []."""
    import torch

    count = int(torch.stack([a.max(), b.max()]).max()) + 1
    both = torch.bincount(a * count + b, minlength=count * count).view(count, count).double()
    same, ours, theirs = both.diagonal(), both.sum(1), both.sum(0)
    union = ours + theirs - same
    there = union > 0
    return (same[there] / union[there]).mean()


def _to_levels(x: Tensor, levels: float) -> Tensor:
    """f64 [B,P], each row from 0 to `levels`; a flat one is 0."""
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-12) * levels


def _fitted(x: Tensor, y: Tensor) -> Tensor:
    """a x + b of least squares to y, per row of f64 [B,P]; a flat x gives y's mean."""
    dx, dy = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    factor = (dx * dy).sum(1, keepdim=True) / dx.square().sum(1, keepdim=True).clamp(min=1e-12)
    return factor * dx + y.mean(1, keepdim=True)


def _greys(batch: Batch, side: int) -> Tensor:
    """The mean over channels of images u8 [B,3,H,W], averaged to side x side: f64 [B,side*side]."""
    from torch.nn.functional import interpolate

    assert batch.images is not None
    grey = batch.images.double().mean(1, keepdim=True)
    return interpolate(grey, size=(side, side), mode="bilinear", antialias=True).flatten(1)


def _labels(batch: Batch, side: int, colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels of maps in colours u8 [B,3,H,W], at side x side (the nearest pixel): i64 [B,side*side]."""
    import numpy as np

    assert batch.images is not None
    height, width = batch.images.shape[2:]
    rows, columns = ((np.arange(side) + 0.5) * n // side for n in (height, width))
    pixels = batch.images.numpy()[:, :, rows.astype(int)][..., columns.astype(int)].transpose(0, 2, 3, 1)
    seen, place = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)  # few colours
    nearest = np.square(seen[:, None].astype(np.int64) - colours).sum(-1).argmin(1)
    labels: NDArray[np.int64] = nearest[place.reshape(-1)].reshape(len(pixels), -1)
    return labels


def _read_palette(file: str) -> NDArray[np.int64]:
    """i64 [C,3]. ValueError: the file is none."""
    import numpy as np

    try:
        colours = np.array(json.loads(Path(file).read_text(encoding="utf-8")), np.int64)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"palette={file} cannot be read: {error}") from error
    if colours.ndim != 2 or colours.shape[1] != 3 or colours.min() < 0 or colours.max() > 255:
        raise ValueError(f"palette={file}: a JSON list of a colour [r, g, b] per label is wanted, levels of 0 to 255")
    return colours
