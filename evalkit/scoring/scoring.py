"""Sources x metrics -> scores with their protocols, through the score cache and the feature store.

A score is cached under the digest of all that it depends on: the metric's option and source file, the images, prompts
and what they are compared with, the extractors' identities. Where all scores are cached, no torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.data.moments import Moments
from evalkit.errors import ConfigError, EvalkitError
from evalkit.extractors.base import Extractor
from evalkit.features.feature_pass import FeaturePass, ImageSource, Progress, parse
from evalkit.features.store import extractor_id
from evalkit.metric import Batch, Generator, Metric, ModelMetric, PairMetric, ReferenceMetric, Rows, SampleMetric, Score
from evalkit.scoring.cache import ScoreCache, finite
from evalkit.scoring.checks import check_counts
from evalkit.scoring.protocol import Side, code_digest, column_label, make_protocol, metric_errors, select_moments
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from torch import Tensor


class Folders(Protocol):
    """The folders of a store that are used here (`evalkit.samples.store.Store`)."""

    @property
    def features(self) -> Path: ...
    @property
    def scores(self) -> Path: ...


class KeyedGenerator(Generator, Protocol):
    """A cell's generator, and the digest of all that its samples depend on."""

    show: Callable[[int, int], None] | None

    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Scored:
    """A score, what it rests on, and how a reader sees it.

    Attributes:
        score: value, standard error, n, per-sample values, details, note.
        protocol: metric, constants, extractor identities, n, reference: all that must agree for scores to compare.
        protocol_hash: ten hex digits of the protocol's digest.
        label: the metric's title, with the extractor where that is not the one the title stands for ("FID [digits]").
        cached: whether it was found in the score cache.
    """

    score: Score
    protocol: Mapping[str, Any]
    protocol_hash: str
    label: str
    cached: bool = False


def score_sources(
    sources: Mapping[str, ImageSource],
    *,
    metrics: Mapping[str, tuple[Mapping[str, Any], Metric]],
    extractors: Mapping[str, Extractor],
    reference: Side | None,
    store: Folders,
    training: Side | None = None,
    baseline: str | None = None,
    own: Mapping[str, Mapping[str, ImageSource | str]] | None = None,
    generators: Mapping[str, KeyedGenerator] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[tuple[str, str], Scored]:
    """Scores each source by each metric.

    Args:
        sources: sets of images by name (cells).
        metrics: by name: the plain YAML option, and the metric built from it.
        extractors: by name; those that the metrics' addresses name must be there.
        reference: the reference images, or their published statistics; needed where a metric compares with them.
        store: where features and scores are kept.
        training: the images that the models were trained on, for metrics of memorisation.
        baseline: the name of the source that metrics of pairs compare with.
        own: by source and kind ("target", ...) the images that its samples' own prompts name, or why there are none.
        generators: by source: the models behind the samples, for metrics of models; none for images made elsewhere.
        device: auto, cpu, cuda or mps.
        progress: called as progress(source name, images done, images to do) while features are computed; none: a bar on
            the terminal.

    Returns:
        By (source name, metric name). A score that does not apply (no prompts) has no value, and a note.

    Raises:
        ConfigError: too few samples, no reference, no such extractor or layer, missing weights.
        DataError, StoreError: an image cannot be read; the store cannot be written.
    """
    built = {name: metric for name, (_, metric) in metrics.items()}
    for name, metric in built.items():
        for address in metric.needs:
            parse(address, extractors, f"metric '{name}'")
    sides = {"reference": reference, "training": training}
    check_counts(built, {name: len(s) for name, s in sources.items()}, sides)
    if baseline is not None and baseline not in sources:
        raise ConfigError(f"baseline: there is no '{baseline}' among {', '.join(sources)}")
    with _shown(progress) as shown:
        features = FeaturePass(store.features, extractors, device, shown)
        base = sources[baseline] if baseline is not None else None
        run = _Run(metrics, features, sides, base, ScoreCache(store.scores))
        results: dict[tuple[str, str], Scored] = {}
        for cell, source in sources.items():
            run.generator = (generators or {}).get(cell)
            for name, scored in run.score(source, (own or {}).get(cell, {})).items():
                results[cell, name] = scored
    return results


def reference_statistics(
    name: str, metric: ReferenceMetric, extractors: Mapping[str, Extractor], reference: ImageSource, features: Path
) -> tuple[Tensor, Tensor, int]:
    """Mean f64 [D], covariance f64 [D,D] and n of the reference's features, for a metric that has `to_moments`."""
    run = _Run({name: ({}, metric)}, FeaturePass(features, extractors), {}, None, ScoreCache(features))
    return metric.to_moments(run._observe(reference, {name: metric})[name])


class _Run:
    """One call of `score_sources`: keeps the states of the sides from source to source."""

    def __init__(
        self,
        metrics: Mapping[str, tuple[Mapping[str, Any], Metric]],
        features: FeaturePass,
        sides: Mapping[str, Side | None],
        baseline: ImageSource | None,
        cache: ScoreCache,
    ) -> None:
        self.metrics = metrics
        self.features = features
        self.sides = sides
        self.baseline = baseline
        self.cache = cache
        self.generator: KeyedGenerator | None = None  # of the source that is being scored
        self._side_states: dict[tuple[str, str], Any] = {}  # (side, metric) -> state
        self._labels = {name: column_label(metric, features.extractors) for name, (_, metric) in metrics.items()}

    def score(self, source: ImageSource, own: Mapping[str, ImageSource | str]) -> dict[str, Scored]:
        """All metrics of one source; only what is not cached is computed."""
        scored: dict[str, Scored] = {}
        keys: dict[str, dict[str, Any]] = {}
        for name, (option, metric) in self.metrics.items():
            protocol = make_protocol(metric, self.features.extractors, len(source), self.sides, self.baseline, own)
            scored[name] = Scored(Score(None, len(source)), protocol, sha256_json(protocol)[:10], self._labels[name])
            keys[name] = self._key(option, metric, source, protocol)
        found = {name: self.cache.find(key) for name, key in keys.items()}
        pending = {name: self.metrics[name][1] for name in keys if found[name] is None}
        for name, score in self._compute(source, pending, own).items():
            found[name] = score
            self.cache.keep(keys[name], score)
        return {
            name: replace(item, score=found[name] or item.score, cached=name not in pending)
            for name, item in scored.items()
        }

    def _key(
        self, option: Mapping[str, Any], metric: Metric, source: ImageSource, protocol: Mapping[str, Any]
    ) -> dict[str, Any]:
        """All that a score depends on, as JSON."""
        names = dict.fromkeys(address.partition("/")[0] for address in metric.needs)
        return {
            "option": dict(option),
            "code": code_digest(metric),
            "protocol": protocol,
            "extractors": [extractor_id(self.features.extractors[name]) for name in names],
            "source": self.generator.key if self.generator and isinstance(metric, ModelMetric) else source.digest,
            "prompts": sha256_json(list(source.prompts)),
        }

    def _compute(
        self, source: ImageSource, metrics: Mapping[str, Metric], own: Mapping[str, ImageSource | str]
    ) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        absent = sum(text is None for text in source.prompts)
        for name, metric in metrics.items():
            if absent and metric.needs_prompts:
                note = f"{'the' if absent == len(source) else f'{absent} of {len(source)}'} samples have no prompt"
                scores[name] = Score(None, len(source), note=note)
        applying = {name: metric for name, metric in metrics.items() if name not in scores}
        pairs = {name: metric for name, metric in applying.items() if isinstance(metric, PairMetric)}
        if pairs:
            from evalkit.scoring.pairs import score_pairs

            scores |= score_pairs(pairs, source, self.baseline, self.features, own)
        for name, metric in applying.items():
            if isinstance(metric, ModelMetric):
                scores[name] = self._measure(source, name, metric)
        done = scores.keys() | pairs.keys()
        scores |= self._score_states(source, {n: m for n, m in applying.items() if n not in done})
        return {name: self._warn(source, metrics[name], finite(score)) for name, score in scores.items()}

    def _measure(self, source: ImageSource, name: str, metric: ModelMetric) -> Score:
        if self.generator is None:
            return Score(None, len(source), note="these images were not made by evalkit: there is no model to measure")
        tell = self.features.progress
        self.generator.show = partial(tell, f"{source.name} ({name})") if tell is not None else None
        try:
            with metric_errors(name):
                return metric.measure(self.generator, len(source))
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            raise EvalkitError(f"metric '{name}' ran out of memory: lower metric.{name}.batch_size") from error

    def _warn(self, source: ImageSource, metric: Metric, score: Score) -> Score:
        """The score, with a note on prompts that the text encoder cut."""
        if score.value is None:
            return score
        cut = self.features.text_warnings(source, metric.needs).get("prompt_truncated", 0)
        if not cut:
            return score
        note = f"{cut} different prompts are longer than the text encoder takes; they were cut, end token kept"
        return replace(score, note="; ".join(filter(None, (score.note, note))))

    def _score_states(self, source: ImageSource, metrics: Mapping[str, Metric]) -> dict[str, Score]:
        """The metrics that merge states: one pass over the features, and a second one where influences are wanted."""
        if not metrics:
            return {}
        self._observe_sides(metrics)
        states = self._observe(source, metrics)
        scores: dict[str, Score] = {}
        influences: dict[str, Callable[[Batch], Tensor]] = {}
        for name, metric in metrics.items():
            if isinstance(metric, ReferenceMetric):
                given = {"generated": states.pop(name), **{s: self._side_states[s, name] for s in metric.sides}}
                with metric_errors(name):
                    scores[name], influence = metric.score(**given), metric.influence(**given)
                if isinstance(influence, str):
                    scores[name] = replace(scores[name], note="; ".join(filter(None, (scores[name].note, influence))))
                elif influence is not None:
                    influences[name] = influence
            else:
                assert isinstance(metric, SampleMetric), f"{type(metric)} is of no known kind"
                with metric_errors(name):
                    scores[name] = metric.score(generated=states.pop(name))
        return scores | self._influenced(source, scores, influences)

    def _influenced(
        self, source: ImageSource, scores: Mapping[str, Score], influences: Mapping[str, Callable[[Batch], Tensor]]
    ) -> dict[str, Score]:
        """Standard errors from per-sample influences, on the stored features (the images are not read again)."""
        import torch

        if not influences:
            return {}
        addresses = [address for name in influences for address in self.metrics[name][1].needs]
        # in place: small tensors that stay would lie between the large ones that go, and memory would grow with N
        values = {name: torch.empty(len(source), dtype=torch.float64) for name in influences}
        for batch in self.features.batches(source, addresses):
            for name, influence in influences.items():
                values[name][batch.index] = influence(batch)
        found: dict[str, Score] = {}
        for name, each in values.items():
            stderr = float(each.std(correction=1)) / len(each) ** 0.5
            found[name] = replace(scores[name], stderr=stderr, influence=tuple(each.tolist()))
        return found

    def _observe_sides(self, metrics: Mapping[str, Metric]) -> None:
        """The states of the reference and of the training set, each computed once a run."""
        for side, given in self.sides.items():
            wanting = {
                name: metric
                for name, metric in metrics.items()
                if isinstance(metric, ReferenceMetric)
                and side in metric.sides
                and (side, name) not in self._side_states
            }
            if not wanting:
                continue
            assert given is not None  # check_counts has seen to it
            if isinstance(given, Moments):
                states = {name: self._from_moments(metric, given) for name, metric in wanting.items()}
            else:
                states = self._observe(given, wanting)
            self._side_states |= {(side, name): state for name, state in states.items()}

    def _from_moments(self, metric: ReferenceMetric, given: Moments) -> Any:
        import torch

        chosen = select_moments(given, metric, self.features.extractors)
        return metric.from_moments(mean=torch.from_numpy(chosen.mean), cov=torch.from_numpy(chosen.cov), n=chosen.n)

    def _observe(self, source: ImageSource, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics' states of a whole source: its features are read once, in index order."""
        addresses = [address for metric in metrics.values() for address in metric.needs]
        self.features.compute(source, addresses)
        states = _States(len(source))
        pixels = any(not metric.needs for metric in metrics.values())
        for batch in self.features.batches(source, addresses, images=pixels):
            seen: dict[str, Any] = {}
            for name, metric in metrics.items():
                with metric_errors(name):
                    seen[name] = metric.observe(batch)
                    states.check(seen[name], batch)
            states.add(seen)
        return states.total()


class _States:
    """The metrics' states of one source, batch by batch: sums add up, rows are written where they stay.

    To join rows would hold all of them twice, and once more for each metric that keeps the very same ones: here a
    column is one tensor of the whole set's length, and such metrics share it.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._columns: dict[str, dict[str, Tensor]] = {}  # by metric, then by name: [total, ...]
        self._sums: dict[str, Any] = {}

    def check(self, state: Any, batch: Batch) -> None:
        """Raises ValueError for rows that are not the batch's samples."""
        import torch

        if isinstance(state, Rows) and not torch.equal(state.index, batch.index):
            raise ValueError(f"{len(state)} rows for a batch of {len(batch.index)}: give one a sample, in its order")

    def add(self, states: Mapping[str, Any]) -> None:
        homes: dict[int, Tensor] = {}  # of the batch's tensors, by id: the column that each has gone to
        written: dict[int, Tensor] = {}  # the columns, by id: what went there
        for name, state in states.items():
            if not isinstance(state, Rows):
                self._sums[name] = self._sums[name] + state if name in self._sums else state
                continue
            columns = self._columns.setdefault(name, {})
            for key, value in state.values.items():
                column = columns.get(key)
                if column is None:
                    column = homes.get(id(value))
                    column = value.new_empty(self._total, *value.shape[1:]) if column is None else column
                elif written.get(id(column), value) is not value:
                    column = column.clone()  # was the same as another metric's up to here
                columns[key] = homes[id(value)] = column
                if id(column) not in written:
                    column[state.index] = value
                    written[id(column)] = value

    def total(self) -> dict[str, Any]:
        import torch

        index = torch.arange(self._total)
        return self._sums | {name: Rows(index, columns) for name, columns in self._columns.items()}


@contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    """The given callback; or a bar a source on the terminal (a log line where there is none)."""
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
