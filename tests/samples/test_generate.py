"""Generation: resumable, killable, the same images whatever the batches; what is made once is never made again."""

from __future__ import annotations

import errno
import io
import json
import logging
import multiprocessing
import os
import pickle
import random
import threading
import time
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_models import make_cell, make_noise
from PIL import Image

from evalkit.engines.base import BESIDE, InProcess, Work
from evalkit.errors import ConfigError, EvalkitError, StoreError
from evalkit.samples import batches, generate, writer
from evalkit.samples.generate import ShardSpec, generate_cells, run_shard
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.store import SampleSet, Store, shard_name
from evalkit.utils.progress import Progress


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def make(cells: Any, store: Store, batch_size: int = 8, **options: Any) -> list[SampleSet]:
    cells = cells if isinstance(cells, list) else [cells]
    generate_cells(cells, store, batch_size=batch_size, device="cpu", **options)
    return [SampleSet.open(store, cell) for cell in cells]


def pixels(samples: SampleSet) -> np.ndarray:
    return np.stack(samples.read(range(len(samples))))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


def leftovers(store: Store) -> list[str]:
    return [p.name for p in store.samples.rglob(".tmp-*")]


def small_shards(monkeypatch: pytest.MonkeyPatch, size: int = 8) -> None:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", size)


def test_the_format_opens_with_json_and_pillow_alone(store: Store) -> None:
    cell = make_cell(300)
    samples = make(cell, store, batch_size=100)[0]
    folder = store.samples / f"{cell.name}-{cell.key[:8]}"
    about = json.loads((folder / "cell.json").read_text())
    assert (about["format"], about["key"], about["shard_size"]) == (1, cell.key, 256)
    assert about["identity"] == cell.identity
    assert "num_samples" not in about
    assert sorted(p.name for p in (folder / "shards").iterdir()) == ["00000", "00001-044"]
    seen = 0
    for shard in sorted((folder / "shards").iterdir()):
        lines = [json.loads(line) for line in (shard / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        assert {p.name for p in shard.iterdir()} == {line["file_name"] for line in lines} | {"metadata.jsonl"}
        for line in lines:
            assert line["index"] == seen
            image = Image.open(shard / line["file_name"])
            assert (image.mode, image.size) == ("RGB", (line["width"], line["height"]))
            assert line["prompt"] == ["a red fox", "zwei Füchse", "drei"][seen % 3]
            seen += 1
    assert seen == 300
    assert set(lines[0]) == {
        *("file_name", "index", "prompt", "negative_prompt", "category", "class_id", "seed", "sha256", "width"),
        *("height", "latency_s", "batch", "warmup", "load", "others", "nfe", "device", "peak_memory_mb", "check"),
    }  # warnings: where there are any
    assert samples.prompts[:2] == ("a red fox", "zwei Füchse")
    assert samples.warnings == {"blanked": 1}
    assert leftovers(store) == []


def test_stats(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which the k-th batch takes 0.4 k seconds; the first is left out."""
    clock = accumulate(seconds for k in range(1, 6) for seconds in (7.0, 0.4 * k))
    monkeypatch.setattr(batches, "time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic))
    stats = make(make_cell(20), store, batch_size=4)[0].stats()
    assert (stats.latency_p50, stats.latency_p95) == pytest.approx((0.35, 0.5))
    assert stats.images_per_second == pytest.approx(16 / (0.8 + 1.2 + 1.6 + 2.0))
    assert (stats.nfe, stats.device, stats.batch_size, stats.blanked) == (3.0, "cpu", 4, 1)
    assert stats.peak_memory_mb is not None
    assert stats.peak_memory_mb > 5


def test_the_first_batch_of_a_loaded_model_is_left_out_of_the_latency(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    samples = make(make_cell(20), store, batch_size=4)[0]
    assert [row["warmup"] for row in samples.rows] == [True] * 4 + [False] * 16
    slow = [{**row, "latency_s": 9.0 if row["warmup"] else 0.5} for row in samples.rows]
    assert SampleSet("x", slow, samples.parts).stats().latency_p95 == 0.5
    assert SampleSet("x", slow[:4], samples.parts).stats().latency_p95 == 9.0  # there are no others


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_change_no_image(batch_size: int, tmp_path: Path) -> None:
    cell = make_cell(70)
    expected = make(cell, Store(tmp_path / "a"), batch_size=16)[0]
    found = make(cell, Store(tmp_path / "b"), batch_size=batch_size)[0]
    np.testing.assert_array_equal(pixels(found), pixels(expected))
    assert found.digest == expected.digest
    assert max(row["batch"] for row in found.rows) == min(batch_size, 64)


def test_a_second_run_writes_nothing_and_loads_nothing(store: Store, tmp_path: Path) -> None:
    cell = make_cell(20, log=str(tmp_path / "log"))
    make(cell, store)
    before, log = tree(store.root), (tmp_path / "log").read_text()
    make(cell, store)
    assert tree(store.root) == before
    assert (tmp_path / "log").read_text() == log
    assert log.split("\n")[:2] == ["load", "0 8"]
    result = run_shard(ShardSpec(cell, 0, 20, 8, "cpu"), store)
    assert not result.made
    assert tree(store.root) == before


def test_each_model_is_loaded_once_whatever_the_order(store: Store, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    cells = [make_cell(4, seed=s, name=n, version=v, log=log) for s in (0, 1) for n, v in (("a", 1), ("b", 2))]
    first = [pixels(s) for s in make(cells, store)]
    assert (tmp_path / "log").read_text().split().count("load") == 2
    other = [pixels(s) for s in make(cells[::-1], Store(tmp_path / "other"))][::-1]
    for a, b in zip(first, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in first}) == 4


def test_more_samples_extend_a_cell(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_shards(monkeypatch)
    log = str(tmp_path / "log")
    short, more, most = make_cell(12, log=log), make_cell(14, log=log), make_cell(20, log=log)
    assert short.key == more.key == most.key
    digest = make(short, store)[0].digest
    before = tree(store.root)
    (tmp_path / "log").write_text("")
    assert SampleSet.missing(store, more) == [(8, 14)]
    assert SampleSet.missing(store, most) == [(8, 16), (16, 20)]
    longest = make(most, store)[0]
    shards = store.sample_folder(short) / "shards"
    assert sorted(p.name for p in shards.iterdir()) == ["00000", "00001", "00001-004", "00002-004"]
    assert (tmp_path / "log").read_text().split("\n")[1:3] == ["8 8", "16 4"]  # the full shard is not made again
    assert {name: tree(store.root)[name] for name in before} == before  # nothing is overwritten
    assert SampleSet.missing(store, more) == []  # a longer version serves
    np.testing.assert_array_equal(pixels(SampleSet.open(store, more)), pixels(longest)[:14])
    assert SampleSet.open(store, short).digest == digest
    assert [p.parent.name for p in SampleSet.open(store, short).files[8:]] == ["00001-004"] * 4


def test_large_images_have_smaller_shards(store: Store) -> None:
    assert SampleSet.missing(store, make_cell(300)) == [(0, 256), (256, 300)]
    assert SampleSet.missing(store, _resized(300, 512)) == [(0, 256), (256, 300)]
    assert SampleSet.missing(store, _resized(130, 1024)) == [(0, 64), (64, 128), (128, 130)]


def _resized(count: int, side: int) -> Any:
    return replace(make_cell(count), settings={"height": side, "width": side})


def test_shard_names() -> None:
    assert [shard_name(*span, 256) for span in ((0, 256), (512, 560))] == ["00000", "00002-048"]


def test_out_of_memory_halves_the_batch_and_goes_on(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch, 32)
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    cell = make_cell(70, holds=5, log=str(tmp_path / "log"))
    found = make(cell, store, batch_size=16)[0]
    expected = make(make_cell(70), Store(tmp_path / "other"))[0]
    np.testing.assert_array_equal(pixels(found), pixels(expected))
    assert [m for m in caplog.messages if "out of memory" in m] == [
        f"{cell.name}: out of memory with 16 images at a time; going on with 8",
        f"{cell.name}: out of memory with 8 images at a time; going on with 4",
    ]  # the smaller size is kept for the shards that follow
    assert {row["batch"] for row in found.rows} == {4, 2}
    assert (tmp_path / "log").read_text().split("\n")[1:5] == ["0 16", "0 8", "0 4", "4 4"]


def test_no_memory_for_a_single_image(store: Store) -> None:
    with pytest.raises(EvalkitError, match="out of memory for a single image"):
        make(make_cell(5, holds=0), store)
    assert leftovers(store) == []


def test_a_model_that_returns_something_else(store: Store) -> None:
    with pytest.raises(TypeError, match=r"returned float32 \[5, 8, 8, 3\] where uint8"):
        make(make_cell(5, _target_="fake_models.Floats"), store)
    assert leftovers(store) == []


def test_ctrl_c_keeps_finished_shards_and_leaves_no_half_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    stopped = make_cell(24, interrupt_at=13, log=str(store.root.parent / "log"))
    with pytest.raises(KeyboardInterrupt):
        make(stopped, store, batch_size=2)
    assert leftovers(store) == []
    assert SampleSet.missing(store, stopped) == [(8, 16), (16, 24)]
    assert (store.root.parent / "log").read_text().splitlines()[-1] == "unload"
    expected = make(make_cell(24), Store(store.root / "other"), batch_size=2)[0]
    assert make(make_cell(24), store, batch_size=2)[0].digest == expected.digest


def test_weights_or_prompts_that_change_under_a_run(store: Store) -> None:
    cell = make_cell(4)
    for part, words in (("model", "weights or options changed"), ("prompts", "its prompts changed")):
        stale = replace(cell, identity={**cell.identity, part: {"another": 1}})
        with pytest.raises(ConfigError, match=words):
            run_shard(ShardSpec(stale, 0, 4, 4, "cpu"), store)
    assert leftovers(store) == []


@pytest.mark.parametrize("value", [0, -1, True, 2.0])
def test_batch_size_is_checked(store: Store, value: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        make(make_cell(4), store, batch_size=value)


def test_devices_are_checked(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"device=cdua: no such device. Did you mean 'cuda'"):
        generate_cells([make_cell(4)], store, batch_size=4, device="cdua")


def test_a_spec_must_be_a_shard(store: Store) -> None:
    for start, stop in ((0, 300), (5, 9), (4, 4)):
        with pytest.raises(ValueError, match="not a shard"):
            run_shard(ShardSpec(make_cell(300), start, stop, 4, "cpu"), store)


def test_a_plans_objects_are_used_as_they_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plan's objects nothing is built, checked or read again; the samples are those of a worker without them."""
    cells = [make_cell(4, seed=seed) for seed in (0, 1)]
    pool = ModelPool({cell.key: ModelPool().built(cells[0]) for cell in cells})
    with monkeypatch.context() as patch:
        patch.setattr("evalkit.samples.model_pool.build", lambda *args: pytest.fail("built again"))
        generate_cells(cells, store, batch_size=4, device="cpu", pool=pool)
    others = Store(store.root / "others")
    for cell in cells:
        run_shard(ShardSpec(cell, 0, 4, 4, "cpu"), others)
        assert SampleSet.open(store, cell).digest == SampleSet.open(others, cell).digest


def test_specs_travel(store: Store) -> None:
    spec = ShardSpec(make_cell(4), 0, 4, 2, "cpu")
    assert run_shard(pickle.loads(pickle.dumps(spec)), pickle.loads(pickle.dumps(store))).made


# A full or read-only disk -----------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> None:
    """From the `after`-th file on, opening a file for writing fails."""
    real, calls = io.open, [0]

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "x" in mode and ".tmp-" in str(file):
            calls[0] += 1
            if calls[0] > after:
                raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", opening)  # what Path.open calls


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device: free some space"),
        (errno.EROFS, "Read-only file system: make it writable"),
        (errno.EACCES, "Permission denied: make it writable"),
    ],
)
@pytest.mark.parametrize("after", [0, 11, 16])
def test_a_disk_that_refuses(
    number: int, words: str, after: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    cell = make_cell(20)
    with monkeypatch.context() as patch:
        failing(patch, number, after)
        with pytest.raises(StoreError, match=words) as caught:
            make(cell, store, batch_size=3)
    assert "\n" not in str(caught.value)
    assert leftovers(store) == []
    kept = {p for p, _ in tree(store.root).items()}
    make(cell, store, batch_size=3)
    assert kept <= set(tree(store.root))  # nothing was lost, and it goes on from there
    assert SampleSet.missing(store, cell) == []


def test_a_store_that_cannot_be_written_is_told_before_any_work(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    cell = make_cell(4, log=str(tmp_path / "log"))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="Read-only file system: make it writable, or give another folder"):
        make(cell, store)
    assert not (tmp_path / "log").exists()


def test_a_finished_cell_is_read_from_a_read_only_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(4)
    make(cell, store)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "rename", "write_text", "write_bytes"):
        monkeypatch.setattr(Path, name, refuse)
    assert len(make(cell, store)[0].read(range(4))) == 4


def test_a_disk_that_is_too_small_is_told_before_the_first_sample(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell(1000, log=str(tmp_path / "log"))
    monkeypatch.setattr(Store, "free_bytes", lambda self: 1_000_000)
    with pytest.raises(StoreError, match=r"need about 4\.1 MB, but 1\.0 MB are free: free some"):
        make(cell, store)
    assert not (tmp_path / "log").exists()
    assert generate.bytes_per_image(_resized(1, 1024)) > 1_500_000


def test_free_bytes_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    assert Store(tmp_path / "not" / "yet").free_bytes() > 0


# Kills and races --------------------------------------------------------------------------------------------------

# A server that has imported everything forks the processes: each starts in some 20 ms instead of seconds.
PROCESSES = multiprocessing.get_context("forkserver") if hasattr(os, "fork") else None
needs_fork = pytest.mark.skipif(PROCESSES is None, reason="processes are forked here")


def start(store: Store, log: Path, count: int = 40, delay: float = 0.01) -> Any:
    """A process that makes a cell of `count` samples in shards of 8 and batches of 3."""
    assert PROCESSES is not None
    PROCESSES.set_forkserver_preload(["fake_models", "evalkit.samples.generate"])
    ready = PROCESSES.Event()
    process = PROCESSES.Process(target=make_noise, args=(store.root, log, count, delay, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    return process


@needs_fork
def test_killed_at_random_moments(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    cell, log = make_cell(40), tmp_path / "log"
    expected = make(cell, Store(tmp_path / "whole"), batch_size=3)[0]
    rng = random.Random(0)
    finished: dict[str, tuple[int, bytes]] = {}
    for _ in range(6):
        process = start(store, log)
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        now = {k: v for k, v in tree(store.root).items() if ".tmp-" not in k} if store.root.exists() else {}
        assert {k: now[k] for k in finished} == finished  # no finished shard is made twice
        finished = now
        for start_, stop in SampleSet.missing(store, cell):
            assert not (store.sample_folder(cell) / "shards" / shard_name(start_, stop, 8)).exists()
    process = start(store, log)
    process.join(60)
    assert process.exitcode == 0
    now = tree(store.root)
    assert {k: now[k] for k in finished} == finished
    assert leftovers(store) == []
    found = SampleSet.open(store, cell)
    assert found.digest == expected.digest
    np.testing.assert_array_equal(pixels(found), pixels(expected))


@needs_fork
def test_two_processes_make_the_same_cell(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    processes = [start(store, tmp_path / f"log{i}") for i in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    cell = make_cell(40)
    expected = make(cell, Store(tmp_path / "whole"), batch_size=3)[0]
    assert SampleSet.open(store, cell).digest == expected.digest
    assert leftovers(store) == []
    shards = sorted(p.name for p in (store.sample_folder(cell) / "shards").iterdir())
    assert shards == [f"{i:05d}" for i in range(5)]


def test_the_first_to_arrive_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell(6)
    folder = store.sample_folder(cell)
    real = writer.ShardWriter.commit

    def late(self: writer.ShardWriter) -> bool:
        monkeypatch.setattr(writer.ShardWriter, "commit", real)
        thread = threading.Thread(target=run_elsewhere)  # holds no lock of ours: as another process
        thread.start()
        thread.join()
        return real(self)

    def run_elsewhere() -> None:
        about = {"negative_prompt": None, "category": None, "class_id": None, "seed": 0, "warnings": [], "batch": 1}
        about |= {"prompt": None, "latency_s": 0.1, "warmup": False, "nfe": None, "device": "x", "peak_memory_mb": None}
        with writer.ShardWriter(writer.FolderTarget(folder / "shards" / "00000-006"), cell.key) as other:
            for i in range(6):
                other.add({"file_name": f"{i:06d}.png", "index": i, **about}, np.full((2, 2, 3), i, np.uint8))
            assert other.commit()

    monkeypatch.setattr(writer.ShardWriter, "commit", late)
    result = run_shard(ShardSpec(cell, 0, 6, 6, "cpu"), store)
    assert not result.made
    assert SampleSet.open(store, cell).read(range(6))[5].tolist() == np.full((2, 2, 3), 5).tolist()
    assert leftovers(store) == []


# Engines and progress ---------------------------------------------------------------------------------------------


def test_any_engine_will_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    counted: list[tuple[str, int]] = []

    class Twice(InProcess):
        """Pickles everything, goes backwards, and runs everything twice."""

        in_process = False

        def map(self, work: Work) -> None:
            assert work.done(work.units) == set()
            run = pickle.loads(pickle.dumps(work.open))()
            for unit in list(work.units)[::-1]:
                for _ in range(2):
                    run(pickle.loads(pickle.dumps(unit)), lambda cell, count: counted.append((cell, count)))
            assert work.done(work.units) == {unit.key for unit in work.units}

    cell = make_cell(20)
    found = make(cell, store, engine=Twice())[0]
    name = "noise-contrast_200"
    assert counted == [(name, 0), (name, 4), (name, 4), *[(name, 0), (name, 8), (name, 8)] * 2]
    assert found.digest == make(cell, Store(store.root / "other"))[0].digest


def test_what_was_made_next_to_other_workers_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch)
    alone = make(make_cell(20), store)[0]
    monkeypatch.setenv(BESIDE, "3")
    found = make(make_cell(20), Store(store.root / "other"))[0]
    assert [row.get("beside") for row in alone.rows] == [None] * 20
    assert [row.get("beside") for row in found.rows] == [3] * 20
    assert (alone.stats().beside, found.stats().beside) == (1, 3)
    assert found.digest == alone.digest


def test_progress_without_a_terminal_is_a_line_a_cell(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.INFO, "evalkit")
    cells = [make_cell(6, seed=seed, name=f"model{seed}") for seed in (0, 1)]
    make(cells, store)
    assert [m.split(" in ")[0] for m in caplog.messages] == [f"{cell.name}: 6 images" for cell in cells]
    assert all("images/s" in m for m in caplog.messages)
    assert "".join(capsys.readouterr()) == ""


def test_progress_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress({"[first]": 10, "second": 4}, live=True) as progress:
        progress.advance("[first]", 0)
        progress.advance("[first]", 4)
        progress.advance("[first]", 6)
        progress.advance("second", 4)
    error = capsys.readouterr().err
    assert "[first]: 10 images" in error
    assert "second: 4 images" in error
    assert "all 2 cells" in error
    assert "14/14" in error


def test_no_rate_where_the_clock_began_with_the_last_image(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.INFO, "evalkit")
    with Progress({"at once": 24, "in two": 2}, live=False) as progress:
        progress.advance("at once", 24)
        progress.advance("in two", 1)
        time.sleep(0.01)
        progress.advance("in two", 1)
    assert caplog.messages[0] == "at once: 24 images"
    assert "images/s" in caplog.messages[1]
