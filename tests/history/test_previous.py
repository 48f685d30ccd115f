"""Arrows in the report's table: against the last run that can be compared, kept later, of these scores alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run_evalkit
from many_runs import write_runs
from report_runs import Page

import evalkit
from evalkit.errors import EXIT_CONFIG
from evalkit.history.previous import write_arrows, write_previous
from evalkit.history.registry import read_run
from evalkit.report import write_report
from evalkit.results.publish import staged


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_runs(tmp_path / "runs")


def arrows(out: Path) -> list[str]:
    return [str(each["class"]) for each in Page(write_report(out)).named("span") if "step " in str(each.get("class"))]


def test_the_worse_score_has_an_arrow_and_says_why(store: Path) -> None:
    done = run_evalkit("report", "runs/week06", "--previous", "auto", cwd=store.parent)
    assert "arrows against week05 of 2026-02-08" in done.stdout, done.stderr
    page = Page(store / "week06" / "report.html")
    (arrow,) = [each for each in page.named("span") if each.get("class") == "step worse"]
    assert str(arrow["title"]).startswith("week05: 79.76, -5.70 [")
    assert "worse than in the previous run, week05 of 2026-02-08 (5 %" in page.text
    again = (store / "week06" / "report.html").read_bytes()
    write_report(store / "week06")
    assert (store / "week06" / "report.html").read_bytes() == again


def test_a_run_that_finds_all_done_keeps_them(store: Path) -> None:
    out = store / "week06"
    write_previous(read_run(out / "results.json"), "auto")
    with staged(out) as folder:
        for name in ("results.json", "samples.csv"):
            (folder / name).write_bytes((out / name).read_bytes())
        write_report(folder)
    assert arrows(out) == ["step worse"]


def test_other_scores_have_no_arrow(store: Path) -> None:
    out = store / "week06"
    write_previous(read_run(out / "results.json"), "auto")
    data = json.loads((out / "results.json").read_text())
    for row in data["rows"]:
        row["value"] += 0.001
    (out / "results.json").write_text(json.dumps(data))
    assert arrows(out) == []


def test_which_run_is_the_one_before(store: Path) -> None:
    """Of the same protocol or, as the CLIP score is here, comparable by another metric; never a later one."""
    runs = {week: read_run(store / f"week{week:02d}" / "results.json") for week in (0, 5, 6)}
    named = write_previous(runs[6], str(store / "week03"))
    assert named is not None
    assert named.name == "week03"
    assert write_previous(runs[0], "auto") is None
    found = write_previous(runs[5], "auto")
    assert found is not None
    assert found.name == "week04"
    changes = json.loads((store / "week05" / "previous.json").read_text())["changes"]
    assert {change["metric"] for change in changes} == {"clip_score", "latency_p50"}  # FID has another protocol


@pytest.mark.parametrize("content", ["", "[]", '{"run": "a", "date": "b"}', '{"run": 1, "date": 2, "changes": [{}]}'])
def test_a_damaged_file_gives_no_arrows(content: str, store: Path) -> None:
    (store / "week06" / "previous.json").write_text(content)
    assert arrows(store / "week06") == []


def test_a_run_is_not_its_own_predecessor(store: Path) -> None:
    done = run_evalkit("report", "runs/week06", "--previous", "runs/week06", cwd=store.parent)
    assert done.returncode == EXIT_CONFIG


def test_a_run_in_the_making_is_compared_with_the_last_of_its_store(store: Path) -> None:
    out = store / "week06"
    (store / "week05" / "results.json").write_text("{")  # the one before it is damaged, and passed over
    with staged(out) as folder:
        for name in ("results.json", "samples.csv"):
            (folder / name).write_bytes((out / name).read_bytes())
        write_arrows(folder, out)
    assert json.loads((out / "previous.json").read_text())["run"] == "week04"


def test_a_run_without_a_predecessor_has_none(store: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "week06"
    alone.mkdir(parents=True)
    (alone / "results.json").write_bytes((store / "week06" / "results.json").read_bytes())
    write_arrows(alone, alone)
    assert not (alone / "previous.json").exists()


def test_a_run_s_own_report_has_arrows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*("experiment=digits", "sampler=[]", "metric=[is_digits]", "exclude=[]", "device=cpu", "lint=false")]
    words += ["model=[digits_dcgan]", "reference=none", "num_samples=20", "contact_sheet=0"]
    evalkit.run([*words, "name=before", "seed=0"])
    evalkit.run([*words, "name=after", "seed=1"])
    evalkit.run([*words, "name=asked_not_to", "seed=2", "arrows=false"])
    assert json.loads(Path("runs/after/previous.json").read_text())["run"] == "before"
    assert "than in the previous run, before of " in Page(Path("runs/after/report.html")).text
    assert not Path("runs/asked_not_to/previous.json").exists()
    written = Path("runs/after/previous.json").stat().st_mtime_ns
    evalkit.run([*words, "name=after", "seed=1"])
    assert Path("runs/after/previous.json").stat().st_mtime_ns == written
