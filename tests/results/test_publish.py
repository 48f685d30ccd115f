"""A run's files appear together, whoever else writes into the same folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from evalkit.errors import StoreError
from evalkit.results import publish
from evalkit.results.publish import staged

NAMES = ("config.yaml", "table.md", "sheets/a.png", "results.json")


def put(out: Path, text: str, *, gate: bool = False) -> None:
    with staged(out) as folder:
        for name in NAMES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_text(text)
        if gate:
            (folder / "gate.md").write_text(text)


def test_two_runs_at_once_never_mix_their_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    threads = [threading.Thread(target=put, args=(out, str(number))) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(out / name).read_text() for name in NAMES}) == 1
    assert not list(out.glob(".tmp-*"))


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, "old", gate=True)
    with pytest.raises(OSError), staged(out) as folder:  # noqa: PT012
        (folder / "config.yaml").write_text("new")
        raise OSError("disk full")
    assert {(out / name).read_text() for name in NAMES} == {"old"}
    put(out, "new")
    assert not (out / "gate.md").exists()  # the verdict was on other scores


def test_the_same_files_are_not_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, "same")
    before = {name: (out / name).stat().st_ino for name in NAMES}
    put(out, "same")
    assert {name: (out / name).stat().st_ino for name in NAMES} == before


def test_a_kill_in_between_leaves_an_unfinished_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    put(out, "old")
    replace, moved = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put(out, "new")
    monkeypatch.undo()
    assert not (out / "results.json").exists()
    put(out, "new")
    assert {(out / name).read_text() for name in NAMES} == {"new"}


def test_a_folder_that_is_held_or_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    put(out, "old")

    def taken() -> None:
        raise StoreError("taken")

    with pytest.raises(StoreError, match="taken"), staged(out, taken) as folder:
        (folder / "config.yaml").write_text("new")
    monkeypatch.setattr(publish, "LONGEST", 0.1)
    with FileLock(out / publish.LOCK), pytest.raises(StoreError, match="another run is writing its results there"):
        put(out, "new")
    assert {(out / name).read_text() for name in NAMES} == {"old"}
