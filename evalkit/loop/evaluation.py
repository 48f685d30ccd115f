"""`evalkit.Evaluation`: FID and all others of images in memory, step after step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell
from evalkit.config.call import compose_call
from evalkit.config.compose import resolve
from evalkit.data import memory
from evalkit.errors import ConfigError
from evalkit.loop.collected import Collected
from evalkit.loop.undisturbed import undisturbed
from evalkit.metric import ModelMetric, PairMetric, cluster_ids
from evalkit.plan.grid import Missing
from evalkit.plan.plan import build_extractors, build_metrics, open_side
from evalkit.results.compare import compare
from evalkit.results.rows import Outcome, make_rows, run_info
from evalkit.results.table import ResultTable
from evalkit.samples.store import Store
from evalkit.utils.blobs import Blobs, HeldBlobs
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    from evalkit.data.moments import Moments
    from evalkit.data.source import Source
    from evalkit.scoring.scoring import Scored


@dataclass(frozen=True)
class _InMemory:
    """A store that ends with the process."""

    features: Blobs = field(default_factory=HeldBlobs)
    scores: Blobs = field(default_factory=HeldBlobs)


class Evaluation:
    """Scores samples as a training loop makes them. No file is written; scores are those of the same images in files.

        evaluation = evalkit.Evaluation(reference="REAL_IMAGES", metrics=["fid", "kid"])
        for step in ...:
            evaluation.update(images)                  # u8 [B,3,H,W], as often as it takes
            table = evaluation.compute(step=step)      # and begins anew

    Features are taken in whole chunks of 256 images, as files' are, so that the bits are the same; the reference's are
    computed once. Random states, autocast, TF32, gradients and defaults of the caller's are left as they are.

    Args:
        reference: a folder, archive or URL of reference images, statistics (.npz), an option's name ("digits"), or
            images in memory (`evalkit.data.memory`); none: only metrics of the samples alone apply.
        metrics: names of the metrics' YAML files.
        training: the images that the model is trained on, for metrics of memorisation; as `reference`.
        device: auto, cpu, cuda, cuda:1 or mps.
        store: a folder or URL that keeps features and scores, so that the reference's are computed once for all runs;
            none: they end with this object.
        value_range: (0, 1) or (-1, 1), of images that are floats; those of the reference and training set too.
        settings: further configuration by dotted key, such as {"extractor.inception.weights": "FILE"}.
        name: what the table calls the samples.
        keep_images: pixels are kept after their features are taken, which metrics of pairs within a set need; none:
            where one of the metrics does.

    Raises:
        ConfigError: a metric, a file of weights or a reference that is not there (what, where and how to fix it).
        DataError: a reference in memory of another shape, dtype or range.
    """

    def __init__(
        self,
        reference: Any = None,
        metrics: Sequence[str] = ("fid",),
        *,
        training: Any = None,
        device: str = "auto",
        store: str | os.PathLike[str] | None = None,
        value_range: memory.Range | None = None,
        settings: Mapping[str, Any] | None = None,
        name: str = "samples",
        keep_images: bool | None = None,
    ) -> None:
        from evalkit.scoring import Against, Scoring

        place = reference if memory.is_place(reference) else None
        config = resolve(compose_call(metrics, {"name": name, "device": device}, settings, reference=place))
        self._config, self._name, self._range = config, name, value_range
        self.metrics = build_metrics(config)
        self._check_metrics()
        missing = Missing(False)
        self._extractors = build_extractors(config, self.metrics, missing)
        cache = Path(os.fspath(store)) / "cache" if store is not None and "://" not in os.fspath(store) else None
        given = {"reference": reference, "training": training}
        self._sides = {side: self._open(side, value, missing, cache) for side, value in given.items()}
        self._samples = Collected(name)
        self._sources: dict[str, Collected] = {}
        self._pixels = self._want_pixels() if keep_images is None else keep_images
        self._addresses = [address for metric in self.metrics.values() for address in metric.needs]
        self._scoring = Scoring(
            self._sources,
            metrics={name: (config.metric[name], metric) for name, metric in self.metrics.items()},
            extractors=self._extractors,
            against=Against(self._sides["reference"], self._sides["training"]),
            store=_InMemory() if store is None else Store.at(os.fspath(store)),
            device=device,
            progress=_silent,
        )
        self._cells: list[Cell] = []
        self._scored: dict[tuple[str, str], Scored] = {}
        self._past: dict[str, Collected] = {}

    def _open(self, side: str, given: Any, missing: Missing, cache: Path | None) -> Source | Moments | None:
        if given is None or (side == "reference" and memory.is_place(given)):
            return open_side(self._config, side, missing, cache) if side == "reference" else None
        if memory.is_place(given):
            config = resolve(compose_call([*self.metrics], {}, reference=given))
            return open_side(config, "reference", missing, cache)
        return memory.take(given, side, value_range=self._range)

    def _check_metrics(self) -> None:
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                raise ConfigError(f"metric '{name}' measures a model: a run does (model=...), images do not")
            if isinstance(metric, PairMetric) and metric.pairs not in ("any", "prompt"):
                raise ConfigError(
                    f"metric '{name}' pairs samples with {metric.pairs} images: a run does, this does not"
                )

    def _want_pixels(self) -> bool:
        return any(isinstance(metric, PairMetric) or not metric.needs for metric in self.metrics.values())

    def __len__(self) -> int:
        """Samples since the last `compute` or `reset`."""
        return len(self._samples)

    def update(
        self, images: Any, prompts: Sequence[str | None] | None = None, index: Sequence[int] | None = None
    ) -> None:
        """Takes samples; their features are computed as soon as a chunk of 256 is whole.

        Args:
            images: u8 [B,3,H,W] tensor, u8 [B,H,W,3] array or PIL images; floats with the `value_range` given.
            prompts: one text per image, for metrics of texts, and for errors by prompt.
            index: i [B], the samples' places in their set; none: the next ones.

        Raises:
            DataError: another shape, dtype or range (the message names the conversion), or an index twice.
        """
        pixels = memory.as_pixels(images, self._name, self._range)
        count = len(pixels)
        places = list(range(len(self), len(self) + count)) if index is None else [int(i) for i in index]
        texts: Sequence[str | None] = [None] * count if prompts is None else list(prompts)
        for what, values in (("indices", places), ("prompts", texts)):
            if len(values) != count:
                raise ConfigError(f"{self._name}: {len(values)} {what} for {count} images")
        pixels = pixels.copy()  # the caller's memory may be written over
        for place, image, text in zip(places, pixels, texts, strict=True):
            self._samples.add(place, image, text)
        whole = dict.fromkeys(c for place in places if (c := self._samples.whole_chunk(place)) is not None)
        self._extract(list(whole))

    def _extract(self, chunks: Sequence[range]) -> None:
        if not chunks or not self._addresses:
            return
        with undisturbed():
            self._scoring.features.compute(self._samples, self._addresses, chunks)
        if not self._pixels:
            for chunk in chunks:
                self._samples.let_go(chunk)

    def compute(self, step: int | None = None) -> ResultTable:
        """Scores the samples since the last call, and begins anew; `history` has the scores of all steps.

        Args:
            step: of the training, for the table; none: the number of calls so far.

        Raises:
            ConfigError: too few samples for a metric; this step was computed before.
            DataError: an index is missing.
        """
        step = len(self._cells) if step is None else int(step)
        samples = self._samples
        samples.check_whole()
        self._check_counts(len(samples))
        name = f"{self._name}-step{step}"
        if name in self._past:
            raise ConfigError(f"step {step} was computed before: give another step")
        identity = {"name": self._name, "step": step, "digest": samples.digest}
        key = sha256_json(identity)
        cell = Cell(self._name, None, None, {"step": step}, 0, len(samples), key, name, {}, {}, identity)
        self._sources[name] = samples
        try:
            with undisturbed():
                scored = self._scoring.score(name)
        finally:
            del self._sources[name]
        samples.let_go(range(len(samples)))
        self._cells.append(cell)
        self._past[name] = samples
        self._scored |= {(name, metric): each for metric, each in scored.items()}
        self._samples = Collected(self._name)
        return self._table([cell])

    def _check_counts(self, count: int) -> None:
        from evalkit.scoring.checks import check_counts

        check_counts(self.metrics, {self._name: count}, self._sides)

    @property
    def history(self) -> ResultTable:
        """All steps so far as one table: the best of each metric, what cannot be told from it, and every difference.

        Raises:
            ConfigError: nothing was computed yet.
        """
        if not self._cells:
            raise ConfigError("nothing was computed yet: call update(images) and compute(step=...)")
        return self._table(self._cells)

    def _table(self, cells: Sequence[Cell]) -> ResultTable:
        names = [cell.name for cell in cells]
        sources = {name: self._past[name] for name in names}
        scored = {key: each for key, each in self._scored.items() if key[0] in sources}
        outcome = Outcome(cells, self.metrics, sources, scored, self._sides["reference"], self._sides["training"])
        rows = [row for row in make_rows(outcome) if row.metric in self.metrics]
        clusters = {name: cluster_ids(source.prompts) for name, source in sources.items()}
        comparisons, best = compare(
            rows, baseline=None, influences=outcome.influences, pairing=outcome.pairing, clusters=clusters
        )
        about = run_info(outcome, self._config, "memory", baseline=None, command="evalkit.Evaluation(...)", seconds={})
        return ResultTable(about, tuple(rows), (), tuple(comparisons), best)

    def reset(self) -> None:
        """Forgets the samples since the last `compute`; the reference's features and the history stay."""
        self._samples = Collected(self._name)


def _silent(source: str, done: int, total: int) -> None:
    """No bars between a training loop's own."""
