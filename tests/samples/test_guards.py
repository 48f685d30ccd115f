"""What reopening a cell asks of its store, by counts: the same per shard and per image from 10 to 1,000 shards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from counted_calls import counted
from fake_models import make_cell
from flaky_blobs import FlakyBlobs

from evalkit.cell import Cell
from evalkit.samples import manifest
from evalkit.samples.cells import look
from evalkit.samples.columns import Columns
from evalkit.samples.generate import ShardSpec, generate_cells, run_shard
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.rows import write_rows
from evalkit.samples.store import SampleSet, Store
from evalkit.utils.blobs import FsspecBlobs

SHARD = 2  # samples
PROMPTS = ("a red fox", "zwei Füchse", "drei")  # of make_cell


def store_at(folder: Path, kind: str) -> Store:
    if kind == "memory":
        return Store(folder, FlakyBlobs(FsspecBlobs(f"memory://guards{folder}/store")))  # which counts
    return Store(folder, shards=kind)


@contextmanager
def counting(store: Store) -> Iterator[Counter[str]]:
    """Counts what is asked of a store meanwhile."""
    if not isinstance(store.remote, FlakyBlobs):
        with counted(store.root) as counts:
            yield counts
        return
    store.remote.counts.clear()
    counts = Counter[str]()
    yield counts
    counts.update(store.remote.counts)


MANY = [250, pytest.param(1000, marks=pytest.mark.slow)]  # shards, next to 10


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_what_is_asked_of_a_store(tmp_path: Path, kind: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", SHARD)
    few, more = (asked_of_cell(store_at(tmp_path / str(shards), kind), shards) for shards in (10, many))
    print(kind, few, more)
    per_shard = {"folder": 2, "zip": 1, "memory": 0}[kind]  # a folder and its metadata; a zip's size
    for asked, shards in ((few, 10), (more, many)):
        assert asked["open"].pop("stat", 0) == per_shard * shards + 2 * (kind != "memory")
        assert asked["lint"].pop("stat", 0) == SHARD * shards * (kind == "folder")
    assert few == more
    assert more["open"] == ({"list": 1, "get": 1} if kind == "memory" else {"list": 2, "open": 2})
    assert not more["lint"]


def asked_of_cell(store: Store, shards: int) -> dict[str, Counter[str]]:
    """What is asked of a store by opening a cell, by the lint, by a further shard, and by reading two shards."""
    cell, pool = make_cell(SHARD * shards), ModelPool()
    generate_cells([cell], store, batch_size=SHARD, device="cpu", pool=pool)
    SampleSet.open(store, cell, pool.built(cell))
    asked: dict[str, Counter[str]] = {}
    with counting(store) as asked["open"]:
        found = look(store, [cell])[cell.key]
        assert not found.missing
        samples = SampleSet.open(store, cell, pool.built(cell), found=found)
        assert len(samples) == SHARD * shards
    made = samples.headers().made
    assert made is not None
    with counting(store) as asked["lint"]:
        made.stamps()
    longer = make_cell(SHARD * (shards + 1))
    with counting(store) as asked["make"]:
        assert run_shard(ShardSpec(longer, SHARD * shards, SHARD * (shards + 1), SHARD, "cpu"), store, pool=pool).made
        assert store.place(longer).fetched(SHARD * shards, SHARD).get(SHARD * shards + 1) is None
    with counting(store) as asked["read"]:
        samples.read(range(2 * SHARD))
    return asked


OPENING = """
import sys
from pathlib import Path
from fake_models import make_cell
from evalkit.samples import cells
from evalkit.samples.store import SampleSet, Store
cells.SHARD_SAMPLES = 2
SampleSet.open(Store(Path(sys.argv[1])), make_cell(int(sys.argv[2]))).headers().made.stamps()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_kernel_counts_the_same(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python's counters might not see."""
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", SHARD)
    for shards in (10, 300):
        folder, cell, pool = tmp_path / f"store{shards}", make_cell(SHARD * shards), ModelPool()
        generate_cells([cell], Store(folder, shards=kind), batch_size=SHARD, device="cpu", pool=pool)
        SampleSet.open(Store(folder), cell, pool.built(cell))
        trace, script = tmp_path / "trace", [sys.executable, "-c", OPENING, str(folder), str(SHARD * shards)]
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = ["strace", "-f", "-e", "trace=%file", "-o", str(trace), *script]
        subprocess.run(command, check=True, env=os.environ | paths)
        calls = [line for line in trace.read_text().splitlines() if f'"{folder}' in line and " ENOENT" not in line]
        with counted(folder) as counts:
            made = SampleSet.open(Store(folder), cell).headers().made
            assert made is not None
            made.stamps()
        seen = Counter("stat" if "stat" in line.partition("(")[0] else "open" for line in calls)
        print(kind, shards, seen, counts)
        assert seen == {"stat": counts["stat"], "open": counts["open"] + counts["list"]}


def test_of_a_large_set_the_lint_looks_at_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", SHARD)
    monkeypatch.setattr("evalkit.samples.sample_set.LOOKED", 20)
    cell, store = make_cell(200), Store(tmp_path)
    generate_cells([cell], store, batch_size=20, device="cpu")
    samples = SampleSet.open(store, cell)
    made = samples.headers().made
    assert made is not None
    with counted(tmp_path) as counts:
        before = made.stamps()
    assert counts == {"stat": 10 * SHARD + 90 * 2}
    samples.files[0].write_bytes(b"written over")  # in a shard whose files are looked at
    other = tmp_path / "another"
    for index in (3, 4):  # files that are replaced, elsewhere
        other.write_bytes(b"put in its place")
        other.replace(samples.files[index])
    assert made.altered(before, made.stamps()) == [0, 3, 4]
    assert made.altered((), made.stamps()) == [0, 3, 4]  # rescan=true


MEMORY = """
import sys
from pathlib import Path
from fake_models import make_cell
from evalkit.samples.cells import look
from evalkit.samples.store import SampleSet, Store

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

held = []
for count in (2_000, 102_000):  # the first one imports what there is to import
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, cell = kilobytes("VmRSS"), make_cell(count)
    store = Store(Path(sys.argv[1]) / str(count))
    samples = SampleSet.open(store, cell, found=look(store, [cell])[cell.key])
    headers, digests = samples.headers(), [samples.digest, *map(samples.chunk_digest, samples.chunks)]
    headers.made.stamps(), samples.prompts, samples.categories, samples.stats()
    held.append((samples, headers, digests))
print(kilobytes("VmRSS") - before, kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_reopened_cell_takes_little_memory(tmp_path: Path) -> None:
    """Resident memory, not Python's own count of it: less than 400 bytes per image, the peak too."""
    for count in (2_000, 102_000):
        write_cell(Store(tmp_path / str(count), shards="zip"), make_cell(count))
    command, paths = [sys.executable, "-c", MEMORY, str(tmp_path)], {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | paths)
    held, peak = (int(kilobytes) * 1024 / 102_000 for kilobytes in run.stdout.split())
    print(f"{held:.0f} bytes per image, at most {peak:.0f}")
    assert held <= peak < 400


def write_cell(store: Store, cell: Cell) -> None:
    """A whole cell but for its images, and its manifest, as generation writes them."""
    place, columns, shards = store.place(cell), [], []
    size = place.prepare()
    for start in range(0, cell.num_samples, size):
        stop = min(start + size, cell.num_samples)
        rows = [row_of(index) for index in range(start, stop)]
        target = place.target(start, stop, size)
        with ExitStack() as stack:
            target.begin(stack)
            target.commit(write_rows(rows, cell.key).encode())
        columns.append(Columns.of(rows))
    shards = [shard for _, _, shard in look(store, [cell])[cell.key].shards if shard is not None]
    whole = manifest.Manifest.of(Columns.joined(columns), shards)
    place.blobs.put(manifest.manifest_name(cell.num_samples, size), manifest.dump(whole, cell.key))


def row_of(index: int) -> dict[str, Any]:
    return {
        **{"file_name": f"{index:06d}.png", "index": index, "prompt": PROMPTS[index % 3], "negative_prompt": None},
        **{"category": None, "class_id": None, "seed": 0, "warnings": [], "latency_s": 0.1 + index // 8 % 7 / 99},
        **{"batch": 8, "warmup": index < 8, "load": 0.3, "others": 0.1, "nfe": 3.0, "device": "cpu"},
        **{"peak_memory_mb": 900.0, "sha256": f"{index:064x}", "width": 8, "height": 8},
    }
