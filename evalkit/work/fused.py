"""What is made of a shard's images while these are in hand: what reading the shard back would give, without reading."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from evalkit.data.arrays import InHand
from evalkit.errors import DataError, UnsuitedError
from evalkit.lint.watch import WatchedSource
from evalkit.metric import StateMetric
from evalkit.utils import devices
from evalkit.utils.processes import Processes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.features.feature_pass import FeaturePass
    from evalkit.lint.parts import Part, Parts
    from evalkit.plan.plan import Plan
    from evalkit.samples.model_pool import ModelPool

log = logging.getLogger(__name__)

MEASURERS = 2  # processes that measure images for the lint next to a device: 5 ms per image of 512 px, 11 of 1,024

Measurers = tuple[ThreadPoolExecutor, Processes]


class Fused:
    """Extracts what a plan's metrics need, next to the loaded model, and measures the images for the lint.

    What fails here is left to a stage of its own.

    Where the device does not hold both, the extractors give way, and features wait until all samples are made: to load
    a model anew for each shard would cost more than to read the images back.

    Args:
        plan: whose metrics.
        pool: of the models.
        features: extracts and stores.
        parts: take what is measured for the lint; none: nothing is.

    Attributes:
        addresses: of the features that are extracted.
    """

    def __init__(self, plan: Plan, pool: ModelPool, features: FeaturePass, parts: Parts | None) -> None:
        self._plan, self._pool, self._features, self._parts = plan, pool, features, parts
        metrics = [metric for metric in plan.metrics.values() if isinstance(metric, StateMetric)]
        needs = dict.fromkeys(address for metric in metrics for address in metric.needs)
        # in hand nobody knows what a picture was edited from
        self.addresses = [one for one in needs if not plan.extractors[one.partition("/")[0]].originals]
        self._measured = False

    def shard(self, start: int, count: int) -> HeldShard:
        """What takes the images of a shard, the first of which has an index, of a set of `count` samples."""
        measured = None
        if self._parts is not None:
            workers = self._measurers if devices.is_accelerator(self._features.device) else None
            measured = _Measured(start, count, workers)
        return HeldShard(self, measured)

    def take(self, images: Sequence[NDArray[np.uint8]], rows: Sequence[Mapping[str, Any]], seen: list[Part]) -> None:
        """Takes a shard.

        Args:
            images: u8 [H,W,3] each.
            rows: its lines of metadata.
            seen: what was measured for the lint.

        Raises:
            StoreError: the store cannot be written.
        """
        prompts = [row["prompt"] for row in rows]
        source = InHand("the shard in hand", images, [str(row["sha256"]) for row in rows], prompts)
        if self._parts is not None:
            (chunk,) = source.chunks
            samples = range(rows[0]["index"], rows[0]["index"] + len(rows))
            self._parts.keep(source.chunk_digest(chunk), samples, seen)
        self._extract(source)

    @functools.cached_property
    def _measurers(self) -> Measurers:
        return ThreadPoolExecutor(MEASURERS, thread_name_prefix="evalkit-measure"), Processes()

    def _extract(self, source: InHand) -> None:
        while self.addresses:
            before = devices.held_mb(self._features.device)
            try:
                self._features.compute(source, self.addresses, source.chunks)
            except UnsuitedError as error:
                if devices.is_out_of_memory(error.__cause__ or error):
                    self._give_way()
                else:
                    self._leave(error.extractor)
                continue
            except DataError:
                self._leave(None)
                continue
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
                self._give_way()
                continue
            if not self._measured:  # what the extractors take is not the model's
                self._pool.others_mb += max(devices.held_mb(self._features.device) - before, 0.0)
                self._pool.make_room = self._give_way
                self._measured = True
            return

    def _leave(self, extractor: str | None) -> None:
        """Does without an extractor from here on; none: without all."""
        self.addresses = [a for a in self.addresses if extractor is not None and a.partition("/")[0] != extractor]

    def _give_way(self) -> bool:
        """Frees the extractors' memory, and takes no more; false where that was done before."""
        if not self.addresses:
            return False
        log.info("the device does not hold the model and the extractors: features wait until the samples are made")
        for name in {address.partition("/")[0] for address in self.addresses}:
            self._plan.extractors[name].unload()
        devices.free_memory()
        self.addresses, self._pool.others_mb = [], 0.0
        return True


class HeldShard:
    """A shard's images, until all are there."""

    def __init__(self, fused: Fused, measured: _Measured | None) -> None:
        self._fused, self._measured = fused, measured
        self._images: list[NDArray[np.uint8]] = []

    def add(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self._images += images
        if self._measured is not None:
            self._measured.add(self._images)

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._fused.take(self._images, rows, [] if self._measured is None else self._measured.parts(self._images))


class _Measured:
    """Measures a shard's images for the lint: in processes, while the next ones are made; without any, at the end."""

    def __init__(self, start: int, count: int, workers: Measurers | None) -> None:
        self._start, self._count, self._workers = start, count, workers
        self._next = start  # the first image that nobody was given
        self._given: list[Future[list[Part]]] = []

    def add(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """All images up to now: gives away those of the blocks that are whole."""
        from evalkit.lint import pixels

        if self._workers is None:
            return
        threads, processes = self._workers
        there = self._start + len(images)
        stop = max((stop for _, stop in pixels.spans(self._count, images[0].nbytes) if stop <= there), default=0)
        if stop > self._next:
            block, self._next = range(self._next, stop), stop
            mine = images[block.start - self._start : block.stop - self._start]
            self._given.append(threads.submit(processes, pixels.measure, block, mine, self._count, ()))

    def parts(self, images: Sequence[NDArray[np.uint8]]) -> list[Part]:
        """What was measured of all."""
        from evalkit.lint import pixels

        if self._workers is None:
            return pixels.measure(range(self._start, self._start + len(images)), images, self._count, ())
        return [part for future in self._given for part in future.result()]


class HeldSource(WatchedSource):
    """A source whose images are held as they are read, one chunk of them, and measured for the lint at once."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._held: dict[int, NDArray[np.uint8]] = {}

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        images = self.source.read(indices)
        self._held.update(zip(indices, images, strict=True))
        return images

    def measure(self, chunk: range, parts: Parts) -> None:
        """Measures a chunk, if all of it was read."""
        from evalkit.lint.pixels import common, measure

        if all(i in self._held for i in chunk):
            images, tested = [self._held[i] for i in chunk], common(Counter(self.source.headers().sizes))
            seen = measure(chunk, images, len(self.source), tested)
            parts.keep(self.source.chunk_digest(chunk), chunk, seen)
