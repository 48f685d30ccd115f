"""Units of work: what a plan's stages are cut into. Each names things of the plan, and holds nothing of them."""

from __future__ import annotations

from dataclasses import dataclass

# Sources besides the cells; no cell's name has a space.
SIDES = {"reference": "the reference", "training": "the training set"}


@dataclass(frozen=True)
class Shard:
    """Makes the samples [start, stop) of a cell, a shard of it, and extracts what the plan's metrics need of them."""

    cell: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        return f"shard/{self.cell}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"samples {self.start} to {self.stop - 1} of {self.cell}"


@dataclass(frozen=True)
class Extract:
    """Extracts features of the images [start, stop) of a cell or a side, a chunk of it."""

    source: str
    start: int
    stop: int
    addresses: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"extract/{self.source}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"features of images {self.start} to {self.stop - 1} of {self.source}"


@dataclass(frozen=True)
class Texts:
    """Extracts features of the texts [start, stop) of a cell's different ones, a chunk which other cells may share."""

    source: str
    start: int
    stop: int
    address: str

    @property
    def key(self) -> str:
        return f"texts/{self.address}/{self.source}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"{self.address} of prompts {self.start} to {self.stop - 1} of {self.source}"


@dataclass(frozen=True)
class Pairs:
    """Compares the pairs [start, stop) of a cell, a block of them, by metrics that pair in the same way."""

    cell: str
    start: int
    stop: int
    metrics: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"pairs/{self.cell}/{self.metrics[0]}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"pairs {self.start} to {self.stop - 1} of {self.cell} by {', '.join(self.metrics)}"


@dataclass(frozen=True)
class Measure:
    """Measures the model behind a cell by a metric of models."""

    cell: str
    metric: str

    @property
    def key(self) -> str:
        return f"measure/{self.cell}/{self.metric}"

    @property
    def label(self) -> str:
        return f"{self.metric} of the model of {self.cell}"


@dataclass(frozen=True)
class Score:
    """Scores a cell by all metrics but those of models, as far as they are not cached, from what other units left."""

    cell: str

    @property
    def key(self) -> str:
        return f"score/{self.cell}"

    @property
    def label(self) -> str:
        return f"the scores of {self.cell}"
