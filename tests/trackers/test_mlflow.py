"""MLflow, for real, on SQLite: the run is read back with MLflow's own client."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_run import NAMED, REPORT, SHEETS, make_folder, make_series_folder, make_table
from packages import need
from PIL import Image
from report_runs import RunOptions, colour, gate, write_run

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.results import render
from evalkit.trackers.base import FinishedRun

need("mlflow", "the extra 'mlflow' is not installed")
need("sqlalchemy", "mlflow-skinny alone is installed")

OPTION = {"_target_": "evalkit.trackers.mlflow.MlflowTracker"}


@pytest.fixture(scope="module")
def client(finished: Path, offline: list[bytes], home: Path) -> Iterator[Any]:
    """The run pushed twice into the default database, the second time with one score changed and one more."""
    before = dict(os.environ)
    build(OPTION).log(FinishedRun.load(finished))
    table = make_table()
    render.write(
        type(table)(
            {**table.run, "config": {**table.run["config"], "num_samples": 65, "batch_size": 8}},
            tuple(
                r if (r.cell, r.metric) != ("dcgan", "fid") else type(r)(**{**vars(r), "value": 7.0})
                for r in table.rows
            ),
            gate={"status": "pass", "results": []},
        ),
        finished,
    )
    time.sleep(0.01)  # the report is the newer one
    (finished / "report.html").write_text(REPORT)
    build(OPTION).log(FinishedRun.load(finished))
    assert dict(os.environ) == before

    from mlflow import MlflowClient

    yield MlflowClient(tracking_uri=f"sqlite:///{finished / 'mlflow.db'}")
    assert offline == []
    assert list(home.iterdir()) == []  # no ./mlruns


def the_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("evalkit")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_pushed_twice_it_is_one_run_with_one_value_a_score(client: Any) -> None:
    run = the_run(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "night"
    assert run.data.metrics == {**NAMED, "dcgan/fid": 7.0}
    assert len(client.get_metric_history(run.info.run_id, "ldm-ddim-num_inference_steps_4/fid")) == 1
    assert [m.value for m in client.get_metric_history(run.info.run_id, "dcgan/fid")] == [7.125, 7.0]


def test_verdict_protocols_and_configuration_are_there(client: Any) -> None:
    data = the_run(client).data
    assert data.tags["gate"] == "pass"
    assert data.tags["protocol.fid"] == "hash-fid"
    assert data.params["model.ldm.guidance_scale.sweep"] == "[1, 2]"
    assert data.params["model.dcgan.weights"] == "w.safetensors"
    assert data.params["num_samples"] == "64"  # MLflow changes no parameter; config.yaml is the last push's
    assert data.params["batch_size"] == "8"
    assert not any(key.startswith("extractor") for key in data.params)


def test_files_lie_beside_the_database(client: Any, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = the_run(client)
    artifacts = finished / "mlflow-artifacts" / run.info.run_id / "artifacts"
    assert run.info.artifact_uri == artifacts.as_uri()
    assert (artifacts / "report.html").read_text() == REPORT
    assert (artifacts / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert {f"{name}.png" for name in SHEETS} <= {p.relative_to(artifacts).as_posix() for p in artifacts.rglob("*.png")}
    assert (artifacts / "config.yaml").is_file()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished / 'mlflow.db'}")  # load_table forgets the client's
    assert client.load_table(run.info.experiment_id, "table.json", run_ids=[run.info.run_id]).shape == (2, 9)
    assert json.loads((artifacts / "table.json").read_text())["data"][1][5] == 7.0


def test_another_run_in_the_same_database_is_another(client: Any, finished: Path, tmp_path: Path) -> None:
    """And names that MLflow does not allow find one that it does."""
    table = make_table()
    strange = tuple(
        type(r)(**{**vars(r), "cell": {"dcgan": "a+b", "ldm-ddim-num_inference_steps_4": "a(b"}[r.cell]})
        for r in table.rows
    )
    other = make_folder(tmp_path, type(table)({**table.run, "cells": {}}, strange))
    tracker = build({**OPTION, "uri": f"sqlite:///{finished / 'mlflow.db'}", "experiment": "other"})
    tracker.log(FinishedRun.load(other))
    experiment = client.get_experiment_by_name("other")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["a_b/fid"] == 12.5
    assert run.data.metrics["a_b/fid_"] == 7.125
    assert "gate" not in run.data.tags
    assert the_run(client).info.run_id != run.info.run_id


def test_a_push_that_fails_marks_the_run_and_the_next_one_mends_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    run = FinishedRun.load(make_folder(tmp_path))
    tracker = build({**OPTION, "uri": f"sqlite:///{finished / 'mlflow.db'}", "experiment": "mended"})
    run.files["no-such-file.txt"] = tmp_path / "no-such-file.txt"
    with pytest.raises(OSError):
        tracker.log(run)
    (failed,) = client.search_runs([client.get_experiment_by_name("mended").experiment_id])
    assert failed.info.status == "FAILED"
    tracker.log(FinishedRun.load(tmp_path))
    (mended,) = client.search_runs([client.get_experiment_by_name("mended").experiment_id])
    assert (mended.info.run_id, mended.info.status) == (failed.info.run_id, "FINISHED")
    assert len(client.get_metric_history(mended.info.run_id, "dcgan/fid")) == 1


def test_single_samples_are_a_table_with_images(client: Any, finished: Path, tmp_path: Path) -> None:
    out = write_run(tmp_path / "run")
    uri = f"sqlite:///{finished / 'mlflow.db'}"
    build({**OPTION, "uri": uri, "experiment": "samples"}).log(FinishedRun.load(out))
    (run,) = client.search_runs([client.get_experiment_by_name("samples").experiment_id])
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "samples.json", str(tmp_path))).read_text())
    assert table["columns"] == ["cell", "index", "prompt", "category", "clip_score_x", "image"]
    assert len(table["data"]) == 90
    assert table["data"][31][1:4] == [1, "prompt 1", "people"]
    image = table["data"][31][-1]
    assert image["type"] == "image"
    path = client.download_artifacts(run.info.run_id, image["compressed_filepath"], str(tmp_path))
    assert Image.open(path).getpixel((0, 0)) == colour(1, 1)
    assert [one["path"] for one in json.loads(run.data.tags["mlflow.loggedArtifacts"])] == [
        "table.json",
        "samples.json",
    ]


def test_an_alias_is_moved_where_the_gate_passes_alone(client: Any, finished: Path, tmp_path: Path) -> None:
    client.create_registered_model("net")
    for _ in range(3):
        client.create_model_version("net", "somewhere")
    uri = f"sqlite:///{finished / 'mlflow.db'}"
    said = {}
    for version, status, at in ((1, "pass", 1), (2, "fail", 1), (3, None, 1), (3, "pass", 3)):
        verdict = None if status is None else gate(status=status)
        run = FinishedRun.load(write_run(tmp_path / str(version), RunOptions(gate=verdict)))
        option = {**OPTION, "uri": uri, "experiment": "aliases", "model": "net", "version": version}
        said[status, version] = build(option).log(run)
        assert int(client.get_model_version_by_alias("net", "champion").version) == at
        assert client.get_model_version("net", str(version)).tags["evalkit.gate"] == (status or "none")
    assert said["pass", 1].endswith("; champion of net is version 1")
    assert said["fail", 2].endswith("champion of net was not moved to version 2 (gate: fail)")
    assert said[None, 3].endswith("(no gate was asked for)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"uri": "mlruns"},
            "tracker.mlflow.uri=mlruns is a folder, where MLflow 3 keeps no runs: use a database, sqlite:///mlruns/",
        ),
        ({"uri": "file:///data/runs"}, "use a database, sqlite:////data/runs/mlflow.db say"),
        ({"uri": "sqlite://"}, "names no file: write sqlite:///mlflow.db"),
        ({"uri": "sqlite://runs/mlflow.db"}, "names no file: write sqlite:///mlflow.db"),
        ({"uri": "https://me:hidden@host"}, "tracker.mlflow.uri holds a password"),
        ({"uri": "postgresql+psycopg2://host/db"}, "tracker.mlflow.artifacts is not set"),
        ({"timeout": -1}, "tracker.mlflow.timeout is -1"),
        ({"model": "net"}, "tracker.mlflow.version is not set"),
        ({"version": 3}, "tracker.mlflow.model is not set"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({**OPTION, **options}).check("tracker.mlflow")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"uri": "sqlite:///runs/mlflow.db"},
        {"uri": "https://host"},
        {"uri": "databricks"},
        {"uri": "postgresql://host/db", "artifacts": "s3://bucket"},
    ],
)
def test_a_right_option_passes(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build({**OPTION, **options}).check("tracker.mlflow")


def test_the_environments_uri_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI=\./mlruns is a folder"):
        build(OPTION).check("tracker.mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:key@host")  # the environment is where a secret belongs
    build(OPTION).check("tracker.mlflow")


def test_a_series_of_checkpoints_is_a_curve_that_goes_on(client: Any, finished: Path, tmp_path: Path) -> None:
    option = {**OPTION, "uri": f"sqlite:///{finished / 'mlflow.db'}", "experiment": "training"}
    for steps in ((100, 200), (50, 100, 200, 1000)):  # a checkpoint of before may come late
        build(option).log(FinishedRun.load(make_series_folder(tmp_path / "training", steps)))
    (run,) = client.search_runs([client.get_experiment_by_name("training").experiment_id])
    points = client.get_metric_history(run.info.run_id, "gan/fid")
    assert sorted((point.step, point.value) for point in points) == [(50, 20.0), (100, 10.0), (200, 5.0), (1000, 1.0)]
