"""The stages of a run, as units over the plan's engine. What is done is read from the store, never from the engine."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit import metric as contract
from evalkit.data.moments import Moments
from evalkit.engines.base import Run, Work
from evalkit.engines.stripe import Stripe
from evalkit.metric import ModelMetric, ReferenceMetric, StateMetric
from evalkit.plan.plan import Plan, check_calls
from evalkit.samples.cells import look as look_for_shards
from evalkit.utils.files import sweep
from evalkit.utils.progress import stage
from evalkit.work.units import SIDES, Extract, Measure, Pairs, Score, Shard, Texts
from evalkit.work.worker import PROMPTS, Worker, open_worker

if TYPE_CHECKING:
    from evalkit.features.feature_pass import FeaturePass
    from evalkit.utils.blobs import Blobs

Look = Callable[[Sequence[Any]], set[str]]
"""Which of some units, by their keys, have all that they make in the store."""


class Stages:
    """Has a plan's samples made, and, where several processes work on it, its features extracted and its scores taken.

    Args:
        plan: whose.
        driver: whether this process is the run's own; others are part of one that has several, whatever their engine.

    Attributes:
        worker: runs units in this process; holds its sources.
    """

    def __init__(self, plan: Plan, *, driver: bool = True) -> None:
        self.plan = plan
        self._driver, self._many = driver, plan.engine.many or not driver
        # Where images are not kept, features are extracted while they are there, or never.
        self.worker = Worker(plan, fuse=self._many or plan.config.keep_images != "all")
        self._open: Callable[[], Run] = lambda: self.worker.run
        self._command: tuple[str, ...] = ()
        self._notes: Blobs | None = None
        self._worked = False  # whether anything was to do
        self._cells = {cell.name: cell for cell in plan.all_cells}

    def run(self) -> None:
        """All stages, one after another.

        Raises:
            ConfigError: a model cannot be called as its cell asks; a worker has other code, libraries or files.
            StoreError: the store cannot be written, or the disk is too small (before the first sample).
            EvalkitError: as of `Engine.map`.
        """
        if self._many:
            self._store_plan()
        self._make_samples()
        if self._many:
            with stage("looking through the samples"):
                for name in self._cells:
                    self.worker.source(name)
            self._extract()
            self._compare()
            self._measure()
            self._score()
            if self._worked and self._driver and self.plan.engine.leads:
                self._sweep()

    def leads(self) -> bool:
        """Whether this process goes on to the table, after `run`: its engine says so; or the process that is to lead
        never came to this plan, and this is the first that did: elements of one array may be runs of their own."""
        engine = self.plan.engine
        if engine.leads or not isinstance(engine, Stripe):
            return engine.leads
        from evalkit.work.stored_plan import ranks

        came = ranks(*self._command[-2:])
        return engine.report not in came and engine.gang.rank == min(came)

    def valueless(self) -> dict[tuple[str, str], contract.Score]:
        """By (cell, metric): scores that units found to have no value. Nobody is to compute them once more."""
        if self.worker.leftovers is None:
            return {}
        units: list[Measure | Score] = [*self._measures(), *map(Score, self._cells)]
        left = self.worker.leftovers.of_units(unit.key for unit in units)
        return {
            (unit.cell, name): contract.Score(None, **about)
            for unit in units
            if unit.key in left
            for name, about in self.worker.leftovers.read(unit.key).get("scores", {}).items()
        }

    def _store_plan(self) -> None:
        from evalkit.work.stored_plan import Leftovers, come, parts_of, store_plan, tries_of

        key, store = store_plan(self.plan), self.plan.store.address
        self.worker.leftovers, self.worker.parts = Leftovers.of(self.plan, key), parts_of(self.plan, key)
        if self._driver and self.plan.engine.leads:
            self.worker.leftovers.sweep()
        self._notes = tries_of(store, key)
        self._command = (sys.executable, "-m", "evalkit.work", store, key)
        if self._driver and isinstance(self.plan.engine, Stripe):
            come(store, key, self.plan.engine.gang.rank)
        if not self.plan.engine.in_process:
            self._open = functools.partial(open_worker, store, key)

    def _sweep(self) -> None:
        """Removes what killed workers left where nobody wrote after them: a process sweeps before it first writes."""
        store = self.plan.store
        if store.remote is not None:
            return
        cells = [store.root / "samples" / place.name for place in store.places(self.plan.generated)]
        plan = store.root / "plans" / self._command[-1]
        for folder in (
            *(inner for cell in cells for inner in (cell, cell / "shards")),
            *store.root.glob("features/*/*"),
            *(store.root / "scores", plan.parent, *plan.glob("*")),
        ):
            sweep(folder)

    def _map(
        self, name: str, units: Sequence[Any], look: Look, totals: dict[str, int] | None = None, **how: Any
    ) -> None:
        work = Work(name, units, totals or {}, self._open, look, self._command, notes=self._notes, **how)
        self.plan.engine.map(work)

    def _map_counted(self, name: str, units: Sequence[Any], look: Look, of: Callable[[Any], str]) -> None:
        """Units over ranges; progress counts what of these is to do, by what `of` calls them."""
        done = self._looked(look)
        there = done(units) if units else set()
        totals: dict[str, int] = {}
        for unit in units:
            if unit.key not in there:
                totals[of(unit)] = totals.get(of(unit), 0) + unit.stop - unit.start
        self._map(name, units, done, totals)

    def _looked(self, look: Look) -> Look:
        """Asks `look` of units that were not done before; those that left word are done as far as they can be."""
        known: set[str] = set()
        leftovers = self.worker.leftovers

        def done(units: Sequence[Any]) -> set[str]:
            rest = [unit for unit in units if unit.key not in known]
            if rest:
                known.update(look(rest))
                known.update(leftovers.of_units(unit.key for unit in rest) if leftovers is not None else ())
            self._worked = self._worked or any(unit.key not in known for unit in rest)
            return {unit.key for unit in units} & known

        return done

    def _make_samples(self) -> None:
        found = look_for_shards(self.plan.store, self.plan.generated)
        incomplete = [cell for cell in self.plan.generated if found[cell.key].missing]
        if not incomplete:
            self.worker.found = found
            return
        from evalkit.samples.generate import missing_shards, shards_of, totals

        check_calls(incomplete, self.plan)
        counts = totals(missing_shards(incomplete, self.plan.store))
        # All shards, so that every process cuts the same list, whenever it started.
        cells = self.plan.generated if self._many else incomplete
        units = [Shard(cell.name, start, stop) for cell, start, stop in shards_of(cells, self.plan.store)]
        remote = {cell.name for cell in cells if self.plan.built[cell.key].model.remote}

        def look(units: Sequence[Shard]) -> set[str]:
            self.worker.pool.finish()  # this process's last shard: it is done
            cells = [self._cells[name] for name in dict.fromkeys(unit.cell for unit in units)]
            found = look_for_shards(self.plan.store, cells)
            missing = {(cell.name, start) for cell in cells for start, _ in found[cell.key].missing}
            return {unit.key for unit in units if (unit.cell, unit.start) not in missing}

        pinned = frozenset(unit.key for unit in units if unit.cell in remote)
        timed_alone = getattr(self.plan.engine, "timing", "") == "alone"
        alone = frozenset(unit.key for unit in units if timed_alone and unit.start == 0)
        with self.worker.pool:  # leaving it frees the model: the extractors need its memory
            self._map("generating", units, self._looked(look), counts, pinned=pinned, alone=alone)
        self.worker.found = look_for_shards(self.plan.store, self.plan.generated)

    def _extract(self) -> None:
        wanted = self._wanted()
        units: list[Extract | Texts] = [
            Extract(name, chunk.start, chunk.stop, addresses)
            for name, addresses in wanted.items()
            for chunk in self.worker.source(name).chunks
        ]
        texts = self._texts(wanted)

        def look(units: Sequence[Extract | Texts]) -> set[str]:
            features = self._listed()
            of_images = [unit for unit in units if isinstance(unit, Extract)]
            missing = {
                (name, chunk.start)
                for name in dict.fromkeys(unit.source for unit in of_images)
                for chunk in features.missing_chunks(self.worker.source(name), wanted[name])
            }
            there = {unit.key for unit in of_images if (unit.source, unit.start) not in missing}
            of_texts = [unit for unit in units if isinstance(unit, Texts)]
            return there | {unit.key for unit in of_texts if texts[unit] in features.column(unit.address)}

        def called(unit: Extract | Texts) -> str:
            return PROMPTS if isinstance(unit, Texts) else unit.source

        self._map_counted("extracting features", [*texts, *units], look, called)

    def _texts(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[Texts, str]:
        """Chunks of texts, once where several cells have the same, with the digest that their features are found by."""
        features = self._listed()
        units: dict[tuple[str, str], Texts] = {}
        for name, addresses in wanted.items():
            for address, where, digest in features.texts(self.worker.source(name), addresses):
                units.setdefault((address, digest), Texts(name, where.start, where.stop, address))
        return {unit: digest for (_, digest), unit in units.items()}

    def _listed(self) -> FeaturePass:
        """A pass that lists what is stored now."""
        from evalkit.features.feature_pass import FeaturePass

        return FeaturePass(self.plan.store.features, self.plan.extractors)

    def _wanted(self) -> dict[str, tuple[str, ...]]:
        """By cell or side: the addresses of features that scores which are not cached rest on."""
        from evalkit.scoring.protocol import side_for
        from evalkit.scoring.sources import applies

        wanted: dict[str, dict[str, None]] = {}
        for name in self._cells:
            source = self.worker.source(name)
            metrics = [self.plan.metrics[metric] for metric in self.worker.scoring.uncached(name)]
            for metric in metrics:
                if isinstance(metric, StateMetric) and applies(metric, source):
                    wanted.setdefault(name, {}).update(dict.fromkeys(metric.needs))
                    for side in metric.sides if isinstance(metric, ReferenceMetric) else ():
                        if not isinstance(side_for(getattr(self.plan, side), metric), Moments):
                            wanted.setdefault(SIDES[side], {}).update(dict.fromkeys(metric.needs))
        return {name: tuple(addresses) for name, addresses in wanted.items()}

    def _compare(self) -> None:
        scoring = self.worker.scoring  # pairs are named by the metrics whose scores are not cached now
        paired = {
            (name, tuple(each.metrics)): each
            for name in self._cells
            for each in scoring.paired(name, scoring.uncached(name))
        }
        units = [
            Pairs(name, block.start, block.stop, metrics)
            for (name, metrics), each in paired.items()
            for block in each.blocks
        ]

        def look(units: Sequence[Pairs]) -> set[str]:
            listed = scoring.pair_pass(scoring.features)
            asked: dict[tuple[str, tuple[str, ...]], list[range]] = {}
            for unit in units:
                asked.setdefault((unit.cell, unit.metrics), []).append(range(unit.start, unit.stop))
            missing = {(of, block) for of, blocks in asked.items() for block in listed.lacking(paired[of], blocks)}
            return {u.key for u in units if ((u.cell, u.metrics), range(u.start, u.stop)) not in missing}

        self._map_counted("comparing pairs", units, look, lambda unit: unit.cell)

    def _measures(self) -> list[Measure]:
        metrics = [name for name, metric in self.plan.metrics.items() if isinstance(metric, ModelMetric)]
        return [Measure(c.name, metric) for c in self.plan.generated if not c.remake for metric in metrics]

    def _measure(self) -> None:
        def look(units: Sequence[Measure]) -> set[str]:
            uncached = {name: self.worker.scoring.uncached(name) for name in dict.fromkeys(u.cell for u in units)}
            return {unit.key for unit in units if unit.metric not in uncached[unit.cell]}

        self._map("measuring models", self._measures(), self._looked(look))

    def _score(self) -> None:
        def look(units: Sequence[Score]) -> set[str]:
            return {u.key for u in units if not self.worker.of_images(self.worker.scoring.uncached(u.cell))}

        self._map("scoring", [Score(name) for name in self._cells], self._looked(look))
