"""Adapters of experiment trackers, one file per tracker; each imports its package where it logs."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.trackers.base import FinishedRun as FinishedRun
    from evalkit.trackers.base import Tracker as Tracker
else:
    __all__, __getattr__ = lazy(__name__, base="FinishedRun Tracker")
