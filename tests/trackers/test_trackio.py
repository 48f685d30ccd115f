"""trackio, for real, on its local SQLite file: the run is read back with trackio's own reader."""

from pathlib import Path
from typing import Any

import pytest
from finished_run import NAMED, SHEETS, make_series_folder
from packages import need
from report_runs import write_run

from evalkit.trackers.base import FinishedRun
from evalkit.trackers.push import push

need("trackio", "trackio is not installed")

OPTION = {"_target_": "evalkit.trackers.trackio.TrackioTracker"}


def logs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[dict[str, Any]]]]:
    """By run its name and what it logged."""
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", folder)
    records = storage.SQLiteStorage.get_run_records("evalkit")
    return [(one["name"], storage.SQLiteStorage.get_logs("evalkit", run_id=one["id"])) for one in records]


def test_a_run_is_there_once_however_often_it_is_pushed(
    finished: Path, offline: list[bytes], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert push({"trackio": {**OPTION, "dir": str(tmp_path)}}, finished) == []
    ((name, (entry,)),) = logs(tmp_path, monkeypatch)
    assert name.startswith(f"night-{FinishedRun.load(finished).id}")
    assert {score: entry[score] for score in NAMED} == NAMED
    assert set(SHEETS) | {"table", "report"} <= set(entry)
    assert entry["table"]["_value"][1]["fid"] == 7.125
    assert offline == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_single_samples_and_a_series(tmp_path: Path, offline: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert push({"trackio": {**OPTION, "dir": str(tmp_path / "a")}}, write_run(tmp_path / "run")) == []
    ((_, (entry,)),) = logs(tmp_path / "a", monkeypatch)
    rows = entry["samples"]["_value"]
    assert len(rows) == 90
    assert rows[31]["prompt"] == "prompt 1"
    assert push({"trackio": {**OPTION, "dir": str(tmp_path / "b")}}, make_series_folder(tmp_path / "training")) == []
    ((_, entries),) = logs(tmp_path / "b", monkeypatch)
    points = [(one["step"], one["gan/fid"]) for one in entries if "gan/fid" in one]
    assert points == [(100, 10.0), (200, 5.0), (1000, 1.0)]
    assert offline == []
