"""The section on `profile=true`: where one image's time goes, and how speed and memory go with the batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import DataError
from evalkit.report.figure import FigureSpec, Line, Point, draw, legend_mark
from evalkit.report.plots import Group, Plot
from evalkit.report.run_folder import Run, clean, short
from evalkit.results import profile
from evalkit.utils.json_files import read_json

MOST = 6  # cells whose parts are shown; profile.csv has all


@dataclass(frozen=True)
class Parts:
    """A cell's parts at one batch size, as lines under `profile.PART_HEADS`, with each part's share in percent."""

    cell: str
    batch_size: int
    lines: Sequence[tuple[float, Sequence[str]]]
    total: Sequence[str]
    whole: str


@dataclass(frozen=True)
class ProfileView:
    """What the section shows."""

    parts: Sequence[Parts]
    left: int
    batches: Sequence[Sequence[str]]
    plots: Group | None
    notes: Sequence[str]
    heads: Sequence[str] = profile.PART_HEADS
    batch_heads: Sequence[str] = profile.BATCH_HEADS


def make_profile(run: Run) -> ProfileView | str | None:
    """The section; none where nothing was profiled; why there is none, where the file cannot be read."""
    path = run.file(profile.NAME)
    if path is None:
        return None
    try:
        return _view(run, read_json(path))
    except (OSError, DataError, LookupError, TypeError, ValueError, AttributeError) as error:
        return f"{profile.NAME} cannot be read ({clean(str(error))[:200]})."


def _view(run: Run, data: Mapping[str, Any]) -> ProfileView:
    cells = [cell for cell in data["cells"] if any("parts" in batch for batch in cell["batches"])]
    parts = []
    for cell in cells[:MOST]:
        batch = next(batch for batch in cell["batches"] if "parts" in batch)
        shares = [100 * float(part["share"]) for part in batch["parts"]]
        lines = list(zip(shares, profile.part_lines(batch), strict=True))
        parts.append(
            Parts(cell["cell"], batch["batch_size"], lines, profile.sum_line(batch), profile.whole_line(batch))
        )
    swept = any(len(cell["batches"]) > 1 for cell in data["cells"])
    batches = [line for cell in data["cells"] for line in _named(cell)] if len(cells) > 1 or swept else []
    return ProfileView(parts, len(cells) - len(parts), batches, _plots(run, cells), list(profile.about_lines(data)))


def _named(cell: Mapping[str, Any]) -> list[list[str]]:
    """A cell's lines, each of which names it: screen readers read line by line."""
    return [[cell["cell"], *line[1:]] for line in profile.batch_lines([cell])]


def _plots(run: Run, cells: Sequence[Mapping[str, Any]]) -> Group | None:
    """Images per second and peak memory against the batch size, a line per cell."""
    swept = [cell for cell in cells if sum("parts" in batch for batch in cell["batches"]) > 1][:MOST]
    if not swept:
        return None
    sizes = sorted({batch["batch_size"] for cell in swept for batch in cell["batches"] if "parts" in batch})
    ticks = [(float(size), str(size)) for size in sizes]
    plots = []
    for number, (key, title) in enumerate((("images_per_second", "images/s"), ("peak_memory_mb", "peak memory, MB"))):
        lines = []
        for place, cell in enumerate(swept):
            name = run.keys.get(cell["cell"], "")
            points = [(float(b["batch_size"]), float(b[key])) for b in cell["batches"] if "parts" in b]
            tips = [f"{name}  {short(cell['cell'])}, batch size {x:g}: {y:,.4g} {title}" for x, y in points]
            marks = (Point(x, y, "", tip, cell=name) for (x, y), tip in zip(points, tips, strict=True))
            lines.append(Line(place, tuple(marks), True))
        spec = FigureSpec(lines, "batch size", title, log_x=len(sizes) > 2, ticks=ticks, labels=False)
        label = f"{title} against the batch size, a line per cell."
        plots.append(Plot(f"{title} against batch size", "", draw(spec, key=f"pb{number}", label=label)))
    ends = [f"{short(c['cell'])} ends at {b['batch_size']}" for c in swept for b in c["batches"] if "failed" in b]
    legend = [(legend_mark(i), short(cell["cell"])) for i, cell in enumerate(swept)]
    return Group("Along the batch size", plots, legend, "; ".join(ends))
