"""Trackers: what a finished run hands over, which run it is, and that no tracker can harm it."""

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import results, run_evalkit
from fake_trackers import NeedsTheUnknown, Notes
from finished_run import CELLS, CONFIG, NAMED, SHEETS, make_folder, make_table, row

from evalkit.errors import EXIT_CONFIG, ConfigError, DataError
from evalkit.results.render import write as write_table
from evalkit.results.table import ResultTable
from evalkit.trackers.base import FinishedRun, environment, installed
from evalkit.trackers.push import main, make_trackers, push


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "night")


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is told to people, a line each."""
    logger, handler = logging.getLogger("evalkit.trackers.push"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def option(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"fake_trackers.{name}", **options}


def test_scores_are_named_by_cell_and_metric_and_missing_ones_left_out(out: Path) -> None:
    run = FinishedRun.load(out)
    assert run.scores == NAMED
    assert run.protocols == {"fid": "hash-fid", "clip_score": "hash-clip_score"}
    assert (run.name, run.gate, run.config) == ("night", "fail", CONFIG)


def test_the_table_has_a_line_a_cell_with_numbers_as_numbers(out: Path) -> None:
    heads, lines = FinishedRun.load(out).lines()
    assert heads == [
        "cell",
        "model",
        "sampler",
        "num_inference_steps",
        "N",
        "fid",
        "fid.stderr",
        "clip_score",
        "clip_score.stderr",
    ]
    assert lines[0] == ["ldm-ddim-num_inference_steps_4", "ldm", "ddim", "4", "64", 12.5, 0.75, 80.25, 0.5]
    assert lines[1][-4:] == [7.125, 0.25, None, None]


def test_what_is_not_of_this_run_is_not_handed_over(out: Path) -> None:
    """The sheet of a cell that left the run, and a report that is older than the results, which had none made."""
    (out / "sheets" / "gone.png").write_bytes((out / "sheets" / "dcgan.png").read_bytes())
    (out / "wandb").mkdir()
    (out / "wandb" / "debug.log").write_text("")
    run = FinishedRun.load(out)
    assert set(run.images) == SHEETS
    assert {"results.json", "table.md", "samples.csv", "config.yaml", "gate.md", "report.html"} <= set(run.files)
    assert {name for name in run.files if name.endswith(".png")} == {f"{name}.png" for name in SHEETS}
    assert not any("wandb" in name for name in run.files)
    earlier = (out / "results.json").stat().st_mtime - 60
    os.utime(out / "report.html", (earlier, earlier))
    stale = FinishedRun.load(out)
    assert stale.report is None
    assert "report.html" not in stale.files


def test_a_report_that_needed_no_new_writing_is_handed_over(tmp_path: Path) -> None:
    """A run with report=true leaves a page as it is that is already of these results."""
    table = make_table()
    out = make_folder(tmp_path, replace(table, run={**table.run, "config": {**CONFIG, "report": True}}))
    os.utime(out / "report.html", (1, 1))
    assert FinishedRun.load(out).report == out / "report.html"


def test_without_a_gate_there_is_no_verdict_nor_its_files(tmp_path: Path) -> None:
    run = FinishedRun.load(make_folder(tmp_path, replace(make_table(), gate=None)))
    assert run.gate is None
    assert "gate.md" not in run.files


def changed(table: ResultTable, **changes: Any) -> ResultTable:
    return replace(table, rows=tuple(replace(r, **changes) if r.metric == "fid" else r for r in table.rows))


COST = row("dcgan", "latency_p50", 3.0, None)
WITH_COST = replace(make_table(), rows=(*make_table().rows, COST))
OTHER_CELL = {**CELLS, "dcgan": "c" * 64}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (make_table(), make_table(), True),
        (make_table(), changed(make_table(), value=9.0), True),  # a value may differ in its last digits
        (make_table(), replace(make_table(), rows=(*make_table().rows, row("dcgan", "kid", 1.0, None))), True),
        (WITH_COST, replace(WITH_COST, rows=(*make_table().rows, replace(COST, protocol_hash="gpu"))), True),
        (make_table(), replace(make_table(), rows=make_table().rows[:2]), False),  # a cell was taken away
        (make_table(), changed(make_table(), protocol_hash="other"), False),
        (make_table(), replace(make_table(), run={**make_table().run, "cells": OTHER_CELL}), False),  # other weights
    ],
    ids=["again", "value", "metric added", "other device", "cell removed", "other protocol", "other cell key"],
)
def test_a_run_goes_on_while_its_scores_stand(tmp_path: Path, before: Any, after: Any, same: bool) -> None:
    first = FinishedRun.load(make_folder(tmp_path, before)).id
    write_table(after, tmp_path)
    second = FinishedRun.load(tmp_path).id
    assert (second == first) is same
    assert FinishedRun.load(tmp_path).id == second


def test_a_moved_run_is_the_same_and_a_fresh_folder_another(tmp_path: Path) -> None:
    first = FinishedRun.load(make_folder(tmp_path / "a")).id
    (tmp_path / "a").rename(tmp_path / "b")
    assert FinishedRun.load(tmp_path / "b").id == first
    assert FinishedRun.load(make_folder(tmp_path / "a")).id != first


def test_a_broken_id_file_is_told_not_replaced(out: Path) -> None:
    (out / "tracker.json").write_text("{")
    with pytest.raises(DataError, match=r"tracker\.json: not a tracker\.json"):
        FinishedRun.load(out)
    assert (out / "tracker.json").read_text() == "{"


def test_push_hands_over_in_a_process_of_its_own(out: Path, said: list[str]) -> None:
    before = dict(os.environ)
    (out / "tracker-notes.log").write_text("of a push that failed")
    assert push({"notes": option("Notes")}, out) == []
    note = json.loads((out / "note.json").read_text())
    assert note["scores"] == NAMED
    assert note["id"] == FinishedRun.load(out).id
    assert note["pid"] != os.getpid()
    assert dict(os.environ) == before
    assert said == ["pushing to notes", "tracker.notes: note.json at https://***@host"]
    assert not (out / "tracker-notes.log").exists()


def test_a_tracker_that_fails_costs_a_line_and_the_others_get_theirs(out: Path, said: list[str]) -> None:
    """It raises, exits, is killed, hangs with a helper process, or cannot even be built."""
    kept = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    why = {
        "raises": "ConnectionError: https://***@host/api is away and a second line)",
        "exits": "SystemExit: 0)",
        "dies": "its process ended without an answer, see ",
        "hangs": "not done after 4 s, tracker.hangs.timeout)",
        "missing": "'fake_trackers' has no 'Missing'",
    }
    options = {name: option(name.title()) for name in why}
    options["hangs"]["timeout"] = 4
    assert push({**options, "notes": option("Notes")}, out) == list(why)
    assert json.loads((out / "note.json").read_text())["scores"] == NAMED
    warnings = [line for line in said if line.startswith("Warning")]
    assert len(warnings) == len(why)
    for (name, reason), line in zip(why.items(), warnings, strict=True):
        assert line.startswith(
            f"Warning: tracker.{name} failed ({reason}" if name != "missing" else "Warning: tracker."
        )
        assert reason in line
        again = f"The results in {out} are whole; to push again: python -m evalkit.trackers {out} +tracker.{name}."
        assert again in line  # of another package: a results folder alone does not name it
        assert "\n" not in line
    assert {name: (out / name).read_bytes() for name in kept} == kept
    record = (out / "tracker-raises.log").read_text()
    assert "Traceback" in record
    assert "hidden" not in record
    assert not running(int((out / "helper.pid").read_text()))


def running(pid: int) -> bool:
    """Whether a process still runs some time after it was killed."""
    import psutil

    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.05)
    return True


def test_a_folder_without_results_is_a_warning_not_an_error(tmp_path: Path, said: list[str]) -> None:
    assert push({"notes": option("Notes")}, tmp_path) == ["notes"]
    assert "results.json: no such file" in said[-1]


def test_a_missing_package_is_told_before_the_run() -> None:
    with pytest.raises(ConfigError) as caught:
        NeedsTheUnknown().check("tracker.mine")
    assert str(caught.value) == (
        "tracker.mine needs the package no_such_package: uv pip install 'evalkit[no_such_package]'"
    )
    Notes().check("tracker.mine")
    with pytest.raises(ConfigError, match=r"tracker\.mine\.timeout is 0"):
        Notes(timeout=0).check("tracker.mine")


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves a folder `wandb` where it was run."""
    (tmp_path / "folder_of_logs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("folder_of_logs")
    assert installed("json")


def test_what_is_no_tracker_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"tracker\.x: fake_trackers\.NotATracker is not a subclass of evalkit\.track"
    ):
        make_trackers({"x": option("NotATracker")})


def test_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_TEST_SET", "before")
    monkeypatch.delenv("EVALKIT_TEST_UNSET", raising=False)
    with environment(EVALKIT_TEST_SET="within", EVALKIT_TEST_UNSET="within"):
        assert os.environ["EVALKIT_TEST_SET"] == os.environ["EVALKIT_TEST_UNSET"] == "within"
    assert os.environ["EVALKIT_TEST_SET"] == "before"
    assert "EVALKIT_TEST_UNSET" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["num_samples=3"], "num_samples=3: the run is finished, so only tracker=... and tracker.*=... can be given"),
        (["tracker=[wandbb]"], "tracker=wandbb: no such option. Did you mean 'wandb'?"),
        (["tracker.mlflow.uri=x"], "tracker.mlflow: 'mlflow' is not chosen in this run. Add it: tracker=[mlflow]."),
        (["tracker=[]"], "was run without a tracker: give one, such as 'tracker=[tensorboard]'"),
    ],
)
def test_a_wrong_command_is_one_line(
    out: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_is_pushed_again_to_the_trackers_that_are_named(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that its results.json names are looked at first: the folder may be anybody's."""
    assert main([str(out)]) == EXIT_CONFIG
    assert "results.json names 'fake_trackers.Notes' as tracker.notes; of a results folder evalkit's own" in (
        capsys.readouterr().err
    )
    assert not (out / "note.json").exists()
    assert main([str(out), "+tracker.notes._target_=fake_trackers.Notes"]) == 0
    assert json.loads((out / "note.json").read_text())["id"] == FinishedRun.load(out).id


def test_a_tracker_of_ones_own_is_found_by_its_yaml(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "tracker").mkdir(parents=True)
    (tmp_path / "mine" / "tracker" / "ours.yaml").write_text("ours:\n  _target_: fake_trackers.Notes\n  timeout: 50\n")
    monkeypatch.chdir(tmp_path)
    assert main(["night", "tracker=[ours]", "tracker.ours.timeout=40", "--config-dir", "mine"]) == 0
    assert (out / "note.json").exists()


def test_a_real_run_pushes_last_and_a_failing_tracker_changes_nothing(tmp_path: Path) -> None:
    """Wiring: the command line, a tracker that works and one that raises; then the same command once more."""
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    command = [
        "name=cheap",
        "experiment=digits",
        "model=[digits_dcgan]",
        "num_samples=64",
        "metric=[is_digits]",
        "tracker=[tensorboard]",
        "+tracker.bad._target_=fake_trackers.Raises",
    ]
    done = run_evalkit(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs" / "cheap"
    assert results(out)["rows"][0]["value"] is not None
    assert "Warning: tracker.bad failed (ConnectionError" in done.stderr
    assert "to push again: python -m evalkit.trackers runs/cheap" in done.stderr
    assert "tracker.tensorboard: " in done.stderr
    logs = list((out / "tensorboard").glob("*/events.out.tfevents.*"))
    assert len(logs) == 1
    assert run_evalkit(*command, cwd=tmp_path).returncode == 0
    again = list((out / "tensorboard").glob("*/events.out.tfevents.*"))
    assert [path.parent for path in again] == [logs[0].parent]
