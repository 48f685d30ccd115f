"""Sources x metrics -> scores with their protocols, through the score cache and the feature store.

A score is cached under the digest of all that it depends on: the metric's option and source file, the images, prompts
and reference, the extractors' identities. Where all scores are cached, no torch is imported.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from evalkit.errors import ConfigError, StoreError
from evalkit.extractors.base import Extractor
from evalkit.features import FeaturePass, ImageSource, Progress, extractor_id, parse
from evalkit.metric import Metric, ReferenceMetric, SampleMetric, Score
from evalkit.paths import sha256_file, sha256_json, write_json

CACHE_SCHEMA = 1


class Folders(Protocol):
    """The folders of a store that are used here (`evalkit.samples.Store`)."""

    @property
    def features(self) -> Path: ...
    @property
    def scores(self) -> Path: ...


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


def check_counts(metrics: Mapping[str, Metric], counts: Mapping[str, int], reference: int | None) -> None:
    """Refuses sets that are too small for a metric, before any work.

    Args:
        metrics: by name.
        counts: number of samples of each set, by name.
        reference: number of reference images, or none.

    Raises:
        ConfigError: names the metric, the set, both numbers and how to mend it; or a missing reference.
    """
    for name, metric in metrics.items():
        for cell, count in counts.items():
            if count < metric.min_samples:
                raise ConfigError(
                    f"metric '{name}' needs at least {metric.min_samples} samples, but {cell} has {count}: "
                    f"raise num_samples, or leave '{name}' out of metric=[...]"
                )
        if not isinstance(metric, ReferenceMetric):
            continue
        if reference is None:
            raise ConfigError(
                f"metric '{name}' compares with reference images, but there are none: give "
                f"reference=folder reference.folder.path=DIR, or leave '{name}' out of metric=[...]"
            )
        if reference < metric.min_reference:
            raise ConfigError(
                f"metric '{name}' needs at least {metric.min_reference} reference images, but there are {reference}"
            )


def column_label(metric: Metric, extractors: Mapping[str, Extractor]) -> str:
    """The metric's title; with the extractor's label where it is not the one that the bare title stands for.

    The bare title needs the addresses that the metric has by default, and the published weights behind them.
    """
    usual = [p.default for p in inspect.signature(type(metric)).parameters.values()]
    tags = []
    for address in metric.needs:
        name, _, layer = address.partition("/")
        extractor = extractors[name]
        if not extractor.canonical():
            tags.append(extractor.label())
        elif address not in usual:
            tags.append(f"{extractor.label()}/{layer}")
    return f"{metric.title} [{', '.join(dict.fromkeys(tags))}]" if tags else metric.title


def make_protocol(
    metric: Metric, extractors: Mapping[str, Extractor], n: int, reference: ImageSource | None
) -> dict[str, Any]:
    """All that must agree for scores to be compared. A metric whose numbers change raises its class's `revision`."""
    kind = type(metric)
    return {
        "metric": f"{kind.__module__}.{kind.__qualname__}",
        "revision": getattr(kind, "revision", 1),
        "constants": metric.constants(),
        "features": {address: extractors[address.partition("/")[0]].identity() for address in metric.needs},
        "n": n,
        "reference": {"digest": reference.digest, "n": len(reference)}
        if isinstance(metric, ReferenceMetric) and reference is not None
        else None,
    }


def score_sources(
    sources: Mapping[str, ImageSource],
    *,
    metrics: Mapping[str, tuple[Mapping[str, Any], Metric]],
    extractors: Mapping[str, Extractor],
    reference: ImageSource | None,
    store: Folders,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[tuple[str, str], Scored]:
    """Scores each source by each metric.

    Args:
        sources: sets of images by name (cells).
        metrics: by name: the plain YAML option, and the metric built from it.
        extractors: by name; those that the metrics' addresses name must be there.
        reference: the reference images; needed where a metric compares with them.
        store: where features and scores are kept.
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
    check_counts(
        built, {name: len(s) for name, s in sources.items()}, len(reference) if reference is not None else None
    )
    with _shown(progress) as shown:
        run = _Run(metrics, FeaturePass(store.features, extractors, device, shown), reference, store.scores)
        results: dict[tuple[str, str], Scored] = {}
        for cell, source in sources.items():
            for name, scored in run.score(source).items():
                results[cell, name] = scored
    return results


class _Run:
    """One call of `score_sources`: keeps the reference's states from source to source."""

    def __init__(
        self,
        metrics: Mapping[str, tuple[Mapping[str, Any], Metric]],
        features: FeaturePass,
        reference: ImageSource | None,
        scores: Path,
    ) -> None:
        self.metrics = metrics
        self.features = features
        self.reference = reference
        self.scores = scores
        self._reference_states: dict[str, Any] = {}
        self._labels = {name: column_label(metric, features.extractors) for name, (_, metric) in metrics.items()}

    def score(self, source: ImageSource) -> dict[str, Scored]:
        """All metrics of one source; only what is not cached is computed."""
        scored: dict[str, Scored] = {}
        keys: dict[str, dict[str, Any]] = {}
        for name, (option, metric) in self.metrics.items():
            protocol = make_protocol(metric, self.features.extractors, len(source), self.reference)
            scored[name] = Scored(Score(None, len(source)), protocol, sha256_json(protocol)[:10], self._labels[name])
            keys[name] = self._key(option, metric, source, protocol)
        found = {name: self._find(key) for name, key in keys.items()}
        pending = {name: self.metrics[name][1] for name in keys if found[name] is None}
        for name, score in self._compute(source, pending).items():
            found[name] = score
            if score.value is not None:
                self._keep(keys[name], score)
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
            "schema": CACHE_SCHEMA,
            "option": dict(option),
            "code": code_digest(metric),
            "protocol": protocol,
            "extractors": [extractor_id(self.features.extractors[name]) for name in names],
            "source": source.digest,
            "prompts": sha256_json(list(source.prompts)),
        }

    def _file(self, key: Mapping[str, Any]) -> Path:
        return self.scores / f"{sha256_json(key)[:32]}.json"

    def _find(self, key: Mapping[str, Any]) -> Score | None:
        """The cached score; none where there is none, or its file is broken."""
        try:
            entry = json.loads(self._file(key).read_text("utf-8"))
            if entry["key"] != json.loads(json.dumps(key)):
                return None
            values = entry["score"]
            influence = values.pop("influence")
            return Score(**values, influence=tuple(influence) if influence is not None else None)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, key: Mapping[str, Any], score: Score) -> None:
        try:
            write_json(self._file(key), {"key": key, "score": asdict(score)})
        except OSError as error:
            raise StoreError(f"cannot write scores to {self.scores}: {error.strerror or error}") from error

    def _compute(self, source: ImageSource, metrics: Mapping[str, Metric]) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        absent = sum(text is None for text in source.prompts)
        for name, metric in metrics.items():
            if absent and metric.needs_prompts:
                note = f"{'the' if absent == len(source) else f'{absent} of {len(source)}'} samples have no prompt"
                scores[name] = Score(None, len(source), note=note)
        applying = {name: metric for name, metric in metrics.items() if name not in scores}
        if not applying:
            return scores
        self._observe_reference({n: m for n, m in applying.items() if isinstance(m, ReferenceMetric)})
        states = self._observe(source, applying)
        for name, metric in applying.items():
            scores[name] = _finite(self._score(name, metric, states[name]))
            cut = self.features.text_warnings(source, metric.needs).get("prompt_truncated", 0)
            if cut:
                note = f"{cut} different prompts are longer than the text encoder takes; they were cut, end token kept"
                scores[name] = replace(scores[name], note="; ".join(filter(None, (scores[name].note, note))))
        return scores

    def _score(self, name: str, metric: Metric, state: Any) -> Score:
        if isinstance(metric, ReferenceMetric):
            return metric.score(generated=state, reference=self._reference_states[name])
        assert isinstance(metric, SampleMetric), f"{type(metric)} is neither a SampleMetric nor a ReferenceMetric"
        return metric.score(generated=state)

    def _observe_reference(self, metrics: Mapping[str, Metric]) -> None:
        """The reference's states, each computed once a run."""
        wanting = {name: metric for name, metric in metrics.items() if name not in self._reference_states}
        if wanting:
            assert self.reference is not None  # check_counts has seen to it
            self._reference_states |= self._observe(self.reference, wanting)

    def _observe(self, source: ImageSource, metrics: Mapping[str, Metric]) -> dict[str, Any]:
        """The metrics' states of a whole source: its features are read once, in index order."""
        addresses = [address for metric in metrics.values() for address in metric.needs]
        self.features.compute(source, addresses)
        states = {name: _Merger() for name in metrics}
        pixels = any(not metric.needs for metric in metrics.values())
        for batch in self.features.batches(source, addresses, images=pixels):
            for name, metric in metrics.items():
                states[name].add(metric.observe(batch))
        return {name: merger.total() for name, merger in states.items()}


class _Merger:
    """Adds states up as a balanced tree: one by one, 200 batches of rows would each copy all rows before them."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, Any]] = []  # number of batches, their state; numbers fall, all powers of two

    def add(self, state: Any) -> None:
        count = 1
        while self._parts and self._parts[-1][0] == count:
            before, other = self._parts.pop()
            state, count = other + state, count + before
        self._parts.append((count, state))

    def total(self) -> Any:
        _, state = self._parts[-1]
        for _, other in reversed(self._parts[:-1]):
            state = other + state
        return state


def _finite(score: Score) -> Score:
    """A score that is not a finite number has no value, and is never cached as one."""
    if score.value is None or math.isfinite(score.value):
        return score
    return Score(None, score.n, note=f"the computation gave {score.value}")


def code_digest(metric: Metric) -> str:
    """Digest of the source files of the metric's class and of those it derives from: an edited metric counts as new."""
    digests = []
    for kind in type(metric).__mro__:
        if kind.__module__ in ("builtins", "abc", "typing"):
            continue
        try:
            digests.append(sha256_file(Path(inspect.getfile(kind))))
        except (OSError, TypeError):  # a class of an interactive session has no file
            digests.append(kind.__qualname__)
    return sha256_json(digests)


@contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    """The given callback; or a bar a source on the terminal (a log line where there is none)."""
    from evalkit.progress import Progress as Bars

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


def needed_extractors(metrics: Sequence[Metric]) -> list[str]:
    """Names of the extractors that some metrics need, in order of first need."""
    return list(dict.fromkeys(address.partition("/")[0] for metric in metrics for address in metric.needs))
