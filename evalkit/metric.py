"""The plugin contract: what a metric sees, what it keeps, what it returns.

A metric author writes `needs`, `better`, `observe` and `score`, and nothing else. The states that `observe` returns
merge with `+`, so that batches, shards and workers need no init/update/reset/sync. This module imports nothing of ours.
Metrics name the type of their state, `SampleMetric[Rows]`, so that mypy sees an `observe` that returns another one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Better = Literal["lower", "higher"]

CLUSTER_SHIFT = 4  # a cluster's id has 60 bits: 15 hex digits, and no two of a million texts share one


@dataclass(frozen=True)
class Batch:
    """What a metric sees of some samples.

    Attributes:
        images: u8 [B,3,H,W], or none where all features come from the feature store.
        index: i64 [B], the samples' indices in their set.
        total: number of samples in the whole set.
        prompts: one text per sample (none where the sample was not asked for by text).
        features: by address ("inception/pool3"), f32 [B,D].
        categories: one per sample, or empty (in metrics of pairs): the prompt's, or its folder's name.
        region: bool [B,1,H,W], of metrics of pairs that look at a `region`: the pixels that count; others are black.
    """

    images: Tensor | None
    index: Tensor
    total: int
    prompts: Sequence[str | None]
    features: Mapping[str, Tensor]
    categories: Sequence[str | None] = ()
    region: Tensor | None = None

    def to(self, device: str) -> Batch:
        """With the images and features on a device; the indices stay where they are."""
        images, region = (None if x is None else x.to(device) for x in (self.images, self.region))
        features = {address: value.to(device) for address, value in self.features.items()}
        return replace(self, images=images, region=region, features=features)

    @property
    def clusters(self) -> Tensor:
        """i64 [B], the samples' clusters: those of one text are one (see `cluster_ids`)."""
        import torch

        return torch.tensor(cluster_ids(self.prompts, self.index.tolist()))


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

    def to(self, device: str) -> Self:
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


@dataclass(frozen=True)
class Rows:
    """A metric state of one row per sample: `a + b` joins and sorts by index, so any order of merging will do."""

    index: Tensor  # i64 [N]
    values: Mapping[str, Tensor]  # each [N, ...]
    clusters: Tensor | None = None  # i64 [N], see `cluster_ids`; a run sets it where `observe` does not

    def __add__(self, other: Rows) -> Rows:
        import torch

        if self.values.keys() != other.values.keys():
            raise ValueError(f"cannot join rows of {sorted(self.values)} and of {sorted(other.values)}")
        index = torch.cat([self.index, other.index])
        joined = {name: torch.cat([value, other.values[name]]) for name, value in self.values.items()}
        known = [rows.clusters for rows in (self, other) if rows.clusters is not None]
        clusters = torch.cat(known) if len(known) == 2 else None
        if bool((index[1:] >= index[:-1]).all()):  # in order already: no second copy of all rows
            return Rows(index, joined, clusters)
        order = torch.argsort(index, stable=True)
        clusters = None if clusters is None else clusters[order]
        return Rows(index[order], {name: value[order] for name, value in joined.items()}, clusters)

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: str) -> Self:
        """With the values on a device; index and clusters stay where they are."""
        return replace(self, values={name: value.to(device) for name, value in self.values.items()})


State = TypeVar("State", bound=Sums | Rows)


@dataclass(frozen=True)
class Score:
    """One number and what it rests on.

    Attributes:
        value: the score, or none where it does not apply (`note` says why).
        stderr: standard error of `value`, or none where the method gives none.
        n: number of generated samples behind it.
        headings: by heading of a table ("skill: count") one value per sample, none where it has no part in it; the mean
            of the others is the heading's score. Of a metric with any, categories.csv has these and no others.
        clusters: the number of clusters of samples that `stderr` allows for. None: it takes the samples to be
            independent; where several are of one prompt, the scoring stage forms it from `influence` instead.
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
    clusters: int | None = None
    headings: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


def cluster_ids(prompts: Sequence[str | None], index: Sequence[int] | None = None) -> list[int]:
    """Which cluster each sample belongs to: samples of one prompt were drawn together, and are alike.

    By sample of `prompts`: of a text a digest of it, >= 0, the same in every batch and set; one without a text (none,
    or empty) is a cluster of its own: -1 - its `index` in the set (none: 0, 1, 2, ...).
    """
    known: dict[str, int] = {}
    ids = []
    for i, text in zip(range(len(prompts)) if index is None else index, prompts, strict=True):
        if not text:
            ids.append(-1 - i)
            continue
        if text not in known:
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
            known[text] = int.from_bytes(digest[:8], "big") >> CLUSTER_SHIFT
        ids.append(known[text])
    return ids


def by_cluster(influence: Tensor | Sequence[float], clusters: Tensor | Sequence[int] | None) -> NDArray[np.float64]:
    """One value per cluster, whose mean is the influences' and whose std / sqrt(G) is the clustered standard error.

    A cluster's value is the mean plus G / N times the sum of its influences' deviations from it, so that a sum over
    clusters stands for one over samples (Liang and Zeger 1986, with the factor G / (G - 1)). Whatever needs the error
    of influences forms it of these values: standard errors, differences, the skewness of a gate's bounds.

    `influence` is f64 [N], `clusters` i64 [N] of `cluster_ids` (none: each sample is its own); f64 [G] comes back, or,
    where each sample is a cluster of its own, the influences as they are.
    """
    import numpy as np

    values = np.asarray(_plain(influence), dtype=np.float64)
    if clusters is None:
        return values
    found, place = np.unique(np.asarray(_plain(clusters)), return_inverse=True)
    if len(found) == len(values):
        return values
    mean = values.mean()
    sums = np.bincount(place, weights=values - mean, minlength=len(found))
    each: NDArray[np.float64] = mean + sums * (len(found) / len(values))
    return each


def standard_error(influence: Tensor | Sequence[float], clusters: Tensor | Sequence[int] | None = None) -> float | None:
    """std / sqrt(G) of a score's influences, f64 [N], summed by cluster; none of a single cluster."""
    each = by_cluster(influence, clusters)
    return float(each.std(ddof=1)) / float(len(each) ** 0.5) if len(each) > 1 else None


def with_error(score: Score, influence: Tensor | Sequence[float], clusters: Tensor | Sequence[int] | None) -> Score:
    """The score with its influences, f64 [N], and the standard error that they give, by cluster (`Rows.clusters`)."""
    values = _plain(influence)
    count = None if clusters is None else len(set(map(int, _plain(clusters))))
    return replace(score, stderr=standard_error(values, clusters), influence=tuple(map(float, values)), clusters=count)


def mean_score(each: Tensor, clusters: Tensor | None = None) -> Score:
    """The mean of values, f64 [N], one per sample; they are its influences too. `clusters`: see `Rows`."""
    return with_error(Score(float(each.mean()), len(each)), each, clusters)


def _plain(values: Any) -> Any:
    """A tensor, wherever it lies, as an array; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def widest_of(influences: Tensor, clusters: Tensor | Sequence[int] | None = None) -> Tensor:
    """Of several approximations of a score's influences, f64 [N,K], the one with the largest standard error, f64 [N].

    f64 [N] is returned as it is.
    """
    if influences.ndim == 1:
        return influences
    return max(influences.unbind(1), key=lambda each: standard_error(each, clusters) or 0.0)


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
        by_category: whether it looks at `Batch.categories`: the score is then found by them as well.
        on_device: whether `observe`, `score`, `influence` and `distance` take tensors on the run's device, and leave
            what they make there; `Rows.index` and `Rows.clusters` stay on the CPU. Others are given tensors on the CPU.
    """

    title: str
    better: Better
    per_sample: bool = False
    needs: tuple[str, ...] = ()
    min_samples: int = 2
    needs_prompts: bool = False
    by_category: ClassVar[bool] = False
    on_device: ClassVar[bool] = False

    def constants(self) -> dict[str, Any]:
        """The estimator and its constants, as they stand in the protocol (JSON values)."""
        return {}

    def check(self, texts: Mapping[str, Sequence[str | None]], extractors: Mapping[str, Any]) -> None:  # noqa: B027
        """Raises ValueError, before the first sample, for prompts or extractors that it could not score.

        `texts`: by cell its prompts, of the cells that have some; `extractors`: by name those of the run.
        """


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
        features = {address: batch.features[address] for address in self.needs}
        return Rows(batch.index, features, batch.clusters)


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
        on their stored features, and gives f64 [B]; the standard error is formed of them, by cluster (`by_cluster`). It
        may give f64 [B,K], K approximations of which each errs downward at times: the one of the largest standard error
        counts.

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
Region = Literal["inside", "outside"]
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
        region: "inside" or "outside" of the mask that each sample's prompt names (white is inside); none: all pixels.
        max_pairs, seed: the most pairs to draw within a set, and the seed of the drawing.
    """

    per_sample = True
    pairs: Pairing = "baseline"
    resize_own: bool = False
    region: Region | None = None
    max_pairs: int | None = None
    seed: int = 2020

    @abstractmethod
    def distance(self, first: Batch, second: Batch) -> Tensor:
        """Of each pair, f64 [B]. Both batches hold the images, of one size, and the features that `needs` names.

        It depends on the pair's images, features and prompts alone: values are kept, and found by these.
        """


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
