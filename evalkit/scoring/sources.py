"""Sources x metrics -> scores: all of them in one call, or one source after another."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Required, TypedDict, Unpack

from evalkit.config.build import THRESHOLD
from evalkit.errors import DataError
from evalkit.extractors.base import Extractor
from evalkit.features.feature_pass import FeaturePass, ImageSource, Progress, parse
from evalkit.metric import Metric, PairMetric, ReferenceMetric, Score, cluster_ids
from evalkit.numerics.threads import one_thread
from evalkit.scoring.cache import ScoreCache
from evalkit.scoring.checks import Failures
from evalkit.scoring.pair_details import identical, with_statistics
from evalkit.scoring.pair_pass import Paired, PairPass
from evalkit.scoring.pairs import pairings
from evalkit.scoring.protocol import Against
from evalkit.scoring.scoring import KeyedGenerator, Scored, Scorer, ToScore
from evalkit.scoring.states import observe
from evalkit.scoring.unrelated import Shuffle, ShuffledPairs, shuffle, with_warning
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.utils.blobs import Blobs

log = logging.getLogger(__name__)


class Store(Protocol):
    """What of `evalkit.samples.store.Store` scoring uses."""

    @property
    def features(self) -> Path | Blobs: ...
    @property
    def scores(self) -> Path | Blobs: ...


class Given(TypedDict, total=False):
    """What sources are scored with: keyword arguments of `score_sources` and `Scoring`.

    Attributes:
        metrics: by name: the plain YAML option, and the metric built from it.
        extractors: by name; those that the metrics' addresses name must be there.
        against: what the samples are compared with.
        store: where features and scores are kept.
        generators: by source: the models behind the samples, for metrics of models; none for images made elsewhere.
        clusters: by source, its samples' clusters (`evalkit.metric.cluster_ids`), which standard errors go by; of one
            that is not named: those of one prompt.
        device: auto, cpu, cuda or mps.
    """

    metrics: Required[Mapping[str, tuple[Mapping[str, Any], Metric]]]
    extractors: Required[Mapping[str, Extractor]]
    against: Required[Against]
    store: Required[Store]
    generators: Mapping[str, KeyedGenerator] | None
    clusters: Mapping[str, Sequence[int]] | None
    device: str


def score_sources(
    sources: Mapping[str, ImageSource],
    *,
    progress: Progress | None = None,
    valueless: Mapping[tuple[str, str], Score] | None = None,
    done: Callable[[str], None] | None = None,
    **given: Unpack[Given],
) -> dict[tuple[str, str], Scored]:
    """Scores each source by each metric; `evalkit.scoring.checks` says before any work what would fail here.

    Args:
        sources: sets of images by name (cells).
        progress: called as progress(source name, images done, images to do) while features are computed; none: a bar on
            the terminal.
        valueless: by (source name, metric name): scores that another process found to have no value.
        done: called with each source's name when it has its scores.
        given: what they are scored with.

    Returns:
        By (source name, metric name). A score that does not apply (no prompts) has no value, and a note; so has one
        that its metric could not compute, which is `broken`.

    Raises:
        ConfigError: no such extractor or layer, missing weights.
        DataError, StoreError: an image cannot be read; the store cannot be written.
    """
    with _shown(progress) as shown:
        scoring = Scoring(sources, shown, **given)
        results: dict[tuple[str, str], Scored] = {}
        for name in sources:
            known = {metric: score for (of, metric), score in (valueless or {}).items() if of == name}
            results |= {(name, metric): scored for metric, scored in scoring.score(name, known=known).items()}
            if done is not None:
                done(name)
    return results


class Scoring:
    """Scores sources one by one, and keeps the states of what they are compared with.

    Sources, generators and clusters are asked for by name when they are needed.

    Args:
        sources: sets of images by name.
        progress: as of `score_sources`; none shows nothing.
        given: what they are scored with.
    """

    def __init__(
        self, sources: Mapping[str, ImageSource], progress: Progress | None = None, **given: Unpack[Given]
    ) -> None:
        extractors, store = given["extractors"], given["store"]
        self._metrics = {name: (keyed(option, metric), metric) for name, (option, metric) in given["metrics"].items()}
        self._thresholds = {name: option.get(THRESHOLD) for name, (option, _) in given["metrics"].items()}
        for name, (_, metric) in self._metrics.items():
            for address in metric.needs:
                parse(address, extractors, f"metric '{name}'")
        self.features = FeaturePass(store.features, extractors, given.get("device", "auto"), progress)
        self._sources = sources
        self._generators, self._clusters = given.get("generators") or {}, given.get("clusters") or {}
        cache = ScoreCache(store.scores)
        self._scorer = Scorer(self._metrics, self.features, given["against"], cache, self.pair_pass(self.features))
        self._shuffles: dict[str, Shuffle | None] = {}  # by the digest of a set's prompts and categories

    def pair_pass(self, features: FeaturePass) -> PairPass:
        """A pass over pairs that lists what is stored when it is first asked; `features` extracts and tells."""
        return PairPass(features, {name: option for name, (option, _) in self._metrics.items()})

    def paired(self, name: str, metrics: Collection[str]) -> list[Paired]:
        """What those of some metrics that are of pairs compare of a source."""
        source, against = self._sources[name], self._scorer.against
        chosen = {metric: self._metrics[metric][1] for metric in metrics}
        of_pairs = {metric: m for metric, m in chosen.items() if isinstance(m, PairMetric) and applies(m, source)}
        baseline = against.baselines.get(name, against.baseline)
        return pairings(of_pairs, source, baseline, against.own.get(name, {}))[0]

    def uncached(self, name: str) -> list[str]:
        """The metrics whose scores of a source are not cached. Whether those that are can be believed is seen later."""
        scorer, cell = self._of(name)
        _, keys = scorer.keys(cell)
        return [metric for metric, key in keys.items() if not scorer.cache.has(key)]

    def score(
        self, name: str, only: Collection[str] | None = None, known: Mapping[str, Score] | None = None
    ) -> dict[str, Scored]:
        """Scores of a source, by metric; what is cached is not computed.

        Args:
            name: of the source.
            only: the metrics to compute, cached or not; none: all.
            known: by metric: scores that another process found to have no value.
        """
        scorer, cell = self._of(name)
        scored = scorer.score(cell, only, known or {})
        of_pairs = [metric for metric, each in scored.items() if each.score.value is not None]
        for paired in self.paired(name, of_pairs):
            scored |= self._described(paired, scored)
        return scored

    def _described(self, paired: Paired, scored: Mapping[str, Scored]) -> dict[str, Scored]:
        """Scores of pairs with their statistics, and a warning where the pairs look unrelated."""
        values = self._values(paired, scored)
        same = identical(paired, values)
        scores = {
            name: with_statistics(paired.metrics[name], scored[name].score, each, same, self._thresholds[name])
            for name, each in values.items()
        }
        with_baseline = next(iter(paired.metrics.values())).pairs == "baseline" and paired.masks is None
        if paired.other is not paired.source and values and with_baseline:
            scores |= self._compared_with_shuffled(paired, scores, same)
        return {name: replace(scored[name], score=score) for name, score in scores.items()}

    def _values(self, paired: Paired, scored: Mapping[str, Scored]) -> dict[str, Sequence[float]]:
        """By metric the values of all pairs: a score has them where they are one per sample, else the store."""
        values: dict[str, Sequence[float]] = {}
        for name, metric in paired.metrics.items():
            influence = scored[name].score.influence
            if paired.other is not paired.source and influence is not None and len(influence) == len(paired.pairs):
                values[name] = influence
            elif paired.other is paired.source:
                alone = replace(paired, metrics={name: metric})
                if not self._scorer.pairs.lacking(alone):
                    values |= self._scorer.pairs.values(alone, {})
        return values

    def _compared_with_shuffled(
        self, paired: Paired, scores: Mapping[str, Score], same: Sequence[bool] | None
    ) -> dict[str, Score]:
        """Scores with a warning where the pairs are no closer than shuffled ones; as they were where none is there."""
        if same is not None and all(same):
            return {}
        drawn = self._shuffle(paired.source)
        if drawn is None:
            return {}
        metrics = {name: paired.metrics[name] for name in scores}
        failed: Failures = {}
        try:
            shuffled = self._scorer.pairs.values(
                ShuffledPairs(metrics, paired.source, paired.other, drawn.pairs), failed
            )
        except DataError as error:  # images that are gone: the scores are there all the same
            log.debug("%s: no shuffled pairs: %s", paired.source.name, error)
            return {}
        return {
            name: with_warning(metrics[name], scores[name], drawn, values, same)
            for name, values in shuffled.items()
            if all(map(math.isfinite, values))
        }

    def _shuffle(self, source: ImageSource) -> Shuffle | None:
        categories = getattr(source, "categories", None) or [None] * len(source)
        key = sha256_json([list(source.prompts), list(categories)])
        if key not in self._shuffles:
            self._shuffles[key] = shuffle(source.prompts, categories)
        return self._shuffles[key]

    def _of(self, name: str) -> tuple[Scorer, ToScore]:
        source, against = self._sources[name], self._scorer.against
        ids = self._clusters.get(name) or cluster_ids(source.prompts)
        cell = ToScore(source, against.own.get(name, {}), self._generators.get(name), ids)
        if name not in against.baselines:
            return self._scorer, cell
        return replace(self._scorer, against=replace(against, baseline=against.baselines[name])), cell


def keyed(option: Mapping[str, Any], metric: Metric) -> Mapping[str, Any]:
    """What of an option a score depends on: a threshold of pairs is applied to values that are there."""
    return {key: value for key, value in option.items() if key != THRESHOLD or not isinstance(metric, PairMetric)}


def applies(metric: Metric, source: ImageSource) -> bool:
    """Whether a metric takes a source: one that needs prompts, those alone whose images all have one."""
    return not metric.needs_prompts or None not in source.prompts


def reference_statistics(
    name: str,
    metric: ReferenceMetric[Any],
    extractors: Mapping[str, Extractor],
    reference: ImageSource,
    features: Path | Blobs,
) -> tuple[Tensor, Tensor, int]:
    """Mean f64 [D], covariance f64 [D,D] and n of the reference's features, for a metric that `gives_moments`."""
    failed: Failures = {}
    with one_thread():
        states = observe(FeaturePass(features, extractors), reference, {name: metric}, failed)
    if failed:
        raise DataError(f"metric '{name}': {failed[name]}")
    mean, cov, n = metric.to_moments(states[name])
    return mean.cpu(), cov.cpu(), n


@contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    """The given callback; or one bar per source on the terminal (a log line where there is none)."""
    from evalkit.utils.progress import Progress as Bars

    if progress is not None:
        yield progress
        return
    with ExitStack() as stack:
        bars: Bars | None = None
        shown = 0

        def show(name: str, done: int, total: int) -> None:
            nonlocal bars, shown
            if bars is None:
                bars, shown = stack.enter_context(Bars({f"features of {name}": total})), 0
            bars.advance(f"features of {name}", done - shown)
            shown = done
            if done >= total:
                stack.pop_all().close()  # one live display at a time
                bars = None

        yield show
