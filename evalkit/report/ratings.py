"""Ratings of votes: each cell's rating and interval, who beat whom, who is told apart, how voters agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run, short
from evalkit.results.ratings import NAME
from evalkit.results.render import format_value
from evalkit.results.table import MISSING, Row, finite

WIDTH, MARGIN = 220, 6  # pixels of an interval's drawing
MOST = 30  # cells of a win-rate matrix


@dataclass(frozen=True)
class Line:
    """A rated cell: its texts, and where its rating and the ends of its interval lie in the drawing (none: no ends)."""

    rank: int
    cell: str
    rating: str
    spread: str
    interval: str
    letters: str
    win_rate: str
    votes: str
    at: float
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Tile:
    """How a row's cell fared against a column's: share of wins (a tie is half of one), votes, wins - losses - ties."""

    share: str
    votes: str
    tip: str
    kind: str  # "better", "worse" or ""
    depth: str  # 0 to 1, of the colour


@dataclass(frozen=True)
class RatingView:
    """One source's ratings.

    Attributes:
        label: as the table has it.
        notes: what must be read with them.
        lines: the best first.
        matrix: by row and column, in the order of the lines; none where a cell meets itself, or nobody compared them.
        needs: neighbours that are not told apart, and how many more votes would do it: texts.
        voters: a line each, as texts.
        middle: where a rating of 1000 lies in the drawing.
    """

    label: str
    notes: Sequence[str]
    lines: Sequence[Line]
    matrix: Sequence[tuple[str, Sequence[Tile | None]]]
    needs: Sequence[tuple[str, str, str, str, str]]
    voters: Sequence[Sequence[str]]
    middle: float


VOTER_HEADS = ("voter", "votes", "agrees with others", "agrees with itself", "prefers the left", "median seconds")


def make_ratings(run: Run) -> list[RatingView] | str | None:
    """None where nothing was voted on; why, where the file cannot be read."""
    found = run.ratings
    if found is None or isinstance(found, str):
        return found
    try:
        return [_view(run, about) for about in found]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return f"{NAME} cannot be read ({type(error).__name__})."


def _view(run: Run, about: Mapping[str, Any]) -> RatingView:
    name = str(about["name"])
    rows = {row.cell: row for row in run.table.rows if row.metric == name and finite(row)}
    cells = [cell for cell in about["cells"] if cell in rows and cell in run.keys]
    ends = [end for cell in cells for end in (rows[cell].low, rows[cell].high, rows[cell].value) if end is not None]
    low, high = min([*ends, 1000.0], default=0.0), max([*ends, 1000.0], default=1.0)

    def place(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (value - low) / ((high - low) or 1.0), 1)

    lines = []
    for number, cell in enumerate(about["cells"]):
        if cell in cells:
            lines.append(_line(number, rows[cell], about, place))
    return RatingView(
        str(about["label"]),
        [short(str(line), 600) for line in about["lines"]],
        lines,
        _matrix(about, cells) if len(cells) <= MOST else [],
        [_need(need) for need in about.get("needs", ()) if need["better"] in run.keys and need["worse"] in run.keys],
        [_voter(voter, is_judge=about.get("position") is not None) for voter in about["voters"]],
        place(1000.0),
    )


def _line(number: int, row: Row, about: Mapping[str, Any], place: Any) -> Line:
    assert row.value is not None
    spread, ends, interval = "", None, MISSING
    if row.low is not None and row.high is not None:
        ends, interval = (place(row.low), place(row.high)), f"{row.low:.0f} to {row.high:.0f}"
        spread = f"± {row.stderr:.0f}" if row.stderr is not None else ""
    win_rate, votes = row.details.get("win_rate"), row.details.get("votes")
    return Line(
        number + 1,
        row.cell,
        f"{row.value:.0f}",
        spread,
        interval,
        str(about["letters"][number]),
        MISSING if win_rate is None else f"{100 * win_rate:.0f} %",
        MISSING if votes is None else f"{votes:.0f}",
        place(row.value),
        ends,
    )


def _matrix(about: Mapping[str, Any], cells: Sequence[str]) -> list[tuple[str, list[Tile | None]]]:
    place = {cell: number for number, cell in enumerate(about["cells"])}
    return [(cell, [_tile(about["matrix"][place[cell]][place[other]]) for other in cells]) for cell in cells]


def _tile(counts: Sequence[float]) -> Tile | None:
    won, lost, tied = (float(count) for count in counts)
    votes = won + lost + tied
    if not votes:
        return None
    share = (won + tied / 2) / votes
    kind = "better" if share > 0.5 else "worse" if share < 0.5 else ""
    tip = f"{won:.0f} won, {lost:.0f} lost, {tied:.0f} tied"
    return Tile(f"{100 * share:.0f} %", f"{votes:.0f}", tip, kind, f"{2 * abs(share - 0.5):.2f}")


def _need(need: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    more = [MISSING if need[part] is None else f"{need[part]:,}" for part in ("between", "at_large")]
    gap = f"{format_value(float(need['value']))} [{float(need['low']):.0f}, {float(need['high']):.0f}]"
    return need["better"], need["worse"], gap, more[0], more[1]


def _voter(voter: Mapping[str, Any], *, is_judge: bool) -> list[str]:
    def share(part: str, of: str) -> str:
        return MISSING if voter[part] is None else f"{100 * float(voter[part]):.0f} % of {int(voter[of])}"

    return [
        str(voter["name"]),
        str(int(voter["votes"])),
        share("with_others", "shared"),
        share("with_self", "repeated"),
        MISSING if is_judge else share("left", "decided"),  # a judge is shown both orders
        MISSING if is_judge else f"{float(voter['seconds']):.1f}",
    ]
