"""The five verbs, by one contract over a folder, memory and a store with faults; probes; what no store may lie on."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from flaky_blobs import FlakyBlobs
from read_only import read_only

from evalkit.errors import ConfigError, ReadOnlyError, StoreError
from evalkit.utils import blobs as module
from evalkit.utils.blobs import Blobs, FsspecBlobs, LocalBlobs, PersistentBlobs, is_url, open_blobs, probe

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (0.0,) * 7)


def folder(tmp_path: Path) -> Blobs:
    return open_blobs(tmp_path / "store")


def memory(tmp_path: Path) -> Blobs:
    return open_blobs(f"memory://blobs{next(NUMBERS)}/store/")


def faulty(tmp_path: Path) -> Blobs:
    faults = {"errors": 0.2, "lost": 0.2, "cut": 0.2, "delay": 0.001}
    return PersistentBlobs(FlakyBlobs(LocalBlobs(tmp_path / "store"), **faults, seed=next(NUMBERS)))


@pytest.fixture(params=[folder, memory, faulty])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    make: Callable[[Path], Blobs] = request.param
    yield make(tmp_path)
    if make is not memory:
        assert not [path for path in tmp_path.rglob("*") if ".tmp-" in path.name]


def test_putting_and_getting(store: Blobs) -> None:
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b", 0, 5) == b"first"
    assert (store.get("a/b", 1, 3), store.get("a/b", 3, 5)) == (b"ir", b"st")
    store.put("a/b", b"third!")
    assert store.get("a/b", 0, 6) == b"third!"
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        store.get("a/b")
    assert store.put_new("a/b", b"again")


def test_a_key_that_is_shorter_than_asked_is_no_answer(store: Blobs) -> None:
    store.put("a", b"1234")
    with pytest.raises(OSError, match="cut short: 4 bytes of 5"):
        store.get("a", 0, 5)


def test_listing(store: Blobs) -> None:
    assert list(store.list()) == list(store.list("x/")) == []
    for key in ("x/1", "x/12/3", "x/2", "y/1", "x1"):
        store.put_new(key, key.encode())
    assert sorted(store.list()) == [("x/1", 3), ("x/12/3", 6), ("x/2", 3), ("x1", 2), ("y/1", 3)]
    assert sorted(store.list("x/")) == [("x/1", 3), ("x/12/3", 6), ("x/2", 3)]
    assert sorted(store.list("x/1")) == [("x/1", 3), ("x/12/3", 6)]
    assert sorted(store.list("x")) == [("x/1", 3), ("x/12/3", 6), ("x/2", 3), ("x1", 2)]
    below = store.below("x")
    assert sorted(below.list()) == [("1", 3), ("12/3", 6), ("2", 3)]
    assert below.below("12").get("3", 0, 6) == b"x/12/3"
    assert below.where == f"{store.where}/x"


def test_of_several_writers_one_is_first_and_all_read_the_same(store: Blobs) -> None:
    told: list[int] = []
    seen: list[bytes] = []

    def write(number: int) -> None:
        if store.put_new("key", bytes([number]) * 1000):
            told.append(number)
        seen.append(store.get("key", 0, 1000))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert seen == [bytes(told) * 1000] * 8


def test_a_lost_answer_is_no_lost_race(tmp_path: Path) -> None:
    flaky = FlakyBlobs(LocalBlobs(tmp_path), lost=1.0)
    store = PersistentBlobs(flaky)
    with pytest.raises(StoreError, match="the answer was lost"):
        store.put("a", b"1")
    flaky.lost = 0.0
    with pytest.MonkeyPatch.context() as patch:
        happens = iter([True, *[False] * 99])
        patch.setattr(flaky, "_happens", lambda share: next(happens) if share == 0.5 else False)
        flaky.lost = 0.5
        assert store.put_new("b", b"mine")  # written, told to be an error, and refused when it is tried again
    assert store.get("b") == b"mine"
    assert flaky.counts["put_new"] == 2
    flaky.lost = 0.0
    assert not store.put_new("b", b"mine")  # of a first try the store's word is taken


def test_a_store_that_stays_away_is_one_line(tmp_path: Path) -> None:
    store = PersistentBlobs(FlakyBlobs(LocalBlobs(tmp_path), errors=1.0))
    for verb in (lambda: store.get("a"), lambda: store.put("a", b"1"), lambda: list(store.list())):
        with pytest.raises(StoreError, match=r"cannot be read or written: .*503 Slow Down: run again when it can"):
            verb()
    assert store.blobs.counts == {"get": 8, "put": 8, "list": 8}


def test_probes(tmp_path: Path) -> None:
    for store in (folder(tmp_path), memory(tmp_path), faulty(tmp_path)):
        probe(store)
        assert list(store.list()) == []

    class Replacing(LocalBlobs):
        def put_new(self, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

    with pytest.raises(StoreError, match="replaces a key that it is told not to") as refused:
        probe(Replacing(tmp_path / "other"))
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_read_only_folder_is_told_apart(tmp_path: Path) -> None:
    store = folder(tmp_path)
    store.put("a", b"1")
    with read_only(tmp_path / "store"), pytest.raises(ReadOnlyError, match="make it writable"):
        probe(store)
    assert store.get("a") == b"1"


def test_a_bucket_that_may_only_be_read_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Access Denied")

    store = open_blobs("memory://x")
    probe(store)
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuse)
    with pytest.raises(ReadOnlyError, match=r"memory://x/a: access is refused: .*check the keys in the environment"):
        store.put_new("a", b"1")


def test_the_first_put_of_a_bucket_probes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.store.pop(self._strip_protocol(path), None)
        real(self, path, value)

    memory = type(fsspec.filesystem("memory"))
    real = memory.pipe_file
    monkeypatch.setattr(memory, "pipe_file", replace)
    store = open_blobs("memory://careless/store")
    for _ in range(2):  # what was refused is tried again
        with pytest.raises(StoreError, match="replaces a key that it is told not to"):
            store.put_new("a", b"1")
    monkeypatch.undo()
    assert store.put_new("a", b"1")


def test_one_request_per_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, dict[str, Any]]] = []
    inside: list[str] = []  # what the memory's verbs call of each other is no request
    fs = fsspec.filesystem("memory", use_listings_cache=False)
    for name in ("pipe_file", "cat_file", "find", "info", "exists", "isfile", "isdir", "ls", "makedirs", "rm_file"):
        original = getattr(type(fs), name)

        def counted(self: Any, *args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            called.extend([] if inside else [(_name, options)])
            inside.append(_name)
            try:
                return _original(self, *args, **options)
            finally:
                inside.pop()

        monkeypatch.setattr(type(fs), name, counted)
    store = open_blobs("memory://counted/store")
    probe(store)  # else the first put does it
    called.clear()
    store.put_new("a", b"12")
    store.get("a")
    store.get("a", 0, 2)
    list(store.list("a"))
    store.delete("a")
    assert [name for name, _ in called] == ["pipe_file", "cat_file", "cat_file", "find", "rm_file"]
    assert called[1][1] == {"start": 0, "end": None}  # without bounds s3fs asks for the size first


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://key:secret@bucket/p", "holds a key"),
        ("https://host/folder", "a store is a folder, or a URL of s3, "),
        ("simplecache::s3://b/p", "a store is a folder, or a URL of s3, "),
        ("sftp://host/p", "a store is a folder, or a URL of s3, "),
    ],
)
def test_what_no_store_lies_on(place: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        open_blobs(place)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_missing_package_is_one_line(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(ConfigError, match=rf"{scheme}:// needs a package that is not installed: pip install {package}"):
        open_blobs(f"{scheme}://bucket/p")


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_blobs("runs") == LocalBlobs(Path("runs"))
    assert open_blobs(f"file://{tmp_path}/x") == LocalBlobs(tmp_path / "x")
    assert open_blobs("memory://a/b/") == PersistentBlobs(FsspecBlobs("memory://a/b"))
    assert [is_url(place) for place in ("runs", "file:///a", "s3://a", "memory://a", tmp_path)] == [
        *(False, False, True, True),
        False,
    ]
