"""One extractor pass per batch, shared by all metrics, and the feature store.

On disk: `features/<digest of the images or prompts>/<extractor id>/<layer>/<chunk>.safetensors`, f32 [rows,D] of 256
rows each, written whole or not at all. Features are found by content, never by name: the extractor id is the digest of
the extractor's identity (weights, resize, dtype ...) and of its batch size. A chunk is a fixed set of indices, computed
in fixed batches, so that a pass that was killed and started again gives the same bits. A file's digest is checked when
its features are used; one that is damaged is computed anew, there and then.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evalkit.errors import ConfigError, DataError, EvalkitError, StoreError, UnsuitedError, nearest
from evalkit.extractors.base import Extractor
from evalkit.features.store import Column, blocks_of, extractor_id
from evalkit.metric import Batch
from evalkit.utils import devices
from evalkit.utils.files import sha256_json, sweep
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

READERS = 2  # threads that decode ahead of the network
DIGEST_DIGITS = 20  # hex digits of the digest of images or prompts, in their folder's name

Progress = Callable[[str, int, int], None]
"""Called as progress(name of the source, images done, images to do)."""


class ImageSource(Protocol):
    """What the feature pass reads (`evalkit.samples.store.Source`). `read` is called from several threads."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def prompts(self) -> Sequence[str | None]: ...
    def __len__(self) -> int: ...
    def read(self, indices: range) -> list[NDArray[np.uint8]]: ...


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


@dataclass(eq=False)
class FeaturePass:
    """Fills and reads the feature store for one run.

    Args:
        root: the store's folder of features.
        extractors: by name; loaded when the first feature is missing.
        device: auto, cpu, cuda or mps.
        progress: called after each block of images.
    """

    root: Path
    extractors: Mapping[str, Extractor]
    device: str = "auto"
    progress: Progress | None = None
    _ids: dict[str, str] = field(default_factory=dict, init=False)

    def column(self, source: ImageSource, address: str) -> Column:
        """Where the features at an address are stored: by the digest of the images, or of the texts."""
        name, layer = parse(address, self.extractors, "a metric")
        if name not in self._ids:
            self._ids[name] = extractor_id(self.extractors[name])
        if layer in self.extractors[name].text_layers:
            texts = unique_prompts(source.prompts)
            folder, rows = f"prompts-{sha256_json(texts)[:DIGEST_DIGITS]}", len(texts)
        elif layer in self.extractors[name].joint_layers:
            folder, rows = f"joint-{sha256_json([source.digest, list(source.prompts)])[:DIGEST_DIGITS]}", len(source)
        else:
            folder, rows = source.digest[:DIGEST_DIGITS], len(source)
        return Column(self.root / folder / self._ids[name] / layer, rows)

    def compute(self, source: ImageSource, addresses: Sequence[str]) -> None:
        """Computes the features that the store has no file of; each image is decoded once, for all extractors.

        Raises:
            DataError: an image cannot be read, or an extractor gave a value that is not finite.
            StoreError: the store cannot be written.
        """
        columns = {address: self.column(source, address) for address in dict.fromkeys(addresses)}
        self._compute(source, columns, {address: column.missing() for address, column in columns.items()})

    def _compute(
        self, source: ImageSource, columns: Mapping[str, Column], missing: Mapping[str, Sequence[range]]
    ) -> None:
        """Computes the missing chunks of each address."""
        of_images: dict[range, dict[str, dict[str, Column]]] = {}  # chunk -> extractor -> layer -> where
        for address, chunks in missing.items():
            if chunks:
                sweep(columns[address].folder)
            name, _, layer = address.partition("/")
            if self._is_text(address):
                self._compute_texts(source, name, layer, columns[address], chunks)
                continue
            for chunk in chunks:
                of_images.setdefault(chunk, {}).setdefault(name, {})[layer] = columns[address]
        if of_images:
            self._compute_images(source, dict(sorted(of_images.items(), key=lambda item: item[0].start)))

    def _load(self, name: str) -> Extractor:
        extractor = self.extractors[name]
        self.device = devices.pick_device(self.device)
        extractor.load(self.device)
        return extractor

    def extract(
        self, source: ImageSource, images: Sequence[NDArray[np.uint8]], addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """Features of some images that are not stored: by address, f32 [B,D], where the extractor leaves them."""
        layers: dict[str, list[str]] = {}  # by extractor
        for address in addresses:
            name, layer = parse(address, self.extractors, "a metric of pairs")
            layers.setdefault(name, []).append(layer)
        return {
            f"{name}/{layer}": values
            for name, needed in layers.items()
            for layer, values in _features(self._load(name), source, images, [], needed).items()
        }

    def _compute_texts(
        self, source: ImageSource, name: str, layer: str, column: Column, chunks: Sequence[range]
    ) -> None:
        texts = unique_prompts(source.prompts)
        for chunk in chunks:
            extractor = self._load(name)
            part = texts[chunk.start : chunk.stop]
            features = _run(extractor, source, [], part, [layer])[layer]
            column.save(chunk, features, warnings=json.dumps(extractor.prompt_warnings(part)))

    def _compute_images(self, source: ImageSource, missing: Mapping[range, Mapping[str, Mapping[str, Column]]]) -> None:
        import numpy as np

        done, total = 0, sum(map(len, missing))
        if self.progress is not None:
            self.progress(
                source.name, 0, total
            )  # the clock starts here: a rate that leaves out the first block is none
        for name in dict.fromkeys(name for columns in missing.values() for name in columns):
            self._load(name)
        blocks = _read_ahead(source, [block for chunk in missing for block in blocks_of(chunk)])
        for chunk, by_extractor in missing.items():
            parts: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
            for block in blocks_of(chunk):
                images = next(blocks)
                for name, columns in by_extractor.items():
                    for layer, value in self._run_block(name, source, block, images, list(columns)).items():
                        parts.setdefault((name, layer), []).append(value)
                done += len(block)
                if self.progress is not None:
                    self.progress(source.name, done, total)
            for (name, layer), values in parts.items():
                by_extractor[name][layer].save(chunk, np.concatenate(values))

    def _run_block(
        self, name: str, source: ImageSource, block: range, images: Sequence[NDArray[np.uint8]], layers: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """One extractor's layers of a block; those that take prompts as well are asked for in a call of their own."""
        extractor = self.extractors[name]
        joint = [layer for layer in layers if layer in extractor.joint_layers]
        alone = [layer for layer in layers if layer not in joint]
        features = _run(extractor, source, images, [], alone) if alone else {}
        if joint:
            prompts = [text for i in block if (text := source.prompts[i]) is not None]
            if len(prompts) < len(block):
                where = f"{source.name}: samples {block.start} to {block.stop - 1}"
                raise UnsuitedError(f"{where} do not all have a prompt", name)
            features |= _run(extractor, source, images, prompts, joint)
        return features

    def batches(self, source: ImageSource, addresses: Sequence[str], *, images: bool = False) -> Iterator[Batch]:
        """The stored features in index order, after `compute`; with the images themselves where asked for."""
        import torch

        columns = {address: self.column(source, address) for address in dict.fromkeys(addresses)}
        tables = {
            address: torch.cat([self._read(source, address, column, chunk) for chunk in column.chunks])
            for address, column in columns.items()
            if self._is_text(address)
        }
        rows = {text: row for row, text in enumerate(unique_prompts(source.prompts))} if tables else {}
        of_images = {address: column for address, column in columns.items() if address not in tables}
        for chunk in Column(self.root, len(source)).chunks:
            prompts = list(source.prompts[chunk.start : chunk.stop])
            features = {address: self._read(source, address, c, chunk) for address, c in of_images.items()}
            if tables and None in prompts:
                raise DataError(f"{source.name}: sample {chunk[prompts.index(None)]} has no prompt")
            for address, table in tables.items():
                features[address] = table[[rows[str(text)] for text in prompts]]  # f32 [B,D]
            pixels = stacked(source, source.read(chunk)) if images else None
            yield Batch(pixels, torch.arange(chunk.start, chunk.stop), len(source), prompts, features)

    def _read(self, source: ImageSource, address: str, column: Column, chunk: range) -> Tensor:
        """The features of a chunk, f32 [B,D]; computed anew where the file was damaged."""
        import torch

        stored = column.load(chunk)
        if stored is None:
            self._compute(source, {address: column}, {address: [chunk]})
            stored = column.load(chunk)
        if stored is None:
            raise StoreError(f"{column.file(chunk)} is gone or was altered while it was being read: run again")
        return torch.from_numpy(stored[0])

    def _is_text(self, address: str) -> bool:
        name, layer = parse(address, self.extractors, "a metric")
        return layer in self.extractors[name].text_layers

    def text_warnings(self, source: ImageSource, addresses: Sequence[str]) -> dict[str, int]:
        """Counted warnings about the texts ("prompt_truncated": 3 different prompts), as stored with their features."""
        counts = Counter[str]()
        for column in {self.column(source, address) for address in addresses if self._is_text(address)}:
            for chunk in column.chunks:
                stored = column.load(chunk)
                counts.update(json.loads(stored[1].get("warnings", "{}") if stored else "{}"))
        return counts


def _read_ahead(source: ImageSource, blocks: Sequence[range]) -> Iterator[list[NDArray[np.uint8]]]:
    """Decoded blocks in order; a few are read ahead in threads while the network works."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="decode") as pool:
        waiting: deque[Future[list[NDArray[np.uint8]]]] = deque()
        try:
            for block in blocks:
                waiting.append(pool.submit(source.read, block))
                if len(waiting) > READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(
    extractor: Extractor,
    source: ImageSource,
    images: Sequence[NDArray[np.uint8]],
    prompts: Sequence[str],
    layers: Sequence[str],
) -> dict[str, NDArray[np.float32]]:
    """`_features`, on the CPU."""
    found = _features(extractor, source, images, prompts, layers)
    return {layer: values.cpu().numpy() for layer, values in found.items()}


def _features(
    extractor: Extractor,
    source: ImageSource,
    images: Sequence[NDArray[np.uint8]],
    prompts: Sequence[str],
    layers: Sequence[str],
) -> dict[str, Tensor]:
    """One extractor over images or texts in its own fixed batches: by layer, f32 [B,D], checked to be finite."""
    import torch

    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    size = extractor.batch_size
    for start in range(0, max(len(images), len(prompts)), size):
        part = slice(start, start + size)
        try:
            features = extractor(images[part], prompts[part], layers)
        except EvalkitError:
            raise
        except Exception as error:
            why = f"failed: {one_line(error)}"
            if devices.is_out_of_memory(error):
                why = f"ran out of memory: give extractor.{extractor.name}.batch_size={max(size // 2, 1)}"
            raise UnsuitedError(f"extractor '{extractor.name}' {why}", extractor.name) from error
        for layer in layers:
            parts[layer].append(features[layer])
    joined = {layer: torch.cat(values).contiguous() for layer, values in parts.items()}
    for layer, values in joined.items():
        if not bool(torch.isfinite(values).all()):
            what = f"values that are not finite for {source.name}, layer '{layer}'"
            raise UnsuitedError(f"extractor '{extractor.name}' gave {what}: are its weights right?", extractor.name)
    return joined


def stacked(source: ImageSource, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images of a source, u8 [H,W,3] each, as u8 [B,3,H,W]. UnsuitedError where they are not of one size."""
    import numpy as np
    import torch

    sizes = sorted({image.shape for image in images})
    if len(sizes) > 1:
        raise UnsuitedError(f"{source.name}: metrics of pixels need images of one size, but there are {sizes[:3]}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
