"""Weights & Biases: scores and verdict in the summary, table, contact sheets and report as media, files as an artifact.

Scores go to the summary, not to the history: there they have one value each, however often a run is pushed.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import netrc
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evalkit.errors import ConfigError, nearest
from evalkit.trackers.base import FinishedRun, Tracker, environment
from evalkit.trackers.samples import sample_table

_MODES = ("offline", "online")


@dataclass(eq=False)
class WandbTracker(Tracker):
    """Writes a W&B run; pushed again, the run with the same id goes on, and the files of earlier pushes are removed.

    Args:
        mode: offline (files alone) or online.
        project, entity, group, tags: where W&B puts the run.
        dir: all of W&B's files go to `wandb/` in this folder; none: the run's folder.
        timeout: seconds that a push may take.
    """

    package = "wandb"

    mode: Any = "offline"
    project: str = "evalkit"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    dir: str | None = None
    timeout: float = 600.0

    def check(self, where: str) -> None:
        super().check(where)
        if self.mode not in _MODES:
            raise ConfigError(f"{where}.mode={self.mode}: no such mode. {nearest(str(self.mode), _MODES)}")
        if self.mode == "online" and not _has_key():
            fix = "set WANDB_API_KEY or run `wandb login`, or mode=offline"
            raise ConfigError(f"{where}.mode=online needs a key: {fix}")

    def log(self, run: FinishedRun) -> str:
        parent = Path(self.dir).expanduser().absolute() if self.dir else run.folder
        folder = parent / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        names = (f"run-*-{run.id}", f"offline-run-*-{run.id}", f"data-{run.id}-*")
        before = {path for name in names for path in folder.glob(name)}
        # Without these, the files of tables and artifacts would lie in the user's home.
        data = tempfile.mkdtemp(prefix=f"data-{run.id}-", dir=folder)
        with environment(WANDB_DATA_DIR=data, WANDB_CACHE_DIR=data, WANDB_ERROR_REPORTING="false"):
            import wandb

            session = wandb.init(
                project=self.project,
                entity=self.entity,
                group=self.group,
                tags=list(self.tags),
                id=run.id,
                name=run.name,
                dir=parent,
                mode=self.mode,
                resume="allow",
                job_type="evaluation",
                config={**run.config, "protocols": run.protocols},
                settings=self._settings(),
            )
            try:
                _write(session, run)
            except BaseException:
                session.finish(exit_code=1)
                raise
            session.finish()
            written = Path(session.dir).parent
            url = session.url
            wandb.teardown()
        for path in before - {written}:
            shutil.rmtree(path)
        if self.mode == "online":
            shutil.rmtree(data)  # it is uploaded
            return str(url)
        return f"offline; upload it with: wandb sync {written}"

    def _settings(self) -> Any:
        """Nothing of the machine or the working copy is recorded, nothing printed, and no wait is without end."""
        import wandb

        return wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            allow_val_change=True,
            init_timeout=min(90.0, self.timeout / 4),
            finish_timeout=self.timeout / 2,
            finish_timeout_raises=True,
        )


def _write(session: Any, run: FinishedRun) -> None:
    import wandb

    heads, lines = run.lines()
    sheets = [run.images.get(f"sheets/{line[0]}") for line in lines]
    table = wandb.Table(columns=[*heads, "samples"])
    for line, sheet in zip(lines, sheets, strict=True):
        table.add_data(*line, None if sheet is None else wandb.Image(str(sheet)))
    media: dict[str, Any] = {"table": table}
    media |= {name: wandb.Image(str(path), caption=name) for name, path in run.images.items()}
    if run.report is not None:
        media["report"] = wandb.Html(str(run.report), inject=False)
    if (samples := _samples(run)) is not None:
        media["samples"] = samples
    session.log(media)
    session.summary.update(run.scores)
    if len(run.table.cells) == 1:  # under the metric's own name as well, which a sweep can be told to minimise
        session.summary.update({row.metric: row.value for row in run.table.rows if row.value is not None})
    _log_curves(session, run)
    if run.gate is not None:
        session.summary["gate"] = run.gate
    artifact = wandb.Artifact(f"evalkit-{run.id}", type="evaluation", description=f"the results of {run.name}")
    for name, path in run.files.items():
        artifact.add_file(str(path), name=name)
    session.log_artifact(artifact)


def _samples(run: FinishedRun) -> Any:
    """A table of single samples: prompt, scores and image; none where the run kept no pictures."""
    import wandb
    from PIL import Image

    samples = sample_table(run)
    if samples is None:
        return None
    table = wandb.Table(columns=[*samples.heads, "image"])
    for line, picture in zip(samples.lines, samples.pictures, strict=True):
        table.add_data(*line, wandb.Image(Image.open(io.BytesIO(picture), formats=["WEBP"])))
    return table


def _log_curves(session: Any, run: FinishedRun) -> None:
    """A point per training step, over `step`: W&B's own counter of steps may only grow, checkpoints come in any order.

    What a run that is taken up again has already stands in its summary: nothing is logged twice.
    """
    known = set(session.summary.get("logged_points") or ())
    by_step: dict[int, dict[str, float]] = {}
    for name, points in run.curves.items():
        for step, value in points:
            if f"{name}@{step}" not in known:
                by_step.setdefault(step, {})[name] = value
                known.add(f"{name}@{step}")
    if not by_step:
        return
    session.define_metric("step")
    for name in run.curves:
        session.define_metric(name, step_metric="step")
    for step, values in sorted(by_step.items()):
        session.log({"step": step, **values})
    session.summary["logged_points"] = sorted(known)


def _has_key() -> bool:
    """Whether there is a key where W&B looks for one: environment, settings file, netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    configured = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        settings.read([configured / "settings", Path("wandb") / "settings"])
    if settings.get("default", "api_key", fallback=None):
        return True
    url = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="https://api.wandb.ai")
    for file in [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(Path(file).expanduser()).authenticators(str(urlsplit(url).netloc)):
                return True
    return False
