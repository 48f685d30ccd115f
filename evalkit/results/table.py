"""The result table: tidy rows with a schema version; everything that is printed or written derives from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cell import setting_name
from evalkit.errors import ConfigError, DataError
from evalkit.results.floor_text import floor_lines
from evalkit.results.note_lines import note_lines, some
from evalkit.results.protocols import protocol_difference, take_protocols
from evalkit.results.real_text import is_real, real_lines
from evalkit.utils import schema
from evalkit.utils.json_files import read_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import pandas

SCHEMA = 2  # evalkit/schemas/results.schema.json; schema 1 is read too
MISSING = "–"
FEW = 50  # samples: scores of distributions of fewer say little of a model
UNSURE = "‡"
# What a sample set's own records say of its making: by metric its heading, its unit's factor, and which is better.
COSTS: Mapping[str, tuple[str, float, str]] = {
    "latency_p50": ("latency p50 [ms]", 1000.0, "lower"),
    "latency_p90": ("latency p90 [ms]", 1000.0, "lower"),
    "latency_p95": ("latency p95 [ms]", 1000.0, "lower"),
    "latency_p99": ("latency p99 [ms]", 1000.0, "lower"),
    "queueing": ("queueing [ms]", 1000.0, "lower"),
    "images_per_second": ("images/s", 1.0, "higher"),
    "request_errors": ("errors [%]", 100.0, "lower"),
    "nfe": ("NFE", 1.0, "lower"),
    "peak_memory_mb": ("peak memory [MB]", 1.0, "lower"),
}
LOAD_COSTS = ("latency_p90", "latency_p99", "queueing", "request_errors")  # of services under load alone
ARROW = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Row:
    """One score of one cell.

    Attributes:
        cell, model, sampler, prompts, settings, seed: which cell it is of.
        metric, label: the metric's name in the configuration, and as a reader sees it ("FID [digits]").
        value, stderr, n: the score; a missing value has a `note` that says why.
        better: "lower" or "higher".
        protocol, protocol_hash: what the value rests on; scores of different protocols are never ranked together.
        details: further figures of the same computation.
        broken: whether there is no value because the metric could not compute one that is finite.
        unsure: whether it was measured on too little to be called the best of its column (`note` says on what): a score
            of distributions of fewer than `FEW` samples, a cost that was timed once or under load.
        error: what the standard error goes by: "by prompt", where several samples are of one, or "by sample".
        clusters: the number of prompts, or samples, behind it.
        seeds: how many seeds' scores it is the mean of; their spread is among the details.
        low, high: 95 % confidence interval of the value, where there is a standard error; of a share Wilson's.
    """

    cell: str
    model: str
    sampler: str | None
    prompts: str | None
    settings: Mapping[str, Any]
    seed: int
    metric: str
    label: str
    value: float | None
    stderr: float | None
    n: int
    better: str
    protocol: Mapping[str, Any]
    protocol_hash: str
    details: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None
    broken: bool = False
    unsure: bool = False
    error: str | None = None
    clusters: int | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 1

    @property
    def together(self) -> bool:
        """Whether it was scored together with other cells, as ratings of votes are: none is without the others'."""
        return "together" in self.protocol

    @property
    def sign(self) -> int:
        """+1 where higher is better, else -1."""
        return 1 if self.better == "higher" else -1


def finite(row: Row | None) -> bool:
    """Whether there is a score, and it is a number."""
    return row is not None and row.value is not None and math.isfinite(row.value)


def group(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by what they share, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


@dataclass(frozen=True)
class Comparison:
    """A cell's score less a baseline's, under one protocol.

    Attributes:
        metric, cell, baseline: what is compared with what.
        difference: the cell's value less the baseline's.
        stderr: of the difference; none where a score has none.
        paired: whether both were made from the same prompts and seeds and compared sample by sample.
        low, high: 95 % confidence interval.
        p, p_holm: two-sided; corrected for the number of cells that the metric compares.
        verdict: "better" or "worse" where p_holm <= 0.05, else "not distinguishable"; "" without a standard error.
    """

    metric: str
    cell: str
    baseline: str
    difference: float
    stderr: float | None
    paired: bool
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    verdict: str


@dataclass(frozen=True)
class Column:
    """A metric's column of the wide table: its row by cell (one at least), and the cells that count as best."""

    metric: str
    rows: Mapping[str, Row]
    best: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The metric as a reader sees it ("FID [digits]")."""
        return next(iter(self.rows.values())).label

    @property
    def title(self) -> str:
        """The label with an arrow to where better is."""
        return f"{self.label} {ARROW[next(iter(self.rows.values())).better]}"

    @property
    def is_cost(self) -> bool:
        """Whether it tells what the samples cost, not how good they are."""
        return self.metric in COSTS

    @cached_property
    def odd(self) -> set[str]:
        """The cells whose protocol is not the column's most common one: their values stand apart."""
        hashes = [row.protocol_hash for row in self.rows.values() if row.value is not None]
        ranked = [row.protocol_hash for row in self.rows.values() if row.value is not None and not row.unsure]
        if len(set(hashes)) < 2:
            return set()
        ranked = ranked or hashes  # cells that stopped early may be the most, and are not ranked
        common = max(set(ranked), key=lambda h: (ranked.count(h), -ranked.index(h)))
        return {cell for cell, row in self.rows.items() if row.value is not None and row.protocol_hash != common}

    @property
    def ranked(self) -> list[Row]:
        """The scores that are ranked with one another (of the most common protocol, and sure), best first."""
        rows = [row for cell, row in self.rows.items() if finite(row) and cell not in self.odd and not row.unsure]
        rows = [row for row in rows if not is_real(row.model)]
        return sorted(rows, key=lambda row: -row.sign * (row.value or 0.0))


@dataclass(frozen=True)
class ResultTable:
    """All scores of a run.

    Attributes:
        run: how it was made (name, command, versions, device, timings; JSON values).
        rows: one per cell and metric, in the order of the grid and of the metrics.
        notes: what a reader must know of the run as a whole (blanked images, truncated prompts, ...).
        comparisons: every cell with the baseline, or with each metric's best cell.
        best: by metric, the best cells: those that are not significantly worse than the best of the same protocol.
        lint: what was found in the sample sets before scoring (evalkit.lint.Finding, as JSON values).
        gate: the verdict on the run (evalkit.gate.Verdict, as JSON values); none where no gate was asked for.
    """

    run: Mapping[str, Any]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    comparisons: Sequence[Comparison] = ()
    best: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lint: Sequence[Mapping[str, Any]] = ()
    gate: Mapping[str, Any] | None = None

    @cached_property
    def rows_by_cell(self) -> dict[str, list[Row]]:
        """Of each cell its rows; the first one tells what the cell is."""
        return group(self.rows, lambda row: row.cell)

    @property
    def cells(self) -> list[str]:
        return list(self.rows_by_cell)

    @cached_property
    def columns(self) -> list[Column]:
        return [
            Column(metric, {row.cell: row for row in rows}, frozenset(self.best.get(metric, ())))
            for metric, rows in group(self.rows, lambda row: row.metric).items()
        ]

    @property
    def failures(self) -> str | None:
        """One line on the metrics that could not score this run's cells; none where all could."""
        mine = [row for row in self.rows if row.cell in self.run.get("cells", ())]
        parts = []
        for metric, rows in group(mine, lambda row: row.metric).items():
            failed = [row for row in rows if row.broken]
            if failed:
                reasons = "; ".join(dict.fromkeys(str(row.note) for row in failed[:3]))
                parts.append(f"{metric} could not score {len(failed)} of {len(rows)} cells: {reasons}")
        return ". ".join(parts) or None

    def to_json(self) -> dict[str, Any]:
        """As results.json holds it (`evalkit/schemas/results.schema.json`): each protocol once, rows name its hash."""
        rows = [asdict(row) for row in self.rows]
        return {
            "schema": SCHEMA,
            "run": dict(self.run),
            "notes": list(self.notes),
            "protocols": take_protocols(rows, "the table"),
            "rows": rows,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "best": {metric: list(cells) for metric, cells in self.best.items()},
            "lint": [dict(finding) for finding in self.lint],
            "gate": None if self.gate is None else dict(self.gate),
        }

    @classmethod
    def load(cls, path: Path) -> ResultTable:
        """Reads a results.json, of this schema or an earlier one.

        Raises:
            DataError: not a results.json (which row and key, and what is wrong), or of a later schema.
        """
        return cls.from_results(read_results(path), path)

    @classmethod
    def from_results(cls, data: Mapping[str, Any], path: Path) -> ResultTable:
        """The table of what `read_results` gave; `path` is what errors call it."""
        rows = []
        for number, row in enumerate(data["rows"]):
            key = row["protocol_hash"]
            if key not in data["protocols"]:
                raise DataError(f"{path}: rows[{number}].protocol_hash: there is no protocol {key!r}")
            rows.append(Row(**row, protocol=data["protocols"][key]))
        comparisons = tuple(Comparison(**comparison) for comparison in data.get("comparisons", ()))
        notes, lint = tuple(data.get("notes", ())), tuple(data.get("lint", ()))
        return cls(data["run"], tuple(rows), notes, comparisons, data.get("best", {}), lint, data.get("gate"))

    def to_frame(self) -> pandas.DataFrame:
        """The tidy rows as a pandas frame: one line per cell and metric.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_frame() needs pandas: pip install 'evalkit[pandas]'") from None
        return pandas.DataFrame([asdict(row) for row in self.rows])

    def value(self, cell: str, metric: str) -> float | None:
        """The value of a cell's metric (`KeyError` where there is no such row)."""
        for row in self.rows:
            if row.cell == cell and row.metric == metric:
                return row.value
        raise KeyError((cell, metric))

    @cached_property
    def grid(self) -> tuple[list[str], list[list[str]]]:
        """The leading columns that tell cells apart: headings, and one line per cell."""
        rows = [rows[0] for rows in self.rows_by_cell.values()]
        heads, lines = ["model"], [[row.model] for row in rows]

        def add(head: str, values: Sequence[Any], always: bool = False) -> None:
            if always or len({str(v) for v in values}) > 1:
                heads.append(head)
                for line, value in zip(lines, values, strict=True):
                    line.append(_setting(value))

        add("sampler", [row.sampler for row in rows], any(row.sampler for row in rows))
        for name in dict.fromkeys(name for row in rows for name in row.settings):
            add(setting_name(name), [row.settings.get(name) for row in rows], name == "num_inference_steps")
        if len({row.prompts for row in rows if row.prompts}) > 1:
            add("prompts", [row.prompts for row in rows])
        add("seed", [row.seed for row in rows])
        add("seeds", [row.seeds for row in rows], any(row.seeds > 1 for row in rows))
        counts = [max(row.n for row in rows) for rows in self.rows_by_cell.values()]
        prompts = [_prompts_behind(rows) for rows in self.rows_by_cell.values()]
        if any(count is not None for count in prompts):
            add("distinct prompts", prompts, True)
        add("N", counts, True)
        return heads, lines

    def footnotes(self) -> list[str]:
        """What must be read with the table: protocols that differ, values that are missing, the run's notes."""
        apart: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # what differs, cells -> labels
        noted: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}  # mark, note, cells -> labels
        for column in self.columns:
            common = next((r for c, r in column.rows.items() if r.value is not None and c not in column.odd), None)
            differing: dict[str, list[str]] = {}
            for cell in sorted(column.odd):
                differs = protocol_difference(column.rows[cell].protocol, common.protocol if common else {})
                differing.setdefault(differs, []).append(cell)
            for differs, cells in differing.items():
                apart.setdefault((differs, tuple(cells)), []).append(column.label)
            by_note: dict[tuple[str, str], list[str]] = {}
            for cell, row in column.rows.items():
                mark = f"{MISSING} " if row.value is None else f"{UNSURE} " if row.unsure and column.is_cost else ""
                note = row.note or ("no value" if row.value is None else "")
                if note:
                    by_note.setdefault((mark, note), []).append(cell)
            for (mark, note), cells in by_note.items():
                noted.setdefault((mark, note, tuple(cells)), []).append(column.label)
        lines = self._few()
        lines += [
            f"† {', '.join(labels)} of {some(cells)} {'is' if len(cells) == len(labels) == 1 else 'are'} "
            f"not comparable with the others: {differs}."
            for (differs, cells), labels in apart.items()
        ]
        return [*lines, *note_lines(noted), *floor_lines(self.run), *real_lines(self.run), *self.notes]

    def _few(self) -> list[str]:
        """One warning on all scores of distributions of few samples."""
        few = [row for row in self.rows if row.unsure and row.n < FEW and row.metric not in COSTS]
        if not few:
            return []
        sizes = sorted({row.n for row in few})
        shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        labels = ", ".join(dict.fromkeys(row.label for row in few))
        return [
            f"{UNSURE} Warning: N = {shown}: {labels} compare distributions, and of fewer than {FEW} samples they tell "
            "more of N than of the model. None is called the best; raise num_samples."
        ]


def read_results(path: Path) -> dict[str, Any]:
    """A results.json as JSON of the present schema, checked.

    Raises:
        DataError: as `ResultTable.load`.
    """
    try:
        data = read_json(path, finite=True)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"{path}: {'no such file' if missing else error.strerror or error}") from error
    return of_present_schema(data, path)


def of_present_schema(data: Any, path: Path) -> dict[str, Any]:
    """The content of a results.json as the present schema has it, checked; `data` itself may be changed.

    Raises:
        DataError: as `ResultTable.load`.
    """
    if not isinstance(data, dict) or "schema" not in data:
        raise DataError(f"{path}: not a results.json of evalkit: it has no schema")
    if data["schema"] == 1:
        rows = data.get("rows")
        if isinstance(rows, list):
            data |= {"schema": SCHEMA, "protocols": take_protocols(rows, path)}
    elif data["schema"] != SCHEMA:
        version = one_line(repr(data["schema"]), 40)
        raise DataError(f"{path}: schema {version} is not known here (known: 1, {SCHEMA}); use a matching evalkit")
    schema.check(data, "results", path)
    return data


def _prompts_behind(rows: Sequence[Row]) -> int | None:
    """How many prompts a cell's standard errors go by; none where they go by sample."""
    return max((row.clusters for row in rows if row.error == "by prompt" and row.clusters), default=None)


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)
