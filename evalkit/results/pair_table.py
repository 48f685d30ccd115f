"""The statistics of pairs next to their means: a table for the terminal, one for Markdown, and pairs.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.results import csv_files
from evalkit.results.floor_text import NEAR, floor_of
from evalkit.results.table import ARROW, MISSING, ResultTable, Row
from evalkit.utils.text import letters, one_line

if TYPE_CHECKING:
    import rich.table

UNRELATED = "?"  # next to a mean whose pairs look unrelated
HEADS = ("metric", "cell", "pairs", "mean", "median", "worst", "p1 / p99", "beyond", "identical", "shuffled mean")
_FIGURES = ("pairs", "mean", "median", "min", "max", "p1", "p99", "identical", "mean_of_others")
_TESTED = ("shuffled_pairs", "shuffled_mean", "unrelated_p", "unrelated")
_WIDTH = 7  # of a number in the terminal, with the space before it


@dataclass(frozen=True)
class PairRow:
    """A score of pairs, with its statistics."""

    row: Row

    @property
    def tail(self) -> str:
        """The percentile on the worse side."""
        return "p1" if self.row.better == "higher" else "p99"

    @property
    def worst(self) -> float:
        return self.row.details["min" if self.row.better == "higher" else "max"]

    @property
    def share(self) -> tuple[str, float] | None:
        """Where a threshold was given: "< 30" and the share of pairs that are beyond it."""
        found = next(((name, value) for name, value in self.row.details.items() if name.startswith("share_")), None)
        if found is None:
            return None
        kind, _, threshold = found[0].partition("(")
        return f"{'<' if kind == 'share_below' else '>'} {threshold.rstrip(')')}", found[1]

    @property
    def unrelated(self) -> bool:
        return bool(self.row.details.get("unrelated"))

    def numbers(self) -> list[str]:
        """Mean, median, worst, and the percentile before it."""
        details = self.row.details
        return [number(value) for value in (details["mean"], details["median"], self.worst, details[self.tail])]


def number(value: float) -> str:
    """A statistic in at most six characters, where that is enough."""
    size = abs(value)
    return f"{value:.2f}" if 1 <= size < 1000 else f"{value:.4f}" if 1e-3 <= size < 1 or not size else f"{value:.2g}"


def pair_rows(table: ResultTable) -> list[PairRow]:
    """The scores of pairs, metric by metric."""
    rows = [row for column in table.columns for row in column.rows.values()]
    return [PairRow(row) for row in rows if row.value is not None and {"pairs", "p1", "p99"} <= row.details.keys()]


def pair_lines(table: ResultTable) -> list[list[str]]:
    """A line per metric and cell, as `HEADS`; empty where there are no pairs."""
    lines = []
    for pair in pair_rows(table):
        details, share = pair.row.details, pair.share
        mean, *others, tail = pair.numbers()
        lines.append(
            [
                f"{pair.row.label} {ARROW[pair.row.better]}",
                pair.row.cell,
                f"{details['pairs']:g}",
                f"{mean} {UNRELATED}" if pair.unrelated else mean,
                *others,
                f"{pair.tail} {tail}",
                MISSING if share is None else f"{100 * share[1]:.3g} % {share[0]}",
                f"{details['identical']:g}" if "identical" in details else MISSING,
                number(details["shuffled_mean"]) if "shuffled_mean" in details else MISSING,
            ]
        )
    return lines


def to_csv(table: ResultTable) -> str:
    """A line per metric and cell, with full precision."""
    lines: list[list[Any]] = [["cell", "metric", "better", *_FIGURES, "threshold", "share_beyond", *_TESTED]]
    for pair in pair_rows(table):
        share = pair.share
        beyond = ["", ""] if share is None else [share[0].partition(" ")[2], share[1]]
        figures = [pair.row.details.get(name, "") for name in _FIGURES]
        tested = [pair.row.details.get(name, "") for name in _TESTED]
        lines.append([pair.row.cell, pair.row.metric, pair.row.better, *figures, *beyond, *tested])
    return csv_files.to_csv(lines)


def to_rich(table: ResultTable, most: int, width: int) -> rich.table.Table | None:
    """A line per cell, by its letter; the worst cells where not all are shown. None: there are no pairs.

    Args:
        table: the scores.
        most: lines.
        width: columns.
    """
    from rich.table import Table
    from rich.text import Text

    rows = pair_rows(table)
    if not rows:
        return None
    metrics = list(dict.fromkeys(pair.row.metric for pair in rows))
    heads = {metric: _head([pair for pair in rows if pair.row.metric == metric]) for metric in metrics}
    room, shown = width - 8 - len("identical") - 3, list[str]()
    for metric in metrics:
        needed = max(map(len, heads[metric].split("\n"))) + 3
        if shown and needed > room:
            break
        shown.append(metric)
        room -= needed
    by_cell = {cell: {p.row.metric: p for p in rows if p.row.cell == cell} for cell in table.cells}
    cells = _chosen({cell: found for cell, found in by_cell.items() if found}, metrics[0], most)
    view = Table(title=Text("pairs"), title_justify="left", header_style="bold")
    view.add_column("")
    for metric in shown:
        view.add_column(Text(heads[metric]), justify="right", no_wrap=True)
    view.add_column("identical", justify="right")
    keys = {cell: letters(place) for place, cell in enumerate(table.cells)}
    for cell in cells:
        found = by_cell[cell]
        texts = [_text(found.get(metric), heads[metric]) for metric in shown]
        same = next((p.row.details for p in found.values() if "identical" in p.row.details), None)
        count = MISSING if same is None else f"{same['identical']:g} of {same['pairs']:g}"
        view.add_row(keys[cell], *texts, count)
    floors = {metric: floor for metric in shown if (floor := _floor(table, metric, rows)) is not None}
    if floors:
        texts = [_text(floors.get(metric), heads[metric]) for metric in shown]
        same = next(iter(floors.values())).row.details
        view.add_row(NEAR, *texts, f"{same['identical']:g} of {same['pairs']:g}" if "identical" in same else MISSING)
    left_out = [f"{len(metrics) - len(shown)} more metrics"] if len(shown) < len(metrics) else []
    left_out += [f"{len([c for c in by_cell.values() if c]) - len(cells)} more cells"] if len(cells) == most else []
    note = f"{UNRELATED} pairs look unrelated. " if any(pair.unrelated for pair in rows) else ""
    note += f"{NEAR} the baseline's own noise. " if floors else ""
    note += f"{' and '.join(left_out)}: pairs.csv" if left_out else ""
    view.caption, view.caption_justify = (Text(note) if note else None), "left"
    return view


def _floor(table: ResultTable, metric: str, rows: Sequence[PairRow]) -> PairRow | None:
    """The statistics of the worst of the baseline's remakes, where there are some."""
    about = floor_of(table.run, metric)
    details = about["remakes"].get(about["worst"], {}) if about is not None else {}
    if not {"p1", "p99"} <= details.keys():
        return None
    like = next(pair.row for pair in rows if pair.row.metric == metric)
    return PairRow(replace(like, cell=str(table.run["baseline"]), value=details["mean"], details=details))


def _head(rows: Sequence[PairRow]) -> str:
    """A metric's label above the names of its numbers."""
    share = next((pair.share for pair in rows if pair.share), None)
    names = ["mean", "median", "worst", rows[0].tail, *([share[0].replace(" ", "")] if share else [])]
    numbers = "".join(f"{name:>{_WIDTH}}" for name in names).lstrip()
    return f"{one_line(rows[0].row.label, 30)} {ARROW[rows[0].row.better]}\n{numbers}"


def _text(pair: PairRow | None, head: str) -> Any:
    from rich.text import Text

    if pair is None:
        return MISSING
    mean, *others = pair.numbers()
    texts = [f"{UNRELATED} {mean}" if pair.unrelated else mean, *others]
    if len(head.rpartition("\n")[2].split()) > len(texts):
        texts.append(MISSING if pair.share is None else f"{100 * pair.share[1]:.3g}%")
    return Text("".join(f"{text:>{_WIDTH}}" for text in texts).lstrip(), style="yellow" if pair.unrelated else "")


def _chosen(by_cell: dict[str, dict[str, PairRow]], metric: str, most: int) -> list[str]:
    """At most so many cells, in the grid's order: those with a warning first, then those of the worst pairs."""

    def rank(cell: str) -> tuple[bool, float]:
        found = by_cell[cell]
        pair = found.get(metric) or next(iter(found.values()))
        return not any(p.unrelated for p in found.values()), pair.row.sign * pair.worst

    chosen = sorted(by_cell, key=rank)[:most]
    return [cell for cell in by_cell if cell in chosen]
