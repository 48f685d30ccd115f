"""Every cell against one of them, chosen after the run: a table of differences with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from evalkit.errors import ConfigError, nearest
from evalkit.results.axes import told_apart
from evalkit.results.compare import compare
from evalkit.results.evidence import Evidence
from evalkit.results.html import BEST, box, lines_html, table_html
from evalkit.results.render import COMPARISON_HEADS, comparison_lines
from evalkit.results.table import COSTS, Comparison, ResultTable

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Differences:
    """Comparisons with one baseline.

    Attributes:
        baseline: the cell that all others are compared with.
        comparisons: a line per metric and cell (`evalkit.results.Comparison`).
        titles: by metric, as a reader sees it.
        cells: by cell what tells it from the others, such as {"sampler": "ddim"}.
        notes: what must be read with them: which are not paired, and why.
    """

    baseline: str
    comparisons: Sequence[Comparison]
    titles: Mapping[str, str]
    cells: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]

    def __len__(self) -> int:
        return len(self.comparisons)

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.comparisons)

    def __repr__(self) -> str:
        return f"{len(self)} differences from {self.baseline}, {sum(c.paired for c in self)} of them paired"

    def to_frame(self) -> pandas.DataFrame:
        """As a pandas frame, a line per metric and cell.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_frame() needs pandas: pip install 'evalkit[pandas]'") from None
        return pandas.DataFrame([asdict(comparison) for comparison in self.comparisons])

    def _repr_html_(self) -> str:
        shown = [c for c in self if c.stderr is not None or c.metric not in COSTS]
        lines, last = [], ""
        for c, (metric, _, _, *rest) in zip(shown, comparison_lines(shown, dict(self.titles)), strict=True):
            told = c.verdict in ("better", "worse")
            verdict = f"{BEST[0]}{rest[-1]}{BEST[1]}" if told else rest[-1]
            lines.append([metric if metric != last else "", *self.cells[c.cell].values(), *rest[:-1], verdict])
            last = metric
        axes = list(self.cells[self.baseline])
        heads = ["metric", *axes, *COMPARISON_HEADS[3:]]
        above = f"Differences: each cell less {self.baseline}."
        below = ["p is two-sided and Holm-corrected within each metric.", *self.notes]
        return box(lines_html([above]), table_html(heads, lines, left=1 + len(axes)), lines_html(below, small=True))


def differences(table: ResultTable, evidence: Evidence, baseline: str) -> Differences:
    """Every cell's scores less a baseline's, metric by metric; scores of other protocols are left out.

    Paired where both cells' samples share prompts and seeds and the evidence has a value per sample; else as of
    independent samples, and a note says which and why.

    Raises:
        ConfigError: there is no such cell.
    """
    if baseline not in table.rows_by_cell:
        raise ConfigError(f"this table has no cell '{baseline}'. {nearest(baseline, table.cells)}")
    pairing = {str(cell): str(key) for cell, key in (table.run.get("pairing") or {}).items()}
    rows = [row for row in table.rows if not (row.unsure and row.metric in COSTS)]
    comparisons, _ = compare(
        rows,
        baseline=baseline,
        influences=evidence.influences,
        pairing=pairing,
        clusters=evidence.clusters,
    )
    titles = {column.metric: column.title for column in table.columns}
    return Differences(baseline, comparisons, titles, told_apart(table), _notes(table, evidence, comparisons))


def _notes(table: ResultTable, evidence: Evidence, comparisons: Sequence[Comparison]) -> list[str]:
    labels = {column.metric: column.label for column in table.columns}
    unpaired = [c for c in comparisons if c.stderr is not None and not c.paired and c.metric not in COSTS]
    notes = []
    if unpaired and evidence.missing:
        notes.append(f"No comparison is paired: {evidence.missing}. Intervals are those of independent samples.")
    elif unpaired:
        pairless = [
            c for c in unpaired if not all((cell, c.metric) in evidence.influences for cell in (c.cell, c.baseline))
        ]
        for why, some in (
            ("there is no value per sample", pairless),
            ("the cells share neither prompts nor seeds", [c for c in unpaired if c not in pairless]),
        ):
            names = ", ".join(dict.fromkeys(labels[c.metric] for c in some))
            if names:
                notes.append(f"Not paired: {names} of {_cells(some)}: {why}.")
    left_out = {c.metric for c in comparisons}
    apart = [label for metric, label in labels.items() if metric not in left_out and metric not in COSTS]
    if apart and len(table.cells) > 1:
        notes.append(f"Left out: {', '.join(apart)}: no other cell has a score under the baseline's protocol.")
    return notes


def _cells(comparisons: Sequence[Comparison], most: int = 3) -> str:
    cells = list(dict.fromkeys(c.cell for c in comparisons))
    return ", ".join(cells[:most]) + (f" and {len(cells) - most} more" if len(cells) > most else "")
