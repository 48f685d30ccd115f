"""One extractor pass per batch, shared by all metrics, and the feature store.

Features are found by content, never by name: those of images by the digest of their chunk (a shard of what was made,
else 256 images), those of texts and of images with prompts by these as well (`evalkit.features.store`). The extractor's
batches begin anew with each chunk, so that a pass that was killed, a set that grew and a shard that is still in memory
give the same bits. A file's digest is checked when its features are used; one that is damaged is computed anew, there
and then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.data.source import chunks_of
from evalkit.errors import ConfigError, DataError, StoreError, UnsuitedError, nearest
from evalkit.extractors.base import Extractor, exact_float32
from evalkit.features.run import ChunkRun, Fetch, ahead, asked, blocks_of, check_finite, decoded, edits, run_texts
from evalkit.features.run import ImageSource as ImageSource
from evalkit.features.store import Column, extractor_id
from evalkit.metric import Batch
from evalkit.numerics.threads import settle
from evalkit.utils import devices
from evalkit.utils.blobs import Blobs, LocalBlobs
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LOADERS = 4  # files of features that are read ahead of the metrics
SAVERS = 4  # chunks that may wait to be written

Progress = Callable[[str, int, int], None]
"""Called as progress(name of the source, images done, images to do)."""

Lacking = dict[range, dict[str, dict[str, str]]]
"""Of each chunk, by extractor and layer, the digest under which its features are stored."""


def parse(address: str, extractors: Mapping[str, Extractor], where: str) -> tuple[str, str]:
    """Extractor name and layer of an address such as "inception/pool3".

    Raises:
        ConfigError: there is no such extractor or layer (the nearest name is offered).
    """
    name, _, layer = address.partition("/")
    if name not in extractors:
        raise ConfigError(f"{where} needs '{address}', but there is no extractor '{name}'. {nearest(name, extractors)}")
    layers = extractors[name].layers
    if layer not in layers:
        near = nearest(layer, layers)
        raise ConfigError(f"{where} needs '{address}', but extractor '{name}' has no layer '{layer}'. {near}")
    return name, layer


def unique_prompts(prompts: Sequence[str | None]) -> list[str]:
    """Each text once, in order of first use: what text features are computed of."""
    return list(dict.fromkeys(text for text in prompts if text is not None))


def text_chunks(prompts: Sequence[str | None]) -> list[tuple[list[str], str]]:
    """The texts of a source, each once, in chunks, with the digest that their features are found by."""
    texts = unique_prompts(prompts)
    parts = [texts[chunk.start : chunk.stop] for chunk in chunks_of(len(texts))]
    return [(part, sha256_json(part)) for part in parts]


@dataclass(eq=False)
class FeaturePass:
    """Fills and reads the feature store for one run.

    Args:
        root: the store's folder of features.
        extractors: by name; loaded when the first feature is missing.
        device: auto, cpu, cuda or mps.
        progress: called after each block of images.
    """

    root: Path | Blobs
    extractors: Mapping[str, Extractor]
    device: str = "auto"
    progress: Progress | None = None
    _columns: dict[str, Column] = field(default_factory=dict, init=False)

    def column(self, address: str) -> Column:
        """Where the features at an address are stored; what is there is listed once per pass and layer."""
        if address not in self._columns:
            name, layer = parse(address, self.extractors, "a metric")
            blobs = LocalBlobs(self.root) if isinstance(self.root, Path) else self.root
            self._columns[address] = Column(blobs, f"{extractor_id(self.extractors[name])}/{layer}")
        return self._columns[address]

    def digest(self, source: ImageSource, address: str, chunk: range) -> str:
        """What the features of a chunk are found by at an address that is not of texts."""
        name, layer = parse(address, self.extractors, "a metric")
        digest = source.chunk_digest(chunk)
        if layer in self.extractors[name].joint_layers:
            prompts = asked(source, self.extractors[name], chunk)
            return sha256_json([digest, prompts, *edits(prompts)])
        return digest

    def compute(self, source: ImageSource, addresses: Sequence[str], chunks: Sequence[range] | None = None) -> None:
        """Computes the features that the store has no file of; each image is decoded once, for all extractors.

        Args:
            source: the images.
            addresses: of the features.
            chunks: of `source.chunks`, whose images' features are wanted; none: of all, and those of the texts, which
                belong to the set as a whole.

        Raises:
            DataError: an image cannot be read, or an extractor gave a value that is not finite.
            StoreError: the store cannot be written.
        """
        of_images = [address for address in dict.fromkeys(addresses) if not self._is_text(address)]
        if chunks is None:
            for address in dict.fromkeys(addresses):
                if address not in of_images:
                    self._compute_texts(source, address)
        lacking = self._lacking(source, of_images, source.chunks if chunks is None else chunks)
        if lacking:
            self._compute_images(source, lacking)

    def missing_chunks(self, source: ImageSource, addresses: Sequence[str]) -> list[range]:
        """The chunks that lack some features of their images."""
        of_images = [address for address in dict.fromkeys(addresses) if not self._is_text(address)]
        return list(self._lacking(source, of_images, source.chunks))

    def texts(self, source: ImageSource, addresses: Sequence[str]) -> Iterator[tuple[str, range, str]]:
        """The chunks of a source's different texts whose features are wanted: address, range, and their digest."""
        for address in (address for address in dict.fromkeys(addresses) if self._is_text(address)):
            start = 0
            for texts, digest in text_chunks(source.prompts):
                yield address, range(start, start + len(texts)), digest
                start += len(texts)

    def compute_texts(self, source: ImageSource, address: str, chunk: range) -> None:
        """Computes the features of one chunk of `texts`, unless they are there; errors as of `compute`."""
        for _, where, digest in self.texts(source, [address]):
            if where == chunk and digest not in self.column(address):
                texts = unique_prompts(source.prompts)[where.start : where.stop]
                self._compute_text_chunk(source, address, texts, digest)

    def stored(self, source: ImageSource, addresses: Sequence[str], chunk: range) -> list[tuple[str, str, bytes]]:
        """The files of a chunk's features, each with its address and digest, for another process to `take`."""
        of_images = [address for address in dict.fromkeys(addresses) if not self._is_text(address)]
        digests = [(address, self.digest(source, address, chunk)) for address in of_images]
        return [(address, digest, self.column(address).stored(digest)) for address, digest in digests]

    def take(self, files: Sequence[tuple[str, str, bytes]]) -> None:
        """Keeps what another process's `stored` gave."""
        for address, digest, data in files:
            self.column(address).take(digest, data)

    def _lacking(self, source: ImageSource, addresses: Sequence[str], chunks: Sequence[range]) -> Lacking:
        lacking: Lacking = {}
        asked = set[tuple[str, str]]()
        for chunk in chunks:
            for address in addresses:
                digest = self.digest(source, address, chunk)
                if digest in self.column(address) or (address, digest) in asked:
                    continue
                asked.add((address, digest))
                name, _, layer = address.partition("/")
                lacking.setdefault(chunk, {}).setdefault(name, {})[layer] = digest
        return lacking

    def _load(self, name: str) -> tuple[Extractor, int]:
        """An extractor that is ready, and its batches' size on this device."""
        extractor = self.extractors[name]
        self.device = devices.pick_device(self.device)
        extractor.load(self.device)
        return extractor, extractor.batch_on(self.device)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """On a CPU, what holds while batches are under way: settings of the process, which none may put back alone."""
        if self.device != "cpu":
            yield
            return
        with exact_float32():
            try:
                yield
            except BaseException:
                settle(cancel=True)
                raise
            settle()

    def extract(
        self, source: ImageSource, images: Sequence[NDArray[np.uint8]], addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """Features of some images that are not stored: by address, f32 [B,D], where the extractor leaves them."""
        layers: dict[str, list[str]] = {}  # by extractor
        for address in addresses:
            name, layer = parse(address, self.extractors, "a metric of pairs")
            layers.setdefault(name, []).append(layer)
        features: dict[str, Tensor] = {}
        for name, needed in layers.items():
            extractor, size = self._load(name)
            run = ChunkRun(extractor, size, self.device, needed)
            with self._arithmetic():
                run.add([extractor.prepare(image) for image in images])
                run.end()
                found = run.features()
            for layer, values in found.items():
                check_finite(name, source.name, layer, bool(values.isfinite().all()))
                features[f"{name}/{layer}"] = values
        return features

    def _compute_texts(self, source: ImageSource, address: str, *, over: bool = False) -> None:
        """Computes the features of texts that are missing; `over`: and those of damaged files."""
        column = self.column(address)
        for texts, digest in text_chunks(source.prompts):
            if digest not in column or (over and column.load(digest, len(texts)) is None):
                self._compute_text_chunk(source, address, texts, digest, over=over)

    def _compute_text_chunk(
        self, source: ImageSource, address: str, texts: Sequence[str], digest: str, *, over: bool = False
    ) -> None:
        name, _, layer = address.partition("/")
        extractor, size = self._load(name)
        with self._arithmetic():
            found = run_texts(extractor, size, self.device, texts, layer)
        features = Fetch({layer: found}).arrays()[layer]
        check_finite(name, source.name, layer, features)
        about = {"warnings": json.dumps(extractor.prompt_warnings(texts)), "device": devices.label(self.device)}
        self.column(address).save(digest, features, over=over, **about)

    def _compute_images(self, source: ImageSource, lacking: Lacking, *, over: bool = False) -> None:
        """Computes the features of some chunks; `over`: their files are damaged."""
        done, total = 0, sum(map(len, lacking))
        if self.progress is not None:
            self.progress(source.name, 0, total)  # the clock starts here: a rate without the first block is none
        loaded = {name: self._load(name) for name in dict.fromkeys(name for each in lacking.values() for name in each)}
        blocks = decoded(
            source,
            ((block, [loaded[name][0] for name in lacking[chunk]]) for chunk in lacking for block in blocks_of(chunk)),
        )
        with _Savers() as savers, self._arithmetic():  # files are checked and written while the network goes on
            for chunk, by_extractor in lacking.items():
                runs = {
                    n: self._chunk_run(source, chunk, *loaded[n], list(layers)) for n, layers in by_extractor.items()
                }
                for block in blocks_of(chunk):
                    images = next(blocks)
                    for name, run in runs.items():
                        run.add(images[name])
                    done += len(block)
                    if self.progress is not None:
                        self.progress(source.name, done, total)
                for name, run in runs.items():
                    run.end()
                    arrive = run.arrays if self.device == "cpu" else Fetch(run.features()).arrays
                    savers.submit(partial(self._save, source.name, name, by_extractor[name], arrive, over))

    def _chunk_run(
        self, source: ImageSource, chunk: range, extractor: Extractor, size: int, layers: Sequence[str]
    ) -> ChunkRun:
        prompts: list[str] = []
        if not extractor.joint_layers.isdisjoint(layers):
            prompts = [text for text in asked(source, extractor, chunk) if text is not None]
            if len(prompts) < len(chunk):
                where = f"{source.name}: samples {chunk.start} to {chunk.stop - 1}"
                raise UnsuitedError(f"{where} do not all have a prompt", extractor.name)
        return ChunkRun(extractor, size, self.device, layers, prompts)

    def _save(
        self,
        source: str,
        name: str,
        digests: Mapping[str, str],
        arrive: Callable[[], Mapping[str, NDArray[np.float32]]],
        over: bool,
    ) -> None:
        arrays = arrive()
        for layer, values in arrays.items():
            if layer not in self.extractors[name].sparse_layers:
                check_finite(name, source, layer, values)
        for layer, values in arrays.items():
            column = self.column(f"{name}/{layer}")
            column.save(digests[layer], values, over=over, device=devices.label(self.device))

    def batches(self, source: ImageSource, addresses: Sequence[str], *, images: bool = False) -> Iterator[Batch]:
        """The stored features in index order, after `compute`; with the images themselves where asked for."""
        import torch

        addresses = list(dict.fromkeys(addresses))
        tables = {address: self._read_texts(source, address) for address in addresses if self._is_text(address)}
        rows = {text: row for row, text in enumerate(unique_prompts(source.prompts))} if tables else {}
        categories = list(getattr(source, "categories", ()))
        of_images = [address for address in addresses if address not in tables]
        for address in of_images:
            self.column(address).sizes()  # here, not in several threads at once

        def load(chunk: range) -> dict[str, NDArray[np.float32] | None]:
            stored = {a: self.column(a).load(self.digest(source, a, chunk), len(chunk)) for a in of_images}
            return {address: each and each[0] for address, each in stored.items()}

        for chunk, loaded in zip(source.chunks, ahead(load, source.chunks, LOADERS), strict=True):
            prompts = list(source.prompts[chunk.start : chunk.stop])
            features = {
                address: torch.from_numpy(self._again(source, address, chunk) if values is None else values)
                for address, values in loaded.items()
            }
            if tables and None in prompts:
                raise DataError(f"{source.name}: sample {chunk[prompts.index(None)]} has no prompt")
            for address, table in tables.items():
                features[address] = table[[rows[str(text)] for text in prompts]]  # f32 [B,D]
            pixels = stacked(source, source.read(chunk)) if images else None
            index = torch.arange(chunk.start, chunk.stop)
            yield Batch(pixels, index, len(source), prompts, features, categories[chunk.start : chunk.stop])

    def _again(self, source: ImageSource, address: str, chunk: range) -> NDArray[np.float32]:
        """The features of a chunk whose file was damaged, or is gone, f32 [B,D]."""
        name, _, layer = address.partition("/")
        digest = self.digest(source, address, chunk)
        self._compute_images(source, {chunk: {name: {layer: digest}}}, over=True)
        stored = self.column(address).load(digest, len(chunk))
        if stored is None:
            raise self._altered(address, digest)
        return stored[0]

    def _read_texts(self, source: ImageSource, address: str) -> Tensor:
        """The features of the source's texts, each once, f32 [T,D]; computed anew where a file was damaged."""
        import torch

        column = self.column(address)
        parts: list[Tensor] = []
        for texts, digest in text_chunks(source.prompts):
            stored = column.load(digest, len(texts))
            if stored is None:
                self._compute_texts(source, address, over=True)
                stored = column.load(digest, len(texts))
            if stored is None:
                raise self._altered(address, digest)
            parts.append(torch.from_numpy(stored[0]))
        return torch.cat(parts) if parts else torch.empty(0)

    def _altered(self, address: str, digest: str) -> StoreError:
        column = self.column(address)
        where = f"{column.blobs.where}/{column.key(digest)}"
        return StoreError(f"{where} is gone or was altered while it was being read: run again")

    def _is_text(self, address: str) -> bool:
        name, layer = parse(address, self.extractors, "a metric")
        return layer in self.extractors[name].text_layers

    def text_warnings(self, source: ImageSource, addresses: Sequence[str]) -> dict[str, int]:
        """Counted warnings about the texts ("prompt_truncated": 3 different prompts), as stored with their features."""
        counts = Counter[str]()
        for address in dict.fromkeys(address for address in addresses if self._is_text(address)):
            for texts, digest in text_chunks(source.prompts):
                counts.update(self.column(address).warnings(digest, len(texts)))
        return counts


class _Savers:
    """A thread that writes what is done; `submit` waits where too much does, and raises what went wrong before."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evalkit-save")
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> _Savers:
        return self

    def submit(self, save: Callable[[], None]) -> None:
        self._waiting.append(self._pool.submit(save))
        while len(self._waiting) > SAVERS or (self._waiting and self._waiting[0].done()):
            self._waiting.pop(0).result()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=True)  # what is done is kept, whatever stopped the rest
        if kind is None:
            for future in self._waiting:
                future.result()


def stacked(source: ImageSource, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images of a source, u8 [H,W,3] each, as u8 [B,3,H,W]. UnsuitedError where they are not of one size."""
    import numpy as np
    import torch

    sizes = sorted({image.shape for image in images})
    if len(sizes) > 1:
        raise UnsuitedError(f"{source.name}: metrics of pixels need images of one size, but there are {sizes[:3]}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
