"""Shards that are written while the next one is made, as on accelerators; here the device is told to be one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_models import make_cell

from evalkit.data.codec import encode_png
from evalkit.errors import DataError, StoreError
from evalkit.models.base import Generated
from evalkit.samples import writer
from evalkit.samples.behind import Behind
from evalkit.samples.generate import generate_cells
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.store import SampleSet, Store
from evalkit.utils import devices


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 8)
    return Store(tmp_path / "runs")


def make(store: Store, cell: Any) -> SampleSet:
    generate_cells([cell], store, batch_size=4, device="cpu")
    return SampleSet.open(store, cell)


def accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes that encode, which take a second to start."""
    monkeypatch.setattr(devices, "is_accelerator", lambda device: True)
    monkeypatch.setattr(ModelPool, "encoder", lambda self, device: encode_png)


def leftovers(store: Store) -> list[str]:
    return [p.name for p in store.samples.rglob(".tmp-*")]


def test_a_shard_is_written_while_the_next_is_made(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    plain = make(Store(tmp_path / "plain"), make_cell(30))
    real = writer.ShardWriter.commit
    seen = []

    def commit(self: writer.ShardWriter) -> bool:
        while "load" in log.read_text() and len(seen) == 0 and "8 4" not in log.read_text():
            threading.Event().wait(0.005)  # the first shard is not written before the second was begun
        seen.append((self.target.final.name, threading.current_thread().name))
        return real(self)

    monkeypatch.setattr(writer.ShardWriter, "commit", commit)
    monkeypatch.setattr(devices, "is_accelerator", lambda device: True)
    made = make(store, make_cell(30, log=str(log)))
    assert [name for name, _ in seen] == ["00000", "00001", "00002", "00003-006"]
    assert all(thread.startswith("evalkit-behind") for _, thread in seen)
    assert made.digest == plain.digest
    assert [row["batch"] for row in made.rows] == [row["batch"] for row in plain.rows]
    assert [row["warmup"] for row in made.rows] == [row["warmup"] for row in plain.rows]
    assert leftovers(store) == []


def test_what_goes_wrong_in_a_commit_is_raised(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate(monkeypatch)
    real = writer.ShardWriter.commit
    for failing in ("00001", "00002-004"):  # one that is followed by others, and the last one

        def commit(self: writer.ShardWriter, failing: str = failing) -> bool:
            if self.target.final.name == failing:
                raise StoreError("the disk is full")
            return real(self)

        with monkeypatch.context() as patch:
            patch.setattr(writer.ShardWriter, "commit", commit)
            with pytest.raises(StoreError, match="the disk is full"):
                make(store, make_cell(20))
        assert leftovers(store) == []
        assert (8, 16) in SampleSet.missing(store, make_cell(20)) or failing != "00001"
    assert len(make(store, make_cell(20))) == 20


def test_a_batch_that_fails_on_its_way_says_which(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's images are looked at when they arrive, long after the call that made them."""
    accelerate(monkeypatch)

    def fetch(self: Generated) -> Any:
        if isinstance(self._images, np.ndarray) and threading.current_thread() is not threading.main_thread():
            raise DataError("1 of 4 images hold NaN")
        return self._images

    monkeypatch.setattr(Generated, "images", property(fetch))
    with pytest.raises(DataError, match="1 of 4 images hold NaN") as caught:
        make(store, make_cell(20))
    assert caught.value.__notes__ == [f"while making samples 0 to 3 of {make_cell(20).name}"]
    assert leftovers(store) == []


def test_ctrl_c_keeps_the_shard_that_is_being_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerate(monkeypatch)
    cell = make_cell(24, interrupt_at=13, log=str(tmp_path / "log"))
    with pytest.raises(KeyboardInterrupt):
        make(store, cell)
    assert leftovers(store) == []
    assert SampleSet.missing(store, cell) == [(8, 16), (16, 24)]
    assert (tmp_path / "log").read_text().splitlines()[-1] == "unload"


def test_an_error_on_its_way_is_not_hidden_by_a_later_one(caplog: pytest.LogCaptureFixture) -> None:
    behind = Behind()
    behind.hand(lambda: 1 / 0)
    behind.close(ValueError("first"))
    other = Behind()
    other.hand(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.hand(lambda: pytest.fail("not reached"))
