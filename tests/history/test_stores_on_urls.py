"""Runs of a store on a URL: the same as from a folder; what differences rest on comes when it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import run_evalkit
from many_runs import write_runs

from evalkit.errors import EXIT_CONFIG, ConfigError
from evalkit.history.compare import compare_runs
from evalkit.history.registry import Registry, find_run
from evalkit.utils.blobs import open_blobs

URL = "memory://bucket/history"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs in a folder, and in a store on a URL."""
    folder = write_runs(tmp_path_factory.mktemp("many") / "runs")
    blobs = open_blobs(URL)
    blobs.put("samples/one/0.zip", b"an image")
    for path in folder.rglob("*"):
        if path.is_file():
            blobs.put(f"results/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return folder


def test_they_are_listed_as_those_of_a_folder(folder: Path) -> None:
    here, there = Registry.read(folder), Registry.read(URL)
    dated = [(run.name, run.date) for run in here.runs if run.dated]
    assert [(run.name, run.date) for run in there.runs][: len(dated)] == dated  # the others tell no date, and come last
    assert {run.name for run in there.runs} == {run.name for run in here.runs}
    assert len(there.passed_over) == len(here.passed_over) == 2
    assert not list(there.runs[0].path.parent.glob("samples.csv"))
    assert find_run(f"{URL}/results/week03").table.rows == find_run("week03", folder).table.rows


def test_they_are_compared_sample_by_sample(folder: Path) -> None:
    here, there = (compare_runs(find_run("week05", of), find_run("week06", of)) for of in (folder, URL))
    assert any(change.paired for change in there.changes)
    assert there.changes == here.changes
    assert there.exit_code == here.exit_code


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^memory://bucket/nothing: no run's results.json is below it: give a store"):
        Registry.read("memory://bucket/nothing")
    done = run_evalkit("runs", "ftp://host/store", cwd=tmp_path)
    assert done.returncode == EXIT_CONFIG
    assert "a store is a folder, or a URL of s3" in done.stderr
    done = run_evalkit("view", URL, cwd=tmp_path)
    assert done.returncode == EXIT_CONFIG
    assert "copy the store here" in done.stderr
