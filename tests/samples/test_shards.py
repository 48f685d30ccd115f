"""Shards that are zips, in a folder and on a URL: the same samples, read by ranges, opened by others' tools."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_models import make_cell
from flaky_blobs import FlakyBlobs

from evalkit.data.open import open_images
from evalkit.errors import ConfigError, DataError, StoreError, UnsuitedError
from evalkit.samples.cells import look
from evalkit.samples.generate import ShardSpec, generate_cells, run_shard
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.sample_set import STALE
from evalkit.samples.store import SampleSet, Store
from evalkit.utils import blobs
from evalkit.utils.blobs import LocalBlobs, PersistentBlobs, open_blobs
from evalkit.utils.files import sha256_bytes

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 8)
    monkeypatch.setattr(blobs, "WAITS", (0.0,) * 7)


def make(store: Store, count: int = 20, **options: Any) -> tuple[Any, SampleSet]:
    cell = make_cell(count, **options)
    generate_cells([cell], store, batch_size=4, device="cpu")
    return cell, SampleSet.open(store, cell, ModelPool().built(cell))


def in_memory(tmp_path: Path, **options: Any) -> Store:
    return Store(tmp_path / "local", open_blobs(f"memory://shards{next(NUMBERS)}/store"), **options)


def faulty(tmp_path: Path, **options: Any) -> Store:
    flaky = FlakyBlobs(LocalBlobs(tmp_path / "store"), 0.1, 0.1, 0.1, seed=next(NUMBERS))
    return Store(tmp_path / "local", PersistentBlobs(flaky), **options)


@pytest.fixture(params=["zip", "memory", "faulty"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "zip":
        yield Store(tmp_path / "store", shards="zip")
    else:
        yield (in_memory if request.param == "memory" else faulty)(tmp_path)


def test_zips_hold_the_same_samples(store: Store, tmp_path: Path) -> None:
    cell, zips = make(store)
    _, folders = make(Store(tmp_path / "folders"))
    assert zips.digest == folders.digest
    assert [zips.chunk_digest(c) for c in zips.chunks] == [folders.chunk_digest(c) for c in folders.chunks]
    assert (zips.prompts, zips.warnings, zips.categories) == (folders.prompts, folders.warnings, folders.categories)
    for indices in (range(20), range(3, 19, 5), range(7, 9), range(19, 20), range(0)):
        for one, other in zip(zips.read(indices), folders.read(indices), strict=True):
            np.testing.assert_array_equal(one, other)
    assert zips.location(9).endswith("shards/00001.zip/000009.png")
    keys = sorted(key.rpartition("/")[2] for key, _ in store.blobs.list("samples/"))
    assert keys == ["00000.zip", "00001.zip", "00002-004.zip", "cell.json", "manifest-20-8.safetensors"]
    again = SampleSet.open(store, cell)  # from the manifest
    assert again.rows == zips.rows
    assert again.read(range(20))[11].tolist() == folders.read(range(11, 12))[0].tolist()


def test_a_set_of_zips_grows(store: Store) -> None:
    _, short = make(store, 12)
    assert SampleSet.missing(store, make_cell(20)) == [(8, 16), (16, 20)]
    _, long = make(store, 20)
    assert long.digest != short.digest
    assert SampleSet.open(store, make_cell(12)).digest == short.digest
    assert list(long.rows[:8]) == list(short.rows[:8])


def test_the_first_to_put_a_zip_wins(store: Store) -> None:
    cell, samples = make(store, 8)
    place = store.place(cell)
    assert not place.target(0, 8, 8).blobs.put_new("shards/00000.zip", b"another")
    result = run_shard(ShardSpec(cell, 0, 8, 4, "cpu"), store)
    assert not result.made
    assert SampleSet.open(store, cell).digest == samples.digest


def test_other_tools_open_the_zips(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    _, samples = make(Store(tmp_path / "store", shards="zip"), 12)
    zips = sorted(map(str, (tmp_path / "store").rglob("*.zip")))
    with zipfile.ZipFile(zips[0]) as opened:
        assert [info.filename for info in opened.infolist()][-1] == "metadata.jsonl"
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
    # All of one call are to have the types of the first that is read; only sample 5 has warnings.
    cache = str(tmp_path / "cache")
    shards = datasets.load_dataset("imagefolder", data_files=zips, split="train", cache_dir=cache)
    loaded = sorted(shards, key=lambda row: row["index"])
    assert [row["prompt"] for row in loaded] == list(samples.prompts)
    assert "warnings" in Path(zips[0]).read_bytes().decode("latin-1")
    assert "warnings" not in Path(zips[1]).read_bytes().decode("latin-1")
    for row, pixels in zip(loaded, samples.read(range(12)), strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), pixels)
    assert len(open_images(Path(zips[0]))) == 8


def test_lines_with_an_empty_list_of_warnings_are_read(tmp_path: Path) -> None:
    """As all lines had it once; a line's digest is of the line as it stands."""
    cell, samples = make(Store(tmp_path), 8)
    (file,) = tmp_path.rglob("metadata.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    bodies = [json.dumps({"warnings": [], **line} | {"check": None}).removesuffix(', "check": null}') for line in lines]
    checks = [sha256_bytes(f"{cell.key}\n{body}".encode())[:16] for body in bodies]
    file.write_text("".join(f'{body}, "check": "{c}"}}\n' for body, c in zip(bodies, checks, strict=True)))
    assert file.read_text().count('"warnings": []') == 7  # the image at 5 has one
    assert SampleSet.open(Store(tmp_path), cell).rows == samples.rows


def test_a_damaged_zip_is_never_scored(tmp_path: Path) -> None:
    cell, samples = make(Store(tmp_path / "store", shards="zip"), 12)
    path = next((tmp_path / "store").rglob("00000.zip"))
    whole = path.read_bytes()
    for at in range(40, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        said = None
        try:
            fresh = SampleSet.open(Store(tmp_path / "store"), cell)
            read = fresh.read(range(12))
        except (DataError, StoreError) as error:
            said = str(error)
        if said is not None:
            assert re.search(r"00000\.zip.*delete this (shard's )?file", said)
        else:
            assert fresh.digest == samples.digest
            for one, other in zip(read, samples.read(range(12)), strict=True):
                np.testing.assert_array_equal(one, other)
    path.write_bytes(whole[:-30])
    for manifest in (tmp_path / "store").rglob("manifest-*"):
        manifest.unlink()
    with pytest.raises(StoreError, match=r"00000\.zip is damaged: .*delete this file, and the next run makes it again"):
        SampleSet.open(Store(tmp_path / "store"), cell)


# What a listing does not show yet -----------------------------------------------------------------------------------


def test_what_was_just_made_may_show_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = FlakyBlobs(LocalBlobs(tmp_path / "store"), stale=1e9)
    store = Store(tmp_path / "local", PersistentBlobs(flaky))
    cell = make_cell(12)
    generate_cells([cell], store, batch_size=4, device="cpu")
    with pytest.raises(StoreError, match="12 of 12 samples are not made yet"):
        SampleSet.open(store, cell)
    with pytest.raises(StoreError, match="not made yet: run again"):
        SampleSet.open(store, cell, wait=0.1)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        flaky.stale = 0.0 if len(waits) == 3 else 1e9

    monkeypatch.setattr("evalkit.samples.sample_set.time.sleep", sleep)
    assert len(SampleSet.open(store, cell, wait=STALE)) == 12
    assert len(waits) == 3


# Which images are kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", ["folder", "zip"])
@pytest.mark.parametrize(("keep", "there"), [("sample", range(8)), ("none", range(0))])
def test_images_that_are_not_kept(tmp_path: Path, shards: str, keep: str, there: range) -> None:
    store = Store(tmp_path / "store", shards=shards, keep_images=keep, sheet=5)
    cell, samples = make(store)
    _, whole = make(Store(tmp_path / "whole"))
    assert samples.digest == whole.digest  # of the files that would have been written
    assert [samples.chunk_digest(c) for c in samples.chunks] == [whole.chunk_digest(c) for c in whole.chunks]
    assert (samples.prompts, samples.stats().nfe) == (whole.prompts, whole.stats().nfe)
    assert len(samples.read(there)) == len(there)
    for indices in (range(8, 9), range(6, 12)):
        with pytest.raises(UnsuitedError, match=r"the image of sample \d+ was not kept \(keep_images\)") as refused:
            samples.read(indices)
        assert "\n" not in str(refused.value)
    pictures = list((tmp_path / "store").rglob("*.png"))
    assert len(pictures) == (len(there) if shards == "folder" else 0)
    for path in (tmp_path / "store").rglob("manifest-*"):
        path.unlink()
    assert SampleSet.missing(store, cell) == []
    assert SampleSet.open(store, cell).rows == samples.rows
    if len(there) and shards == "folder":
        pictures[0].unlink()
        with pytest.raises(StoreError, match="7 images where 8 were made"):
            SampleSet.missing(store, cell)


def test_the_sheets_images_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", keep_images="sample", sheet=11)
    make(store)
    assert len(list((tmp_path / "store").rglob("*.png"))) == 11


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shards": "zips"}, "shards=zips: Did you mean 'zip'"),
        ({"keep_images": "some"}, "keep_images=some: "),
        ({"place": "memory://x", "shards": "folder"}, "shards=folder: store=memory://x is a URL"),
    ],
)
def test_words_that_are_none(options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Store.at(**{"place": "runs", **options})


def test_where_a_store_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.at(f"{tmp_path}/runs") == Store(tmp_path / "runs")
    remote = Store.at("memory://bucket/runs/")
    assert remote.where == "memory://bucket/runs"
    assert remote.root.parent == tmp_path / "evalkit" / "stores"
    assert remote.zips
    assert remote.free_bytes() == float("inf")


# How much is asked of a store ---------------------------------------------------------------------------------------


def test_a_finished_grid_reopens_with_one_listing_and_one_read_per_cell(tmp_path: Path) -> None:
    flaky = FlakyBlobs(LocalBlobs(tmp_path / "store"))
    store = Store(tmp_path / "local", flaky)
    cells = [make_cell(20, seed=seed) for seed in range(6)]
    generate_cells(cells, store, batch_size=20, device="cpu")
    pool = ModelPool()
    for cell in cells:
        SampleSet.open(store, cell, pool.built(cell))
    flaky.counts.clear()
    found = look(store, cells)
    assert not any(each.missing for each in found.values())
    sets = [SampleSet.open(store, cell, pool.built(cell), found=found[cell.key]) for cell in cells]
    assert flaky.counts == {"list": 1, "get": len(cells)}
    assert [len(each) for each in sets] == [20] * 6
    flaky.counts.clear()
    sets[0].read(range(8))
    assert flaky.counts == {"get": 1}  # a shard's images are one range


def test_a_copied_store_is_the_same_store(tmp_path: Path) -> None:
    cell, samples = make(Store(tmp_path / "store"))
    shutil.copytree(tmp_path / "store", tmp_path / "copy")  # other times: the manifest is not believed
    again = SampleSet.open(Store(tmp_path / "copy"), cell, ModelPool().built(cell))
    assert again.rows == samples.rows
