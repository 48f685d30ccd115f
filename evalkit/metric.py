"""The plugin contract: what a metric sees, what it keeps, what it returns.

A metric author writes `needs`, `better`, `observe` and `score`, and nothing else. The states that `observe` returns
merge with `+`, so that batches, shards and workers need no init/update/reset/sync. This module imports nothing of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Batch:
    """What a metric sees of some samples.

    Attributes:
        images: u8 [B,3,H,W], or none where all features come from the feature store.
        index: i64 [B], the samples' indices in their set.
        total: number of samples in the whole set.
        prompts: one text a sample (none where the sample was not asked for by text).
        features: by address ("inception/pool3"), f32 [B,D].
    """

    images: Tensor | None
    index: Tensor
    total: int
    prompts: Sequence[str | None]
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Sums:
    """A metric state that adds up: named float64 tensors, `a + b` adds name by name."""

    values: Mapping[str, Tensor]

    def __add__(self, other: Sums) -> Sums:
        if self.values.keys() != other.values.keys():
            raise ValueError(f"cannot add sums of {sorted(self.values)} and of {sorted(other.values)}")
        return Sums({name: value + other.values[name] for name, value in self.values.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]


@dataclass(frozen=True)
class Rows:
    """A metric state of one row a sample: `a + b` concatenates and sorts by index, so any order of merging will do."""

    index: Tensor  # i64 [N]
    values: Mapping[str, Tensor]  # each [N, ...]

    def __add__(self, other: Rows) -> Rows:
        import torch

        if self.values.keys() != other.values.keys():
            raise ValueError(f"cannot join rows of {sorted(self.values)} and of {sorted(other.values)}")
        index = torch.cat([self.index, other.index])
        order = torch.argsort(index, stable=True)
        joined = {name: torch.cat([value, other.values[name]])[order] for name, value in self.values.items()}
        return Rows(index[order], joined)

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.index)


State = TypeVar("State", Sums, Rows)


@dataclass(frozen=True)
class Score:
    """One number and what it rests on.

    Attributes:
        value: the score, or none where it does not apply (`note` says why).
        stderr: standard error of `value`, or none where the method gives none.
        n: number of generated samples behind it.
        influence: per-sample influence values, for paired differences.
        details: further figures of the same computation (the spread of IS over its splits, ...).
        note: why there is no value, or what a reader must know.
    """

    value: float | None
    n: int
    stderr: float | None = None
    influence: tuple[float, ...] | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


class Metric(ABC):
    """What all metrics share. Subclass `SampleMetric` or `ReferenceMetric`, not this."""

    title: ClassVar[str]
    better: ClassVar[Better]
    needs: tuple[str, ...] = ()  # feature addresses: "<extractor>/<layer>"
    min_samples: int = 2  # a smaller set is refused before any work is done
    needs_prompts: bool = False  # no score, and a note, for samples that were not asked for by text

    def constants(self) -> dict[str, Any]:
        """The estimator and its constants, as they stand in the protocol (JSON values)."""
        return {}

    @abstractmethod
    def observe(self, batch: Batch) -> Any:
        """The state (`Sums` or `Rows`) of one batch."""


class SampleMetric(Metric):
    """A metric of the generated samples alone."""

    @abstractmethod
    def score(self, *, generated: Any) -> Score: ...


class ReferenceMetric(Metric):
    """A metric of generated samples against reference samples."""

    min_reference: int = 2

    @abstractmethod
    def score(self, *, generated: Any, reference: Any) -> Score: ...
