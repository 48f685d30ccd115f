"""Runs a plan's units: in the driver's process with the driver's plan, elsewhere with one made from the store."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evalkit.samples.model_pool import ModelPool
from evalkit.utils import devices
from evalkit.work.units import Shard

if TYPE_CHECKING:
    from evalkit.engines.base import Tell
    from evalkit.plan.plan import Plan


class Worker:
    """What a process keeps from unit to unit: the plan's objects, and the model that is loaded.

    Args:
        plan: whose units.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = ModelPool(plan.built)
        self._cells = {cell.name: cell for cell in plan.cells}

    @functools.cached_property
    def device(self) -> str:
        """Where this process works; asking imports torch, but for cpu."""
        return devices.pick_device(self.plan.config.device)

    def run(self, unit: Any, tell: Tell) -> None:
        """Runs one unit: what it makes is in the store by the time this returns."""
        if isinstance(unit, Shard):
            self._make(unit, tell)
        else:
            raise TypeError(f"{unit!r} is no unit of a plan")

    def _make(self, unit: Shard, tell: Tell) -> None:
        from evalkit.samples.generate import ShardSpec, run_shard

        spec = ShardSpec(self._cells[unit.cell], unit.start, unit.stop, self.plan.config.batch_size, self.device)
        run_shard(spec, self.plan.store, tell, self.pool)
