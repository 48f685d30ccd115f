"""The samples of a cell in a store, as a source of images."""

from __future__ import annotations

import functools
import itertools
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.source import (
    GenerationStats,
    Headers,
    WithoutRecords,
    content_digest,
    decode_verified,
    kinds_of,
)
from evalkit.errors import DataError, StoreError, UnsuitedError
from evalkit.samples import costs, manifest, under_load
from evalkit.samples.cells import FoundCell, Home, look
from evalkit.samples.rows import Row, check_asked
from evalkit.samples.shards import Shard, ZipShard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.cell import Cell
    from evalkit.samples.columns import Columns
    from evalkit.samples.manifest import Manifest
    from evalkit.samples.model_pool import BuiltCell

STALE = 90.0  # seconds for which a shared folder or a bucket may not show what another machine has just written
_POLL = 2.0  # seconds between two looks
LOOKED = 4096  # images of folders whose files are looked at in a rerun; of more, those of evenly spread shards


@dataclass(frozen=True, eq=False)
class SampleSet(WithoutRecords):
    """The first samples of a cell, complete. It is a `Source`.

    Attributes:
        name: the cell's.
        rows: their lines of metadata, in the order of their indices.
        parts: the shards that hold them.
        originals: the pictures that they were made from, where prompts name them (`Prompt.source`); empty: none does.
    """

    name: str
    rows: Sequence[Row]
    parts: tuple[Shard, ...] = ()
    originals: Sequence[Path | None] = ()

    @classmethod
    def open(
        cls,
        store: Home,
        cell: Cell,
        built: BuiltCell | None = None,
        *,
        found: FoundCell | None = None,
        wait: float = 0,
    ) -> SampleSet:
        """The first `cell.num_samples` samples: from the cell's manifest, which is written where there is none.

        Args:
            store: where they are.
            cell: whose.
            built: what the cell asks for, which the samples are compared with.
            found: what a listing told of the cell (`look`); none: it is listed now.
            wait: seconds to look again for samples that are not there: other machines have just made them, and what
                they wrote may show late (STALE).

        Raises:
            StoreError: some are not made yet, or a shard is damaged (which, and how to fix it).
        """
        until = time.monotonic() + wait
        found = found or look(store, [cell])[cell.key]
        while found.missing and time.monotonic() < until:
            time.sleep(min(_POLL, wait))
            found = look(store, [cell])[cell.key]
        if found.missing:
            count = sum(stop - start for start, stop in found.missing)
            raise StoreError(f"{cell.name}: {count} of {cell.num_samples} samples are not made yet: run again")
        shards = tuple(shard for _, _, shard in found.shards if shard is not None)
        whole = found.manifest or _read_shards(found, shards, cell, built)
        prompts = None if built is None else built.prompts
        asked = [] if prompts is None else [prompts[i].source for i in range(len(whole.rows))]
        originals = [None if one is None else Path(one) for one in asked] if any(asked) else []
        return cls(cell.name, whole.rows, tuple(_with_places(shards, whole)), originals)

    @staticmethod
    def missing(store: Home, cell: Cell) -> list[tuple[int, int]]:
        """The shards still to make, as (start, stop): whole ones, and a last one that ends at `cell.num_samples`.

        Raises:
            StoreError: the cell's folder is not what it should be (which file, and how to fix it).
        """
        return look(store, [cell])[cell.key].missing

    @classmethod
    def count_missing(cls, store: Home, cell: Cell) -> int:
        """How many samples are still to make; where none is there, no list of their shards is made for it."""
        return look(store, [cell])[cell.key].count_missing()

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def columns(self) -> Columns:
        from evalkit.samples.columns import Columns

        return Columns.of(self.rows)

    @functools.cached_property
    def spans(self) -> tuple[range, ...]:
        """The indices of each shard's samples."""
        ends = [*(shard.start for shard in self.parts[1:]), len(self)]
        return tuple(range(shard.start, stop) for shard, stop in zip(self.parts, ends, strict=True))

    @property
    def chunks(self) -> Sequence[range]:
        return self.spans or super().chunks

    @property
    def files(self) -> tuple[Path, ...]:
        """The images, in the order of their indices."""
        return tuple(Path(self._part(index).location(index)) for index in range(len(self)))

    @property
    def sha256s(self) -> Sequence[str]:
        return self.columns.sha256s

    @functools.cached_property
    def digest(self) -> str:
        return content_digest(self.sha256s)

    def chunk_digest(self, chunk: range) -> str:
        return content_digest(self.sha256s[chunk.start : chunk.stop])

    def _part(self, index: int) -> Shard:
        return self.parts[bisect_right(self._starts, index) - 1]

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [shard.start for shard in self.parts]

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        pixels: list[NDArray[np.uint8]] = []
        for part, group in itertools.groupby(indices, key=self._part):
            pixels += self._read(part, list(group))
        return pixels

    def _read(self, part: Shard, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        if (lost := next((index for index in indices if index in self._not_kept), None)) is not None:
            what = f"{self.name}: the image of sample {lost} was not kept (keep_images)"
            raise UnsuitedError(f"{what}: to have it, delete the cell's shards and give keep_images=all")
        loads = zip(part.loads(indices), indices, strict=True)
        items = [(label, self.sha256s[index], load) for (label, load), index in loads]
        first = self.rows[indices[0]]
        return decode_verified(items, part.remedy, first["width"] * first["height"])

    @functools.cached_property
    def _not_kept(self) -> frozenset[int]:
        """The samples whose images were not to be kept."""
        return frozenset(index for index, kept in enumerate(self.columns.values("kept", True)) if not kept)

    @property
    def remedy(self) -> str:
        return self.parts[0].remedy

    def location(self, index: int) -> str:
        return self._part(index).location(index)

    @functools.cached_property
    def prompts(self) -> Sequence[str | None]:
        return tuple(self.columns.values("prompt"))

    @functools.cached_property
    def warnings(self) -> Mapping[str, int]:
        counts = Counter[str]()
        for kinds, count in self.columns.counts("warnings"):
            counts.update(dict.fromkeys(kinds, count))
        return dict(counts)

    @property
    def class_ids(self) -> Sequence[int | None]:
        """The class that each sample was asked for by; empty where none was."""
        known = self.columns.values("class_id")
        return () if None in known else known

    @property
    def categories(self) -> Sequence[str | None]:
        return self.columns.values("category")

    def headers(self) -> Headers:
        sizes = zip(self.columns.values("width"), self.columns.values("height"), strict=True)
        same: dict[tuple[int, int], tuple[int, int]] = {}  # a pair of a million images is one
        return Headers(
            sizes=[same.setdefault(size, size) for size in sizes],
            formats=["PNG"] * len(self),
            kinds=self.columns.mapped("warnings", lambda kinds: kinds_of("RGB", tuple(kinds)), []),
            sha256s=self.sha256s,
            made=MadeFiles(self),
        )

    def stats(self) -> GenerationStats:
        rows = list(self.columns.timings())
        loaded = [row for row in rows if "measured_at" in row]
        if loaded:
            return self._stats(**vars(under_load.timings(loaded)))
        import numpy as np

        timed = costs.timed(rows) or rows
        latencies = [float(row["latency_s"]) for row in timed]
        clock = [float(s) for row in timed if (s := row.get("clock_s", row["latency_s"])) is not None] or latencies
        batches = costs.repeats(timed)
        return self._stats(
            doubt=costs.doubt(rows),
            stderrs={"latency_p50": costs.median_stderr(batches), "images_per_second": costs.rate_stderr(batches)},
            latency_p50=float(np.percentile(latencies, 50)),
            latency_p95=float(np.percentile(latencies, 95)),
            images_per_second=len(clock) / max(sum(clock), 1e-9),
            beside=max(int(row.get("beside", 1)) for row in timed),
        )

    def _stats(self, **timings: Any) -> GenerationStats:
        """The set's timings, and what else making it cost."""
        evaluations = [float(nfe) for nfe in self.columns.values("nfe") if nfe is not None]
        peaks = [float(peak) for peak in self.columns.values("peak_memory_mb") if peak is not None]
        return GenerationStats(
            **timings,
            nfe=sum(evaluations) / len(evaluations) if evaluations else None,
            peak_memory_mb=max(peaks) if peaks else None,
            device=" + ".join(sorted({str(device) for device in self.columns.values("device")})),
            batch_size=max(map(int, self.columns.values("batch"))),
            blanked=self.warnings.get("blanked", 0),
        )


class MadeFiles:
    """Whether a set's files are still those that were recorded when they were made (`Headers.made`)."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples

    def stamps(self) -> list[str]:
        """One text per shard, which changes when one of its files does.

        A folder's files are looked at one by one (stat) for about LOOKED images of a set. Of other shards the folder is
        looked at, and its metadata: a file that is replaced, comes or goes shows there, one that is written over in
        place does not. A zip's size is known.
        """
        step = max(-(-len(self.samples) // LOOKED), 1)
        parts = enumerate(self._parts())
        return [part.stamp(self._kept(span) if number % step == 0 else ()) for number, (part, span) in parts]

    def altered(self, before: Sequence[str], now: Sequence[str]) -> list[int]:
        """The images whose file is missing or another; only shards whose stamps changed are read.

        Args:
            before, now: what `stamps` gave when the files last agreed with their sha256s, and now.
        """
        digests, bad = self.samples.sha256s, []
        for number, (part, span) in enumerate(self._parts()):
            if number >= len(before) or before[number] != now[number]:
                bad += [index for index in self._kept(span) if not part.same(index, digests[index])]
        return bad

    def _parts(self) -> list[tuple[Shard, range]]:
        return list(zip(self.samples.parts, self.samples.spans, strict=True))

    def _kept(self, span: range) -> list[int]:
        return [index for index in span if index not in self.samples._not_kept]


def _read_shards(found: FoundCell, shards: Sequence[Shard], cell: Cell, built: BuiltCell | None) -> Manifest:
    """A complete cell's lines from its shards, and its manifest written for the next time."""
    from evalkit.samples.columns import Columns

    parts = []
    for shard in shards:
        lines = shard.rows(cell.key)[: cell.num_samples - shard.start]
        if built is not None:
            _check_asked(shard, lines, cell, built)
        parts.append(Columns.of(lines))
    rows = Columns.joined(parts)
    try:
        made = manifest.Manifest.of(rows, shards)
    except OSError as error:
        raise StoreError(f"{found.place.where}: a shard went while it was read ({error}): run again") from error
    if built is not None:  # without, what the cell asks for was not compared with what was made
        name = manifest.manifest_name(cell.num_samples, found.size)
        with suppress(StoreError):  # a read-only store is read as it is
            found.place.blobs.put(name, manifest.dump(made, cell.key))
    return made


def _with_places(shards: Sequence[Shard], whole: Manifest) -> list[Shard]:
    """The shards; zips with the places of their images, so that reading these takes no list."""
    if whole.places is None:
        return list(shards)
    return [
        replace(shard, places=whole.places[shard.start : shard.start + shard.count])
        if isinstance(shard, ZipShard)
        else shard
        for shard in shards
    ]


def _check_asked(shard: Shard, rows: Sequence[Row], cell: Cell, built: BuiltCell) -> None:
    try:
        for row in rows:
            check_asked(row, built.request(row["index"], cell.seed, noise=False))
    except DataError as error:
        raise shard.damaged(f"metadata.jsonl: {error}") from error
