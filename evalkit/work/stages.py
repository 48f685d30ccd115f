"""The stages of a run, as units over the plan's engine. What is to do is read from the store, before each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.engines.base import Work
from evalkit.plan.plan import check_calls
from evalkit.samples.store import SampleSet
from evalkit.work.units import Shard

if TYPE_CHECKING:
    from evalkit.plan.plan import Plan
    from evalkit.work.worker import Worker


def make_samples(plan: Plan, worker: Worker) -> None:
    """Makes all samples of the plan that are missing.

    Args:
        plan: whose cells.
        worker: runs the units of an engine that works in this process.

    Raises:
        ConfigError: a model cannot be called as its cell asks.
        StoreError: the store cannot be written, or the disk is too small (before the first sample).
    """
    incomplete = [cell for cell in plan.generated if SampleSet.missing(plan.store, cell)]
    if not incomplete:
        return
    from evalkit.samples.generate import missing_shards, totals

    check_calls(incomplete, plan)
    shards = missing_shards(incomplete, plan.store)
    cells = {cell.name: cell for cell in plan.cells}

    def done(units: Sequence[Shard]) -> set[str]:
        asked = dict.fromkeys(unit.cell for unit in units)
        missing = {(name, start) for name in asked for start, _ in SampleSet.missing(plan.store, cells[name])}
        return {unit.key for unit in units if (unit.cell, unit.start) not in missing}

    units = [Shard(cell.name, start, stop) for cell, start, stop in shards]
    with worker.pool:  # leaving it frees the model: the extractors need its memory
        plan.engine.map(Work("generating", units, totals(shards), lambda: worker.run, done))
