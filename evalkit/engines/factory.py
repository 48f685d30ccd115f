"""Which engine a run has: the one asked for, or stripes where a launcher started several processes."""

from __future__ import annotations

import os

from evalkit.engines.base import Engine, InProcess
from evalkit.engines.launch import find_gang
from evalkit.engines.local import Local
from evalkit.engines.stripe import Stripe


def choose(engine: Engine | None, device: str) -> Engine:
    """The engine of a run, ready for use. To be called before torch is asked for its devices.

    A `Local` without settings of its own gives way to stripes where this process is one of several: without that each
    of them would do all the work.

    Args:
        engine: as configured; none: this process.
        device: auto, cpu, cuda, cuda:N or mps, as configured.

    Raises:
        ConfigError: stripes are asked for, and nothing says which this is.
    """
    engine = engine or InProcess()
    if isinstance(engine, Local) and engine.is_default and find_gang(os.environ) is not None:
        engine = Stripe()
    if isinstance(engine, Stripe):
        engine.settle(device)
    elif isinstance(engine, Local):
        engine.device = device
    return engine
