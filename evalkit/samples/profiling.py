"""Where the time of a cell's images goes, and how both go with the batch size: measured on batches of its own.

It comes after the samples, on the same model, and leaves no image: sample sets and their timings are what they would
be without it. Of each batch size there is a batch that warms up, then pairs of batches: one as ever, and one with each
part of the model timed, either first by turns. Of both the fastest counts, as by timeit: what is slower was another
program's doing. What the parts add up to is told against the untimed batch of the same pair, which had the same
machine, by the median of the pairs and its interval.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalkit.data.codec import encode_png
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.models.device_images import DeviceImages
from evalkit.models.services.cache import FetchedImages
from evalkit.numerics.matrix_rate import matrix_rate
from evalkit.utils import devices
from evalkit.utils.energy import Counter, energy_counter
from evalkit.utils.peak_memory import PeakMemory, free_mb, trim
from evalkit.utils.spans import Recorder, Span
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.models.base import Model, Request
    from evalkit.samples.model_pool import ModelPool

REST = "the rest (scheduler, Python)"
COPIES = "host copies"
PNG = "PNG encoding"
_PAIRS = 5  # at least, where `repeats` is not given
_SECONDS = 10.0  # and as many as this holds
_MOST = 100
_SPARE = 0.9  # of the free main memory: beyond it the system may end the process, where a GPU only says no


@dataclass(frozen=True)
class Profile:
    """The option `profile`.

    Attributes:
        batch_sizes: images at a time; "where one image's time goes" is told of each.
        repeats: pairs of batches of each, an untimed and a timed one; none: 5, and more while they take under 10 s.
    """

    batch_sizes: tuple[int, ...] = (1,)
    repeats: int | None = None

    @classmethod
    def read(cls, value: Any) -> Profile | None:
        """From a run's `profile`: true, false, or a mapping. ConfigError: it is none of these, or holds another key."""
        if value in (None, False):
            return None
        if value is True:
            return cls()
        if not isinstance(value, Mapping):
            raise ConfigError(f"profile={value}: give true, or batch sizes, as profile='{{batch_sizes: [1, 2, 4, 8]}}'")
        for key in value:
            if key not in ("batch_sizes", "repeats"):
                raise ConfigError(
                    f"profile.{key}: there is no such option. {nearest(str(key), ('batch_sizes', 'repeats'))}"
                )
        sizes = value.get("batch_sizes", [1])
        sizes = [sizes] if isinstance(sizes, int) else sizes
        if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
            raise ConfigError(f"profile.batch_sizes={sizes}: give whole numbers, as [1, 2, 4, 8]")
        for size in sizes:
            whole_number(size, "profile.batch_sizes")
        repeats = value.get("repeats")
        return cls(tuple(sorted(set(sizes))), None if repeats is None else whole_number(repeats, "profile.repeats"))

    def enough(self, pairs: int, seconds: float) -> bool:
        """Whether so many pairs, which took so long together, will do."""
        if self.repeats is not None:
            return pairs >= self.repeats
        return pairs >= _MOST or (pairs >= _PAIRS and seconds >= _SECONDS)


@dataclass(frozen=True)
class PartCost:
    """What a part takes of one image; of several evaluations (a denoiser's steps) all together.

    Attributes:
        calls: per batch.
        seconds: per image, without the parts that it calls.
        each: seconds of each of its calls, of the whole batch.
        flops: per image: products of matrices, convolutions and attention, a multiplication and an addition as two.
        rate: FLOP/s while it ran.
        of_matrix_rate: `rate` by the device's measured rate of products in the part's dtype.
    """

    part: str
    calls: int
    seconds: float
    each: tuple[float, ...] = ()
    flops: float | None = None
    rate: float | None = None
    of_matrix_rate: float | None = None


@dataclass(frozen=True)
class Ratio:
    """What timed batches took by the untimed ones next to them.

    Attributes:
        value: the median of the pairs' ratios.
        low, high: its 95 % interval, by the order statistics that the sign test gives; of under 6 pairs all of them.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, timed: Sequence[float], plain: Sequence[float]) -> Ratio:
        """Of seconds by pair; a clock too coarse to see a batch gives it its finest tick."""
        from scipy.stats import binom

        each = sorted(one / max(other, 1e-9) for one, other in zip(timed, plain, strict=True))
        low = max(int(binom.ppf(0.025, len(each), 0.5)) - 1, 0)
        return cls(statistics.median(each), each[low], each[len(each) - 1 - low])


@dataclass(frozen=True)
class BatchProfile:
    """A batch size of a cell.

    Attributes:
        seconds: per image, of the fastest untimed batch, until its PNG is made.
        each: of all untimed batches.
        peak_mb: while they were made; `rest_mb` what was held before, with the model loaded.
        parts: of the fastest timed batch, the rest among them: they add up to it.
        spans: of that batch.
        whole: that batch's seconds per image.
        adds_up: the parts' sum by an untimed batch's time: 1 where timing the parts costs nothing.
        adds_up_cpu: `adds_up` by the process's CPU seconds, where the device is the CPU: other programs take none.
        joules: per image, of all that the counter counts.
        failed: why there are none of these numbers.
    """

    batch_size: int
    seconds: float | None = None
    each: tuple[float, ...] = ()
    peak_mb: float | None = None
    rest_mb: float | None = None
    parts: tuple[PartCost, ...] = ()
    spans: tuple[Span, ...] = ()
    whole: float | None = None
    adds_up: Ratio | None = None
    adds_up_cpu: Ratio | None = None
    joules: float | None = None
    failed: str | None = None

    @property
    def images_per_second(self) -> float | None:
        return 1 / self.seconds if self.seconds else None


@dataclass(frozen=True)
class CellProfile:
    """A cell's, with how it was measured."""

    cell: str
    batches: tuple[BatchProfile, ...]
    memory: str
    energy: str
    flops_missing: str | None = None
    load: Mapping[str, float] = field(default_factory=dict)  # of the machine meanwhile: see devices.LoadMeter


def profile_cell(cell: Cell, pool: ModelPool, device: str, asked: Profile) -> CellProfile:
    """Measures a cell whose model makes images here.

    A batch size that does not fit into memory ends the series: its `failed` says so.

    Args:
        cell: whose model, prompts and settings.
        pool: holds them.
        device: "cpu", "cuda", "mps" (not "auto").
        asked: batch sizes and repeats.

    Raises:
        As `Model.load` and `Model.generate`.
    """
    others = round(devices.held_mb(device), 1) if device.startswith("cuda") else 0.0
    loaded = pool.load(cell, device)
    counter = energy_counter(device)
    bench = _Bench(cell, pool, loaded.model, device, counter, others)
    batches: list[BatchProfile] = []
    load = devices.LoadMeter()
    for size in asked.batch_sizes:
        trim()
        if (why := _too_large(batches, size, device)) is not None:
            batches.append(BatchProfile(size, failed=why))
            break
        try:
            batches.append(bench.measure(size, asked))
        except Exception as error:
            if not devices.is_out_of_memory(error):
                error.add_note(f"while profiling {cell.name} at batch size {size}")
                raise
            failed = f"out of memory: {one_line(error, 160)}"
        else:
            continue
        batches.append(BatchProfile(size, failed=failed))  # past the error, which holds the batch's tensors
        trim()
        break
    busy = load.read()
    flops, why = bench.count_flops(min(asked.batch_sizes)) if batches[0].failed is None else ({}, None)
    rated = tuple(replace(batch, parts=bench.rated(batch.parts, flops)) for batch in batches)
    energy_how = counter.name if isinstance(counter, Counter) else f"missing: {counter}"
    return CellProfile(cell.name, rated, bench.memory, energy_how, why, busy)


def _too_large(done: Sequence[BatchProfile], size: int, device: str) -> str | None:
    """Why a batch is not tried in main memory: by a straight line through the last one, it would not fit."""
    if device.startswith("cuda") or not done or done[-1].peak_mb is None or done[-1].rest_mb is None:
        return None
    last = done[-1]
    needed = (last.peak_mb - last.rest_mb) * size / last.batch_size  # type: ignore[operator]
    free = free_mb()
    if needed <= _SPARE * free:
        return None
    return f"not tried: it would need about {needed:,.0f} MB more, and {free:,.0f} MB are free"


@dataclass
class _Taken:
    """Seconds of batches of one kind: by the clock, and by the process's CPU time."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.clock)

    @contextmanager
    def one(self) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.clock.append(time.perf_counter() - began)
        self.cpu.append(time.process_time() - cpu)


@dataclass
class _Bench:
    """Makes a cell's batches, and times them."""

    cell: Cell
    pool: ModelPool
    model: Model
    device: str
    counter: Counter | str
    others: float
    memory: str = ""

    def measure(self, size: int, asked: Profile) -> BatchProfile:
        """A batch to warm up; then untimed and timed ones by turns, so that a machine's moods meet both alike."""
        requests = self._requests(size)
        self._make(requests)
        rest = round(devices.held_mb(self.device), 1)
        timed: list[list[Span]] = []
        plain, watched = _Taken(), _Taken()
        before = self.counter.read() if isinstance(self.counter, Counter) else 0.0
        with PeakMemory(self.device) as peak:
            while not asked.enough(len(timed), plain.total + watched.total):
                recorder = self._recorder()
                turns = [(plain, None), (watched, recorder)]
                for taken, by in turns if len(timed) % 2 == 0 else turns[::-1]:
                    with taken.one():
                        self._make(requests, by)
                timed.append(recorder.spans())
            peak_mb = peak.peak_mb()
        made = 2 * len(timed) * size
        self.memory = peak.how
        spans = min(timed, key=lambda spans: spans[0].total)
        return BatchProfile(
            size,
            seconds=min(plain.clock) / size,
            each=tuple(seconds / size for seconds in plain.clock),
            peak_mb=max(peak_mb, rest) - self.others,
            rest_mb=rest - self.others,
            parts=_costs(spans, size),
            spans=tuple(spans),
            whole=spans[0].total / size,
            adds_up=Ratio.of([spans[0].total for spans in timed], plain.clock),
            adds_up_cpu=Ratio.of(watched.cpu, plain.cpu) if self.device == "cpu" else None,
            joules=self.counter.since(before) / made if isinstance(self.counter, Counter) else None,
        )

    def count_flops(self, size: int) -> tuple[dict[str, float], str | None]:
        """By part FLOPs per image; or why they cannot be counted. One more batch, as torch sees its operators."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode, mm_flop

        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._int_mm: mm_flop})
        recorder = Recorder(counter.get_total_flops, lambda began, ended: float(ended - began))
        try:
            with counter:
                self._make(self._requests(size), recorder)
        except Exception as error:  # a compiled or exported network need not bear to be looked into
            if devices.is_out_of_memory(error):
                raise
            return {}, f"FLOPs cannot be counted: {one_line(error, 160)}"
        flops: dict[str, float] = {}
        for span in recorder.spans():
            flops[span.part] = flops.get(span.part, 0.0) + span.own / size
        return flops, None

    def rated(self, parts: Sequence[PartCost], flops: Mapping[str, float]) -> tuple[PartCost, ...]:
        """The parts with their FLOPs, where any were counted, and their share of the device's matrix rate."""
        dtypes = {part.name: part.dtype for part in self.model.timed_parts()}
        made = []
        for part in parts:
            count, dtype = flops.get(part.part, 0.0), dtypes.get(part.part)
            if count and part.seconds > 0:
                rate = count / part.seconds
                share = rate / matrix_rate(self.device, dtype)[0] if dtype is not None else None
                part = replace(part, flops=count, rate=rate, of_matrix_rate=share)
            made.append(part)
        return tuple(made)

    def _requests(self, size: int) -> list[Request]:
        """The cell's first samples that share the first one's settings; of too few the first come again."""
        built, indices = self.pool.built(self.cell), range(self.cell.num_samples)
        first = built.own_settings(0)
        alike = list(itertools.islice((i for i in indices if built.own_settings(i) == first), size))
        return self.pool.requests(self.cell, [alike[i % len(alike)] for i in range(size)])

    def _recorder(self) -> Recorder:
        """On CUDA by events, which hold up neither the host nor the device: a part's time is the device's."""
        if self.device.startswith("cuda"):
            return Recorder(lambda: devices.mark(self.device), _event_seconds)
        return Recorder(self._clock, lambda began, ended: ended - began)

    def _clock(self) -> float:
        devices.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def _watched(self, recorder: Recorder) -> Iterator[None]:
        copies = [(COPIES, DeviceImages, "__init__"), (COPIES, DeviceImages, "fetch")]
        with recorder.watching([*((p.name, p.owner, p.method) for p in self.model.timed_parts()), *copies]):
            yield

    def _make(self, requests: Sequence[Request], recorder: Recorder | None = None) -> None:
        """One batch, from its requests to its PNGs."""
        built = self.pool.built(self.cell)
        self.model.keep_in(FetchedImages())  # images that a model keeps would be read, not made
        with recorder.span(REST) if recorder else nullcontext(), self._watched(recorder) if recorder else nullcontext():
            settings = {**self.cell.call_settings, **requests[0].settings}
            made = self.model.generate(requests, sampler=built.sampler, settings=settings)
            images = made.images
            for image in images:
                with recorder.span(PNG) if recorder else nullcontext():
                    encode_png(image)


def _event_seconds(began: Any, ended: Any) -> float:
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000


def _costs(spans: Sequence[Span], size: int) -> tuple[PartCost, ...]:
    """By part, in the order in which they first ran, the rest last."""
    groups: dict[str, list[Span]] = {}
    for span in spans:
        groups.setdefault(span.part, []).append(span)
    groups[REST] = groups.pop(REST)
    return tuple(
        PartCost(part, len(group), sum(s.own for s in group) / size, tuple(s.own for s in group))
        for part, group in groups.items()
    )
