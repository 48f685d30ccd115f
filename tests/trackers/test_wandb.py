"""W&B, for real, offline: its run file is read back record by record, and its media from the disk."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_run import CONFIG, NAMED, REPORT, SHEETS, make_folder, make_series_folder, make_table
from packages import need
from PIL import Image
from report_runs import colour, write_run

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.trackers.base import FinishedRun
from evalkit.trackers.samples import sample_table

need("wandb", "the extra 'wandb' is not installed")

OPTION = {"_target_": "evalkit.trackers.wandb.WandbTracker"}


@pytest.fixture(scope="module")
def pushed(finished: Path, offline: list[bytes], home: Path) -> Any:
    """The run's folder and its run file, after two pushes."""
    from wandb_file import read

    before = dict(os.environ)
    run = FinishedRun.load(finished)
    build(OPTION).log(run)
    first = {path.name for path in (finished / "wandb").iterdir()}
    place = build(OPTION).log(run)
    assert dict(os.environ) == before
    (folder,) = (finished / "wandb").glob("offline-run-*")
    assert place == f"offline; upload it with: wandb sync {folder}"
    assert len(first & {path.name for path in (finished / "wandb").glob(f"*{run.id}*")}) <= 1  # within one second
    assert len(list((finished / "wandb").glob("data-*"))) == 1
    yield folder, read(folder / f"run-{run.id}.wandb")
    assert offline == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_scores_and_verdict_are_in_the_summary_alone(pushed: Any) -> None:
    _, held = pushed
    assert {name: held.summary[name] for name in NAMED} == NAMED
    assert held.summary["gate"] == "fail"
    assert held.exit_code == 0
    assert not any(name in step for step in held.history for name in NAMED)
    assert not {"fid", "clip_score"} & set(held.summary)  # of which cell?


def test_scores_of_one_cell_have_the_metrics_own_names(tmp_path: Path, offline: list[bytes], home: Path) -> None:
    """What a sweep is told to minimise: cells are called after their settings, so each trial's would be another key."""
    from wandb_file import read

    table = make_table()
    rows = tuple(row for row in table.rows if row.cell == "dcgan")
    run = FinishedRun.load(make_folder(tmp_path / "one", replace(table, rows=rows)))
    build(OPTION).log(run)
    (folder,) = (tmp_path / "one" / "wandb").glob("offline-run-*")
    held = read(folder / f"run-{run.id}.wandb")
    assert (held.summary["fid"], held.summary["dcgan/fid"]) == (7.125, 7.125)
    assert "clip_score" not in held.summary  # it has no value
    assert offline == []


def test_it_is_one_run_with_the_configuration(pushed: Any, finished: Path) -> None:
    _, held = pushed
    assert (held.run.run_id, held.run.display_name, held.run.project) == (
        FinishedRun.load(finished).id,
        "night",
        "evalkit",
    )
    assert held.run.resume
    assert {name: held.config[name] for name in CONFIG} == CONFIG
    assert held.config["protocols"] == {"fid": "hash-fid", "clip_score": "hash-clip_score"}


def test_table_sheets_and_report_are_media(pushed: Any, finished: Path) -> None:
    folder, held = pushed
    (step,) = held.history
    assert set(SHEETS) | {"table", "report"} <= set(step)
    assert (folder / "files" / step["report"]["path"]).read_text() == REPORT
    sheet = folder / "files" / step["sheets/dcgan"]["path"]
    assert sheet.read_bytes() == (finished / "sheets" / "dcgan.png").read_bytes()
    table = json.loads(held.artifacts["run_table"]["table.table.json"].read_text())
    assert table["columns"][:6] == ["cell", "model", "sampler", "num_inference_steps", "N", "fid"]
    assert [line[5] for line in table["data"]] == [12.5, 7.125]
    image = table["data"][1][-1]
    assert held.artifacts["run_table"][image["path"]].read_bytes() == sheet.read_bytes()


def test_files_are_an_artifact_and_all_lies_below_the_run(pushed: Any, finished: Path) -> None:
    _, held = pushed
    files = held.artifacts["evaluation"]
    assert set(files) == set(FinishedRun.load(finished).files)
    assert files["results.json"].read_bytes() == (finished / "results.json").read_bytes()
    assert files["report.html"].read_text() == REPORT
    for entries in held.artifacts.values():
        for path in entries.values():
            assert path.is_relative_to(finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ofline"}, "tracker.wandb.mode=ofline: no such mode. Did you mean 'offline'?"),
        ({"mode": "online"}, "tracker.wandb.mode=online needs a key: set WANDB_API_KEY or run `wandb login`"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        build({**OPTION, **options}).check("tracker.wandb")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_is_found_where_wandb_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    online = build({**OPTION, "mode": "online"})
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123\n")
    (tmp_path / ".netrc").chmod(0o600)
    online.check("tracker.wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(ConfigError, match="needs a key"):
        online.check("tracker.wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    online.check("tracker.wandb")


def test_a_series_of_checkpoints_is_a_curve_over_its_steps(tmp_path: Path, offline: list[bytes], home: Path) -> None:
    from wandb_file import read

    run = FinishedRun.load(make_series_folder(tmp_path / "training"))
    build(OPTION).log(run)
    (folder,) = (tmp_path / "training" / "wandb").glob("offline-run-*")
    history = read(folder / f"run-{run.id}.wandb").history
    points = [(line["step"], line["gan/fid"]) for line in history if "gan/fid" in line]
    assert points == [(100, 10.0), (200, 5.0), (1000, 1.0)]


def test_single_samples_are_a_table_with_images(tmp_path: Path, offline: list[bytes], home: Path) -> None:
    from wandb_file import read

    run = FinishedRun.load(write_run(tmp_path / "run"))
    build(OPTION).log(run)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    held = read(folder / f"run-{run.id}.wandb").artifacts["run_table"]
    table = json.loads(held["samples.table.json"].read_text())
    assert table["columns"] == ["cell", "index", "prompt", "category", "clip_score_x", "image"]
    assert len(table["data"]) == 90
    assert table["data"][31][1:4] == [1, "prompt 1", "people"]
    assert Image.open(held[table["data"][31][-1]["path"]]).getpixel((0, 0)) == colour(1, 1)


def test_without_pictures_there_is_no_table_of_samples(finished: Path, tmp_path: Path) -> None:
    assert sample_table(FinishedRun.load(finished)) is None
    run = write_run(tmp_path)
    (run / "samples.csv").write_text("cell,index\n")
    assert sample_table(FinishedRun.load(run)) is None
