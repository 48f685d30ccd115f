"""The verbs as people give them: names, exit codes, JSON, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run_evalkit
from many_runs import write_runs

from evalkit.errors import EXIT_CONFIG


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("many") / "runs").parent


def test_runs_and_show(folder: Path) -> None:
    done = run_evalkit("runs", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "9 runs below runs; 2 passed over" in done.stdout
    assert done.stderr.count("passed over: ") == 2
    listed = json.loads(run_evalkit("runs", "runs", "--json", cwd=folder).stdout)
    assert [run["name"] for run in listed["runs"]][:2] == ["week08", "week07"]
    assert len(listed["passed_over"]) == 2
    assert "CLIP score" in run_evalkit("show", "week03", cwd=folder).stdout
    assert json.loads(run_evalkit("show", "runs/week03", "--json", cwd=folder).stdout)["results"]["schema"] == 2
    assert run_evalkit("runs", "gone", cwd=folder).returncode == EXIT_CONFIG


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("week07", "week08"), 0),
        (("week05", "week06"), 3),
        (("week04", "week05"), 4),
        (("week05", "week06", "--metric", "clip_score", "--within", "clip_score=9"), 0),
        (("week07", "week08", "--within", "fid"), EXIT_CONFIG),
        (("week07", "week08", "--within", "fid=x"), EXIT_CONFIG),
    ],
)
def test_compare_as_a_gate(words: tuple[str, ...], code: int, folder: Path) -> None:
    done = run_evalkit("compare", *words, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    if code != EXIT_CONFIG:
        assert f"exit code {code}" in done.stdout
        assert json.loads(run_evalkit("compare", *words, "--json", cwd=folder).stdout)["exit_code"] == code
