"""The mean of a set's Frechet distances in several representations, each by what real images have there: FDr6.

Yang et al. 2026, Representation Frechet Loss for Visual Generation, arXiv:2604.28190 (their `eval_all_fds.py`): FDr of
a representation is the distance to ImageNet's training set by that of the validation set, and FDr6 the arithmetic mean
over six. One factor of 10 in one representation counts as much as in any other, so that none can be gamed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, ReferenceMetric, Score, Sums
from evalkit.numerics import frechet
from evalkit.numerics.gaussians import Scatter, scatter_of

if TYPE_CHECKING:
    from torch import Tensor

# What ImageNet's validation set has at 256 x 256 against the training set, as published (rounded to two decimals).
IMAGENET256: Mapping[str, float] = {
    "inception/pool3": 1.68,
    "convnextv2_base/features": 56.87,
    "dinov2_vitl14_256/features": 14.19,
    "mae_vitl16/features": 0.04,
    "siglip2_so400m/features": 0.60,
    "clip_vitl14_256/features": 5.60,
}


class Scatters(Sums):
    """A `Scatter` per address, its tensors named "<address> mean" and so on."""

    def __add__(self, other: Sums) -> Scatters:
        parts = {address: self.of(address) + Scatters(other.values).of(address) for address in self.addresses}
        return joined(parts)

    @property
    def addresses(self) -> list[str]:
        return list(dict.fromkeys(name.rpartition(" ")[0] for name in self.values))

    def of(self, address: str) -> Scatter:
        return Scatter({name: self.values[f"{address} {name}"] for name in ("n", "mean", "scatter")})


def joined(parts: Mapping[str, Scatter]) -> Scatters:
    """By address -> one state."""
    return Scatters({f"{address} {name}": v for address, part in parts.items() for name, v in part.values.items()})


@dataclass(eq=False)
class FrechetRatios(ReferenceMetric[Scatters]):
    """The mean over representations of the Frechet distance by its normaliser; lower is better, 0 for equal moments.

    Args:
        normalisers: by feature address the distance that real images have, above 0.
        title: how scores are called.

    Raises:
        ValueError: there are no normalisers, or one is not above 0.
    """

    normalisers: Mapping[str, float] = field(default_factory=lambda: dict(IMAGENET256))
    title: str = "FDr6"

    better = "lower"
    needs = tuple(IMAGENET256)
    on_device = True

    def __post_init__(self) -> None:
        if not self.normalisers or not all(value > 0 for value in self.normalisers.values()):
            raise ValueError(f"normalisers={dict(self.normalisers)}: give each feature address a number above 0")
        self.needs = tuple(self.normalisers)

    def constants(self) -> dict[str, Any]:
        estimator = "mean of frechet distances of gaussians by their normalisers"
        return {"estimator": estimator, "moments": "float64", "ddof": 1, "normalisers": dict(self.normalisers)}

    def observe(self, batch: Batch) -> Scatters:
        return joined({address: scatter_of(batch.features[address]) for address in self.needs})

    def score(self, *, generated: Scatters, reference: Scatters) -> Score:
        distances = {a: frechet.distance(generated.of(a), reference.of(a)) for a in self.needs}
        ratios = [distances[address] / self.normalisers[address] for address in self.needs]
        details = {f"FD {address}": value for address, value in distances.items()}
        details |= {f"FDr {address}": ratio for address, ratio in zip(self.needs, ratios, strict=True)}
        n = int(generated.of(self.needs[0])["n"])
        return Score(sum(ratios) / len(ratios), n, details=details)

    def influence(self, *, generated: Scatters, reference: Scatters) -> Callable[[Batch], Tensor] | str:
        """The mean of the distances' own, by their normalisers, f64 [B,2]: a sample moves all of them at once."""
        each: dict[str, Callable[[Tensor], Tensor]] = {}
        for address in self.needs:
            one = frechet.influence(generated.of(address), reference.of(address))
            if isinstance(one, str):
                return f"{one} ({address})"
            each[address] = one

        def influence(batch: Batch) -> Tensor:
            import torch

            parts = [one(batch.features[a]) / self.normalisers[a] for a, one in each.items()]
            return torch.stack(parts).mean(0)

        return influence
