"""`evalkit.Evaluation`: FID and all others of images in memory, step after step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cell import Cell
from evalkit.config.call import compose_call
from evalkit.config.compose import resolve
from evalkit.data import memory
from evalkit.data.moments import Moments
from evalkit.data.source import chunks_of
from evalkit.errors import ConfigError, nearest
from evalkit.features.store import extractor_id
from evalkit.loop.best import Best, best_of
from evalkit.loop.collected import Collected
from evalkit.loop.ranks import Ranks
from evalkit.loop.spread import compute_side
from evalkit.loop.stream import Stream
from evalkit.loop.undisturbed import undisturbed
from evalkit.metric import ModelMetric, PairMetric, ReferenceMetric, cluster_ids
from evalkit.plan.grid import Missing
from evalkit.plan.plan import open_side
from evalkit.plan.plugins import build_extractors, build_metrics
from evalkit.results.compare import compare
from evalkit.results.evidence import Evidence
from evalkit.results.notebook import ResultTable
from evalkit.results.rows import Outcome, make_rows, run_info
from evalkit.samples.store import Store
from evalkit.scoring.checks import check_counts
from evalkit.utils.blobs import Blobs, HeldBlobs
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from evalkit.config.schema import RunConfig
    from evalkit.data.source import Source
    from evalkit.scoring import Scoring
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

    Under `torch.distributed` every rank builds one, gives its own samples and calls `compute`; all get the same table,
    whose bits do not depend on the number of ranks. Without `index` a sample's place is that of `DistributedSampler`:
    rank r has r, r + ranks, ... A rank that makes the samples of `indices(n)` holds whole chunks, and sends no image.

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
        distributed: whether other ranks take part; none: where the caller began a process group. False: this one alone.
        patience: seconds that ranks wait for one another.

    Attributes:
        seconds: spent in `update` and `compute` so far.

    Raises:
        ConfigError: a metric, a file of weights or a reference that is not there (what, where and how to fix it); ranks
            whose settings differ.
        DataError: a reference in memory of another shape, dtype or range.
        ServiceError: another rank ended or did not come.
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
        distributed: bool | None = None,
        patience: float = 1800,
    ) -> None:
        self._name, self._range, self.seconds = name, value_range, 0.0
        self._sources: dict[str, Collected] = {}
        self._cells: list[Cell] = []
        self._scored: dict[tuple[str, str], Scored] = {}
        self._past: dict[str, Collected] = {}
        self._last: tuple[dict[int, NDArray[np.uint8]], str] = ({}, "")  # those of the last `compute`, and their title
        self._ranks = Ranks.find(distributed, patience)
        place = reference if memory.is_place(reference) else None
        given = {"reference": reference, "training": training}

        def build() -> dict[str, Any]:
            config = resolve(compose_call(metrics, {"name": name, "device": device}, settings, reference=place))
            self._build(config, given, store, keep_images)
            return self._settings()

        self._ranks.agree(build)

    def _build(
        self,
        config: RunConfig,
        given: Mapping[str, Any],
        store: str | os.PathLike[str] | None,
        keep_images: bool | None,
    ) -> None:
        self._config = config
        self.metrics = build_metrics(config)
        self._check_metrics()
        missing = Missing(False)
        self._extractors = build_extractors(config, self.metrics, missing)
        cache = Path(os.fspath(store)) / "cache" if store is not None and "://" not in os.fspath(store) else None
        self._sides = {side: self._open(side, value, missing, cache) for side, value in given.items()}
        self._pixels = self._want_pixels() if keep_images is None else keep_images
        self._addresses = [address for metric in self.metrics.values() for address in metric.needs]
        self._store = _InMemory() if store is None else Store.at(os.fspath(store))
        self._scoring = self._new_scoring()
        self._stream = self.stream(self._name)

    def _new_scoring(self) -> Scoring:
        from evalkit.scoring import Against, Scoring

        return Scoring(
            self._sources,
            metrics={name: (self._config.metric[name], metric) for name, metric in self.metrics.items()},
            extractors=self._extractors,
            against=Against(self._sides["reference"], self._sides["training"]),
            store=self._store,
            device=self._config.device,
            progress=_silent,
        )

    def _settings(self) -> dict[str, Any]:
        """What must be the same on all ranks."""
        digests = {
            side: sha256_json([each.mean.tolist(), each.n]) if isinstance(each, Moments) else each and each.digest
            for side, each in self._sides.items()
        }
        extractors = {name: extractor_id(extractor) for name, extractor in self._extractors.items()}
        metrics = {name: self._config.metric[name] for name in self.metrics}
        about = {"name": self._name, "value_range": self._range, "keep_images": self._pixels}
        return {"metrics": metrics, "extractors": extractors, **digests, **about}

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
        """This rank's samples since the last `compute` or `reset`."""
        return len(self._stream)

    def indices(self, num_samples: int) -> list[int]:
        """Of the indices of `num_samples` samples those that this rank had best make: whole chunks."""
        chunks = chunks_of(num_samples)[self._ranks.rank :: self._ranks.size]
        return [index for chunk in chunks for index in chunk]

    def update(
        self, images: Any, prompts: Sequence[str | None] | None = None, index: Sequence[int] | None = None
    ) -> None:
        """Takes samples; their features are computed as soon as a chunk of 256 is whole.

        Args:
            images: u8 [B,3,H,W] tensor, u8 [B,H,W,3] array or PIL images; floats with the `value_range` given.
            prompts: one text per image, for metrics of texts, and for errors by prompt.
            index: i [B], the samples' places in their set, over all ranks; none: the next ones of this rank.

        Raises:
            DataError: another shape, dtype or range (the message names the conversion), or an index twice.
        """
        with self._timed():
            pixels = memory.as_pixels(images, self._name, self._range)
            self._stream.add(pixels, self._scoring.features, prompts, index)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def compute(self, step: int | None = None) -> ResultTable:
        """Scores the samples since the last call, and begins anew; `history` has the scores of all steps.

        Args:
            step: of the training, for the table; none: the number of calls so far.

        Raises:
            ConfigError: too few samples for a metric; this step was computed before; ranks are at different steps.
            DataError: an index is missing, or two ranks have other images of it.
            ServiceError: another rank ended or did not come.
        """
        with self._timed(), undisturbed():
            step = len(self._cells) if step is None else int(step)
            name = f"{self._name}-step{step}"
            self._ranks.together(lambda: self._check_step(name, step))
            samples, scored = self._score(name, {"step": step})
            identity = {"name": self._name, "step": step, "digest": samples.digest}
            key = sha256_json(identity)
            cell = Cell(self._name, None, None, {"step": step}, 0, len(samples), key, name, {}, {}, identity)
            samples.let_go(range(len(samples)))
            self._cells.append(cell)
            self._past[name] = samples
            self._scored |= {(name, metric): each for metric, each in scored.items()}
            self._last = (self._stream.shown, f"{self._name}, step {step}")
            self._stream.reset()
            return self._table([cell])

    def _check_step(self, name: str, step: int) -> None:
        if name in self._past:
            raise ConfigError(f"step {step} was computed before: give another step")

    def so_far(self, reference: Stream | None = None) -> dict[str, Scored]:
        """Scores of the samples up to now, by metric; they stay, and `history` knows nothing of it.

        Args:
            reference: images that came by `stream`, instead of the reference.

        Raises:
            EvalkitError: as of `compute`.
        """
        with self._timed(), undisturbed():
            if reference is not None:
                self._sides = {**self._sides, "reference": reference.whole(self._scoring.features, {})}
                self._scoring = self._new_scoring()
            return self._score(self._name, {})[1]

    def stream(self, name: str) -> Stream:
        """Takes other samples than those that are scored, such as a reference that comes batch by batch (`so_far`)."""
        return Stream(name, self._ranks, self._addresses, pixels=self._pixels)

    def update_stream(self, stream: Stream, images: Any) -> None:
        """Takes images of a `stream`; arguments and errors as of `update`."""
        with self._timed():
            stream.add(memory.as_pixels(images, stream.name, self._range), self._scoring.features)

    def _score(self, name: str, about: Mapping[str, Any]) -> tuple[Collected, dict[str, Scored]]:
        """The samples of all ranks, and their scores."""
        ranks, features = self._ranks, self._scoring.features
        samples = self._stream.whole(features, about)
        check_counts(self.metrics, {self._name: len(samples)}, self._sides)
        for side, given in self._sides.items():
            of_side = [m for m in self.metrics.values() if isinstance(m, ReferenceMetric) and side in m.sides]
            compute_side(ranks, features, given, [address for metric in of_side for address in metric.needs])
        self._sources[name] = samples
        try:
            return samples, ranks.from_first(lambda: self._scoring.score(name))
        finally:
            del self._sources[name]

    def sheet(self, path: str | os.PathLike[str] | None = None, *, columns: int = 8) -> Image.Image:
        """A contact sheet of the first 64 samples, since the last `compute` or, where there are none, before it.

        Of several ranks the first one has all of them after `compute`, the others their own.

        Args:
            path: an image file to write as well, by its ending.
            columns: of the sheet.

        Raises:
            ConfigError: there are no samples.
        """
        from evalkit.results.sheets import draw_sheet, save_picture

        shown, title = (self._stream.shown, self._name) if self._stream.shown else self._last
        if not shown:
            raise ConfigError("there are no samples to draw: call update(images)")
        drawn = draw_sheet([shown[index] for index in sorted(shown)], title, columns)
        if path is not None:
            save_picture(drawn, path)
        return drawn

    def best(self, metric: str) -> Best:
        """The step with the best score so far, and all that cannot be told from it.

        Raises:
            ConfigError: no such metric, or no step has a score of it.
        """
        if metric not in self.metrics:
            raise ConfigError(f"best: there is no metric '{metric}'. {nearest(metric, self.metrics)}")
        return best_of(self.history, metric, self.metrics[metric].better)

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
        evidence = Evidence(outcome.influences, clusters)
        return ResultTable(about, tuple(rows), (), tuple(comparisons), best, evidence=evidence)

    def reset(self) -> None:
        """Forgets the samples since the last `compute`; the reference's features and the history stay."""
        self._stream.reset()


def _silent(source: str, done: int, total: int) -> None:
    """No bars between a training loop's own."""
