"""A shard's images, batch by batch: the calls of the model, and what is told of each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.models.base import Generated, Request
from evalkit.samples.remade import remade
from evalkit.utils import devices

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from evalkit.cell import Cell
    from evalkit.prompts.sets import PromptSet
    from evalkit.samples.model_pool import BuiltCell, LoadedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A batch that the model has been given; a GPU may still be at work on it.

    Attributes:
        cell: its name.
        requests: what it is made from.
        made: what the model returned.
        seconds: by the clock, of the call; of one that is not over, `began` and the event behind the images count.
        began: of a GPU, recorded before the call.
        load: of the machine since then.
        fresh: whether it was the loaded model's first.
        about: what else goes into each sample's line.
    """

    cell: str
    requests: Sequence[Request]
    made: Generated
    seconds: float
    began: torch.cuda.Event | None
    load: devices.LoadMeter
    fresh: bool
    about: dict[str, Any]

    def fetch(self, prompts: PromptSet | None) -> tuple[list[dict[str, Any]], NDArray[np.uint8]]:
        """Lines of metadata and images u8 [B,H,W,3]; waits for the device.

        A batch's seconds are the device's own: from when it was free for the batch (what it had been given before was
        done, and the call had begun) until the images are on the host.

        Raises:
            DataError: a value was NaN or infinite.
        """
        try:
            images = self.made.images
        except Exception as error:
            error.add_note(_where(self.requests, self.cell))
            raise
        _check_images(images, self.requests)
        seconds = self.seconds
        if self.made.pending is not None and self.began is not None:
            seconds = self.began.elapsed_time(self.made.pending) / 1000
        about = {"warmup": self.fresh, "nfe": self.made.nfe, **self.load.read(), **self.about}
        kinds = self.made.warnings or [()] * len(self.requests)
        timed = _timed(self.made, seconds, len(self.requests))
        records = (self.made.timing.records if self.made.timing is not None else ()) or [{}] * len(self.requests)
        rows = [
            _measured(_row(request, prompts, list(warnings)) | times | about, record)
            for request, warnings, times, record in zip(self.requests, kinds, timed, records, strict=True)
        ]
        return rows, images


def batches(
    cell: Cell,
    samples: range,
    batch_size: int,
    built: BuiltCell,
    loaded: LoadedModel,
    about: Callable[[], dict[str, Any]],
) -> Iterator[Batch]:
    """A shard, batch by batch; running out of memory halves the batches that follow, and what was made stays.

    Where prompts set a size, say, for their own samples, those of the same settings share batches: they come in another
    order than the samples' (`InOrder`).

    Args:
        cell: whose.
        samples: which of its samples.
        batch_size: how many at a time.
        built: what they are made with.
        loaded: the model, on its device.
        about: called after each batch: what else goes into its lines of metadata.

    Raises:
        EvalkitError: the device's memory does not hold one image.
    """
    batch_size = cell.remake.get("batch_size", batch_size)
    for group in _groups(samples, built):
        yield from _of_group(cell, group, batch_size, built, loaded, about)


def _groups(samples: range, built: BuiltCell) -> list[Sequence[int]]:
    """Samples whose prompts set the same for them, those that come first first; all where none sets anything."""
    if built.prompts is None or not built.prompts.own_columns:
        return [samples]
    groups: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for index in samples:
        groups.setdefault(tuple(built.own_settings(index).items()), []).append(index)
    return list(groups.values())


def _of_group(
    cell: Cell,
    samples: Sequence[int],
    batch_size: int,
    built: BuiltCell,
    loaded: LoadedModel,
    about: Callable[[], dict[str, Any]],
) -> Iterator[Batch]:
    """Samples of the same settings, batch by batch."""
    batch_size = min(batch_size, loaded.largest_batch or batch_size)
    start = 0
    while start < len(samples):
        count = min(batch_size, len(samples) - start)
        requests = [built.request(index, cell.seed) for index in samples[start : start + count]]
        load, began, clock = devices.LoadMeter(), devices.mark(loaded.device), time.perf_counter()
        made_room = False
        try:
            made = _generate(cell, built, requests, loaded.device)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                error.add_note(_where(requests, cell.name))
                raise
            made_room = loaded.make_room()
            if count == 1 and not made_room:
                raise EvalkitError(
                    f"{cell.name}: {loaded.device} is out of memory for a single image: use a smaller dtype or image, "
                    "the model's vae_tiling or attention_slicing, or another device"
                ) from error
            made = None
        if made is None:  # after the except block, which holds the failed batch's tensors
            devices.free_memory()
            if made_room:
                continue
            batch_size = loaded.largest_batch = count // 2
            log.warning("%s: out of memory with %d images at a time; going on with %d", cell.name, count, batch_size)
            continue
        seconds = time.perf_counter() - clock
        fresh, loaded.fresh = loaded.fresh, False
        yield Batch(cell.name, requests, made, seconds, began, load, fresh, about())
        start += count


class InOrder:
    """Puts the samples of a shard back in their order; what came too early is held.

    Args:
        start: the shard's first sample.
    """

    def __init__(self, start: int) -> None:
        self._next = start
        self._held: dict[int, tuple[dict[str, Any], NDArray[np.uint8]]] = {}

    def take(
        self, rows: Sequence[dict[str, Any]], images: Sequence[NDArray[np.uint8]]
    ) -> list[tuple[dict[str, Any], NDArray[np.uint8]]]:
        """Takes samples; gives those whose turn it is, with their lines of metadata."""
        self._held |= {row["index"]: (row, image) for row, image in zip(rows, images, strict=True)}
        ready = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next += 1
        return ready


def _where(requests: Sequence[Request], cell: str) -> str:
    return f"while making samples {requests[0].index} to {requests[-1].index} of {cell}"


def _timed(made: Generated, seconds: float, count: int) -> list[dict[str, Any]]:
    """What the lines of metadata.jsonl say of the time that a batch took."""
    side = made.timing
    if side is None:
        return [{"latency_s": round(seconds / count, 6), "batch": count}] * count
    share = round(seconds / max(count - sum(side.kept), 1), 6)  # of the clock: latencies overlap
    return [
        {"latency_s": latency, "clock_s": None if kept else share, "batch": side.together}
        for latency, kept in zip(side.latencies, side.kept, strict=True)
    ]


def _measured(row: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A line with what the model recorded of the sample before: this batch's load of the machine says nothing."""
    if not record:
        return row
    return {name: value for name, value in row.items() if name not in ("load", "others")} | dict(record)


def _generate(cell: Cell, built: BuiltCell, requests: Sequence[Request], device: str) -> Generated:
    """One batch. It is done by the time this returns, but for images that say that they are still on their way."""
    with remade(cell.remake):
        settings = {**cell.call_settings, **requests[0].settings}
        made = built.model.generate(requests, sampler=built.sampler, settings=settings)
    if made.pending is None:
        devices.synchronize(device)
        _check_images(made.images, requests, type(built.model).__name__)
    if made.warnings and len(made.warnings) != len(requests):
        raise TypeError(f"{type(built.model).__name__}.generate returned {len(made.warnings)} lists of warnings")
    return made


def _check_images(images: NDArray[np.uint8], requests: Sequence[Request], who: str = "the model") -> None:
    shape = tuple(images.shape)
    if str(images.dtype) != "uint8" or len(shape) != 4 or shape[0] != len(requests) or shape[3] != 3:
        raise TypeError(
            f"{who}.generate returned {images.dtype} {list(shape)} where uint8 [{len(requests)},H,W,3] is needed"
        )


def _row(request: Request, prompts: PromptSet | None, warnings: list[str]) -> dict[str, Any]:
    """A line of metadata.jsonl, but for what only the batch and the file tell."""
    return {
        "file_name": f"{request.index:06d}.png",
        "index": request.index,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "category": prompts[request.index].category if prompts is not None else None,
        "class_id": request.class_id,
        "seed": request.seed if request.own_seed is None else request.own_seed,
        "warnings": warnings,
    }
