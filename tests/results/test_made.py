"""When and where scores were made: the commit as git tells it, and a date that stays as long as the scores do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_table import make, row

from evalkit.results import render
from evalkit.results.made import git_commit, made_before, made_now


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_is_that_of_git(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "deep").mkdir(parents=True)
    git(repository, "init", "-q")
    assert git_commit(repository / "deep") is None  # no commit yet
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    first = git(repository, "rev-parse", "HEAD")
    assert git_commit(repository / "deep") == first
    git(repository, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert git_commit(tmp_path / "side") == first
    git(repository, "pack-refs", "--all")
    assert git_commit(repository) == git(repository, "rev-parse", "HEAD") != first
    git(repository, "checkout", "-q", first)
    assert git_commit(repository) == first
    assert git_commit(tmp_path) is None


def test_the_date_is_that_of_the_scores(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    table = make(row("a"), row("b", value=2.0))
    assert made_before(table, path) is None
    render.write(table, tmp_path)
    assert made_before(table, path) is None  # an earlier version did not tell
    made = made_now(tmp_path)
    assert set(made) == {"date", "host", "cpu", "gpu", "git"}
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "run": {**data["run"], "made": made}}))
    assert made_before(make(row("a"), row("b", value=2.0)), path) == {
        "made": made,
        "seconds": data["run"].get("seconds"),
    }
    assert made_before(make(row("a"), row("b", value=2.5)), path) is None
    assert made_before(make(row("a"), row("b", value=2.0, stderr=0.5)), path) is None
    path.write_text("{")
    assert made_before(table, path) is None


def test_nothing_is_imported_to_tell_the_gpu(tmp_path: Path) -> None:
    code = "import sys; from evalkit.results.made import made_now; made_now(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
