"""What is made of a shard's images while these are in hand: what reading the shard back would give, without reading."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.data.arrays import InHand
from evalkit.errors import DataError, UnsuitedError
from evalkit.lint.watch import WatchedSource
from evalkit.metric import StateMetric
from evalkit.utils import devices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.features.feature_pass import FeaturePass
    from evalkit.lint.parts import Parts
    from evalkit.plan.plan import Plan
    from evalkit.samples.model_pool import ModelPool

log = logging.getLogger(__name__)


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
        self.addresses = list(dict.fromkeys(address for metric in metrics for address in metric.needs))
        self._measured = False

    def take(self, count: int, rows: Sequence[Mapping[str, Any]], images: Sequence[NDArray[np.uint8]]) -> None:
        """Takes a shard.

        Args:
            count: samples in its set.
            rows: its lines of metadata.
            images: u8 [H,W,3] each.

        Raises:
            StoreError: the store cannot be written.
        """
        prompts = [row["prompt"] for row in rows]
        source = InHand("the shard in hand", images, [str(row["sha256"]) for row in rows], prompts)
        if self._parts is not None:
            from evalkit.lint.pixels import measure

            (chunk,) = source.chunks
            samples = range(rows[0]["index"], rows[0]["index"] + len(rows))
            self._parts.keep(source.chunk_digest(chunk), samples, list(measure(samples, images, count, ())))
        self._extract(source)

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
            seen = list(measure(chunk, images, len(self.source), tested))
            parts.keep(self.source.chunk_digest(chunk), chunk, seen)
