"""Runs are found from their folders alone: newest first, schemas 1 and 2, and what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from many_runs import write_runs

from evalkit.errors import ConfigError, DataError
from evalkit.history.registry import Registry, find_run, read_run
from evalkit.history.text import print_run, print_runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("many") / "runs")


def test_newest_first_and_what_cannot_be_read_is_named(store: Path) -> None:
    registry = Registry.read(store)
    assert [run.name for run in registry.runs] == [f"week{week:02d}" for week in range(8, -1, -1)]
    assert [run.schema for run in registry.runs] == [2] * 7 + [1, 1]
    assert [run.dated for run in registry.runs] == [True] * 7 + [False, False]
    damaged, later = registry.passed_over
    assert "cut/results.json: not JSON" in damaged
    assert "week09/results.json: schema 99 is not known here (known: 1, 2)" in later


def test_schema_1_reads_as_schema_2_does(store: Path) -> None:
    one, two = (read_run(store / name / "results.json") for name in ("week01", "week02"))
    hashes = [{row.metric: row.protocol_hash for row in run.table.rows} for run in (one, two)]
    assert hashes[0] == hashes[1]
    assert one.table.rows[0].protocol == two.table.rows[0].protocol


def test_a_folder_of_stores_and_one_runs_folder(store: Path) -> None:
    assert Registry.read(store.parent).runs[0].name == "runs/week08"
    assert [run.name for run in Registry.read(store / "week03").runs] == ["week03"]
    with pytest.raises(ConfigError, match="no such folder"):
        Registry.read(store / "gone")


def test_a_run_is_found_by_folder_file_and_name(store: Path) -> None:
    assert find_run(str(store / "week03")).name == "week03"
    assert find_run(str(store / "week03" / "results.json")).table.run["name"] == "week03"
    assert find_run("week03", store).name == "week03"
    with pytest.raises(ConfigError, match="Did you mean 'week08'"):
        find_run("week88", store)
    with pytest.raises(ConfigError, match=r"no results\.json in this folder"):
        find_run(str(store / "samples"))
    with pytest.raises(ConfigError, match="there is no store"):
        find_run("week03", store / "gone")
    with pytest.raises(DataError, match="schema 99"):
        find_run("week09", store)


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"schema": 2}', '{"schema": 2, "run": {}, "protocols": {}, "rows": [{}]}']
)
def test_other_files_of_that_name_are_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text(content)
    registry = Registry.read(tmp_path)
    assert not registry.runs
    assert len(registry.passed_over) == 1


def test_a_time_that_is_none_is_the_files(store: Path, tmp_path: Path) -> None:
    data = json.loads((store / "week03" / "results.json").read_text())
    for number, date in enumerate(("yesterday", "2026-01-01T00:00:00", "2026-01-01T00:00:00+02:00")):
        data["run"]["made"]["date"] = date
        (tmp_path / f"{number}.json").write_text(json.dumps(data))
    runs = [read_run(tmp_path / f"{number}.json") for number in range(3)]
    assert [run.dated for run in runs] == [False, True, True]
    assert runs[2].date < runs[1].date


def test_what_is_printed(store: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert print_runs(Registry.read(store)) == 0
    printed = capsys.readouterr().out
    assert "9 runs below" in printed
    assert "2 passed over" in printed
    assert "~2025-11-24" in printed
    assert "2026-03-01 03:00" in printed
    print_run(read_run(store / "week03" / "results.json"))
    printed = capsys.readouterr().out
    for part in ("evalkit 0.2.0, torch 2.15.0", "farm, a CPU", f"{3:040x}", "num_samples: 60", "  FID", "17.00"):
        assert part in printed
