"""Sources x metrics -> scores with their protocols, through the score cache and the feature store.

A score is cached under the digest of all that it depends on: the metric's option and source file, the images, prompts
and what they are compared with, the extractors' identities. Where all scores are cached, no torch is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.data.moments import Moments
from evalkit.features.feature_pass import FeaturePass, ImageSource
from evalkit.features.store import extractor_ids
from evalkit.metric import (
    Batch,
    Generator,
    Metric,
    ModelMetric,
    PairMetric,
    ReferenceMetric,
    Rows,
    SampleMetric,
    Score,
    StateMetric,
    Sums,
    widest_of,
    with_error,
)
from evalkit.numerics.threads import one_thread
from evalkit.scoring.cache import ScoreCache, code_digest, finite
from evalkit.scoring.checks import Failures, guarded, select_moments
from evalkit.scoring.pair_pass import PairPass
from evalkit.scoring.pairs import score_pairs
from evalkit.scoring.protocol import Against, Own, column_label, error_kind, label_scheme, make_protocol, side_for
from evalkit.scoring.states import observe
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

FEW_CLUSTERS = 10  # below it a standard error is itself uncertain by a quarter and more
HASH_DIGITS = 10  # hex digits of a protocol's digest that people see


class KeyedGenerator(Generator, Protocol):
    """A cell's generator, and the digest of all that its samples depend on."""

    @property
    def key(self) -> str: ...
    def showing(self, show: Callable[[int, int], None] | None) -> Generator:
        """The same generator, whose `progress` calls `show`."""


@dataclass(frozen=True)
class Scored:
    """A score, what it rests on, and how a reader sees it.

    Attributes:
        score: value, standard error, n, per-sample values, details, note.
        protocol: metric, constants, extractor identities, n, reference: all that must agree for scores to compare.
        protocol_hash: the first hex digits of the protocol's digest.
        label: the metric's title, with the extractor where that is not the one the title stands for ("FID [digits]").
        error: what standard errors go by: "by prompt" or "by sample".
        cached: whether it was found in the score cache.
    """

    score: Score
    protocol: Mapping[str, Any]
    protocol_hash: str
    label: str
    error: str = "by sample"
    cached: bool = False


@dataclass(frozen=True)
class ToScore:
    """One source, and what belongs to it alone: its prompts' own images, the model behind it, its samples' clusters."""

    source: ImageSource
    own: Own
    generator: KeyedGenerator | None
    clusters: Sequence[int]


@dataclass(frozen=True)
class Scorer:
    """What does not change from source to source, and the states of the sides."""

    metrics: Mapping[str, tuple[Mapping[str, Any], Metric]]
    features: FeaturePass
    against: Against
    cache: ScoreCache
    pairs: PairPass
    _side_states: dict[tuple[str, str], Sums | Rows] = field(default_factory=dict)  # (side, metric) -> state
    _side_failures: Failures = field(default_factory=dict)  # of metrics that cannot take a side

    def keys(self, cell: ToScore) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """By metric the protocol of its score of a source, and what the score is cached by."""
        extractors, n = self.features.extractors, len(cell.source)
        metrics = self.metrics.items()
        labels = label_scheme(cell.source) if getattr(self.against.reference, "labelled", False) else None
        protocols = {name: make_protocol(m, extractors, n, self.against, cell.own, labels) for name, (_, m) in metrics}
        return protocols, {name: self._key(cell, option, m, protocols[name]) for name, (option, m) in metrics}

    def score(self, cell: ToScore, only: Collection[str] | None, known: Mapping[str, Score]) -> dict[str, Scored]:
        """All metrics of one source, or some; only what is neither cached nor known is computed."""
        protocols, keys = self.keys(cell)
        metrics = {name: metric for name, (_, metric) in self.metrics.items() if only is None or name in only}
        cached = {name: score for name in metrics if (score := self.cache.find(keys[name])) is not None}
        there = {name: score for name, score in known.items() if name in metrics} | cached
        scores = there | self._compute(cell, {name: m for name, m in metrics.items() if name not in there})
        for name in scores.keys() - there.keys():
            self.cache.keep(keys[name], scores[name])
        kind = error_kind(cell.clusters)
        labels = {name: column_label(metric, self.features.extractors) for name, metric in metrics.items()}
        hashes = {name: sha256_json(protocols[name])[:HASH_DIGITS] for name in metrics}
        return {
            name: Scored(scores[name], protocols[name], hashes[name], labels[name], kind, name in cached)
            for name in metrics
        }

    def _key(self, cell: ToScore, option: Mapping[str, Any], metric: Metric, protocol: Any) -> dict[str, Any]:
        """All that a score depends on, as JSON."""
        measured = cell.generator if isinstance(metric, ModelMetric) else None
        # The baseline has no score against itself, whatever another set of the very same images has.
        of_itself = isinstance(metric, PairMetric) and metric.pairs == "baseline"
        of_itself = of_itself and cell.source is self.against.baseline
        return {
            "option": dict(option),
            "code": code_digest(metric),
            "protocol": protocol,
            "extractors": extractor_ids(metric.needs, self.features.extractors),
            "source": measured.key if measured else cell.source.digest,
            "prompts": sha256_json(list(cell.source.prompts)),
            "clusters": sha256_json(list(cell.clusters)),
            **({"of_itself": True} if of_itself else {}),
            **({"categories": self._categories(cell, metric)} if metric.by_category else {}),
        }

    def _categories(self, cell: ToScore, metric: Metric) -> list[str]:
        """Digests of the categories of the samples, and of the sides that a metric looks at."""
        sides = [self.against.sides[side] for side in getattr(metric, "sides", ())]
        return [sha256_json(list(getattr(source, "categories", ()))) for source in (cell.source, *sides)]

    def _compute(self, cell: ToScore, metrics: Mapping[str, Metric]) -> dict[str, Score]:
        if not metrics:
            return {}
        source, n = cell.source, len(cell.source)
        absent = sum(text is None for text in source.prompts)
        lacking = Score(None, n, note=f"{'the' if absent == n else f'{absent} of {n}'} samples have no prompt")
        scores = {name: lacking for name, metric in metrics.items() if absent and metric.needs_prompts}
        applying = {name: metric for name, metric in metrics.items() if name not in scores}
        pairs = {name: metric for name, metric in applying.items() if isinstance(metric, PairMetric)}
        failed: Failures = {}
        scores |= score_pairs(pairs, source, self.against.baseline, self.pairs, cell.own, failed, cell.clusters)
        for name, metric in applying.items():
            if isinstance(metric, ModelMetric):
                with guarded(name, failed):
                    scores[name] = self._measure(cell, name, metric)
        merging = {name: metric for name, metric in applying.items() if isinstance(metric, StateMetric)}
        if merging:  # a set without prompts lacks the scores of texts each time: that needs no torch
            with one_thread():
                scores |= self._score_states(cell, merging, failed)
        scores |= {name: Score(None, n, note=reason, broken=True) for name, reason in failed.items()}
        told = {name: self._warn(source, metrics[name], finite(score)) for name, score in scores.items()}
        return {name: finite(of_clusters(score, cell.clusters)) for name, score in told.items()}

    def _measure(self, cell: ToScore, name: str, metric: ModelMetric) -> Score:
        if cell.generator is None:
            return Score(
                None, len(cell.source), note="these images were not made by evalkit: there is no model to measure"
            )
        show = self.features.progress
        generator = cell.generator.showing(partial(show, f"{cell.source.name} ({name})") if show is not None else None)
        return metric.measure(generator, len(cell.source))

    def _warn(self, source: ImageSource, metric: Metric, score: Score) -> Score:
        """The score, with a note on prompts that the text encoder cut."""
        if score.value is None:
            return score
        cut = self.features.text_warnings(source, metric.needs).get("prompt_truncated", 0)
        note = f"{cut} different prompts are longer than the text encoder takes; they were cut, end token kept"
        return _noted(score, note) if cut else score

    def _score_states(
        self, cell: ToScore, metrics: Mapping[str, StateMetric[Any]], failed: Failures
    ) -> dict[str, Score]:
        """The metrics that merge states: one pass over the features, and a second one where there are influences."""
        import torch

        self._observe_sides(metrics)
        source, ids = cell.source, torch.tensor(cell.clusters)
        failed |= {name: reason for name, reason in self._side_failures.items() if name in metrics}
        observed = observe(self.features, source, {n: m for n, m in metrics.items() if n not in failed}, failed)
        states = {
            name: replace(state, clusters=ids) if isinstance(state, Rows) else state for name, state in observed.items()
        }
        del observed  # each is freed once it is scored
        scores: dict[str, Score] = {}
        influences: dict[str, Callable[[Batch], Tensor]] = {}
        for name in list(states):
            metric = metrics[name]
            assert isinstance(metric, SampleMetric | ReferenceMetric), f"{type(metric)} is of no known kind"
            sides = metric.sides if isinstance(metric, ReferenceMetric) else ()
            given = {"generated": states.pop(name), **{side: self._side_states[side, name] for side in sides}}
            with guarded(name, failed):
                score, influence = _scored(metric, given)
                scores[name] = _noted(score, influence) if isinstance(influence, str) else score
                if callable(influence):
                    influences[name] = influence
        return scores | self._influenced(cell, scores, influences)

    def _influenced(
        self, cell: ToScore, scores: Mapping[str, Score], influences: Mapping[str, Callable[[Batch], Tensor]]
    ) -> dict[str, Score]:
        """Standard errors from per-sample influences, on the stored features (the images are not read again)."""
        import torch

        if not influences:
            return {}
        failed: Failures = {}
        addresses = [address for name in influences for address in self.metrics[name][1].needs]
        # in place: small tensors that stay would lie between the large ones that go, and memory would grow with N
        values = dict[str, torch.Tensor]()
        device = devices.for_scores(self.features.device)
        for batch in self.features.batches(cell.source, addresses):
            moved = batch.to(device)
            for name, influence in influences.items():
                with guarded(name, failed):
                    each = influence(moved if self.metrics[name][1].on_device else batch).cpu()  # f64 [B] or [B,K]
                    if name not in values:
                        values[name] = torch.empty((len(cell.source), *each.shape[1:]), dtype=torch.float64)
                    values[name][batch.index] = each
        noted = {name: _noted(scores[name], f"no standard error: {why}") for name, why in failed.items()}
        widest = {name: widest_of(each, cell.clusters) for name, each in values.items() if name not in failed}
        return noted | {name: with_error(scores[name], each, cell.clusters) for name, each in widest.items()}

    def _observe_sides(self, metrics: Mapping[str, Metric]) -> None:
        """The states of the reference and of the training set, each computed once per run."""
        import torch

        for side, given in self.against.sides.items():
            of_side = {n: m for n, m in metrics.items() if isinstance(m, ReferenceMetric) and side in m.sides}
            done = self._side_failures.keys() | {name for where, name in self._side_states if where == side}
            pending = {name: m for name, m in of_side.items() if name not in done}
            if not pending:
                continue
            assert given is not None, f"{', '.join(pending)}: no {side}"  # check_counts refuses it in one line
            parts = {name: side_for(given, metric) for name, metric in pending.items()}
            of_images = {name: m for name, m in pending.items() if not isinstance(parts[name], Moments)}
            if of_images and not isinstance(given, Moments):
                states = observe(self.features, given, of_images, self._side_failures)
                self._side_states.update({(side, name): state for name, state in states.items()})
            for name, part in parts.items():
                if not isinstance(part, Moments):
                    continue
                metric = pending[name]
                chosen = select_moments(part, metric, self.features.extractors)
                mean, cov = torch.from_numpy(chosen.mean), torch.from_numpy(chosen.cov)
                with guarded(name, self._side_failures):
                    self._side_states[side, name] = metric.from_moments(mean=mean, cov=cov, n=chosen.n)


def _scored(
    metric: SampleMetric[Any] | ReferenceMetric[Any], states: Mapping[str, Sums | Rows]
) -> tuple[Score, Callable[[Batch], Tensor] | str | None]:
    """The score of states by side, and `influence`; on the CPU where the device has too little memory."""
    try:
        return metric.score(**states), metric.influence(**states) if isinstance(metric, ReferenceMetric) else None
    except Exception as error:
        if not metric.on_device or not devices.is_out_of_memory(error):
            raise
    devices.free_memory()
    log.warning("%s: the device has too little memory for it: scored on the CPU", metric.title)
    states = {side: state.to("cpu") for side, state in states.items()}
    return metric.score(**states), metric.influence(**states) if isinstance(metric, ReferenceMetric) else None


def of_clusters(score: Score, clusters: Sequence[int]) -> Score:
    """The score with a standard error that allows for its samples' clusters, and a note where they are few.

    A metric that says `Score.clusters` has allowed for them itself. Of another, where samples share clusters, the error
    is formed of its influences; without any there is none: one that takes the samples to be independent would be wrong.

    Args:
        score: as the metric gave it.
        clusters: of the samples, see `evalkit.metric.cluster_ids`.
    """
    count, n = len(set(clusters)), len(clusters)
    if score.value is None:
        return score
    if score.clusters is None and count < n and score.influence is not None and len(score.influence) == n:
        score = with_error(score, score.influence, clusters)
    elif score.clusters is None and count < n and score.stderr is not None:
        why = f"no standard error: the metric's own takes the {n} samples of {count} prompts to be independent"
        score = _noted(replace(score, stderr=None), why)
    behind = count if score.clusters is None else score.clusters
    score = replace(score, clusters=behind)
    if behind == 1 and n > 1 and score.influence is not None:
        return _noted(score, "no standard error: all samples are of one prompt")
    if score.stderr is not None and behind < FEW_CLUSTERS:
        what = f"of {behind} {'prompts' if count < n else 'samples'} alone"
        return _noted(score, f"a rough standard error, {what}: its intervals are those of t with {behind - 1} degrees")
    return score


def _noted(score: Score, note: str) -> Score:
    return replace(score, note="; ".join(filter(None, (score.note, note))))
