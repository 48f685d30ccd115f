"""Temporary names, sweeping, stamps, and what is said of a write that the system refuses."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT
from leftovers import DEAD, left_by_the_dead

from evalkit.errors import StoreError
from evalkit.utils import files
from evalkit.utils.files import (
    FOREIGN_AGE,
    atomic_folder,
    atomic_path,
    stamp_of_file,
    sweep,
    temporary_path,
    write_text,
)


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path: Path) -> None:
    host, me, parent = files._host(), os.getpid(), os.getppid()
    start = files._start_of
    swept = {
        f".tmp-a.json-{host}-{DEAD}-{start(me)}-00000001",
        f".tmp-00002-048-{host}-{DEAD}-1-00000002",
        f".tmp-b-{host}-{parent}-{start(me)}-00000003",  # the parent's number, of a process that began at another time
        f".tmp-c-{host}-1-1.5-00000004",  # number 1 is always alive
        f".tmp-d-{host}-{me}-{start(me)}-00000005",  # our own, that no context holds any more
    }
    left = {
        f".tmp-e-{host}-{parent}-{start(parent)}-00000006",
        ".tmp-f-elsewhere.4026531836-1-77.8-00000007",  # another machine's: its processes cannot be seen from here
        ".tmp-g-x3k_9a2b",  # of evalkit 0.1.0
        ".tmp-notes",
        "h.json",
    }
    for name in swept | left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with temporary_path(tmp_path / "at-work") as active:
        active.touch()
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*left, active.name}
    assert not active.exists()
    long_ago = time.time() - FOREIGN_AGE - 60
    for name in left:
        os.utime(tmp_path / name, (long_ago, long_ago))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {sorted(left)[0], ".tmp-notes", "h.json"}
    sweep(tmp_path / "nowhere")


def test_a_killed_process_leaves_what_the_next_one_sweeps(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from evalkit.utils.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "a" / "results.json"
    subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert [path.name[:18] for path in target.parent.iterdir()] == [".tmp-results.json-"]
    write_text(target, "whole")
    assert [path.name for path in target.parent.iterdir()] == ["results.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    left_by_the_dead(tmp_path / "set").mkdir()
    target = tmp_path / "set"
    for content in ("first", "second"):
        with atomic_folder(target) as folder:
            (folder / "x").write_text(content)
    with pytest.raises(OSError, match="nowhere"), atomic_folder(target) as folder:
        (folder / "nowhere" / "x").write_text("third")
    assert (target / "x").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_names_may_be_long(tmp_path: Path) -> None:
    target = tmp_path / ("ü" * 120)
    write_text(target, "x")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "No space left on device: free some space"),
        (errno.EDQUOT, "quota exceeded: free some space"),
        (errno.EROFS, "Read-only file system: make it writable, or give another folder with store=FOLDER"),
        (errno.EACCES, "Permission denied: make it writable"),
        (errno.EIO, "Input/output error: the disk or its connection fails"),
        (errno.EMFILE, "Too many open files: allow more open files"),
    ],
)
@pytest.mark.parametrize("when", ["open", "write", "rename"])
def test_a_refused_write_names_the_file_and_what_fixes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fix: str, when: str
) -> None:
    def refuse(path: Path, *more: object, **named: object) -> None:
        raise OSError(code, os.strerror(code), *([str(path)] if when == "open" else []))

    step = {"open": "touch", "write": "write_text", "rename": "replace"}[when]
    monkeypatch.setattr(Path, step, refuse)
    target = tmp_path / "sheets" / "cell.png"
    with pytest.raises(StoreError) as refused, files.writing(tmp_path), atomic_path(target) as temporary:
        temporary.write_text("x")
    assert f"cannot write to {target}: " in str(refused.value)
    assert fix in str(refused.value)
    assert ".tmp-" not in str(refused.value)
    monkeypatch.undo()
    assert list(target.parent.iterdir()) == []


def test_a_replaced_file_has_another_stamp(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("12")
    other.write_text("34")
    before = stamp_of_file(file)
    os.utime(other, ns=(before[1], before[1]))
    digest = files.sha256_file(file)
    other.replace(file)
    assert stamp_of_file(file)[:2] == before[:2]
    assert stamp_of_file(file) != before
    assert files.sha256_file(file) != digest
    before = stamp_of_file(file)
    file.write_text("56")
    os.utime(file, ns=(before[1], before[1]))  # the same size, time and inode
    assert stamp_of_file(file)[:2] == before[:2]
    assert stamp_of_file(file) != before
    assert json.dumps(before)
