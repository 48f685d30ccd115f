"""Features of images in hand are those of images read back, to the last bit."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_models import Noise

from evalkit.config.compose import compose, resolve
from evalkit.data.codec import encode_png
from evalkit.errors import UnsuitedError
from evalkit.extractors.digits import Digits
from evalkit.lint.parts import Parts
from evalkit.lint.pixels import PixelScan
from evalkit.lint.watch import Watch
from evalkit.plan.plan import Plan, make_plan
from evalkit.samples.batches import Batch
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.store import SampleSet
from evalkit.utils import devices
from evalkit.utils.blobs import LocalBlobs
from evalkit.utils.processes import Processes
from evalkit.work.units import Extract, Shard
from evalkit.work.worker import Worker

METRICS = "metric=[is_digits,clip_score_digits,vendi_digits]"


def plan_of(folder: Path, size: int, count: int, **model: Any) -> Plan:
    words = ["experiment=digits", METRICS, "reference=none", f"num_samples={count}", f"store={folder}", "device=cpu"]
    config = resolve(compose([*words, "model=[digits_dcgan]", "batch_size=16"]))
    noise = {"_target_": "fake_models.Noise", "size": size, **model}
    return make_plan(replace(config, model={"noise": noise}))


def shards(plan: Plan) -> list[Shard]:
    return [Shard(cell.name, *shard) for cell in plan.cells for shard in SampleSet.missing(plan.store, cell)]


def make(worker: Worker) -> None:
    for shard in shards(worker.plan):
        worker.run(shard, lambda name, count: None)


def features(plan: Plan) -> dict[str, bytes]:
    folder = plan.store.root / "features"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(("size", "count"), [(32, 300), (256, 20), (1024, 2)])
def test_in_hand_as_read_back(tmp_path: Path, size: int, count: int) -> None:
    """A whole shard and a short one; small and large images."""
    fused, apart = (Worker(plan_of(tmp_path / name, size, count), fuse=name == "fused") for name in ("fused", "apart"))
    make(fused)
    make(apart)
    assert not features(apart.plan)
    (cell,) = apart.plan.cells
    source = apart.source(cell.name)
    addresses = tuple({address for metric in apart.plan.metrics.values() for address in metric.needs})
    for chunk in source.chunks:
        apart.run(Extract(cell.name, chunk.start, chunk.stop, addresses), lambda name, count: None)
    assert features(fused.plan) == features(apart.plan)
    assert len(features(fused.plan)) == 3 * len(source.chunks)  # two layers of digits, the images' one of digits_clip


def test_an_extractor_that_cannot_is_left_to_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, and the shard is made."""

    def refuse(*args: Any) -> None:
        raise UnsuitedError("not these images", "digits")

    monkeypatch.setattr(Digits, "load", refuse)
    worker = Worker(plan_of(tmp_path, 32, 20), fuse=True)
    make(worker)
    assert shards(worker.plan) == []
    assert {name.partition("-")[0] for name in features(worker.plan)} == {"digits_clip"}


def test_extractors_give_way_where_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them fails: all samples are made, and no more is tried."""
    tries = []

    def full(*args: Any) -> None:
        tries.append(args)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Digits, "load", full)
    worker = Worker(plan_of(tmp_path, 32, 300), fuse=True)
    make(worker)
    assert shards(worker.plan) == []
    assert len(tries) == 1


def test_a_model_that_runs_out_of_memory_next_to_them(tmp_path: Path) -> None:
    """The extractors give way before batches are halved, so that batches are those of a device of one's own."""
    log = tmp_path / "log"
    worker = Worker(plan_of(tmp_path, 32, 300, log=str(log)), fuse=True)
    first, second = shards(worker.plan)
    worker.run(first, lambda name, count: None)
    model = worker.plan.built[worker.plan.cells[0].key].model
    generate = model.generate

    def once_full(*args: Any, **about: Any) -> Any:
        model.generate = generate  # type: ignore[method-assign]
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.generate = once_full  # type: ignore[method-assign]
    there = len(features(worker.plan))
    worker.run(second, lambda name, count: None)
    assert [line.split()[1] for line in log.read_text().splitlines() if line[0].isdigit()] == ["16"] * 18 + ["12"]
    assert len(features(worker.plan)) == there


@pytest.mark.parametrize(("size", "count"), [(32, 300), (256, 20)])
def test_lint_of_images_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, count: int) -> None:
    """What is measured of a set is the same from shards in hand, from chunks that were read, and from the set."""
    worker = Worker(plan_of(tmp_path / "runs", size, count), fuse=True)
    worker.parts = Parts(LocalBlobs(tmp_path / "hand"))
    make(worker)
    source = worker.source(worker.plan.cells[0].name)
    sizes = Counter(source.headers().sizes)
    expected = PixelScan(source, sizes).finish()
    reader = Worker(worker.plan)
    reader.parts = Parts(LocalBlobs(tmp_path / "read"))
    for path in (tmp_path / "runs" / "features").rglob("*.safetensors"):
        path.unlink()
    for chunk in source.chunks:
        reader.run(Extract(source.name, chunk.start, chunk.stop, ("digits/features",)), lambda name, count: None)
    monkeypatch.setattr(type(source), "read", lambda *args: pytest.fail("an image was read"))
    for name in ("hand", "read"):
        parts = Parts(LocalBlobs(tmp_path / name))
        assert len(parts.there) == len(source.chunks)
        assert Watch(tmp_path / "lint", parts=parts).scan_of(source, sizes).finish() == expected
    assert expected[0].looked == count


def test_a_part_that_is_damaged_is_measured_anew(tmp_path: Path) -> None:
    worker = Worker(plan_of(tmp_path / "runs", 32, 20), fuse=True)
    worker.parts = Parts(LocalBlobs(tmp_path / "hand"))
    make(worker)
    (file,) = (tmp_path / "hand").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    source = worker.source(worker.plan.cells[0].name)
    sizes = Counter(source.headers().sizes)
    scan = Watch(tmp_path / "lint", parts=Parts(LocalBlobs(tmp_path / "hand"))).scan_of(source, sizes)
    assert scan.finish() == PixelScan(source, sizes).finish()


def test_next_to_a_device_images_are_measured_while_the_next_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device has a batch before the one before is fetched; what is measured in processes is the same."""
    plain = Worker(plan_of(tmp_path / "plain", 32, 80), fuse=True)
    plain.parts = Parts(LocalBlobs(tmp_path / "measured"))
    make(plain)
    events: list[str] = []
    told = threading.Event()
    generate, fetch, call = Noise.generate, Batch.fetch, Processes.__call__

    def noted(what: str, function: Any) -> Any:
        def noting(*args: Any, **about: Any) -> Any:
            events.append(what)
            if what == "make" and events.count("make") == 5:
                assert told.wait(60)  # the last batch: what came before is being measured
            elif what == "measure":
                told.set()
            return function(*args, **about)

        return noting

    monkeypatch.setattr(devices, "is_accelerator", lambda device: True)
    monkeypatch.setattr(ModelPool, "encoder", lambda self, device: encode_png)
    monkeypatch.setattr(Noise, "generate", noted("make", generate))
    monkeypatch.setattr(Batch, "fetch", noted("fetch", fetch))
    monkeypatch.setattr(Processes, "__call__", noted("measure", call))
    worker = Worker(plan_of(tmp_path / "runs", 32, 80), fuse=True)
    worker.parts = Parts(LocalBlobs(tmp_path / "hand"))
    make(worker)
    assert [event for event in events if event != "measure"] == ["make", *["make", "fetch"] * 4, "fetch"]
    assert measured(tmp_path / "hand") == measured(tmp_path / "measured")
    assert features(worker.plan) == features(plain.plan)


def measured(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
