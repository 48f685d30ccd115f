"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948; 2020, arXiv:1912.04958).

As NVlabs/stylegan3's metrics/perceptual_path_length.py has it (its `ppl2_wend` is the default here): the mean of
d(G(a), G(b)) / eps^2 over latents a and b that are eps of the way between two random ones apart, without the 1 % of
pairs at either end. It re-draws the generator's noise buffers for each batch; here they stay as they are, so that a
pair depends on itself alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evalkit.metric import Generator, ModelMetric, Score
from evalkit.numerics.interpolation import lerp, slerp

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass(eq=False)
class PerceptualPathLength(ModelMetric):
    """Perceptual path length: lower is smoother; near 0 too where all latents give one image (look at recall as well).

    Pair i goes from the latent of the cell's sample i towards another, in the class of sample i, under the cell's own
    settings (published values are of truncation psi 1). Its standard error is that of a trimmed mean, from the
    winsorised distances (Tukey and McLaughlin 1963). Cells with common seeds are compared pair by pair.

    Args:
        space: "w" (straight lines) or "z" (great circles); a model without it has no score.
        sampling: "end": at the samples themselves; "full": anywhere between two.
        epsilon: the step, as a share of the way.
        interpolation: "lerp" or "slerp", instead of the space's own.
        features: address of features whose squared Euclidean distance is the perceptual one.
        crop: the face's part of the image alone, as the first paper did for FFHQ: rows 3/8 to 7/8, columns 2/8 to 6/8.
        resolution: larger images are averaged down by a whole factor to this size or a little more; none: never.
        discard: share of pairs left out at either end.
        num_pairs: the most pairs; none: as many as the cell has samples.
        seed: of the places between two latents, with sampling "full".
        batch_size: pairs at a time.
    """

    space: Literal["w", "z"] = "w"
    sampling: Literal["end", "full"] = "end"
    epsilon: float = 1e-4
    interpolation: Literal["lerp", "slerp"] | None = None
    features: str = "lpips_vgg/phi"
    crop: bool = False
    resolution: int | None = 256
    discard: float = 0.01
    num_pairs: int | None = None
    seed: int = 2020
    batch_size: int = 4

    title = "PPL"
    better = "lower"
    needs = (features,)

    def __post_init__(self) -> None:
        known = {"space": ("w", "z"), "sampling": ("end", "full"), "interpolation": ("lerp", "slerp", None)}
        for name, choices in known.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r}: give one of {', '.join(map(str, choices))}")
        epsilon, discard, batch_size, num_pairs = self.epsilon, self.discard, self.batch_size, self.num_pairs
        if not 0 < epsilon < 1 or not 0 <= discard < 0.5:
            raise ValueError(f"epsilon={epsilon}, discard={discard}: give 0 < epsilon < 1 and 0 <= discard < 0.5")
        if batch_size < 1 or (num_pairs is not None and num_pairs < self.min_samples):
            raise ValueError(f"batch_size={batch_size}, num_pairs={num_pairs}: give at least 1 and {self.min_samples}")
        self.interpolation = self.interpolation or ("lerp" if self.space == "w" else "slerp")
        self.needs = (self.features,)
        if (self.space, self.sampling) != ("w", "end"):
            self.title = f"PPL {self.space} {self.sampling}"

    def constants(self) -> dict[str, Any]:
        names = ("space", "sampling", "epsilon", "interpolation", "crop", "resolution", "discard", "num_pairs", "seed")
        return {name: getattr(self, name) for name in names}

    def measure(self, generator: Generator, n: int) -> Score:
        if self.space not in generator.spaces:
            has = f"it has {', '.join(generator.spaces)}" if generator.spaces else "it shows none"
            return Score(None, n, note=f"the model has no latents {self.space} ({has})")
        pairs = min(n, self.num_pairs or n)
        distances: list[float] = []
        for start in range(0, pairs, self.batch_size):
            distances += self._distances(generator, range(start, min(start + self.batch_size, pairs)), pairs).tolist()
            generator.progress(len(distances), pairs)
        return trimmed(distances, self.discard, n)

    def _distances(self, generator: Generator, block: range, pairs: int) -> torch.Tensor:
        """Of each pair of a block, f64 [B]."""
        import torch

        first, second = (generator.latents([i + offset for i in block], block, self.space) for offset in (0, pairs))
        t = torch.zeros(len(block), dtype=torch.float64)
        if self.sampling == "full":
            drawn = torch.rand(pairs, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
            t = drawn[block.start : block.stop]
        between = lerp if self.interpolation == "lerp" else slerp
        ends = torch.cat([between(first, second, t), between(first, second, t + self.epsilon)])
        images = self._shaped(generator.images(ends, [*block, *block], self.space))
        near, far = generator.features(images, self.features).chunk(2)  # f32 [B,D] each
        return (near - far).square().double().sum(1) / self.epsilon**2

    def _shaped(self, images: torch.Tensor) -> torch.Tensor:
        if self.crop:
            if images.shape[2] != images.shape[3]:
                raise ValueError(f"crop is for square images, not {list(images.shape[2:])}")
            c = images.shape[2] // 8
            images = images[:, :, c * 3 : c * 7, c * 2 : c * 6]
        factor = images.shape[2] // self.resolution if self.resolution else 1
        if factor <= 1:
            return images
        from torch.nn.functional import avg_pool2d

        return avg_pool2d(images, factor)


def trimmed(distances: list[float], discard: float, n: int) -> Score:
    """The mean of distances without those beyond the percentiles, as the reference takes them, and its standard error.

    Args:
        distances: one per pair.
        discard: share left out at either end: what is below the lower value at it, or above the higher one.
        n: samples of the cell.
    """
    import numpy as np

    each: NDArray[np.float64] = np.asarray(distances)
    if not np.isfinite(each).all():  # one NaN would leave no percentiles, and a mean of what compares with nothing
        return Score(
            float("nan"), n, details={"pairs": float(len(each)), "not_finite": float((~np.isfinite(each)).sum())}
        )
    low = np.percentile(each, 100 * discard, method="lower")
    high = np.percentile(each, 100 * (1 - discard), method="higher")
    kept = each[(each >= low) & (each <= high)]
    winsorised = each.clip(low, high) * (len(each) / len(kept))
    influence = tuple(winsorised.tolist()) if len(each) == n else None
    details = {"pairs": float(len(each)), "kept": float(len(kept)), "std": float(kept.std())}
    return Score(float(kept.mean()), n, float(winsorised.std(ddof=1) / len(each) ** 0.5), influence, details)
