"""MLflow: scores as metrics, the configuration as parameters, verdict and protocols as tags, all files as artifacts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evalkit.errors import ConfigError
from evalkit.trackers.base import FinishedRun, Tracker, environment, installed
from evalkit.trackers.samples import SampleTable, sample_table

_SQLITE = "sqlite:///"  # then a path: relative, or with a fourth slash absolute
_SERVERS = ("http", "https", "databricks")
_ID = "evalkit.run"  # the tag by which a run is recognised
_SAMPLES, _PICTURES = "samples.json", "table_images/samples"


@dataclass(eq=False)
class MlflowTracker(Tracker):
    """Writes a run to a tracking server or a database; pushed again, the run with the same id goes on.

    Args:
        uri: the server or database; none: MLFLOW_TRACKING_URI, else `mlflow.db` in the run's folder.
        experiment: its name; made where there is none.
        artifacts: the folder or bucket of a new experiment's files; none: the server's choice, or `mlflow-artifacts/`
            next to the SQLite file.
        model, version: a registered model and the version of it that the run judged; none: no alias is moved.
        alias: where the run's gate says "pass", it is moved to this version; else it stays where it is.
        timeout: seconds that a push may take.
    """

    package = "mlflow"

    uri: str | None = None
    experiment: str = "evalkit"
    artifacts: str | None = None
    model: str | None = None
    version: Any = None
    alias: str = "champion"
    timeout: float = 600.0

    def check(self, where: str) -> None:
        super().check(where)
        if (self.model is None) != (self.version is None):
            other = "version" if self.version is None else "model"
            raise ConfigError(f"{where}.{other} is not set: an alias is moved to a version of a registered model")
        uri, key = (self.uri, f"{where}.uri") if self.uri else (os.environ.get("MLFLOW_TRACKING_URI"), None)
        if key and urlsplit(uri or "").password:
            raise ConfigError(f"{key} holds a password, which the results would show: set MLFLOW_TRACKING_URI instead")
        key = key or "MLFLOW_TRACKING_URI"
        scheme = "databricks" if uri == "databricks" else urlsplit(uri).scheme if uri else "sqlite"
        if uri and scheme in ("", "file"):
            database = f"{_SQLITE}{uri.removeprefix('file://').rstrip('/')}/mlflow.db"
            raise ConfigError(f"{key}={uri} is a folder, where MLflow 3 keeps no runs: use a database, {database} say")
        if uri and scheme == "sqlite" and not (uri.startswith(_SQLITE) and uri.removeprefix(_SQLITE).strip("/")):
            raise ConfigError(f"{key}={uri} names no file: write {_SQLITE}mlflow.db")
        if scheme not in _SERVERS and not (installed("sqlalchemy") and installed("alembic")):
            raise ConfigError(f"{where} has mlflow-skinny alone, without databases: uv pip install 'evalkit[mlflow]'")
        if scheme not in (*_SERVERS, "sqlite") and self.artifacts is None:
            what = f"name the folder or bucket of the files, {scheme} has none"
            raise ConfigError(f"{where}.artifacts is not set: {what}")

    def log(self, run: FinishedRun) -> str:
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{run.folder / 'mlflow.db'}"
        with environment(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true"):
            from mlflow import MlflowClient

            if uri.startswith(_SQLITE):
                Path(uri.removeprefix(_SQLITE)).absolute().parent.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=uri)
            experiment = self._experiment(client, uri)
            earlier = client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'", max_results=1)
            tags = {_ID: run.id}
            known = earlier[0] if earlier else client.create_run(experiment, tags=tags, run_name=run.name)
            try:
                _write(client, known, run)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    client.set_terminated(known.info.run_id, "FAILED")
                raise
            client.set_terminated(known.info.run_id, "FINISHED")
            moved = "" if self.model is None else f"; {self._move_alias(client, run)}"
        return f"{uri}, experiment {self.experiment}, run {known.info.run_id}{moved}"

    def _move_alias(self, client: Any, run: FinishedRun) -> str:
        """Moves the alias where the gate passed, and tags the version with the verdict; what was done, for people."""
        version = str(self.version)
        client.set_model_version_tag(self.model, version, "evalkit.gate", run.gate or "none")
        client.set_model_version_tag(self.model, version, _ID, run.id)
        if run.gate == "pass":
            client.set_registered_model_alias(self.model, self.alias, version)
            return f"{self.alias} of {self.model} is version {version}"
        verdict = "no gate was asked for" if run.gate is None else f"gate: {run.gate}"
        return f"{self.alias} of {self.model} was not moved to version {version} ({verdict})"

    def _experiment(self, client: Any, uri: str) -> str:
        """The experiment's id."""
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        artifacts = self.artifacts
        if artifacts is None and uri.startswith(_SQLITE):  # else MLflow would make ./mlruns
            artifacts = (Path(uri.removeprefix(_SQLITE)).absolute().parent / "mlflow-artifacts").as_uri()
        return str(client.create_experiment(self.experiment, artifact_location=artifacts))


def _write(client: Any, known: Any, run: FinishedRun) -> None:
    """Logs what is new or has changed; `known` is the run as MLflow had it."""
    from mlflow.entities import Metric, Param, RunTag

    run_id, data = known.info.run_id, known.data
    now = int(time.time() * 1000)
    metrics = _keys(run.scores)
    # A value that is there already would be one more point in the metric's history.
    new = [Metric(key, value, now, 0) for key, value in metrics.items() if data.metrics.get(key) != value]
    for key, points in _keys(run.curves).items():
        known_steps = {(m.step, m.value) for m in client.get_metric_history(run_id, key)} if key in data.metrics else ()
        new += [Metric(key, value, now, step) for step, value in points if (step, value) not in known_steps]
    settings = _keys(dict(_flat({k: v for k, v in run.config.items() if k != "extractor"})))
    # A parameter cannot be changed; config.yaml among the files is always the last one's.
    params = [Param(key, value) for key, value in settings.items() if key not in data.params]
    tags = _keys({f"protocol.{metric}": hashes for metric, hashes in run.protocols.items()})
    samples = sample_table(run)
    tables = ["table.json", *([_SAMPLES] if samples is not None else [])]
    tags["mlflow.loggedArtifacts"] = json.dumps([{"path": path, "type": "table"} for path in tables])  # shown as such
    if run.gate is not None:
        tags["gate"] = run.gate
    run_tags = [RunTag(key, value) for key, value in tags.items()]
    for kind, items, most in (("metrics", new, 1000), ("params", params, 100), ("tags", run_tags, 100)):
        for start in range(0, len(items), most):  # MLflow takes so many at a time
            client.log_batch(run_id, **{kind: items[start : start + most]})
    heads, lines = run.lines()
    client.log_dict(run_id, {"columns": heads, "data": lines}, "table.json")  # log_table would append to the last one
    if samples is not None:
        _log_samples(client, run_id, samples)
    for name, path in run.files.items():
        client.log_artifact(run_id, str(path), name.rpartition("/")[0] or None)


def _log_samples(client: Any, run_id: str, samples: SampleTable) -> None:
    """samples.json: prompt, scores and image of single samples, as MLflow's own log_table would write it."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="evalkit-samples-") as scratch:
        for number, (line, picture) in enumerate(zip(samples.lines, samples.pictures, strict=True)):
            name = f"{number:05}.webp"
            (Path(scratch) / name).write_bytes(picture)
            where = f"{_PICTURES}/{name}"
            lines.append([*line, {"type": "image", "filepath": where, "compressed_filepath": where}])
        client.log_artifacts(run_id, scratch, _PICTURES)
    client.log_dict(run_id, {"columns": [*samples.heads, "image"], "data": lines}, _SAMPLES)


def _keys(named: Mapping[str, Any]) -> dict[str, Any]:
    """The same under names that MLflow allows (letters, digits, `_-. /`, 250 characters), none lost to another."""
    keys: dict[str, Any] = {}
    for name, value in named.items():
        key = re.sub(r"[^\w/.\- ]", "_", name)[:240]
        while key in keys:
            key += "_"
        keys[key] = value
    return keys


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A configuration's leaves by dotted path, as text."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node if isinstance(node, str) else json.dumps(node)
