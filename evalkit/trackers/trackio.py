"""trackio: scores, curves, tables, contact sheets and report of a run in a local project, without an account."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.trackers.base import FinishedRun, Tracker, environment
from evalkit.trackers.samples import sample_table

_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


@dataclass(eq=False)
class TrackioTracker(Tracker):
    """Writes a run into a project's SQLite file; pushed again, the run with the same id takes the earlier one's place.

    Nothing leaves the machine: `trackio.sync` of trackio's own uploads a project.

    Args:
        project: trackio's project.
        dir: the folder of trackio's files; none: `trackio/` in the run's folder. trackio's own is
            ~/.cache/huggingface/trackio.
        timeout: seconds that a push may take.
    """

    package = "trackio"

    project: str = "evalkit"
    dir: str | None = None
    timeout: float = 600.0

    def log(self, run: FinishedRun) -> str:
        folder = Path(self.dir).expanduser().absolute() if self.dir else run.folder / "trackio"
        folder.mkdir(parents=True, exist_ok=True)
        with environment(TRACKIO_DIR=str(folder), **dict.fromkeys(_ELSEWHERE, "")):
            for name in _ELSEWHERE:
                del os.environ[name]  # set, even to nothing, it would send the run to a server
            import trackio

            name = f"{run.name}-{run.id}"
            earlier = self._earlier(trackio, run)
            trackio.init(
                project=self.project,
                name=name,
                config={**run.config, "protocols": run.protocols, "gate": run.gate, "run": run.id},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            try:
                _write(trackio, run)
            finally:
                trackio.finish()
            for one in earlier:
                one.delete()
        return f"{folder}, project {self.project}, run {name} (look at it: TRACKIO_DIR={folder} trackio show)"

    def _earlier(self, trackio: Any, run: FinishedRun) -> list[Any]:
        """What earlier pushes of this run wrote."""
        try:
            known = list(trackio.Api().runs(self.project))
        except ValueError:  # there is no such project yet
            return []
        return [one for one in known if (one.config or {}).get("run") == run.id]


def _write(trackio: Any, run: FinishedRun) -> None:
    """All that there is to a run, at step 0; the curves of a series of checkpoints at their own."""
    from PIL import Image

    heads, lines = run.lines()
    media: dict[str, Any] = {"table": trackio.Table(columns=heads, data=lines)}
    samples = sample_table(run)
    if samples is not None:
        pictures = [trackio.Image(Image.open(io.BytesIO(one), formats=["WEBP"])) for one in samples.pictures]
        data = [[*line, picture] for line, picture in zip(samples.lines, pictures, strict=True)]
        media["samples"] = trackio.Table(columns=[*samples.heads, "image"], data=data)
    media |= {name: trackio.Image(str(path), caption=name) for name, path in run.images.items()}
    if run.report is not None:
        media["report"] = trackio.Html(run.report.read_text(encoding="utf-8"))
    trackio.log({**run.scores, **media}, step=0)
    by_step: dict[int, dict[str, float]] = {}
    for name, points in run.curves.items():
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    for step, values in sorted(by_step.items()):
        trackio.log(values, step=step)
