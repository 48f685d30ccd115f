"""What a tracker is handed, and what it must do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from evalkit.errors import ConfigError, DataError
from evalkit.results.table import COSTS, ResultTable, group
from evalkit.utils.files import write_json
from evalkit.utils.json_files import read_json

ID_DIGITS = 12  # of a run's id
KEY_DIGITS = 16  # of a cell's key in tracker.json
_FILES = ["results.json", "config.yaml", "table.md", "table.csv", "table.tex", "comparison.md", "samples.csv"]
_FILES += ["pairs.csv", "categories.csv", "nearest.csv", "overview.png", "reference.png"]
_OF_THE_GATE = ("gate.md", "junit.xml")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as its folder holds it.

    Attributes:
        folder: absolute.
        id: what the run is called by a tracker: pushed again, the same run has the same id (see `load`).
        table: its results.json.
    """

    folder: Path
    id: str
    table: ResultTable

    @classmethod
    def load(cls, folder: Path) -> FinishedRun:
        """Reads a run's folder; its id is stored in tracker.json there.

        A run goes on as long as all that was pushed before still stands in the folder: the same cells, and the same
        metrics under the same protocols, perhaps with others next to them. Else the folder holds another run, which
        gets an id of its own, so that no tracker ever mixes the scores of two.

        Raises:
            DataError: the folder holds no results.json.
        """
        folder = folder.expanduser().absolute()
        table = ResultTable.load(folder / "results.json")
        path, stands = folder / "tracker.json", _stands(table)
        known: dict[str, Any] = {}
        try:
            known = read_json(path)
            goes_on = bool(known["id"]) and known["stands"].items() <= stands.items()
        except FileNotFoundError:
            goes_on = False
        except (DataError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: not a tracker.json of evalkit ({error}); without it, a new run begins") from error
        run_id = str(known["id"]) if goes_on else uuid.uuid4().hex[:ID_DIGITS]
        if known.get("id") != run_id or known.get("stands") != stands:
            write_json(path, {"id": run_id, "stands": stands})
        return cls(folder, run_id, table)

    @property
    def name(self) -> str:
        return str(self.table.run["name"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(self.table.run["config"])

    @property
    def gate(self) -> str | None:
        """pass, fail or inconclusive; none where no gate was asked for."""
        return None if self.table.gate is None else str(self.table.gate["status"])

    @cached_property
    def scores(self) -> dict[str, float]:
        """By `<cell>/<metric>` and `<cell>/<metric>.stderr`; a score that is missing is left out."""
        scores: dict[str, float] = {}
        for row in self.table.rows:
            if row.value is not None:
                scores[f"{row.cell}/{row.metric}"] = row.value
            if row.value is not None and row.stderr is not None:
                scores[f"{row.cell}/{row.metric}.stderr"] = row.stderr
        return scores

    @cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """By `<series>/<metric>` the scores of a series of checkpoints: (step, value), by step.

        Trackers count steps in whole numbers: others are rounded.
        """
        curves: dict[str, list[tuple[int, float]]] = {}
        for series in self.table.run.get("series") or ():
            for cell, step in series["steps"].items():
                for row in self.table.rows_by_cell.get(cell, ()):
                    if row.value is not None:
                        curves.setdefault(f"{series['name']}/{row.metric}", []).append((round(step), row.value))
        return curves

    @cached_property
    def protocols(self) -> dict[str, str]:
        """By metric the short hash of its protocol; several, with commas, where cells differ."""
        rows_by_metric = group((row for row in self.table.rows if row.value is not None), lambda row: row.metric)
        return {m: ", ".join(dict.fromkeys(row.protocol_hash for row in rows)) for m, rows in rows_by_metric.items()}

    def lines(self) -> tuple[list[str], list[list[Any]]]:
        """The wide table: headings, and a line per cell, with numbers as numbers and none where one is missing."""
        heads, leading = self.table.grid
        columns = self.table.columns
        metrics = [head for c in columns for head in (c.metric, f"{c.metric}.stderr")]
        lines = []
        for cell, lead in zip(self.table.cells, leading, strict=True):
            scores = [(row.value, row.stderr) if (row := c.rows.get(cell)) else (None, None) for c in columns]
            lines.append([cell, *lead, *(number for score in scores for number in score)])
        return ["cell", *heads, *metrics], lines

    @cached_property
    def images(self) -> dict[str, Path]:
        """By name (`sheets/<cell>`, `overview`, ...) the contact sheets; those of cells that left it are not its."""
        names = [f"sheets/{cell}" for cell in self.table.cells]
        names += ["overview", "reference", *(f"nearest/{row.cell}-{row.metric}" for row in self.table.rows)]
        names += [f"steps/{series['name']}" for series in self.table.run.get("series") or ()]
        paths = {name: self.folder / f"{name}.png" for name in names}
        return {name: path for name, path in paths.items() if path.is_file()}

    @cached_property
    def report(self) -> Path | None:
        """report.html; where the run wrote none, only one that was made of its results since."""
        path = self.folder / "report.html"
        if not path.is_file():
            return None
        later = path.stat().st_mtime >= (self.folder / "results.json").stat().st_mtime
        return path if later or self.config.get("report") else None

    @cached_property
    def files(self) -> dict[str, Path]:
        """All of the run's files, by their names below the folder: results, report, gate and contact sheets."""
        names = [*_FILES, *(_OF_THE_GATE if self.table.gate is not None else ())]
        paths = {name: self.folder / name for name in names if (self.folder / name).is_file()}
        if self.report is not None:
            paths["report.html"] = self.report
        return paths | {f"{name}.png": path for name, path in self.images.items()}


def _stands(table: ResultTable) -> dict[str, str]:
    """What a tracker run is known by: each cell's key, and each score's protocol (costs are the machine's, not its)."""
    keys = {str(cell): str(key)[:KEY_DIGITS] for cell, key in table.run["cells"].items()}
    return keys | {f"{row.cell}/{row.metric}": row.protocol_hash for row in table.rows if row.metric not in COSTS}


class Tracker(ABC):
    """An experiment tracker. Building and checking one is cheap: its package is imported in `log` alone.

    Attributes:
        package: what it imports; the extra of evalkit that brings it has the same name.
        timeout: seconds that a push may take.
    """

    package: ClassVar[str]
    timeout: float = 600.0

    def check(self, where: str) -> None:
        """Looks at the options before a run begins; `where` is the tracker's place in the configuration.

        Raises:
            ConfigError: the package is missing, or an option cannot be right.
        """
        if not installed(self.package):
            raise ConfigError(f"{where} needs the package {self.package}: uv pip install 'evalkit[{self.package}]'")
        if not self.timeout > 0:
            raise ConfigError(f"{where}.timeout is {self.timeout}: give seconds, more than 0")

    @abstractmethod
    def log(self, run: FinishedRun) -> str:
        """Hands over a finished run; a run with the same id goes on. Returns where it is, for people."""


def installed(package: str) -> bool:
    """Whether a package can be imported; a folder that happens to have its name is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets environment variables, and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
