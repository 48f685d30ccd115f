"""Extractors over the images of a chunk: what is decoded and prepared ahead of them, in which batches, how it ends."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evalkit.data.reading import blocks_ahead, read_pool
from evalkit.data.source import THREADED_FROM
from evalkit.errors import EvalkitError, UnsuitedError
from evalkit.extractors.base import Edit
from evalkit.numerics.threads import one_thread, start
from evalkit.utils import devices
from evalkit.utils.files import sha256_file
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Extractor

BLOCK = 64  # images decoded at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageSource(Protocol):
    """What the feature pass reads (`evalkit.data.source.Source`). `read` is called from several threads."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def prompts(self) -> Sequence[str | None]: ...
    @property
    def chunks(self) -> Sequence[range]: ...
    def chunk_digest(self, chunk: range) -> str: ...
    def __len__(self) -> int: ...
    def read(self, indices: range) -> list[NDArray[np.uint8]]: ...


def blocks_of(chunk: range) -> list[range]:
    """A chunk's images in the blocks that are decoded at a time."""
    return [range(start, min(start + BLOCK, chunk.stop)) for start in range(chunk.start, chunk.stop, BLOCK)]


def asked(source: ImageSource, extractor: Extractor, chunk: range) -> list[str | None]:
    """The prompts of a chunk as an extractor gets them: with the pictures of edits, where it looks at them."""
    texts = list(source.prompts[chunk.start : chunk.stop])
    files: Sequence[Path | None] = getattr(source, "originals", ()) if extractor.originals else ()
    if not files:
        return texts
    pairs = zip(texts, files[chunk.start : chunk.stop], strict=True)
    return [Edit.of(text, file) if text is not None and file is not None else text for text, file in pairs]


def edits(prompts: Sequence[str | None]) -> list[list[str]]:
    """The digests of the pictures of edits, as one list; none where there are none."""
    files = [text.original for text in prompts if isinstance(text, Edit)]
    return [[_digest_of(file, file.stat().st_mtime_ns) for file in files]] if files else []


@functools.lru_cache(maxsize=4096)
def _digest_of(file: Path, changed: int) -> str:
    return sha256_file(file)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The function of each item, in order; `threads` of them are under way while the caller uses the ones before."""
    with ThreadPoolExecutor(threads, thread_name_prefix="evalkit-ahead") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def decoded(
    source: ImageSource, blocks: Iterable[tuple[range, Sequence[Extractor]]]
) -> Iterator[dict[str, Sequence[Any]]]:
    """Of each block, by extractor, its images as that extractor prepares them; a few blocks are decoded ahead."""

    def read(item: tuple[range, Sequence[Extractor]]) -> dict[str, Sequence[Any]]:
        block, extractors = item
        images = source.read(block)
        large = images[0].shape[0] * images[0].shape[1] >= THREADED_FROM
        mapped: Callable[..., Iterable[Any]] = read_pool().map if large else map
        return {e.name: list(mapped(e.prepare, images)) if e.prepares else images for e in extractors}

    return ahead(read, blocks, blocks_ahead())


@dataclass(eq=False)
class ChunkRun:
    """One extractor over one chunk, whose images come block by block; its batches begin anew with each chunk.

    On a CPU each batch is computed by one thread, so that its bits are the same whatever the number of threads, and
    several batches at once, where the extractor is `reentrant`.

    Args:
        extractor: loaded.
        size: images in a batch.
        device: where it was loaded.
        layers: which layers; those that take prompts as well are asked for in calls of their own.
        prompts: of each image of the chunk, where there are joint layers.
        what: the chunk, for messages.
    """

    extractor: Extractor
    size: int
    device: str
    layers: Sequence[str]
    prompts: Sequence[str] = ()
    what: str = ""
    _waiting: list[Any] = field(default_factory=list, init=False)
    _done: int = field(default=0, init=False)
    _parts: list[Future[dict[str, Tensor]]] = field(default_factory=list, init=False)

    def add(self, images: Sequence[Any]) -> None:
        """The next images, as `Extractor.prepare` gives them."""
        self._waiting += images
        while len(self._waiting) >= self.size:
            self._batch()

    def end(self) -> None:
        """There are no more images."""
        while self._waiting:
            self._batch()

    def features(self) -> dict[str, Tensor]:
        """By layer, f32 [rows,D] of the whole chunk, where the extractor leaves them, after `end`."""
        parts = [part.result() for part in self._parts]
        return joined({layer: [part[layer] for part in parts if layer in part] for layer in self.layers})

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The same, on the CPU."""
        return Fetch(self.features()).arrays()

    def _batch(self) -> None:
        images, self._waiting = self._waiting[: self.size], self._waiting[self.size :]
        prompts = self.prompts[self._done : self._done + len(images)]
        self._done += len(images)
        joint = [layer for layer in self.layers if layer in self.extractor.joint_layers]
        alone = [layer for layer in self.layers if layer not in joint]
        for layers, texts in ((alone, []), (joint, prompts)):
            if layers:
                self._parts.append(begin(self.device, self.extractor, self.size, images, texts, layers))


def run_texts(extractor: Extractor, size: int, device: str, texts: Sequence[str], layer: str) -> Tensor:
    """A text layer of texts, f32 [B,D], in the extractor's own batches."""
    batches = (texts[start : start + size] for start in range(0, len(texts), size))
    parts = [begin(device, extractor, size, [], batch, [layer]) for batch in batches]
    return joined({layer: [part.result()[layer] for part in parts]})[layer]


def begin(device: str, *batch: Any) -> Future[dict[str, Tensor]]:
    """`call` of a batch; on a CPU it may be still under way."""
    if device == "cpu" and batch[0].reentrant:
        return start(partial(call, *batch))
    done: Future[dict[str, Tensor]] = Future()
    with one_thread() if device == "cpu" else nullcontext():
        done.set_result(call(*batch))
    return done


def joined(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Batches one after another, by layer."""
    import torch

    return {
        layer: (values[0] if len(values) == 1 else torch.cat(list(values))).contiguous()
        for layer, values in parts.items()
    }


def call(
    extractor: Extractor, size: int, images: Sequence[Any], prompts: Sequence[str], layers: Sequence[str]
) -> dict[str, Tensor]:
    """One batch; whatever a network raises becomes an UnsuitedError of one line, which says what to do."""
    try:
        return extractor(images, prompts, layers)
    except EvalkitError:
        raise
    except Exception as error:
        why = f"failed: {one_line(error)}"
        if devices.is_out_of_memory(error):
            why = f"ran out of memory: give extractor.{extractor.name}.batch_size={max(size // 2, 1)}"
        raise UnsuitedError(f"extractor '{extractor.name}' {why}", extractor.name) from error


def check_finite(extractor: str, source: str, layer: str, values: NDArray[np.float32] | bool) -> None:
    """Raises UnsuitedError where a value is not finite; `values` may be whether all are."""
    import numpy as np

    if not np.isfinite(values).all() if isinstance(values, np.ndarray) else not values:
        what = f"values that are not finite for {source}, layer '{layer}'"
        raise UnsuitedError(f"extractor '{extractor}' gave {what}: are its weights right?", extractor)


class Fetch:
    """Tensors on their way from a device, by name; the copy goes on while the device works on what was asked next."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        import torch

        self._events = []
        self._host: dict[str, Tensor] = {}
        for name, value in values.items():
            if not value.is_cuda:
                self._host[name] = value.cpu()
                continue
            self._host[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            with torch.cuda.device(value.device):
                self._host[name].copy_(value, non_blocking=True)
                self._events.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
                self._events[-1].record()

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Waits for the copies."""
        for event in self._events:
            event.synchronize()
        return {name: value.numpy() for name, value in self._host.items()}
