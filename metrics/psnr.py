"""Peak signal-to-noise ratio between the images of a pair, in dB, by torchmetrics 1.9 for levels of 0 to 255.

The score is the mean of the pairs' values (not the value at the mean error). Identical images have an infinite ratio,
which no mean could hold: a pair counts as `cap` dB at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Pairing, PairMetric

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class Psnr(PairMetric):
    """0 to `cap` dB, higher is better: `10 log10(255^2 / mean squared error)` over all pixels and channels.

    Args:
        cap: the most that a pair counts, in dB. One level in every value is 48 dB; one level in one value of a
            512x512 image 107 dB.
        pairs, resize_own: see PairMetric.
    """

    cap: float = 100.0
    pairs: Pairing = "baseline"
    resize_own: bool = False

    title = "PSNR"
    better = "higher"
    on_device = True

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean of min(psnr, cap)", "data_range": 255, "cap_db": self.cap}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        assert first.images is not None
        assert second.images is not None
        a, b = first.images.double(), second.images.double()  # u8 -> f64 [B,3,H,W]
        each = peak_signal_noise_ratio(a, b, data_range=255.0, dim=(1, 2, 3), reduction="none")  # [B], inf where equal
        return each.clamp(max=self.cap)
