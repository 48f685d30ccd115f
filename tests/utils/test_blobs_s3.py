"""The five verbs on an S3 of this machine, over HTTP: create-only puts, lost answers, a busy server, requests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from moto_s3 import S3, s3_of_this_process

from evalkit.errors import ConfigError, StoreError
from evalkit.utils import blobs as module
from evalkit.utils.blobs import Blobs, open_blobs, probe

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_of_this_process() as server:
        yield server


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server without faults, its counts at nothing."""
    monkeypatch.setattr(module, "WAITS", (0.0,) * 7)
    server.mend()
    return server


@pytest.fixture
def store(s3: S3) -> Blobs:
    return open_blobs(f"s3://bucket/store{next(NUMBERS)}")


def test_putting_getting_listing(store: Blobs) -> None:
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert store.get("a/b", 1, 3) == b"ir"
    store.put("a/b", b"third!")
    store.put_new("a/c", b"4")
    store.put_new("ax", b"5")
    assert sorted(store.list()) == [("a/b", 6), ("a/c", 1), ("ax", 1)]
    assert sorted(store.below("a").list()) == [("b", 6), ("c", 1)]
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        store.get("a/b")


def test_each_verb_is_one_request(s3: S3, store: Blobs) -> None:
    store.put_new("a", b"12")
    store.put_new("a", b"12")
    store.put("b", b"12")
    store.get("a")
    store.get("a", 0, 2)
    list(store.list())
    store.delete("a")
    assert dict(s3.counts) == {"PUT": 3, "GET": 2, "LIST": 1, "DELETE": 1}


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_of_8_writers_of_one_key_one_is_first_and_all_read_what_it_wrote(store: Blobs, key: str) -> None:
    told: list[int] = []
    seen: list[bytes] = []
    together = threading.Barrier(8)

    def write(number: int) -> None:
        data = bytes([number]) * 100_000
        together.wait()
        if store.put_new(key, data):
            told.append(number)
        seen.append(store.get(key, 0, 100_000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert seen == [bytes(told) * 100_000] * 8


def test_a_412_after_a_lost_answer_is_no_lost_race(s3: S3, store: Blobs) -> None:
    s3.lose = 1
    assert store.put_new("key", b"mine")
    assert s3.counts == {"PUT": 2, "GET": 1}  # stored, told to have failed; refused; and known by its content
    assert not store.put_new("key", b"mine")
    assert s3.counts == {"PUT": 3, "GET": 1}  # of a first try the store's word is taken


def test_a_busy_server_is_tried_again(s3: S3, store: Blobs) -> None:
    s3.busy = s3.lost = 0.25
    for number in range(8):
        assert store.put_new(f"key{number}", bytes([number]))
        assert not store.put_new(f"key{number}", b"other")
    assert [store.get(f"key{number}", 0, 1) for number in range(8)] == [bytes([number]) for number in range(8)]
    assert len(list(store.list())) == 8
    assert s3.counts["PUT"] > 16


def test_one_that_stays_busy_is_one_line(s3: S3, store: Blobs) -> None:
    s3.busy = 1.0
    with pytest.raises(
        StoreError, match=r"store\d+/key: cannot be read or written: .*reduce your request rate.*: run again"
    ):
        store.put_new("key", b"1")
    assert s3.counts == {"PUT": 8}


def test_a_server_that_replaces_what_it_was_told_not_to_is_refused(s3: S3, store: Blobs) -> None:
    probe(store)
    s3.careless = True
    with pytest.raises(StoreError, match=r"replaces a key that it is told not to \(If-None-Match\)"):
        probe(store)
    assert list(store.list()) == []


def test_a_bucket_that_is_not_there_is_one_line(s3: S3) -> None:
    with pytest.raises((ConfigError, StoreError), match=r"s3://nowhere/probe-\w+: nothing is there .*bucket"):
        probe(open_blobs("s3://nowhere"))


def test_a_listing_of_1001_keys_is_2_pages(s3: S3, store: Blobs) -> None:
    from moto.s3.models import s3_backends

    key = store.where.partition("bucket/")[2]
    account = next(iter(s3_backends))
    for number in range(1001):
        s3_backends[account]["aws"].put_object("bucket", f"{key}/{number:04d}", b"x")
    assert len(list(store.list())) == 1001
    assert dict(s3.counts) == {"LIST": 2}
