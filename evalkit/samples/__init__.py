"""Cells -> sample sets in the store, shard by shard; a stopped run goes on where it was."""

from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

if TYPE_CHECKING:
    from evalkit.samples.generate import generate_cells as generate_cells
    from evalkit.samples.store import SampleSet as SampleSet
    from evalkit.samples.store import Store as Store
else:
    __all__, __getattr__ = lazy(__name__, generate="generate_cells", store="SampleSet Store")
