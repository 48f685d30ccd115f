"""Units of work: what a plan's stages are cut into. Each names things of the plan, and holds nothing of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Makes the samples [start, stop) of a cell, a shard of it."""

    cell: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        return f"shard/{self.cell}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"samples {self.start} to {self.stop - 1} of {self.cell}"
