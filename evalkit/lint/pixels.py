"""Measures a set's pixels: each image is decoded once, and compared as a thumbnail wherever that is enough."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError
from evalkit.lint.cache import Measured
from evalkit.lint.upscaling import SMALLEST, Residuals, UpscalingEvidence

if TYPE_CHECKING:
    from evalkit.data.source import Source

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

IMAGES = 4096  # more are not decoded: of a larger set blocks of neighbours, evenly spread ...
PIXELS = 1_000_000_000  # ... and fewer of large images (954 of 1024x1024)
BLOCK = 32
BLOCK_BYTES = 32_000_000
SIZES = 8  # of a set of mixed sizes, the most common ones are tested for enlargement

THUMB = 32  # side of a thumbnail
PLAIN = 4.0  # levels of contrast: images below are not compared, nor tested for enlargement
SPREAD = 3  # an image whose values spread no more, channel by channel, is of one colour
NEAR = 0.15  # of the contrast: how far thumbnails of one picture may differ (r.m.s.) ...
NEAR_PATCH = 32.0  # ... and levels that a patch of 1/16 of the side may differ
PIXEL_DIGITS = 16  # of the digest of an image's pixels
ATTEMPTS = 8  # nearest neighbours of an image that are compared in full


class Measures(Protocol):
    """What was measured elsewhere (`evalkit.lint.parts.Parts`)."""

    @property
    def there(self) -> Collection[str]: ...
    def find(self, digest: str, chunk: range, starts: Sequence[int]) -> Iterator[tuple[list[int], Looked]]: ...


class PixelScan:
    """Measures a set, or an evenly spread part of a large one: of images that are handed to it, then of the rest.

    Args:
        source: the images.
        sizes: images by (width, height) as headers tell; empty: all are of one size.
    """

    def __init__(self, source: Source, sizes: Counter[tuple[int, int]]) -> None:
        self.source = source
        self.bad: dict[int, str] = {}  # by index why an image could not be read
        self._tally = _Tally(len(source), common(sizes))
        self._lock = threading.Lock()  # of what follows and the tally
        self._left: dict[int, int] | None = None  # where the blocks still to measure start -> where they end

    def add(self, indices: range, images: Sequence[U8]) -> None:
        """Of some images u8 [H,W,3], measures the blocks that lie within them and are still to be measured.

        Called from several threads, which measure at the same time.
        """
        from evalkit.data.reading import read_pool

        with self._lock:
            left = self._blocks(images[0].nbytes if images else 1)
            blocks = [range(i, left[i]) for i in left if i in indices and left[i] <= indices.stop]
            for block in blocks:
                del left[block.start]

        def measured(block: range) -> list[tuple[list[int], Looked]]:
            return self._look(list(block), images[block.start - indices.start : block.stop - indices.start])

        for parts in read_pool().map(measured, blocks) if len(blocks) > 1 else map(measured, blocks):
            for index, seen in parts:
                with self._lock:
                    self._tally.add(index, seen)

    @property
    def is_whole(self) -> bool:
        """Whether all was measured that is to be measured, of images that could be read."""
        return self._left is not None and not self._left and not self.bad

    def finish(self) -> tuple[Measured, dict[int, str]]:
        """Decodes what is left, and returns what was measured of all; and by index why an image could not be read."""
        if self._left is None:
            _, first = _read(self.source, range(min(1, len(self.source))), self.bad)
            self._blocks(first[0].nbytes if first else 1)
        while self._left:
            start = next(iter(self._left))
            for index, seen in self._look(*_read(self.source, range(start, self._left.pop(start)), self.bad)):
                self._tally.add(index, seen)
        return self._tally.measured(), self.bad

    def _look(self, index: list[int], images: Sequence[U8]) -> list[tuple[list[int], Looked]]:
        """What is measured of images, size by size."""
        parts = []
        for shape in sorted({image.shape for image in images}):
            members = [i for i, image in enumerate(images) if image.shape == shape]
            parts.append(
                ([index[i] for i in members], look(np.stack([images[i] for i in members]), self._tally.tested))
            )
        return parts

    def recall(self, parts: Measures, size: int) -> None:
        """Takes what workers measured of the set's chunks; an image takes `size` bytes."""
        left = self._blocks(size)
        for chunk in self.source.chunks if parts.there else ():
            wanted = [start for start in left if start in chunk and left[start] <= chunk.stop]
            for index, seen in parts.find(self.source.chunk_digest(chunk), chunk, wanted) if wanted else ():
                if left.pop(index[0], None) is not None:
                    self._tally.add(index, seen)

    def _blocks(self, size: int) -> dict[int, int]:
        """The blocks of images to measure that are left; an image takes `size` bytes."""
        if self._left is None:
            self._left = dict(spans(len(self.source), size))
        return self._left


def measure(
    chunk: range, images: Sequence[U8], count: int, tested: Collection[tuple[int, int]]
) -> list[tuple[list[int], Looked]]:
    """By block the indices in their set, and what a scan of the set would measure of them.

    A block of images of several sizes is left to that scan.

    Args:
        chunk: which images of the set.
        images: u8 [H,W,3] each.
        count: images in the set.
        tested: the sizes that are tested for enlargement; empty: all.
    """
    parts = []
    for start, stop in spans(count, images[0].nbytes):
        if start in chunk and stop <= chunk.stop:
            block = images[start - chunk.start : stop - chunk.start]
            if len({image.shape for image in block}) == 1:
                parts.append((list(range(start, stop)), look(np.stack(block), tested)))
    return parts


def common(sizes: Counter[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of a set's sizes those that are tested for enlargement."""
    return sorted(sizes, key=lambda size: (-sizes[size], size))[:SIZES]


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """The blocks of images to decode, as (start, stop); an image takes `size` bytes."""
    block = 1 << (max(1, min(BLOCK, BLOCK_BYTES // size)).bit_length() - 1)  # blocks lie within the feature pass's
    most = max(block, min(IMAGES, PIXELS * 3 // size))
    if count <= most:
        return [(start, min(start + block, count)) for start in range(0, count, block)]
    blocks = most // block
    starts = [i * (count // block) // blocks * block for i in range(blocks)]  # whole blocks, as they are read
    return [(start, start + block) for start in starts]


def _read(source: Source, indices: range, bad: dict[int, str]) -> tuple[list[int], list[U8]]:
    """Images and their indices; those that cannot be read are put into `bad`."""
    try:
        return list(indices), source.read(indices)
    except DataError as error:
        if len(indices) == 1:
            bad[indices[0]] = str(error)
            return [], []
    parts = [_read(source, range(i, i + 1), bad) for i in indices]
    return [i for index, _ in parts for i in index], [image for _, images in parts for image in images]


@dataclass(frozen=True)
class Looked:
    """What is measured of each of some images of one size, [B]. Numbers of images are places among them.

    Attributes:
        size: (width, height).
        pixels: a digest of each.
        lowest, highest, zeros, values, grey: over those that are not of one colour.
        flat, black, tiny: images of these kinds.
        busy: images with contrast, of which
        thumbs: u8 [b,32,32,3], and
        residuals: of enlargement; none where that is not tested.
    """

    size: tuple[int, int]
    pixels: list[str]
    lowest: int
    highest: int
    zeros: int
    values: int
    grey: int
    flat: list[int]
    black: list[int]
    tiny: list[int]
    busy: list[int]
    thumbs: U8
    residuals: Residuals | None


def look(images: U8, tested: Collection[tuple[int, int]]) -> Looked:
    """Measures images u8 [B,H,W,3]; enlargement where their size is among those `tested`, or none are named."""
    height, width = images.shape[1:3]
    rows = images.reshape(len(images), -1)
    low, high = rows.min(axis=1), rows.max(axis=1)
    thumbs = thumbnails(images)
    contrast = contrasts(thumbs)
    red, green, blue = (thumbs[..., channel] for channel in range(3))
    grey = ((red == green) & (green == blue)).reshape(len(images), -1).all(axis=1)
    kinds: dict[str, list[int]] = {"varied": [], "flat": [], "black": [], "tiny": []}
    pixels = []
    for i, image in enumerate(images):
        digest = hashlib.sha256(b"%dx%d" % (width, height))
        digest.update(image.data)
        pixels.append(digest.hexdigest()[:PIXEL_DIGITS])
        one_colour = contrast[i] < PLAIN and int(np.ptp(image.reshape(-1, 3), axis=0).max()) <= SPREAD
        if high[i] <= 2 and high[i] > low[i]:
            kinds["tiny"].append(i)
        elif one_colour:
            kinds["black" if high[i] <= 8 else "flat"].append(i)
        else:
            kinds["varied"].append(i)
    varied = kinds.pop("varied")
    busy = [i for i in varied if contrast[i] >= PLAIN]
    enlarged = busy and (not tested or (width, height) in tested) and min(width, height) >= SMALLEST
    return Looked(
        size=(width, height),
        pixels=pixels,
        lowest=min((int(low[i]) for i in varied), default=255),
        highest=max((int(high[i]) for i in varied), default=0),
        zeros=sum(rows.shape[1] - int(np.count_nonzero(rows[i])) for i in varied),
        values=len(varied) * rows.shape[1],
        grey=int(grey[varied].sum()) if varied else 0,
        **kinds,
        busy=busy,
        thumbs=thumbs[busy],
        residuals=UpscalingEvidence(height, width).measure(images[busy]) if enlarged else None,
    )


class _Tally:
    """Adds up what is measured of blocks of images."""

    def __init__(self, count: int, tested: Collection[tuple[int, int]]) -> None:
        self.pixels = [""] * count
        self.tested = tested
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.lowest, self.highest = 255, 0
        self.zeros = self.values = self.grey = 0
        self.flat: list[int] = []
        self.black: list[int] = []
        self.tiny: list[int] = []
        self.enlarged: dict[tuple[int, int], UpscalingEvidence] = {}
        self.index: list[int] = []  # of the thumbnails
        self.thumbs: list[U8] = []

    def add(self, index: list[int], seen: Looked) -> None:
        """What was measured of images, and their indices in the set."""
        self.sizes[seen.size] += len(index)
        for i, digest in zip(index, seen.pixels, strict=True):
            self.pixels[i] = digest
        self.lowest, self.highest = min(self.lowest, seen.lowest), max(self.highest, seen.highest)
        self.zeros += seen.zeros
        self.values += seen.values
        self.grey += seen.grey
        for kind in ("flat", "black", "tiny"):
            getattr(self, kind).extend(index[i] for i in getattr(seen, kind))
        if not seen.busy:
            return
        busy = [index[i] for i in seen.busy]
        self.index += busy
        self.thumbs.append(seen.thumbs)
        if seen.residuals is not None and (not self.tested or seen.size in self.tested):
            width, height = seen.size
            self.enlarged.setdefault(seen.size, UpscalingEvidence(height, width)).add(busy, seen.residuals)

    def measured(self) -> Measured:
        order = np.argsort(self.index)  # blocks come in any order
        index = [self.index[i] for i in order.tolist()]
        near = near_duplicates(np.concatenate(self.thumbs)[order]) if self.thumbs else []
        return Measured(
            count=len(self.pixels),
            looked=sum(self.sizes.values()),
            pixels=self.pixels,
            sizes=[[width, height, n] for (width, height), n in sorted(self.sizes.items())],
            lowest=self.lowest,
            highest=self.highest,
            zeros=self.zeros / max(self.values, 1),
            grey=self.grey,
            flat=sorted(self.flat),
            black=sorted(self.black),
            tiny=sorted(self.tiny),
            enlarged=sorted([i, factor] for seen in self.enlarged.values() for i, factor in seen.found()),
            near=[[index[i], index[j]] for i, j in near],
        )


def thumbnails(images: U8) -> U8:
    """u8 [B,H,W,3] -> u8 [B,32,32,3], each pixel the mean of its area."""
    if images.shape[1:3] == (THUMB, THUMB):
        return images
    from PIL import Image

    small = [Image.fromarray(i).resize((THUMB, THUMB), Image.Resampling.BOX, reducing_gap=2.0) for i in images]
    return np.stack([np.asarray(image) for image in small])


def contrasts(thumbs: U8) -> F32:
    """Levels by which each thumbnail [B,h,w,3] differs (r.m.s.) from its own mean colour -> [B]."""
    pixels = thumbs.reshape(len(thumbs), -1, 3).astype(np.float32) - 128.0
    count = pixels.shape[1]
    means = np.ones(count, np.float32) @ pixels / count  # [B,3]
    flat = pixels.reshape(len(pixels), -1)
    squares = np.einsum("bn,bn->b", flat, flat) / (count * 3) - np.einsum("bc,bc->b", means, means) / 3
    levels: F32 = np.sqrt(np.maximum(squares, 0.0))
    return levels


def near_duplicates(thumbs: U8) -> list[tuple[int, int]]:
    """Pairs (copy, first) of images that show the same picture: re-encoded, resized, a little noisier or brighter.

    Candidates come from 8x8 mean colours: a mean of differences is at most their r.m.s., so that none is lost. They are
    then compared as thumbnails. Memory is linear in the number of images.

    Args:
        thumbs: u8 [N,32,32,3], of images that are not plain.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    contrast = contrasts(thumbs)
    first = np.arange(len(thumbs))  # of each image the first one of its group
    firsts = first
    while pairs := _similar(thumbs[firsts], contrast[firsts]):
        # Groups are joined by their first images: a collapsed set takes some rounds, others one.
        graph = coo_array((np.ones(len(pairs)), np.transpose(pairs)), shape=(len(firsts), len(firsts)))
        _, group = connected_components(graph, directed=False)
        joined = firsts[np.unique(group, return_index=True)[1]]
        first = joined[group[np.searchsorted(firsts, first)]]
        firsts = np.unique(joined)
    return [(i, j) for i, j in enumerate(first.tolist()) if i != j]


def show_the_same(image: U8, other: U8) -> bool:
    """Whether two images u8 [H,W,3] show nearly the same picture; never so of plain ones."""
    thumbs = np.concatenate([thumbnails(one[None]) for one in (image, other)])
    contrast = contrasts(thumbs)
    pair = np.array([0]), np.array([1])
    return bool(contrast.min() >= PLAIN and _same_picture(thumbs, contrast, *pair)[0])


def _similar(thumbs: U8, contrast: F32) -> list[tuple[int, int]]:
    """Each image that shows the same picture as another, with the nearest such one."""
    count = len(thumbs)
    means = (_shrunk(thumbs, 4) - 127.5).reshape(count, -1)
    squares = np.einsum("nd,nd->n", means, means)
    pairs: list[tuple[int, int]] = []
    for start in range(0, count, 512):
        stop = min(start + 512, count)
        rows = np.arange(start, stop)
        distance = squares[rows, None] + squares - 2.0 * means[rows] @ means.T  # [512, N]
        limit = (NEAR * np.minimum(contrast[rows, None], contrast)) ** 2 * means.shape[1]
        distance[distance > limit + 1.0] = np.inf
        distance[rows - start, rows] = np.inf
        for _ in range(ATTEMPTS):
            nearest = distance.argmin(axis=1)
            open_ = np.flatnonzero(np.isfinite(distance[rows - start, nearest]))
            if not len(open_):
                break
            same = _same_picture(thumbs, contrast, rows[open_], nearest[open_])
            pairs += zip(rows[open_[same]].tolist(), nearest[open_[same]].tolist(), strict=True)
            distance[open_, nearest[open_]] = np.inf
            distance[open_[same]] = np.inf
    return pairs


def _same_picture(thumbs: U8, contrast: F32, a: NDArray[np.intp], b: NDArray[np.intp]) -> NDArray[np.bool_]:
    difference = thumbs[a].astype(np.float32) - thumbs[b]  # [P,32,32,3]
    rms = np.sqrt(np.einsum("pijc,pijc->p", difference, difference) / (THUMB * THUMB * 3))
    patches = np.abs(_shrunk(difference, 2)).reshape(len(a), -1).max(axis=1)
    same: NDArray[np.bool_] = (rms <= NEAR * np.minimum(contrast[a], contrast[b])) & (patches <= NEAR_PATCH)
    return same


def _shrunk(images: NDArray[np.uint8] | F32, factor: int) -> F32:
    """[B,H,W,3] -> f32 [B,H/factor,W/factor,3], the means of blocks. Slices are added: a reduction is far slower."""
    rows: F32 = np.add.reduce([images[:, i::factor].astype(np.float32) for i in range(factor)])
    total: F32 = np.add.reduce([rows[:, :, i::factor] for i in range(factor)])
    return total * np.float32(1 / factor**2)
