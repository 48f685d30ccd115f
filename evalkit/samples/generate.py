"""The generation stage: cells to sample sets, shard by shard. What is done is read from the store alone.

`run_shard` is the unit of work: given the same spec it makes the same images as the same batches, however often it is
killed and started again, and returns at once where its shard is there.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.engines.base import Engine, InProcess, Run, Tell, Work
from evalkit.errors import EvalkitError, StoreError, whole_number
from evalkit.models.base import Generated, Request
from evalkit.models.services.cache import FetchedImages
from evalkit.samples.model_pool import BuiltCell, LoadedModel, ModelPool
from evalkit.samples.store import SampleSet, Store, check_whole, image_size, prepare_folder, shard_name
from evalkit.samples.writer import ShardWriter
from evalkit.utils import devices
from evalkit.utils.files import check_writable, sha256_json, sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.cell import Cell
    from evalkit.prompts.sets import PromptSet

log = logging.getLogger(__name__)

_BLOCK = 4096  # what the smallest file takes on a disk
_PNG_SHARE = 0.6  # of the pixels' bytes: photographs take 0.5 to 0.7


@dataclass(frozen=True)
class ShardSpec:
    """The samples [start, stop) of a cell, within one shard. Can be pickled.

    A `Unit` of its own where cells are made without a plan (`generate_cells`); a plan's units are smaller.
    """

    cell: Cell
    start: int
    stop: int
    batch_size: int
    device: str

    @property
    def key(self) -> str:
        return f"{self.cell.key}/{self.start}-{self.stop}"

    @property
    def label(self) -> str:
        return f"samples {self.start} to {self.stop - 1} of {self.cell.name}"


@dataclass(frozen=True)
class ShardResult:
    """What became of a spec: the cell's name, the shard's samples, and whether this call made them.

    Where it did not, they were there, or another process was first.
    """

    cell: str
    count: int
    made: bool


_WORKER = ModelPool()  # of a process that is sent shards one by one: its model stays loaded from shard to shard


def run_shard(spec: ShardSpec, store: Store, tell: Tell | None = None, pool: ModelPool | None = None) -> ShardResult:
    """Makes one shard, or finds it made. Safe to run twice, even at the same time: the first to finish counts.

    Images are made in the batches [start, start + batch_size), ... and written while the next are made. On leaving
    early, for whatever reason, nothing of the shard stays behind; what a kill leaves is swept by the next call.

    Args:
        spec: what to make.
        store: where to.
        tell: called with the cell's name and the images of each batch.
        pool: holds the cell's model and prompts; none, in a worker process: they are built from the cell's options.

    Raises:
        StoreError: the store cannot be written, or the cell's folder is damaged.
        ConfigError: weights or prompts are not those that the cell was planned with.
        EvalkitError: the device's memory does not hold one image.
    """
    report = tell or (lambda name, count: None)
    pool = pool or _WORKER
    cell = spec.cell
    folder = store.sample_folder(cell)
    size = prepare_folder(folder, cell)
    if spec.start % size or not 0 < spec.stop - spec.start <= size:
        raise ValueError(f"samples {spec.start} to {spec.stop} are not a shard of {size}")
    final = folder / "shards" / shard_name(spec.start, spec.stop, size)
    count = spec.stop - spec.start
    if final.is_dir():
        check_whole(final, count)
        report(cell.name, count)
        return ShardResult(cell.name, count, False)
    sweep(final.parent)
    report(cell.name, 0)  # a progress bar's clock starts before the model is loaded
    with pool.lock, devices.MemoryMeter(spec.device) as meter, ShardWriter(final, cell.key) as writer:
        loaded = pool.load(cell, spec.device)
        loaded.model.keep_in(folder)
        remote = loaded.model.remote
        about = {"device": "service" if remote else devices.label(spec.device)}
        for rows, images in _batches(spec, pool.built(cell), loaded):
            peak = {"peak_memory_mb": None if remote else meter.peak_mb()}
            for row, image in zip(rows, images, strict=True):
                writer.add(row | about | peak, image)
            report(cell.name, len(rows))
        made = writer.commit()
        FetchedImages(folder).remove(spec.start, spec.stop)
    return ShardResult(cell.name, count, made)


def _batches(
    spec: ShardSpec, built: BuiltCell, loaded: LoadedModel
) -> Iterator[tuple[list[dict[str, Any]], NDArray[np.uint8]]]:
    """Metadata and images u8 [B,H,W,3], batch by batch; running out of memory halves the batches that follow."""
    cell = spec.cell
    batch_size = min(spec.batch_size, loaded.largest_batch or spec.batch_size)
    start = spec.start
    while start < spec.stop:
        count = min(batch_size, spec.stop - start)
        requests = [built.request(index, cell.seed) for index in range(start, start + count)]
        began, meter = time.perf_counter(), devices.LoadMeter()
        try:
            made = _generate(spec, built, requests)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                error.add_note(f"while making samples {start} to {start + count - 1} of {cell.name}")
                raise
            if count == 1:
                raise EvalkitError(
                    f"{cell.name}: {spec.device} is out of memory for a single image: use a smaller dtype or image, "
                    "the model's vae_tiling or attention_slicing, or another device"
                ) from error
            made = None
        if made is None:  # after the except block, which holds the failed batch's tensors
            devices.free_memory()
            batch_size = loaded.largest_batch = count // 2
            log.warning("%s: out of memory with %d images at a time; going on with %d", cell.name, count, batch_size)
            continue
        about = {"warmup": loaded.fresh, "nfe": made.nfe, **meter.read()}
        timed = _timed(made, time.perf_counter() - began, count)
        loaded.fresh = False
        kinds = made.warnings or [()] * count
        rows = [
            _row(request, built.prompts, list(warnings)) | times | about
            for request, warnings, times in zip(requests, kinds, timed, strict=True)
        ]
        yield rows, made.images
        start += count


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


def _generate(spec: ShardSpec, built: BuiltCell, requests: Sequence[Request]) -> Generated:
    """One batch, done by the time it returns; checked to be u8 [B,H,W,3]."""
    model = built.model
    made = model.generate(requests, sampler=built.sampler, settings=spec.cell.call_settings)
    devices.synchronize(spec.device)
    shape = tuple(made.images.shape)
    if str(made.images.dtype) != "uint8" or len(shape) != 4 or shape[0] != len(requests) or shape[3] != 3:
        raise TypeError(
            f"{type(model).__name__}.generate returned {made.images.dtype} {list(shape)} where uint8 "
            f"[{len(requests)},H,W,3] is needed"
        )
    if made.warnings and len(made.warnings) != len(requests):
        raise TypeError(f"{type(model).__name__}.generate returned {len(made.warnings)} lists of warnings")
    return made


def _row(request: Request, prompts: PromptSet | None, warnings: list[str]) -> dict[str, Any]:
    """A line of metadata.jsonl, but for what only the batch and the file tell."""
    return {
        "file_name": f"{request.index:06d}.png",
        "index": request.index,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "category": prompts[request.index].category if prompts is not None else None,
        "class_id": request.class_id,
        "seed": request.seed,
        "warnings": warnings,
    }


def generate_cells(
    cells: Sequence[Cell],
    store: Store,
    *,
    batch_size: int,
    device: str = "auto",
    engine: Engine | None = None,
    pool: ModelPool | None = None,
) -> None:
    """Makes all samples that are missing, cells of one model after another so that each model is loaded once.

    Args:
        cells: which cells.
        store: where to.
        batch_size: images at a time, >= 1.
        device: auto, cpu, cuda or mps; auto is settled where the images are made.
        engine: who runs the shards, and shows how far they are; none: this process.
        pool: holds the cells' models and prompts (a plan's); none: they are built from the cells' options.

    Raises:
        ConfigError: batch_size or device makes no sense.
        StoreError: the store cannot be written, or the disk is too small (before the first sample).
    """
    whole_number(batch_size, "batch_size")
    shards = missing_shards(cells, store)
    specs = [ShardSpec(cell, start, stop, batch_size, device) for cell, start, stop in shards]
    engine = engine or InProcess()
    with pool or ModelPool() as own, _WORKER:  # the extractors need the memory of the models: leaving frees it
        begin = functools.partial(_begin, store, own if engine.in_process else None)
        engine.map(Work("generating", specs, totals(shards), begin, functools.partial(_done, store)))


def _begin(store: Store, pool: ModelPool | None) -> Run:
    """What runs specs in a worker."""

    def run(spec: ShardSpec, tell: Tell) -> None:
        run_shard(replace(spec, device=devices.pick_device(spec.device)), store, tell, pool)

    return run


def _done(store: Store, specs: Sequence[ShardSpec]) -> set[str]:
    cells = {spec.cell.key: spec.cell for spec in specs}
    missing = {(cell.key, start) for cell in cells.values() for start, _ in SampleSet.missing(store, cell)}
    return {spec.key for spec in specs if (spec.cell.key, spec.start) not in missing}


def missing_shards(cells: Sequence[Cell], store: Store) -> list[tuple[Cell, int, int]]:
    """(cell, start, stop) of all shards to make, those of one model one after another.

    Raises:
        StoreError: the store cannot be written, or the disk is too small for them.
    """
    missing = [(cell, *shard) for cell in _by_model(cells) for shard in SampleSet.missing(store, cell)]
    if missing:
        check_writable(store.root)
        check_space(store, missing)
    return missing


def totals(shards: Sequence[tuple[Cell, int, int]]) -> dict[str, int]:
    """By cell's name the images of some shards."""
    counts: dict[str, int] = {}
    for cell, start, stop in shards:
        counts[cell.name] = counts.get(cell.name, 0) + stop - start
    return counts


def _by_model(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in their order, but those of one model one after another."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(sha256_json(cell.options["model"]), []).append(cell)
    return [cell for group in groups.values() for cell in group]


def check_space(store: Store, shards: Sequence[tuple[Cell, int, int]]) -> None:
    """Raises StoreError where the disk cannot hold the samples of some shards (an estimate)."""
    needed = sum((stop - start) * bytes_per_image(cell) for cell, start, stop in shards)
    free = store.free_bytes()
    if needed > free:
        raise StoreError(
            f"{store.root}: the samples to make need about {_readable(needed)}, but {_readable(free)} are free: "
            "free some space, ask for fewer samples, or give another folder with store=FOLDER"
        )


def bytes_per_image(cell: Cell) -> int:
    """About what an image takes on the disk; a cell that does not say its images' size counts as one block each."""
    size = image_size(cell)
    return _BLOCK + int(size[0] * size[1] * 3 * _PNG_SHARE) if size else _BLOCK


def _readable(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
