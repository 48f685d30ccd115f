"""The store, and the sample sets in it: the on-disk format of generated images.

    <root>/samples/<name>-<key8>/cell.json
                                 shards/00000/{000000.png ... 000255.png, metadata.jsonl}
                                 shards/00002-048/{000512.png ... 000559.png, metadata.jsonl}

Shard k holds the samples [k * shard_size, (k + 1) * shard_size) of a cell; `shard_size` is fixed when the cell is first
made and stands in cell.json. The last shard of a set is often cut short: its folder's name ends with the number of its
samples. A shard is never changed: a set that grows gets a longer version of its last shard next to the shorter one, and
of the versions the shortest that suffices is read, so that a set of N samples stays the same whatever is added later.

A shard's folder opens as a Hugging Face imagefolder. Its metadata.jsonl has one line per image: file_name, index,
prompt, negative_prompt, category, class_id, seed, sha256 (of the file), width, height, latency_s (of one image), batch
(images made together), warmup, load (tasks per core), others (part of the machine that other processes took), beside
(workers of the run on the machine, where there were several), nfe, device, peak_memory_mb, warnings, check (of the
line). Images that were asked for side by side (of a service) have a latency_s of their own, and clock_s: their share of
the clock (none for those that an earlier run had fetched).
"""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cell import KEY_SHOWN, Cell
from evalkit.data.shard_format import METADATA, parse_shard
from evalkit.data.source import FileImages, GenerationStats, Headers, kinds_of
from evalkit.errors import DataError, StoreError
from evalkit.samples import costs
from evalkit.samples.rows import Row, check_asked, read_rows
from evalkit.utils.files import writing
from evalkit.utils.json_files import read_checked, read_json, write_checked

if TYPE_CHECKING:
    from evalkit.samples.model_pool import BuiltCell

FORMAT = 1
SHARD_SAMPLES = 256
SHARD_BYTES = 64_000_000  # of pixels: the work that a kill can lose


@dataclass(frozen=True)
class Store:
    """The folder of samples, features and scores that runs share."""

    root: Path

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    def sample_folder(self, cell: Cell) -> Path:
        """A cell's folder: the one with its key, whatever name another run gave it; else <name>-<key8>, to be made."""
        ending = f"-{cell.key[:KEY_SHOWN]}"
        named = self.samples / f"{cell.name}{ending}"
        if not named.is_dir() and self.samples.is_dir():
            # Listed, not globbed: a name may hold brackets.
            others = sorted(path for path in self.samples.iterdir() if path.name.endswith(ending) and path.is_dir())
            return others[0] if others else named
        return named

    def free_bytes(self) -> int:
        """Free space on the store's disk; the root need not exist yet."""
        path = self.root.absolute()
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free


@dataclass(frozen=True, eq=False)
class SampleSet(FileImages):
    """The first samples of a cell, complete. It is a `Source`.

    Attributes:
        name: the cell's.
        files: the images in the order of their indices.
        rows: their lines of metadata.jsonl.
        shards: the indices of each shard's images; none: as a source that is not made in shards.
    """

    remedy = "delete this shard's folder, and the next run makes it again"
    name: str
    files: tuple[Path, ...]
    rows: tuple[Mapping[str, Any], ...]
    shards: tuple[range, ...] = ()

    @classmethod
    def open(cls, store: Store, cell: Cell, built: BuiltCell | None = None) -> SampleSet:
        """The first `cell.num_samples` samples.

        Args:
            store: where they are.
            cell: whose.
            built: what the cell asks for, which the samples are compared with.

        Raises:
            StoreError: some are not made yet, or a shard is damaged (which, and how to fix it).
        """
        missing = cls.missing(store, cell)
        if missing:
            count = sum(stop - start for start, stop in missing)
            raise StoreError(f"{cell.name}: {count} of {cell.num_samples} samples are not made yet: run again")
        folder = store.sample_folder(cell)
        files: list[Path] = []
        rows: list[Mapping[str, Any]] = []
        shards = _shards(folder, cell)
        for start, stop, shard in shards:
            assert shard is not None  # nothing is missing
            lines = read_metadata(shard, cell.key)
            if [row["index"] for row in lines[: stop - start]] != list(range(start, stop)):
                raise _damaged(shard, f"{METADATA} does not tell of the samples {start} to {stop - 1}")
            if built is not None:
                _check_asked(shard, lines[: stop - start], cell, built)
            rows += lines[: stop - start]
            files += [shard / str(row["file_name"]) for row in lines[: stop - start]]
        return cls(cell.name, tuple(files), tuple(rows), tuple(range(start, stop) for start, stop, _ in shards))

    @property
    def chunks(self) -> Sequence[range]:
        return self.shards or super().chunks

    @staticmethod
    def missing(store: Store, cell: Cell) -> list[tuple[int, int]]:
        """The shards still to make, as (start, stop): whole ones, and a last one that ends at `cell.num_samples`.

        Raises:
            StoreError: the cell's folder is not what it should be (which file, and how to fix it).
        """
        folder = store.sample_folder(cell)
        return [(start, stop) for start, stop, shard in _shards(folder, cell) if shard is None]

    @classmethod
    def count_missing(cls, store: Store, cell: Cell) -> int:
        """How many samples are still to make; where none is there, no list of their shards is made for it."""
        folder = store.sample_folder(cell)
        if not folder.is_dir():
            return cell.num_samples
        return sum(stop - start for start, stop in cls.missing(store, cell))

    @functools.cached_property
    def sha256s(self) -> Sequence[str]:
        return [str(row["sha256"]) for row in self.rows]

    @functools.cached_property
    def prompts(self) -> Sequence[str | None]:
        return tuple(row["prompt"] for row in self.rows)

    @functools.cached_property
    def warnings(self) -> Mapping[str, int]:
        return dict(Counter(kind for row in self.rows for kind in row["warnings"]))

    @property
    def categories(self) -> Sequence[str | None]:
        return [row.get("category") for row in self.rows]

    def headers(self) -> Headers:
        return Headers(
            sizes=[(int(row["width"]), int(row["height"])) for row in self.rows],
            formats=["PNG"] * len(self),
            kinds=[kinds_of("RGB", tuple(row["warnings"])) for row in self.rows],
            sha256s=self.sha256s,
            made=self.files,
        )

    def stats(self) -> GenerationStats:
        import numpy as np

        timed = costs.timed(self.rows) or list(self.rows)
        latencies = [float(row["latency_s"]) for row in timed]
        clock = [float(s) for row in timed if (s := row.get("clock_s", row["latency_s"])) is not None] or latencies
        evaluations = [float(row["nfe"]) for row in self.rows if row["nfe"] is not None]
        peaks = [float(row["peak_memory_mb"]) for row in self.rows if row["peak_memory_mb"] is not None]
        batches = costs.repeats(timed)
        return GenerationStats(
            doubt=costs.doubt(self.rows),
            stderrs={"latency_p50": costs.median_stderr(batches), "images_per_second": costs.rate_stderr(batches)},
            latency_p50=float(np.percentile(latencies, 50)),
            latency_p95=float(np.percentile(latencies, 95)),
            images_per_second=len(clock) / max(sum(clock), 1e-9),
            nfe=sum(evaluations) / len(evaluations) if evaluations else None,
            peak_memory_mb=max(peaks) if peaks else None,
            device=" + ".join(sorted({str(row["device"]) for row in self.rows})),
            batch_size=max(int(row["batch"]) for row in self.rows),
            blanked=self.warnings.get("blanked", 0),
            beside=max(int(row.get("beside", 1)) for row in timed),
        )


def shard_name(start: int, stop: int, size: int) -> str:
    """The folder's name of the samples [start, stop), where `size` samples fill a shard."""
    name = f"{start // size:05d}"
    return name if stop - start == size else f"{name}-{stop - start:03d}"


def image_size(cell: Cell) -> tuple[int, int] | None:
    """Height and width of a cell's images where its options name them."""
    model = cell.options.get("model") or {}
    for values in (cell.call_settings, cell.settings, model):
        height, width = values.get("height"), values.get("width")
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    return None


def shard_size(folder: Path, cell: Cell) -> int:
    """Samples in a full shard: as recorded in cell.json; for a new cell a power of two, 256 or less by image size.

    Raises:
        StoreError: cell.json is not readable, or is another cell's.
    """
    path = folder / "cell.json"
    try:
        recorded = read_cell(path)
        key, size, version = recorded["key"], int(recorded["shard_size"]), recorded["format"]
    except FileNotFoundError:
        if (folder / "shards").is_dir() and any(parse_shard(p.name) for p in (folder / "shards").iterdir()):
            raise StoreError(f"{path} is missing next to its shards: put it back, or delete {folder}") from None
        image = image_size(cell)
        fitting = min(SHARD_BYTES // (image[0] * image[1] * 3), SHARD_SAMPLES) if image else SHARD_SAMPLES
        return 1 << max(fitting.bit_length() - 1, 0)  # powers of two hold whole batches of the usual sizes
    except DataError as error:
        raise StoreError(f"{error}: put it back, or delete {folder} to make it again") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({type(error).__name__}): delete {folder} to make it again") from error
    if version != FORMAT:
        raise StoreError(f"{path}: format {version}, but this evalkit reads format {FORMAT}: use another store=FOLDER")
    if key != cell.key:
        planned, longer = cell.key, 2 * KEY_SHOWN  # the folder is found by the first KEY_SHOWN characters alone
        raise StoreError(
            f"{path} is of another cell ({key[:longer]}, not {planned[:longer]}): use another store=FOLDER"
        )
    return size


def read_cell(path: Path) -> dict[str, Any]:
    """A cell.json; those of evalkit 0.1.0 have no digest.

    Raises:
        OSError, DataError: it cannot be read, or was altered.
    """
    recorded = read_json(path, finite=True)
    if not isinstance(recorded, dict):
        raise DataError(f"{path}: not a JSON object")
    if recorded.keys() <= {"format", "shard_size", *Cell.__dataclass_fields__}:
        return recorded
    return read_checked(path)


def prepare_folder(folder: Path, cell: Cell) -> int:
    """Makes a cell's folder with its cell.json where there is none; returns the shard size."""
    size = shard_size(folder, cell)
    if not (folder / "cell.json").exists():
        about = {name: value for name, value in cell.spec().items() if name != "num_samples"}
        with writing(folder):
            write_checked(folder / "cell.json", {"format": FORMAT, "shard_size": size, **about})
    with writing(folder):
        (folder / "shards").mkdir(exist_ok=True)
    return size


def _shards(folder: Path, cell: Cell) -> list[tuple[int, int, Path | None]]:
    """(start, stop, folder) of all shards of the first `cell.num_samples` samples; folder none: still to make."""
    size = shard_size(folder, cell)
    versions: dict[int, list[tuple[int, Path]]] = {}
    for path in (folder / "shards").iterdir() if (folder / "shards").is_dir() else ():
        parsed = parse_shard(path.name)
        if parsed:
            versions.setdefault(parsed[0], []).append((parsed[1] or size, path))
    shards: list[tuple[int, int, Path | None]] = []
    for start in range(0, cell.num_samples, size):
        stop = min(start + size, cell.num_samples)
        fitting = [version for version in versions.get(start // size, []) if version[0] >= stop - start]
        chosen = min(fitting, default=None)
        if chosen:
            check_whole(chosen[1], chosen[0])
        shards.append((start, stop, chosen[1] if chosen else None))
    return shards


def check_whole(shard: Path, count: int) -> None:
    """Raises StoreError where a shard's folder lacks files. Cheap: content is verified when it is read."""
    names = {path.name for path in shard.iterdir()}
    if METADATA not in names:
        raise _damaged(shard, f"{METADATA} is missing")
    images = sum(name.endswith(".png") for name in names)
    if images != count:
        raise _damaged(shard, f"{images} images where {count} were made")


def read_metadata(shard: Path, key: str) -> list[dict[str, Any]]:
    """The lines of the metadata.jsonl of a shard of the cell with a key; StoreError where it is damaged."""
    try:
        return read_rows((shard / METADATA).read_text(encoding="utf-8"), key)
    except DataError as error:
        raise _damaged(shard, f"{METADATA}: {error}") from error
    except (OSError, ValueError) as error:
        raise _damaged(shard, f"{METADATA} cannot be read: {error}") from error


def _check_asked(shard: Path, rows: Sequence[Row], cell: Cell, built: BuiltCell) -> None:
    try:
        for row in rows:
            check_asked(row, built.request(row["index"], cell.seed))
    except DataError as error:
        raise _damaged(shard, f"{METADATA}: {error}") from error


def _damaged(shard: Path, what: str) -> StoreError:
    return StoreError(f"{shard} is damaged: {what}: delete this folder, and the next run makes it again")
