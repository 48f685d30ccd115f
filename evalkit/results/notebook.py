"""`evalkit.ResultTable`: the result table with what a notebook wants of it, and `evalkit.load`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError
from evalkit.results import table as plain
from evalkit.results.evidence import Evidence, read_evidence
from evalkit.results.render import to_markdown

if TYPE_CHECKING:
    from evalkit.results.differences import Differences
    from evalkit.results.images import Images
    from evalkit.results.pivot import Pivot
    from evalkit.results.plot import Plot

RESULTS = "results.json"


@dataclass(frozen=True, repr=False)
class ResultTable(plain.ResultTable):
    """All scores of a run; a notebook shows it as a table, with the best bold and what must be read with it.

        table = evalkit.load("runs/x")
        table.plot("num_inference_steps", "fid")
        table.pivot("sampler", "num_inference_steps", "fid")
        table.compare("CELL")
        table.images("CELL")

    Attributes:
        folder: of the run; none where it wrote none.
        evidence: what the scores rest on, of a table without a folder (`evalkit.Evaluation`).
    """

    folder: Path | None = field(default=None, compare=False)
    evidence: Evidence | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        name = f" of {self.run['name']}" if self.run.get("name") else ""
        return f"results{name}: {len(self.cells)} cells x {len(self.columns)} metrics"

    def __str__(self) -> str:
        return to_markdown(self)

    def _repr_html_(self) -> str:
        from evalkit.results.html import result_html

        return result_html(self)

    def plot(self, x: str, y: str) -> Plot:
        """A metric along an axis ("num_inference_steps", "sampler"), a line per combination of all other axes; or one
        metric against another. Bars are 95 % intervals. A matplotlib figure, which a notebook shows.

        Args:
            x: an axis or a metric.
            y: a metric: its name, its label, or the beginning of one name alone ("fid" of "fid_digits").

        Raises:
            ConfigError: there is no such axis or metric, or no cell has both.
        """
        from evalkit.results.plot import plot

        return plot(self, x, y)

    def pivot(self, rows: str | Sequence[str], columns: str | Sequence[str], metric: str) -> Pivot:
        """A metric's scores over two axes, or lists of axes: a nested dictionary, which a notebook shows as a table.

        Raises:
            ConfigError: there is no such axis or metric; several cells fall into one place (what tells them apart).
        """
        from evalkit.results.pivot import pivot

        return pivot(self, rows, columns, metric)

    def compare(self, baseline: str) -> Differences:
        """Every cell against one: differences with intervals and verdicts, in pairs where prompts and seeds are shared.

        What the pairs need is read from the run's samples.csv; where there is none, a note says that nothing is paired.

        Raises:
            ConfigError: there is no such cell.
        """
        from evalkit.results.differences import differences

        return differences(self, self._evidence(), baseline)

    def images(self, cell: str) -> Images:
        """A cell's images, which a notebook shows: its contact sheet, else the thumbnails in the run's folder.

        Raises:
            ConfigError: there is no such cell, or this table has no folder.
            DataError: the folder has no picture of the cell.
        """
        from evalkit.results.images import images

        return images(self, self.folder, cell)

    def _evidence(self) -> Evidence:
        if self.evidence is not None:
            return self.evidence
        if self.folder is not None:
            return read_evidence(self.folder)
        return Evidence(missing="this table has no run's folder (evalkit.load('runs/NAME') gives it one)")


def shown(table: plain.ResultTable, folder: Path | None = None, evidence: Evidence | None = None) -> ResultTable:
    """A table with what a notebook wants of it."""
    values = {one.name: getattr(table, one.name) for one in fields(plain.ResultTable)}
    return ResultTable(**values, folder=folder, evidence=evidence)


def load(path: str | os.PathLike[str]) -> ResultTable:
    """The results of a run that is done: `evalkit.load("runs/x")`.

    Args:
        path: the run's folder, or its results.json.

    Raises:
        DataError: there is none, or it is none of evalkit's (what is wrong, and where).
    """
    given = Path(os.fspath(path)).expanduser()
    file = given / RESULTS if given.is_dir() else given
    if given.is_dir() and not file.is_file():
        below = sorted(each.parent.name for each in given.glob(f"*/{RESULTS}"))
        runs = f"; there are runs in it: {', '.join(below[:5])}" if below else ""
        raise DataError(f"{given}: no {RESULTS} in this folder{runs}: give a run's folder or its {RESULTS}")
    return shown(plain.ResultTable.load(file), file.parent if file.name == RESULTS else None)
