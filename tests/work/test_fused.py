"""Features of images in hand are those of images read back, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.config.compose import compose, resolve
from evalkit.errors import UnsuitedError
from evalkit.extractors.digits import Digits
from evalkit.lint.parts import Parts
from evalkit.lint.pixels import PixelScan
from evalkit.lint.watch import Watch
from evalkit.plan.plan import Plan, make_plan
from evalkit.samples.store import SampleSet
from evalkit.utils.blobs import LocalBlobs
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
