"""LDR-FLIP (Andersson et al. 2020): the difference that a viewer sees who flips between the images of a pair.

By NVIDIA's `flip-evaluator` (BSD-3-Clause; 1.7), which is no dependency of evalkit: pip install flip-evaluator. Images
count as sRGB; a pair's value is the mean of the error map, as the tool prints it. It looks at detail in the light of a
viewing distance, and is no metric of distributions or of meaning.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.metric import Batch, Pairing, PairMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(eq=False)
class Flip(PairMetric):
    """0 (nothing is seen) to 1, lower is better: the mean over the pairs.

    Args:
        ppd: pixels per degree of visual angle: 67 is a 0.7 m wide 4K display from 0.7 m, the authors' default.
        pairs, resize_own: see PairMetric.

    Raises:
        ConfigError: flip-evaluator is not installed.
    """

    ppd: float = 67.02064514160156  # the tool's own, from (0.7 m, 3840 px, 0.7 m), in its float32
    pairs: Pairing = "baseline"
    resize_own: bool = False

    title = "FLIP"
    better = "lower"

    def __post_init__(self) -> None:
        if self.ppd <= 0:
            raise ValueError(f"ppd={self.ppd:g}: pixels per degree must be above 0")
        if importlib.util.find_spec("flip_evaluator") is None:
            raise ConfigError(
                "FLIP needs NVIDIA's package: pip install flip-evaluator, or leave it out of metric=[...]"
            )

    def constants(self) -> dict[str, Any]:
        package = f"flip-evaluator {version('flip-evaluator')}"
        return {"estimator": "mean of the LDR-FLIP error map", "ppd": self.ppd, "package": package}

    def distance(self, first: Batch, second: Batch) -> Tensor:
        """f64 [B]: the error of the first image against the second, which is the reference."""
        import torch
        from flip_evaluator import evaluate

        test, reference = (_floats(batch) for batch in (first, second))
        parameters = {"ppd": self.ppd}
        values = [
            evaluate(there, here, "LDR", applyMagma=False, parameters=parameters)[1]
            for here, there in zip(test, reference, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float64)


def _floats(batch: Batch) -> NDArray[np.float32]:
    """u8 [B,3,H,W] -> f32 [B,H,W,3], 0 to 1, in rows."""
    import numpy as np

    assert batch.images is not None
    return batch.images.permute(0, 2, 3, 1).contiguous().numpy().astype(np.float32) / np.float32(255)
