"""One extractor pass a batch, shared by all metrics, and the feature store.

On disk: `features/<digest of the images or prompts>/<extractor id>/<layer>/<chunk>.safetensors`, f32 [rows,D] of 256
rows each, written whole or not at all. Features are found by content, never by name: the extractor id is the digest of
the extractor's identity (weights, resize, dtype ...) and of its batch size. A chunk is a fixed set of indices, computed
in fixed batches, so that a pass that was killed and started again gives the same bits.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.errors import ConfigError, DataError, EvalkitError, StoreError, nearest
from evalkit.extractors.base import Extractor
from evalkit.features.store import BLOCK, Column, extractor_id
from evalkit.metric import Batch
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

READERS = 2  # threads that decode ahead of the network

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


class FeaturePass:
    """Fills and reads the feature store for one run.

    Args:
        root: the store's folder of features.
        extractors: by name; loaded when the first feature is missing.
        device: auto, cpu, cuda or mps.
        progress: called after each block of images.
    """

    def __init__(
        self, root: Path, extractors: Mapping[str, Extractor], device: str = "auto", progress: Progress | None = None
    ) -> None:
        self.root = root
        self.extractors = extractors
        self.device = device
        self.progress = progress
        self._ids: dict[str, str] = {}

    def column(self, source: ImageSource, address: str) -> Column:
        """Where the features at an address are stored: by the digest of the images, or of the texts."""
        name, layer = parse(address, self.extractors, "a metric")
        if name not in self._ids:
            self._ids[name] = extractor_id(self.extractors[name])
        if layer in self.extractors[name].text_layers:
            texts = unique_prompts(source.prompts)
            folder, rows = f"prompts-{sha256_json(texts)[:20]}", len(texts)
        elif layer in self.extractors[name].joint_layers:
            folder, rows = f"joint-{sha256_json([source.digest, list(source.prompts)])[:20]}", len(source)
        else:
            folder, rows = source.digest[:20], len(source)
        return Column(self.root / folder / self._ids[name] / layer, rows)

    def compute(self, source: ImageSource, addresses: Sequence[str]) -> None:
        """Computes the features that the store lacks; each image is decoded once, for all extractors.

        Raises:
            DataError: an image cannot be read, or an extractor gave a value that is not finite.
            StoreError: the store cannot be written.
        """
        missing: dict[range, dict[str, dict[str, Column]]] = {}  # chunk -> extractor -> layer -> where
        for address in dict.fromkeys(addresses):
            name, layer = parse(address, self.extractors, "a metric")
            column = self.column(source, address)
            lacking = [chunk for chunk in column.chunks if column.load(chunk) is None]
            if lacking:
                column.sweep()
            if layer in self.extractors[name].text_layers:
                self._compute_texts(source, name, layer, column, lacking)
                continue
            for chunk in lacking:
                missing.setdefault(chunk, {}).setdefault(name, {})[layer] = column
        if missing:
            self._compute_images(source, dict(sorted(missing.items(), key=lambda item: item[0].start)))

    def _load(self, name: str) -> Extractor:
        extractor = self.extractors[name]
        self.device = devices.pick_device(self.device)
        extractor.load(self.device)
        return extractor

    def extract(
        self, source: ImageSource, images: Sequence[NDArray[np.uint8]], addresses: Sequence[str]
    ) -> dict[str, Tensor]:
        """Features of some images that are not stored: by address, f32 [B,D]."""
        import torch

        wanted: dict[str, list[str]] = {}
        for address in addresses:
            name, layer = parse(address, self.extractors, "a metric of pairs")
            wanted.setdefault(name, []).append(layer)
        found: dict[str, Tensor] = {}
        for name, layers in wanted.items():
            for layer, values in _run(self._load(name), source, images, [], layers).items():
                found[f"{name}/{layer}"] = torch.from_numpy(values)
        return found

    def _compute_texts(
        self, source: ImageSource, name: str, layer: str, column: Column, lacking: Sequence[range]
    ) -> None:
        texts = unique_prompts(source.prompts)
        for chunk in lacking:
            extractor = self._load(name)
            part = texts[chunk.start : chunk.stop]
            features = _run(extractor, source, [], part, [layer])[layer]
            column.save(chunk, features, warnings=json.dumps(extractor.prompt_warnings(part)))

    def _compute_images(self, source: ImageSource, missing: Mapping[range, Mapping[str, Mapping[str, Column]]]) -> None:
        import numpy as np

        for name in dict.fromkeys(name for wanted in missing.values() for name in wanted):
            self._load(name)
        done, total = 0, sum(map(len, missing))
        blocks = _read_ahead(source, [block for chunk in missing for block in _blocks(chunk)])
        for chunk, wanted in missing.items():
            parts: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
            for block in _blocks(chunk):
                images = next(blocks)
                for name, columns in wanted.items():
                    for layer, value in self._run_block(name, source, block, images, list(columns)).items():
                        parts.setdefault((name, layer), []).append(value)
                done += len(block)
                if self.progress is not None:
                    self.progress(source.name, done, total)
            for (name, layer), values in parts.items():
                wanted[name][layer].save(chunk, np.concatenate(values))

    def _run_block(
        self,
        name: str,
        source: ImageSource,
        block: range,
        images: Sequence[NDArray[np.uint8]],
        layers: Sequence[str],
    ) -> dict[str, NDArray[np.float32]]:
        """One extractor's layers of a block; those that take prompts as well are asked for in a call of their own."""
        extractor = self.extractors[name]
        joint = [layer for layer in layers if layer in extractor.joint_layers]
        alone = [layer for layer in layers if layer not in joint]
        found = _run(extractor, source, images, [], alone) if alone else {}
        if joint:
            prompts = [text for i in block if (text := source.prompts[i]) is not None]
            if len(prompts) < len(block):
                raise DataError(f"{source.name}: samples {block.start} to {block.stop - 1} do not all have a prompt")
            found |= _run(extractor, source, images, prompts, joint)
        return found

    def batches(self, source: ImageSource, addresses: Sequence[str], *, images: bool = False) -> Iterator[Batch]:
        """The stored features in index order, after `compute`; with the images themselves where asked for."""
        import torch

        columns = {address: self.column(source, address) for address in dict.fromkeys(addresses)}
        texts = {address: column for address, column in columns.items() if self._is_text(address)}
        tables = {address: torch.cat([_tensor(c, chunk) for chunk in c.chunks]) for address, c in texts.items()}
        rows = {text: row for row, text in enumerate(unique_prompts(source.prompts))} if texts else {}
        for chunk in Column(self.root, len(source)).chunks:
            prompts = list(source.prompts[chunk.start : chunk.stop])
            features = {a: _tensor(c, chunk) for a, c in columns.items() if a not in texts}  # f32 [B,D]
            if texts and None in prompts:
                raise DataError(f"{source.name}: sample {chunk[prompts.index(None)]} has no prompt")
            for address, table in tables.items():
                features[address] = table[[rows[str(text)] for text in prompts]]  # f32 [B,D]
            pixels = _pixels(source, chunk) if images else None
            yield Batch(pixels, torch.arange(chunk.start, chunk.stop), len(source), prompts, features)

    def _is_text(self, address: str) -> bool:
        name, layer = parse(address, self.extractors, "a metric")
        return layer in self.extractors[name].text_layers

    def text_warnings(self, source: ImageSource, addresses: Sequence[str]) -> dict[str, int]:
        """Counted warnings about the texts ("prompt_truncated": 3 different prompts), as stored with their features."""
        counts: dict[str, int] = {}
        for folder in {self.column(source, a) for a in addresses if self._is_text(a)}:
            for chunk in folder.chunks:
                loaded = folder.load(chunk)
                for kind, count in json.loads(loaded[1].get("warnings", "{}") if loaded else "{}").items():
                    counts[kind] = counts.get(kind, 0) + count
        return counts


def _blocks(chunk: range) -> list[range]:
    return [range(start, min(start + BLOCK, chunk.stop)) for start in range(chunk.start, chunk.stop, BLOCK)]


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
    """One extractor over images or texts in its own fixed batches: by layer, f32 [B,D], checked to be finite."""
    import torch

    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    size = extractor.batch_size
    for start in range(0, max(len(images), len(prompts)), size):
        part = slice(start, start + size)
        try:
            features = extractor(images[part], prompts[part], layers)
        except torch.OutOfMemoryError as error:
            less = f"extractor.{extractor.name}.batch_size={max(size // 2, 1)}"
            raise EvalkitError(f"extractor '{extractor.name}' ran out of memory: give {less}") from error
        for layer in layers:
            parts[layer].append(features[layer])
    joined = {layer: torch.cat(values).contiguous() for layer, values in parts.items()}
    for layer, values in joined.items():
        if not bool(torch.isfinite(values).all()):
            raise DataError(
                f"extractor '{extractor.name}' gave values that are not finite for {source.name}, layer '{layer}': "
                "are its weights right?"
            )
    return {layer: values.numpy() for layer, values in joined.items()}


def _tensor(column: Column, chunk: range) -> Tensor:
    import torch

    loaded = column.load(chunk)
    if loaded is None:
        raise StoreError(f"{column.file(chunk)} is gone or was altered while it was being read: run again")
    return torch.from_numpy(loaded[0])


def _pixels(source: ImageSource, chunk: range) -> Tensor:
    """The images of a chunk, u8 [B,3,H,W]."""
    import numpy as np
    import torch

    images: list[Any] = source.read(chunk)
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(
            f"{source.name}: a metric of pixels needs images of one size, but there are {sorted(sizes)[:3]}"
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
