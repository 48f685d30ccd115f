"""The generation stage: cells to sample sets, shard by shard. What is done is read from the store alone.

`run_shard` is the unit of work: given the same spec it makes the same images as the same batches, however often it is
killed and started again, and returns at once where its shard is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.engines.base import Engine, InProcess, Run, Tell, Work, beside
from evalkit.errors import StoreError, whole_number
from evalkit.samples.batches import Batch, InOrder, batches
from evalkit.samples.cells import image_size, look
from evalkit.samples.model_pool import BuiltCell, ModelPool
from evalkit.samples.store import Store
from evalkit.samples.writer import ShardWriter, workers_for
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.cell import Cell

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


class InHand(Protocol):
    """Takes a shard's images while they are in memory."""

    def add(self, images: Sequence[NDArray[np.uint8]]) -> None:
        """The next ones, u8 [H,W,3] each."""

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """That was all; their lines of metadata. Called just before the shard is committed."""


_WORKER = ModelPool()  # of a process that is sent shards one by one: its model stays loaded from shard to shard


def run_shard(
    spec: ShardSpec,
    store: Store,
    tell: Tell | None = None,
    pool: ModelPool | None = None,
    in_hand: InHand | None = None,
) -> ShardResult:
    """Makes one shard, or finds it made. Safe to run twice, even at the same time: the first to finish counts.

    Images are made in the batches [start, start + batch_size), ... and written while the next are made. On leaving
    early, for whatever reason, nothing of the shard stays behind; what a kill leaves is swept by the next call.

    On an accelerator, with a pool that is entered as a context, this returns as soon as the device has been given all
    of the shard: the shard is fetched, encoded and committed while the next one is made (`ModelPool.behind`), and an
    error of that is raised by the next call, or on leaving the pool.

    Args:
        spec: what to make.
        store: where to.
        tell: called with the cell's name and the images of each batch.
        pool: holds the cell's model and prompts; none, in a worker process: they are built from the cell's options.
        in_hand: is given the images before the shard is there: what it makes of them cannot get lost with them. All of
            the shard is done by the time this returns.

    Raises:
        StoreError: the store cannot be written, or the cell's folder is damaged.
        ConfigError: weights or prompts are not those that the cell was planned with.
        EvalkitError: the device's memory does not hold one image.
    """
    report = tell or (lambda name, count: None)
    pool = pool or _WORKER
    cell = spec.cell
    spec = replace(spec, device=cell.remake.get("device", spec.device))
    place = store.place(cell)
    size = place.prepare()
    if spec.start % size or not 0 < spec.stop - spec.start <= size:
        raise ValueError(f"samples {spec.start} to {spec.stop} are not a shard of {size}")
    count = spec.stop - spec.start
    if place.find(spec.start, spec.stop, size) is not None:
        report(cell.name, count)
        return ShardResult(cell.name, count, False)
    fetched = place.fetched(spec.start, size)
    target = place.target(spec.start, spec.stop, size)
    report(cell.name, 0)  # a progress bar's clock starts before the model is loaded
    with pool.lock, ExitStack() as stack:
        meter = stack.enter_context(devices.MemoryMeter(spec.device))
        encode, threads = pool.encoder(spec.device), workers_for(spec.device)
        writer = stack.enter_context(ShardWriter(target, cell.key, encode, store.keeps(size), threads))
        loaded, built = pool.load(cell, spec.device), pool.built(cell)
        loaded.model.keep_in(fetched)
        loaded.model.ahead(pool.requests(cell, range(spec.start, spec.stop)), cell.call_settings)
        about = _place_of(spec, loaded.model.remote, meter, pool)
        on_device = devices.is_accelerator(spec.device) and not loaded.model.remote
        behind = pool.behind if on_device and in_hand is None else None
        begun, order = list[Batch](), InOrder(spec.start)
        for batch in batches(cell, range(spec.start, spec.stop), spec.batch_size, built, loaded, about):
            begun.append(batch)
            if behind is None:  # a device has the next batch before the one before is fetched
                _write(begun, order, writer, built, in_hand, left=int(on_device))
            report(cell.name, len(batch.requests))
        if behind is not None:
            behind.wait()
        rest = stack.pop_all()

    def finish() -> bool:
        with rest:
            _write(begun, order, writer, built, in_hand)
            if in_hand is not None:
                writer.finish()
                in_hand.take(writer.rows)
            made = writer.commit()
            fetched.remove(spec.start, spec.stop)
        return made

    if behind is None:
        return ShardResult(cell.name, count, finish())
    behind.hand(finish)
    return ShardResult(cell.name, count, True)


def _place_of(
    spec: ShardSpec, remote: bool, meter: devices.MemoryMeter, pool: ModelPool
) -> Callable[[], dict[str, Any]]:
    """What a batch's lines say of where it was made, with the most memory that was held until they are asked for."""
    fixed = {"device": "service" if remote else devices.label(spec.device)}
    together = {"beside": workers} if (workers := beside()) > 1 else {}

    def about() -> dict[str, Any]:
        peak = None if remote else max(meter.peak_mb() - pool.others_mb, 0.0)
        return {**fixed, "peak_memory_mb": peak, **together}

    return about


def _write(
    begun: list[Batch],
    order: InOrder,
    writer: ShardWriter,
    built: BuiltCell,
    in_hand: InHand | None = None,
    left: int = 0,
) -> None:
    """Hands all batches but the last `left` on, as they are done, and forgets them."""
    while len(begun) > left:
        rows, images = begun.pop(0).fetch(built.prompts)
        ready = order.take(rows, list(images))
        for row, image in ready:
            writer.add(row, image)
        if in_hand is not None and ready:
            in_hand.add([image for _, image in ready])


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
    found = look(store, cells.values())
    missing = {(cell.key, start) for cell in cells.values() for start, _ in found[cell.key].missing}
    return {spec.key for spec in specs if (spec.cell.key, spec.start) not in missing}


def shards_of(cells: Sequence[Cell], store: Store) -> list[tuple[Cell, int, int]]:
    """(cell, start, stop) of all shards, made or not, those of one model one after another."""
    sizes = {key: each.size for key, each in look(store, cells).items()}
    return [
        (cell, start, min(start + sizes[cell.key], cell.num_samples))
        for cell in _by_model(cells)
        for start in range(0, cell.num_samples, sizes[cell.key])
    ]


def missing_shards(cells: Sequence[Cell], store: Store) -> list[tuple[Cell, int, int]]:
    """(cell, start, stop) of all shards to make, those of one model one after another.

    Raises:
        StoreError: the store cannot be written, or the disk is too small for them.
    """
    found = look(store, cells)
    missing = [(cell, *shard) for cell in _by_model(cells) for shard in found[cell.key].missing]
    if missing:
        store.check_writable()
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
            f"{store.where}: the samples to make need about {_readable(needed)}, but {_readable(free)} are free: "
            "free some space, ask for fewer samples, or give another folder with store=FOLDER"
        )


def bytes_per_image(cell: Cell) -> int:
    """About what an image takes on the disk; a cell that does not say its images' size counts as one block each."""
    size = image_size(cell)
    return _BLOCK + int(size[0] * size[1] * 3 * _PNG_SHARE) if size else _BLOCK


def _readable(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
