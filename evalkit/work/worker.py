"""Runs a plan's units: in the driver's process with the driver's plan, elsewhere with one made from the store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.data.moments import Moments
from evalkit.errors import DataError
from evalkit.metric import ModelMetric
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.sample_set import STALE
from evalkit.utils import devices
from evalkit.work.fused import Fused, HeldSource
from evalkit.work.units import SIDES, Extract, Measure, Pairs, Score, Shard, Texts

if TYPE_CHECKING:
    from evalkit.data.source import Source
    from evalkit.engines.base import Run, Tell
    from evalkit.features.feature_pass import FeaturePass, Progress
    from evalkit.lint.parts import Parts
    from evalkit.plan.plan import Plan
    from evalkit.samples.cells import FoundCell
    from evalkit.scoring.pair_pass import PairPass
    from evalkit.scoring.sources import Given, Scoring
    from evalkit.work.stored_plan import Leftovers

PROMPTS = "prompts"  # what progress calls texts
SOURCES = 4  # that a worker which is sent units one by one holds at a time: 50,000 samples' lines take 5 MB

T = TypeVar("T")


def open_worker(store: str, key: str) -> Run:
    """What runs the units of a stored plan in this process; errors as of `open_plan`."""
    from evalkit.work.stored_plan import Leftovers, open_plan, parts_of

    plan = open_plan(store, key)
    worker = Worker(plan, sources=SOURCES, fuse=True)
    worker.leftovers, worker.parts = Leftovers.of(plan, key), parts_of(plan, key)
    return worker.run


class Worker:
    """What a process keeps from unit to unit: the plan's objects, what is loaded, the states of the reference.

    Args:
        plan: whose units.
        sources: how many are held at a time; none: all.
        fuse: whether features are extracted of a shard's images while these are in hand.

    Attributes:
        leftovers: where units leave word of what they could not give; none: nowhere.
        parts: take what is measured for the lint; none: nothing is.
    """

    def __init__(self, plan: Plan, *, sources: int | None = None, fuse: bool = False) -> None:
        self.plan = plan
        self.pool = ModelPool(plan.built)
        self.leftovers: Leftovers | None = None
        self.parts: Parts | None = None
        self._most = sources
        self._fuse = fuse
        self._cells = {cell.name: cell for cell in plan.all_cells}
        self._opened: dict[str, Source] = {}
        self.found: Mapping[str, FoundCell] = {}  # by cell key, what the last listing told; none: each is listed

    @functools.cached_property
    def device(self) -> str:
        """Where this process works; asking imports torch, but for cpu."""
        return devices.pick_device(self.plan.config.device)

    def run(self, unit: Any, tell: Tell) -> None:
        """Runs one unit: what it makes is in the store by the time this returns.

        Raises:
            EvalkitError: what would stop any unit. Images that cannot be read do not: whoever makes the table meets
                them again, and says so.
        """
        if isinstance(unit, Shard):
            self._make(unit, tell)
            return
        try:
            if isinstance(unit, Extract):
                self._extract(unit, tell)
            elif isinstance(unit, Texts):
                self._extract_texts(unit, tell)
            elif isinstance(unit, Pairs):
                self._compare(unit, tell)
            elif isinstance(unit, Measure):
                self._score(unit, unit.cell, [unit.metric])
            elif isinstance(unit, Score):
                self.pool.unload()  # scores on a device need its memory
                self._score(unit, unit.cell, self.of_images(self.scoring.uncached(unit.cell)))
            else:
                raise TypeError(f"{unit!r} is no unit of a plan")
        except DataError as error:
            self._leave(unit, error=str(error))

    def source(self, name: str) -> Source:
        """A cell's images, or a side's; the same object as long as it is held, and a baseline's always."""
        if name not in self._opened:
            held = [other for other in self._opened if other not in self._baselines]
            if self._most is not None and len(held) >= self._most:
                del self._opened[held[0]]
            self._opened[name] = self._open(name)
        return self._opened[name]

    def of_images(self, metrics: Collection[str]) -> list[str]:
        """Those metrics that are not of models."""
        return [name for name in metrics if not isinstance(self.plan.metrics[name], ModelMetric)]

    @functools.cached_property
    def scoring(self) -> Scoring:
        """Scores cells one by one; shows nothing."""
        from evalkit.scoring import Scoring

        sources = _Lazy(self._cells, self.source)
        clusters = _Lazy(self._cells, lambda name: self.plan.clusters_of(self._cells[name], self.source(name)))
        return Scoring(sources, **scoring_arguments(self.plan, self.pool, sources, clusters))

    @functools.cached_property
    def _baselines(self) -> set[str | None]:
        return {self.plan.baseline_of(cell.seed) for cell in self.plan.cells}

    @functools.cached_property
    def _fused(self) -> Fused:
        return Fused(self.plan, self.pool, self._features, self.parts)

    @functools.cached_property
    def _features(self) -> FeaturePass:
        from evalkit.features.feature_pass import FeaturePass

        return FeaturePass(self.plan.store.features, self.plan.extractors, self.device)

    @functools.cached_property
    def _pairs(self) -> PairPass:
        """Not the one of scores, which lists what is stored once all of it is."""
        return self.scoring.pair_pass(self._features)

    def _open(self, name: str) -> Source:
        for side, called in SIDES.items():
            if name == called:
                given = getattr(self.plan, side)
                assert not isinstance(given, Moments | None), f"no unit is made of {name}"
                source: Source = given
                return source
        return self.plan.open_source(self._cells[name], self.found.get(self._cells[name].key), STALE)

    def _make(self, unit: Shard, tell: Tell) -> None:
        from evalkit.samples.generate import ShardSpec, run_shard

        spec = ShardSpec(self._cells[unit.cell], unit.start, unit.stop, self.plan.config.batch_size, self.device)
        in_hand = self._fused.shard(unit.start, spec.cell.num_samples) if self._fuse else None
        run_shard(spec, self.plan.store, tell, self.pool, in_hand)

    def _extract(self, unit: Extract, tell: Tell) -> None:
        self.pool.unload()  # the extractors need its memory
        self._features.progress = _telling(tell, unit.source)
        source, chunk = self.source(unit.source), range(unit.start, unit.stop)
        if self.parts is None:
            self._features.compute(source, unit.addresses, [chunk])
            return
        held = HeldSource(source)
        self._features.compute(held, unit.addresses, [chunk])
        held.measure(chunk, self.parts)

    def _extract_texts(self, unit: Texts, tell: Tell) -> None:
        self.pool.unload()  # the extractors need its memory
        self._features.compute_texts(self.source(unit.source), unit.address, range(unit.start, unit.stop))
        tell(PROMPTS, unit.stop - unit.start)

    def _compare(self, unit: Pairs, tell: Tell) -> None:
        self.pool.unload()  # the extractors need its memory
        self._features.progress = _telling(tell, unit.cell)
        failed: dict[str, str] = {}
        block = range(unit.start, unit.stop)
        for paired in self.scoring.paired(unit.cell, unit.metrics):
            self._pairs.compute(paired, [block], failed)
            if self._pairs.lacking(paired, [block]):  # whoever scores the cell meets it again, and says so
                self._leave(unit, failed=failed)

    def _score(self, unit: Measure | Score, cell: str, metrics: Collection[str]) -> None:
        scored = self.scoring.score(cell, metrics)
        valueless = {
            name: {"n": s.n, "note": s.note, "broken": s.broken, "clusters": s.clusters}
            for name, s in ((name, each.score) for name, each in scored.items())
            if s.value is None
        }
        if valueless:
            self._leave(unit, scores=valueless)

    def _leave(self, unit: Extract | Texts | Pairs | Measure | Score, **word: Any) -> None:
        if self.leftovers is not None:
            self.leftovers.leave(unit.key, word)


def scoring_arguments(
    plan: Plan, pool: ModelPool, sources: Mapping[str, Source], clusters: Mapping[str, Sequence[int]]
) -> Given:
    """What a plan's cells are scored with.

    Args:
        plan: whose.
        pool: loads the models of metrics of models.
        sources, clusters: by cell.
    """
    from evalkit.scoring import Against

    baselines = {c.name: sources[name] for c in plan.all_cells if (name := plan.baseline_of(c.seed)) is not None}
    any_baseline = next(iter(baselines.values()), None)
    baselines |= {cell.name: sources[cell.name] for cell in plan.floors}  # real images are nobody's pairs
    return {
        "metrics": {name: (plan.config.metric[name], metric) for name, metric in plan.metrics.items()},
        "extractors": plan.extractors,
        "against": Against(plan.reference, plan.training, any_baseline, plan.own, baselines),
        "generators": plan.generators(pool),
        "clusters": clusters,
        "store": plan.store,
        "device": plan.config.device,
    }


def _telling(tell: Tell, name: str) -> Progress:
    """Tells of a pass over one chunk what is new each time."""
    told = 0

    def show(source: str, done: int, total: int) -> None:
        nonlocal told
        tell(name, done - told)
        told = done

    return show


class _Lazy(Mapping[str, T]):
    """Values that are made when they are asked for."""

    def __init__(self, names: Collection[str], make: Callable[[str], T]) -> None:
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
