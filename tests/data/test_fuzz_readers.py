"""Fuzz of every reader, in short; tests/bench/fuzz_readers.py goes on for as long as it is told."""

from __future__ import annotations

import logging
import pickle
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz as fuzzing
import pytest
from fuzz import Target, fuzz, kinds, run_one
from fuzz_targets import all_targets

from evalkit.errors import DataError

NAMES = (
    *(
        "images",
        "colour profiles",
        "PNG texts",
        "folder",
        "sidecars",
        "zip",
        "tar",
        "parquet",
        "npy and npz",
        "stats npz",
    ),
    *(
        "weights",
        "latents",
        "prompt tables",
        "attributes",
        "benchmarks",
        "results",
        "past runs",
        "gate files",
        "config",
        "model folders",
    ),
    *("keras files", "service answers", "votes", "requests for scores", "answers of scorers"),
    *("judges' completions", "stored answers", "questions", "known answers"),
)
SLOW = {"results": 8, "config": 8, "service answers": 2}  # how many times as long as others


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {target.name: target for target in all_targets(tmp_path_factory.mktemp("fuzz") / "made")}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_all_readers_are_fuzzed(targets: dict[str, Target]) -> None:
    assert tuple(targets) == NAMES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("examples", [12, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_no_reader_raises_anything_but_one_line(
    name: str, examples: int, targets: dict[str, Target], tmp_path: Path
) -> None:
    outcome = fuzz(targets[name], tmp_path, seed=12, examples=max(3, examples // SLOW.get(name, 1)))
    assert outcome.failures == [], "\n\n".join(kinds(outcome.failures))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_good_inputs_are_read(name: str, targets: dict[str, Target], tmp_path: Path) -> None:
    """Else the mutations would try nothing but the first check."""
    target = targets[name]
    fuzz(target, tmp_path, seed=0, examples=0)  # lays the files out
    alone = {"c.npz", "url.json"}  # of floats, which are refused; of an address that the answers do not have
    for file, data in target.seeds.items():
        if file not in alone:
            assert run_one(target, file, data, tmp_path) == "", file


class Raw(DataError):
    def __str__(self) -> str:
        return "two\nlines"


def _several_lines(path: Path) -> None:
    raise Raw("x")


def _slow(path: Path) -> None:
    time.sleep(5)


def _unpickled(path: Path) -> None:
    pickle.loads(pickle.dumps(Path("x")))


def _connected(path: Path) -> None:
    with socket.socket() as one:
        one.settimeout(0.1)
        one.connect_ex(("127.0.0.1", 9))


MISDEEDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another exception": (lambda path: {}["x"], "KeyError: 'x'"),
    "a message of two lines": (_several_lines, r"a message with '\n'"),
    "too slow": (_slow, "took more than 1 s"),
    "a process": (lambda path: subprocess.run(["true"], check=True), "subprocess.Popen"),
    "a connection": (_connected, "socket.connect"),
    "a pickle": (_unpickled, "pickle.find_class"),
    "a file elsewhere": (lambda path: (path.parents[1] / "elsewhere").write_text("x"), "elsewhere"),
    "a folder elsewhere": (lambda path: (path.parents[1] / "made").mkdir(), "os.mkdir"),
    "a file removed elsewhere": (lambda path: (path.parents[1] / "kept").unlink(), "os.remove"),
}


@pytest.mark.parametrize("kind", MISDEEDS)
def test_misdeeds_are_seen(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    (tmp_path / "kept").write_text("x")
    read, words = MISDEEDS[kind]
    assert words in str(run_one(Target("bad", {"a": b"x"}, read), "a", b"x", tmp_path / "work"))


def test_what_a_reader_may_do_is_no_misdeed(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        (path.parent / "cache").write_bytes(path.read_bytes())
        raise DataError(f"{path}: a \x1b[31mred\x1b[0m name\nof two lines")

    assert run_one(Target("good", {"a": b"x"}, refuse), "a", b"x", tmp_path / "work") is None
