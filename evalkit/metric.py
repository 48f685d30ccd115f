"""The plugin contract: what a metric sees, what it keeps, what it returns.

A metric author writes `needs`, `better`, `observe` and `score`, and nothing else. The states that `observe` returns
merge with `+`, so that batches, shards and workers need no init/update/reset/sync. This module imports nothing of ours.
Metrics name the type of their state, `SampleMetric[Rows]`, so that mypy sees an `observe` that returns another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

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
        prompts: one text per sample (none where the sample was not asked for by text).
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
    """A metric state of one row per sample: `a + b` joins and sorts by index, so any order of merging will do."""

    index: Tensor  # i64 [N]
    values: Mapping[str, Tensor]  # each [N, ...]

    def __add__(self, other: Rows) -> Rows:
        import torch

        if self.values.keys() != other.values.keys():
            raise ValueError(f"cannot join rows of {sorted(self.values)} and of {sorted(other.values)}")
        index = torch.cat([self.index, other.index])
        joined = {name: torch.cat([value, other.values[name]]) for name, value in self.values.items()}
        if bool((index[1:] >= index[:-1]).all()):  # in order already: no second copy of all rows
            return Rows(index, joined)
        order = torch.argsort(index, stable=True)
        return Rows(index[order], {name: value[order] for name, value in joined.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.index)


State = TypeVar("State", bound=Sums | Rows)


@dataclass(frozen=True)
class Score:
    """One number and what it rests on.

    Attributes:
        value: the score, or none where it does not apply (`note` says why).
        stderr: standard error of `value`, or none where the method gives none.
        n: number of generated samples behind it.
        influence: one value per sample, the score's linear part up to a constant: of a mean the samples' own values, of
            a Frechet distance how far each sample moves it. Differences of cells with common seeds are taken on them.
        details: further figures of the same computation (the spread of IS over its splits, ...).
        nearest: (sample, training sample, distance), the most suspicious first: what a memorisation metric shows.
        note: why there is no value, or what a reader must know.
        broken: whether there is no value because the computation gave none that is finite; set by the scoring stage.
    """

    value: float | None
    n: int
    stderr: float | None = None
    influence: tuple[float, ...] | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    nearest: tuple[tuple[int, int, float], ...] = ()
    note: str | None = None
    broken: bool = False


def standard_error(influence: Tensor) -> float:
    """std / sqrt(N) of a score's influences, f64 [N]."""
    return float(influence.std(correction=1)) / float(len(influence) ** 0.5)


def widest_of(influences: Tensor) -> Tensor:
    """Of several approximations of a score's influences, f64 [N,K], the one with the largest standard error, f64 [N].

    f64 [N] is returned as it is.
    """
    return influences if influences.ndim == 1 else max(influences.unbind(1), key=standard_error)


def mean_score(each: Tensor) -> Score:
    """The mean of independent values, f64 [N], one per sample; they are its influences too."""
    return Score(float(each.mean()), len(each), standard_error(each), tuple(each.tolist()))


class Metric(ABC):
    """What all metrics share. Subclass `SampleMetric`, `ReferenceMetric`, `PairMetric` or `ModelMetric`, not this.

    Attributes:
        title: how a reader sees the metric ("FID").
        better: "lower" or "higher".
        per_sample: whether `influence` holds values of the single samples that mean something.
        needs: feature addresses, "<extractor>/<layer>". Those of the class are the ones that the bare title stands for;
            scores of an instance with others are labelled with them ("FID [digits]").
        min_samples: a smaller set is refused before any work is done.
        needs_prompts: no score, and a note, for samples that were not asked for by text.
    """

    title: str
    better: Better
    per_sample: bool = False
    needs: tuple[str, ...] = ()
    min_samples: int = 2
    needs_prompts: bool = False

    def constants(self) -> dict[str, Any]:
        """The estimator and its constants, as they stand in the protocol (JSON values)."""
        return {}


class StateMetric(Metric, Generic[State]):
    """What metrics that merge states share. Subclass `SampleMetric` or `ReferenceMetric`, not this."""

    @abstractmethod
    def observe(self, batch: Batch) -> State:
        """The state (`Sums` or `Rows`) of one batch, of the generated samples or of another side."""


class KeepsFeatures:
    """For metrics whose state is the features that they need: `class Vendi(KeepsFeatures, SampleMetric[Rows])`.

    It writes `observe`. A run keeps the rows of each address once, and hands them to all such metrics.
    """

    needs: tuple[str, ...]

    def observe(self, batch: Batch) -> Rows:
        """By address, f32 [B,D]."""
        return Rows(batch.index, {address: batch.features[address] for address in self.needs})


class SampleMetric(StateMetric[State]):
    """A metric of the generated samples alone."""

    @abstractmethod
    def score(self, *, generated: State) -> Score: ...


class ReferenceMetric(StateMetric[State]):
    """A metric of generated samples against other samples: the reference, the training set, or both.

    `score` and `influence` take the states by the sides' names: `score(*, generated, reference)`, say.

    Attributes:
        sides: of "reference" and "training".
        min_reference: a smaller side is refused before any work is done.
        takes_moments: whether a side may be published statistics, for which there is `from_moments`.
        gives_moments: whether `to_moments` is there, so that a side's statistics can be saved.
    """

    sides: ClassVar[tuple[str, ...]] = ("reference",)
    min_reference: int = 2
    takes_moments: ClassVar[bool] = False
    gives_moments: ClassVar[bool] = False

    @abstractmethod
    def score(self, *args: Any, **states: Any) -> Score:
        """Keyword-only: `generated` and the sides. (`Any`: only so may each metric name its own sides.)"""

    def influence(self, *args: Any, **states: Any) -> Callable[[Batch], Tensor] | str | None:
        """How much each sample moves the score, for metrics whose states are sums.

        It takes what `score` takes. The function it returns is called with the generated samples' batches, in order,
        on their stored features, and gives f64 [B]; the standard error is std / sqrt(N). It may give f64 [B,K], K
        approximations of which each errs downward at times: the one of the largest standard error counts.

        Returns:
            The function; or the reason why there is no standard error; or none, where `score` sees to it.
        """
        return None

    def from_moments(self, *, mean: Tensor, cov: Tensor, n: int | None) -> State:
        """A side's state, where `takes_moments`: of mean f64 [D], covariance f64 [D,D], and n (none: not published)."""
        raise NotImplementedError

    def to_moments(self, state: State) -> tuple[Tensor, Tensor, int]:
        """A state's mean f64 [D], covariance f64 [D,D] (ddof=1) and n, to be saved, where `gives_moments`."""
        raise NotImplementedError


OwnImage = Literal["target", "control", "source"]  # the images that a prompt may name for its samples
Pairing = Literal["baseline", "prompt", "any", "target", "control", "source"]


class PairMetric(Metric):
    """The mean over pairs of images of a distance, or of a likeness; its author writes `distance` alone.

    Attributes:
        pairs: "baseline": each sample with the baseline cell's of the same prompt and seed. "prompt": two samples of
            one prompt (of no prompt at all, where the model takes none). "any": two samples of the set. Pairs within
            a set are disjoint and seeded, so that they are independent. "target", "control", "source": each sample
            with the image that its own prompt names as such.
        resize_own: whether a prompt's image of another size than the sample is resized to it (Pillow, Lanczos), else it
            is refused.
        max_pairs: the most pairs to draw within a set.
        seed: of the drawing of pairs within a set.
    """

    per_sample = True
    pairs: Pairing = "baseline"
    resize_own: bool = False
    max_pairs: int | None = None
    seed: int = 2020

    @abstractmethod
    def distance(self, first: Batch, second: Batch) -> Tensor:
        """Of each pair, f64 [B]. Both batches hold the images, of one size, and the features that `needs` names."""


class Generator(Protocol):
    """A cell's model, as a `ModelMetric` uses it; samples are named by their indices, as everywhere."""

    @property
    def spaces(self) -> Sequence[str]:
        """The kinds of latents that it has ("z", "w", "noise"); none: it shows no latents."""

    def latents(self, indices: Sequence[int], like: Sequence[int], space: str) -> Tensor:
        """Latents f32 [B, ...]: the noise of samples `indices` (any number >= 0), mapped for the classes of `like`."""

    def images(self, latents: Tensor, like: Sequence[int], space: str) -> Tensor:
        """Their images [B,3,H,W], 0 to 255, neither rounded nor clamped, with the prompts and classes of `like`."""

    def features(self, images: Tensor, address: str) -> Tensor:
        """Features f32 [B,D] of such images, for an address in `needs`."""

    def progress(self, done: int, total: int) -> None:
        """Shows how far a measurement is."""


class ModelMetric(Metric):
    """A metric of the model itself, where rounded images do not do: its author writes `measure` alone.

    The model is loaded again for it where its score is not cached; a cell of images that exist has no score.
    """

    @abstractmethod
    def measure(self, generator: Generator, n: int) -> Score:
        """The score of a cell of `n` samples; one without a value, and a note, where it does not apply.

        An influence has one value per sample of the cell.
        """
