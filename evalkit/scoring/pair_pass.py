"""What metrics of pairs give of each pair: block by block, found by the images' content, kept in the feature store.

Features of pairs may be wide (LPIPS compares whole maps), so they are not stored; one float64 per pair and metric is.
The images of a block are read once for all metrics that pair in the same way. The networks' batches begin anew with
each block and depend on the metric alone, so that whoever computes a block, next to whatever else, gets the same bits.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.source import chunks_of
from evalkit.errors import ReadOnlyError, UnsuitedError
from evalkit.features.feature_pass import LOADERS, FeaturePass, ImageSource, stacked
from evalkit.features.run import ahead
from evalkit.features.store import Column, extractor_ids
from evalkit.metric import Batch, PairMetric
from evalkit.numerics.threads import one_thread
from evalkit.scoring.checks import Failures, guarded
from evalkit.utils import devices
from evalkit.utils.blobs import LocalBlobs
from evalkit.utils.code import class_digest
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Images = Sequence[NDArray[np.uint8]]  # u8 [H,W,3] each

log = logging.getLogger(__name__)

READ = 32  # pairs that are read at a time, and given to a network; fewer where features are wide:
BATCH_VALUES = 64_000_000  # LPIPS-VGG at 512 px has 28 million values per image
DEVICE_VALUES = 4 * BATCH_VALUES  # on CUDA: 1 GB per side
READS_AHEAD = 2  # that are decoded while the network works,
READERS = min(16, os.cpu_count() or 1)  # by so many threads
ID_DIGITS = 12  # hex digits of what a metric's values rest on, in their folder's name

# What every value depends on besides its metric: how files become pixels, how batches are formed.
_SHARED = ("evalkit.data.codec", "evalkit.data.center_crop", "evalkit.scoring.pair_pass")

Values = dict[tuple[str, range], "NDArray[np.float64]"]
"""By metric and block of pairs, one value per pair, f64 [B]."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Pairs of images, and metrics that compare them.

    Attributes:
        metrics: by name.
        source, other: where the first and the second image of each pair are; the same for pairs within a set.
        pairs: of indices. With another source: sample i with image i, all of them.
        masks: where the metrics look at a `region`, the mask of each sample.
    """

    metrics: Mapping[str, PairMetric]
    source: ImageSource
    other: ImageSource
    pairs: Sequence[tuple[int, int]]
    masks: ImageSource | None = None
    _digests: dict[range, str] = field(default_factory=dict, init=False)

    @property
    def blocks(self) -> list[range]:
        """The pairs whose values are computed and stored together: those of a chunk, or 256 of those within a set."""
        return chunks_of(len(self.pairs)) if self.other is self.source else list(self.source.chunks)

    def _of(self, block: range) -> Sequence[tuple[int, int]]:
        return self.pairs[block.start : block.stop]

    def sides(self, block: range) -> list[tuple[ImageSource, list[int]]]:
        """Where the first and the second images of some pairs are."""
        pairs = self._of(block)
        return [(self.source, [i for i, _ in pairs]), (self.other, [j for _, j in pairs])]

    def digest(self, block: range) -> str:
        """What the values of a block are found by, for each metric: the content of both sides, and the prompts."""
        if block not in self._digests:
            content: list[Any] = [
                [[of.chunk_digest(run) for run in _runs(where)], _prompts(of, where)] for of, where in self.sides(block)
            ]
            if self.masks is not None:
                content.append([self.masks.chunk_digest(run) for run in _runs([i for i, _ in self._of(block)])])
            self._digests[block] = sha256_json(content)
        return self._digests[block]


class PairPass:
    """Compares pairs, as far as the store has no values of them.

    What is there is listed once per pass and metric.

    Args:
        features: extracts; its store keeps the values, its progress is called.
        options: by metric: the plain YAML option.
    """

    def __init__(self, features: FeaturePass, options: Mapping[str, Mapping[str, Any]]) -> None:
        self.features = features
        self._options = options
        self._columns: dict[str, Column] = {}
        self._batches: dict[tuple[Any, ...], int] = {}  # by addresses and size of images

    def lacking(self, paired: Paired, blocks: Sequence[range] | None = None) -> dict[range, list[str]]:
        """The blocks (of some; none: of all) that have no stored values of some metrics, with these metrics."""
        lacking: dict[range, list[str]] = {}
        for block in paired.blocks if blocks is None else blocks:
            digest = paired.digest(block)
            names = [name for name, metric in paired.metrics.items() if digest not in self._column(name, metric)]
            if names:
                lacking[block] = names
        return lacking

    def compute(self, paired: Paired, blocks: Sequence[range], failed: Failures) -> None:
        """Computes and stores the values that some blocks lack; metrics that cannot go into `failed`."""
        self._compute(paired, self.lacking(paired, blocks), failed)

    def values(self, paired: Paired, failed: Failures) -> dict[str, list[float]]:
        """By metric that can, the values of all pairs, in their order: stored ones, and what is computed here."""
        items = [(name, block) for name in paired.metrics for block in paired.blocks]
        for name, metric in paired.metrics.items():
            self._column(name, metric).sizes()  # here, not in several threads at once

        def load(item: tuple[str, range]) -> NDArray[np.float64] | None:
            name, block = item
            stored = self._column(name, paired.metrics[name]).load(paired.digest(block), len(block))
            return None if stored is None else stored[0]

        there = [item for item in items if paired.digest(item[1]) in self._column(item[0], paired.metrics[item[0]])]
        loaded = zip(there, ahead(load, there, LOADERS), strict=True)
        values: Values = {item: stored for item, stored in loaded if stored is not None}
        lacking: dict[range, list[str]] = {}
        for name, block in items:
            if (name, block) not in values:
                lacking.setdefault(block, []).append(name)
        values |= self._compute(paired, lacking, failed, damaged=set(there) - values.keys())
        return {
            name: [value for block in paired.blocks for value in values[name, block].tolist()]
            for name in paired.metrics
            if name not in failed
        }

    def _column(self, name: str, metric: PairMetric) -> Column:
        if name not in self._columns:
            root, extractors = self.features.root, self.features.extractors
            about = {
                "option": dict(self._options[name]),
                "constants": metric.constants(),
                "code": class_digest(type(metric), *_SHARED),
                "extractors": extractor_ids(metric.needs, extractors),
                "resized": metric.resize_own,
            }
            folder = f"{type(metric).__name__.lower()}-{sha256_json(about)[:ID_DIGITS]}/{metric.pairs}"
            self._columns[name] = Column(LocalBlobs(root) if isinstance(root, Path) else root, folder)
        return self._columns[name]

    def _compute(
        self,
        paired: Paired,
        lacking: Mapping[range, Sequence[str]],
        failed: Failures,
        damaged: Collection[tuple[str, range]] = (),
    ) -> Values:
        """The values that are lacking, stored too; none of metrics that go into `failed`. `damaged`: files that go."""
        values: Values = {}
        if not lacking:
            return values
        waiting: dict[str, list[float]] = {}
        done, total = 0, sum(map(len, lacking))
        parts = ((block, part) for block in lacking for part in _parts(block))
        with one_thread(), ThreadPoolExecutor(READERS, thread_name_prefix="decode") as pool:
            try:
                for block, part, images in _read_ahead(pool, paired, parts):
                    names = [name for name in lacking[block] if name not in failed]
                    found = self._compare(paired, part, images, names, failed)
                    waiting = {name: [*waiting.get(name, ()), *each] for name, each in found.items()}
                    if part.stop == block.stop:
                        for name, each in waiting.items():
                            over = (name, block) in damaged
                            values[name, block] = self._keep(name, paired, block, each, over=over)
                        waiting = {}
                    if failed.keys() >= paired.metrics.keys():
                        break
                    done += len(part)
                    if self.features.progress is not None:
                        self.features.progress(f"{paired.source.name} (pairs)", done, total)
            except UnsuitedError as error:  # of the images themselves
                failed |= dict.fromkeys(paired.metrics, str(error))
        return values

    def _keep(
        self, name: str, paired: Paired, block: range, each: Sequence[float], *, over: bool
    ) -> NDArray[np.float64]:
        """Stores the values of a block, unless some are not finite: those are computed anew each time."""
        import numpy as np

        values = np.array(each, np.float64)
        column, digest = self._column(name, paired.metrics[name]), paired.digest(block)
        if np.isfinite(values).all():
            try:
                column.save(digest, values, over=over, device=devices.label(self._device))
            except ReadOnlyError:
                log.debug("%s: the store is read-only: values of pairs are not kept", column.blobs.where)
        return values

    @property
    def _device(self) -> str:
        return devices.for_scores(self.features.device)

    def _compare(
        self, paired: Paired, part: range, images: tuple[Images, Images], names: Sequence[str], failed: Failures
    ) -> dict[str, list[float]]:
        """The values of some pairs by metric; pairs of one size are compared together."""
        sides = paired.sides(part)
        sizes: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, both in enumerate(zip(*images, strict=True)):
            sizes.setdefault(tuple(image.shape for image in both), []).append(place)
        if len(sizes) == 1:
            return self._compare_alike(paired, sides, images, names, failed)
        values: dict[str, list[float]] = {name: [0.0] * len(part) for name in names}
        for places in sizes.values():
            theirs = [(of, [where[i] for i in places]) for of, where in sides]
            first, second = ([each[i] for i in places] for each in images)
            found = self._compare_alike(paired, theirs, (first, second), names, failed)
            for name, each in found.items():
                for place, value in zip(places, each, strict=True):
                    values[name][place] = value
        return {name: each for name, each in values.items() if name not in failed}

    def _compare_alike(
        self,
        paired: Paired,
        sides: Sequence[tuple[ImageSource, list[int]]],
        images: tuple[Images, Images],
        names: Sequence[str],
        failed: Failures,
    ) -> dict[str, list[float]]:
        """The values of pairs of one size by metric; metrics with the same needs share a network's batches."""
        size = images[0][0].shape[:2]
        resize = any(metric.resize_own for metric in paired.metrics.values())
        pairs = (images[0], _resized(images[1], size) if resize else images[1])
        regions = None
        if paired.masks is not None:
            inside = next(iter(paired.metrics.values())).region == "inside"
            regions = _regions(paired.masks, sides[0][1], size, inside)  # bool [B,H,W]
            ours, theirs = ([x * r[..., None] for x, r in zip(each, regions, strict=True)] for each in pairs)
            pairs = (ours, theirs)
        pixels = [stacked(of, each) for (of, _), each in zip(sides, pairs, strict=True)]
        if pixels[0].shape != pixels[1].shape:
            sizes = " and ".join(f"{each.shape[3]}x{each.shape[2]}" for each in pixels)
            what = f"{paired.source.name} and {paired.other.name}: images of {sizes} cannot be paired"
            raise UnsuitedError(f"{what}: resize one of them to the other")
        values: dict[str, list[float]] = {name: [] for name in names}
        for needs in dict.fromkeys(paired.metrics[name].needs for name in names):
            group = [name for name in names if paired.metrics[name].needs == needs]
            try:
                most = self._batch_size(paired.source, pairs[0][:1], needs)
                for start in range(0, len(images[0]), most):
                    those = slice(start, start + most)
                    first, second = (
                        self._batch(of, where[those], each[those], tensor[those], needs, regions, those)
                        for (of, where), each, tensor in zip(sides, pairs, pixels, strict=True)
                    )
                    self._measure({name: paired.metrics[name] for name in group}, values, (first, second), failed)
            except UnsuitedError as error:  # of the network
                failed |= dict.fromkeys(group, str(error))
        return {name: each for name, each in values.items() if name not in failed}

    def _batch_size(self, source: ImageSource, images: Images, needs: Sequence[str]) -> int:
        """How many pairs at a time: one image, extracted once per process, shows how wide its features are."""
        key = (*needs, *images[0].shape)
        if key not in self._batches:
            extracted = self.features.extract(source, images, needs).values() if needs else ()
            most = BATCH_VALUES if self._device == "cpu" else DEVICE_VALUES
            self._batches[key] = max(1, min(READ, most // max(sum(each.shape[1] for each in extracted), 1)))
        return self._batches[key]

    def _batch(
        self,
        source: ImageSource,
        indices: Sequence[int],
        images: Images,
        pixels: Tensor,
        needs: Sequence[str],
        regions: NDArray[np.bool_] | None,
        those: slice,
    ) -> Batch:
        """Images, their features, and `those` of the regions."""
        import torch

        extracted: dict[str, Tensor] = self.features.extract(source, images, needs)
        region = None if regions is None else torch.from_numpy(regions[those])[:, None]  # bool [B,1,H,W]
        index = torch.tensor(list(indices))
        return Batch(pixels, index, len(source), _prompts(source, indices), extracted, region=region)

    def _measure(
        self,
        metrics: Mapping[str, PairMetric],
        values: Mapping[str, list[float]],
        pair: tuple[Batch, Batch],
        failed: Failures,
    ) -> None:
        """Adds a batch's distances to the values of each metric: all that comes back from the device."""
        for on_device, where in ((True, self._device), (False, "cpu")):
            chosen = [name for name, m in metrics.items() if m.on_device == on_device and name not in failed]
            if not chosen:
                continue
            first, second = (batch.to(where) for batch in pair)
            for name in chosen:
                with guarded(name, failed):
                    each = metrics[name].distance(first, second).tolist()
                    if len(each) != len(first.index):
                        raise ValueError(f"{len(each)} distances for {len(first.index)} pairs: give one per pair")
                    values[name].extend(each)


def _parts(block: range) -> list[range]:
    return [range(start, min(start + READ, block.stop)) for start in range(block.start, block.stop, READ)]


def _read_ahead(
    pool: Executor, paired: Paired, parts: Iterator[tuple[range, range]]
) -> Iterator[tuple[range, range, tuple[Images, Images]]]:
    """The images of parts of blocks of pairs, decoded, in order; a few parts are read ahead."""
    waiting: deque[tuple[range, range, list[list[Future[Images]]]]] = deque()
    try:
        for block, part in parts:
            sides = paired.sides(part)
            waiting.append((block, part, [[pool.submit(of.read, run) for run in _runs(where)] for of, where in sides]))
            if len(waiting) > READS_AHEAD:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())
    finally:
        for _, _, sides_read in waiting:
            for future in (future for side in sides_read for future in side):
                future.cancel()


def _arrived(
    block: range, part: range, sides: Sequence[Sequence[Future[Images]]]
) -> tuple[range, range, tuple[Images, Images]]:
    first, second = ([image for future in side for image in future.result()] for side in sides)
    return block, part, (first, second)


def _runs(indices: Sequence[int]) -> list[range]:
    """Consecutive indices as one range, others one by one."""
    whole = range(indices[0], indices[0] + len(indices))
    return [whole] if list(indices) == list(whole) else [range(i, i + 1) for i in indices]


def _prompts(source: ImageSource, indices: Sequence[int]) -> list[str | None]:
    prompts = source.prompts  # some sources make the list anew
    return [prompts[i] for i in indices]


def _regions(masks: ImageSource, indices: Sequence[int], size: tuple[int, int], inside: bool) -> NDArray[np.bool_]:
    """The pixels that count, bool [B,H,W]: a mask is resized to the sample (nearest), white (128 and up) is inside."""
    import numpy as np
    from PIL import Image

    found = []
    for i in indices:
        (mask,) = masks.read(range(i, i + 1))
        if mask.shape[:2] != size:
            mask = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        found.append((mask.max(axis=-1) >= 128) == inside)
    return np.stack(found)


def _resized(images: Images, size: tuple[int, int]) -> Images:
    """Images at a size (height, width); one of that size stays as it is."""
    import numpy as np
    from PIL import Image

    return [np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.LANCZOS)) for x in images]
