"""TensorBoard: scores as scalars, contact sheets as images; table, configuration and verdict as text; files next to it.

The event file is written by the tensorboard package itself: neither torch nor TensorFlow is needed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.trackers.base import FinishedRun, Tracker
from evalkit.utils.files import atomic_path

_SUFFIX = ".evalkit"  # an event file of ours, which may be replaced


@dataclass(eq=False)
class TensorBoardTracker(Tracker):
    """Writes a run to `<logdir>/<run name>-<id>/`; pushed again, the new event file takes the old one's place.

    Args:
        logdir: folder of the logs; none: `tensorboard/` in the run's folder.
        timeout: seconds that a push may take.
    """

    package = "tensorboard"

    logdir: str | None = None
    timeout: float = 600.0

    def log(self, run: FinishedRun) -> str:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        logdir = Path(self.logdir).expanduser() if self.logdir else run.folder / "tensorboard"
        folder = logdir / f"{run.name}-{run.id}"
        for name, path in run.files.items():
            with atomic_path(folder / "files" / name) as temporary:
                shutil.copyfile(path, temporary)
        before = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
        writer = EventFileWriter(str(folder), filename_suffix=_SUFFIX)
        for event in _events(run):
            writer.add_event(event)
        writer.close()
        for path in before:
            path.unlink()
        return f"{folder} (look at it: tensorboard --logdir {logdir})"


def _events(run: FinishedRun) -> Iterator[Any]:
    """All that there is to a run, at step 0; the curves of a series of checkpoints at their own."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.text.summary_v2 import text_pb

    now = time.time()

    def event(step: int = 0, **what: Any) -> Any:
        return event_pb2.Event(wall_time=now, step=step, **what)

    # Makes a TensorBoard that has read an earlier push drop what it held from step 0 on.
    yield event(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
    for tag, value in run.scores.items():
        yield event(summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, simple_value=value)]))
    for tag, points in run.curves.items():
        for step, number in points:
            value = summary_pb2.Summary.Value(tag=tag, simple_value=number)
            yield event(step, summary=summary_pb2.Summary(value=[value]))
    for tag, path in run.images.items():
        image = _image(path)
        yield event(summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=tag, image=image)]))
    for tag, text in _texts(run).items():
        yield event(summary=text_pb(tag, text))


def _image(path: Path) -> Any:
    """A PNG as TensorBoard holds it: the file's own bytes."""
    from PIL import Image
    from tensorboard.compat.proto import summary_pb2

    with Image.open(path, formats=["PNG"]) as image:
        width, height = image.size
    return summary_pb2.Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())


def _texts(run: FinishedRun) -> dict[str, str]:
    """By tag, as Markdown."""
    texts = {tag: run.files[name].read_text(encoding="utf-8") for tag, name in _SOURCES.items() if name in run.files}
    if "config" in texts:
        texts["config"] = f"```yaml\n{texts['config']}\n```"
    texts["protocols"] = "".join(f"- {metric}: {hashes}\n" for metric, hashes in run.protocols.items()) or "none"
    if run.gate is not None:
        texts["gate"] = run.gate
    return texts


_SOURCES = {"table": "table.md", "comparison": "comparison.md", "config": "config.yaml", "gate report": "gate.md"}
