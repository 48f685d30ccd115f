"""Inpainting: how well the rest of the image was left alone, and how far what was painted lies from the original.

PSNR, SSIM and LPIPS inside or outside of the mask that a prompt names, against its source image (or its target);
"outside" is the background preservation of BrushNet (Ju et al. 2024, arXiv:2403.06976) and PIE-Bench (Ju et al. 2023,
arXiv:2310.01506). PSNR is of the region's pixels alone, the others have all other pixels black in both images; authors
differ in what they divide by, so that only scores of one protocol compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import Batch, Better, Pairing, PairMetric, Region

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = 11  # SSIM's window
PAIRS = 4  # of SSIM at a time: its maps are float64


@dataclass(eq=False)
class RegionMetric(PairMetric):
    """What the three share.

    Args:
        region: "outside" of the mask, or "inside".
        pairs: "source": the image that was painted on; or "target", "baseline".
        resize_own: see PairMetric.
    """

    region: Region = "outside"
    pairs: Pairing = "source"
    resize_own: bool = False

    what: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.region not in ("inside", "outside"):
            raise ValueError(f"region={self.region}: give inside or outside")
        self.title = f"{self.what} {self.region} mask"

    def area(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The region bool [B,1,H,W] and its pixels' number f64 [B]. ValueError: a sample has none."""
        assert batch.region is not None
        count = batch.region.flatten(1).sum(1).double()
        if not bool((count > 0).all()):
            which = int(batch.index[int(count.argmin())])
            raise ValueError(f"sample {which}: its mask leaves no pixel {self.region}: white is inside")
        return batch.region, count


@dataclass(eq=False)
class RegionPsnr(RegionMetric):
    """0 to `cap` dB, higher is better: `10 log10(255^2 / mean squared error)` over the region's pixels and channels.

    Args:
        cap: the most that a pair counts, in dB: equal regions have an infinite ratio.
        region, pairs, resize_own: see RegionMetric.
    """

    cap: float = 100.0

    title = "PSNR outside mask"
    what: ClassVar[str] = "PSNR"
    better = "higher"
    on_device = True

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean of min(psnr of the region, cap)", "data_range": 255, "cap_db": self.cap}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        region, count = self.area(first)
        assert first.images is not None
        assert second.images is not None
        squares = (first.images.double() - second.images.double()).square() * region  # f64 [B,3,H,W]
        error = squares.flatten(1).sum(1) / (3 * count)
        return (10 * (255.0**2 / error).log10()).clamp(max=self.cap)  # inf where equal


@dataclass(eq=False)
class RegionSsim(RegionMetric):
    """-1 to 1 (equal regions), higher is better: the mean of SSIM's map over the region; other pixels are black."""

    title = "SSIM outside mask"
    what: ClassVar[str] = "SSIM"
    better = "higher"

    def constants(self) -> dict[str, Any]:
        return {"estimator": "ssim, gaussian window, mean over the region", "kernel": KERNEL, "data_range": 255}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure

        region, count = self.area(first)
        assert first.images is not None
        assert second.images is not None
        height, width = first.images.shape[2:]
        if min(height, width) < KERNEL:
            raise ValueError(f"{self.title} needs images of {KERNEL} pixels or more, not {height}x{width}")
        found = []
        for start in range(0, len(first.images), PAIRS):
            those = slice(start, start + PAIRS)
            a, b = first.images[those].double(), second.images[those].double()
            _, full = structural_similarity_index_measure(
                a, b, kernel_size=KERNEL, data_range=255.0, reduction="none", return_full_image=True
            )  # f64 [b,3,H,W]
            found.append((full * region[those]).flatten(1).sum(1) / (3 * count[those]))
        return torch.cat(found)


@dataclass(eq=False)
class RegionLpips(RegionMetric):
    """0 (equal to the network) upwards, lower is better: LPIPS of the two images with all other pixels black.

    It is a mean over the whole image's maps: a small region gives small values, so compare like regions.

    Args:
        features: address of features whose squared Euclidean distance is LPIPS (evalkit.extractors.lpips).
        region, pairs, resize_own: see RegionMetric.
    """

    features: str = "lpips_alex/phi"

    title = "LPIPS outside mask"
    what: ClassVar[str] = "LPIPS"
    better: Better = "lower"
    needs = (features,)
    on_device = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "squared euclidean distance, other pixels black"}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        self.area(first)
        difference = first.features[self.features] - second.features[self.features]  # f32 [B,D], D up to millions
        return difference.square().double().sum(1)
