"""The leaderboard: per metric and protocol all cells of all runs, best first, with ranks that chance cannot give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.history.registry import PastRun, Registry
from evalkit.history.scored import Scored
from evalkit.results.protocols import protocol_difference
from evalkit.results.stats import CONFIDENCE, NO_SPREAD, holm
from evalkit.results.table import COSTS, Row, finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_WORK = 3 * 10**7  # of values in all pairs of a board: some 10 s; beyond it scores are compared unpaired


@dataclass(frozen=True)
class Entry:
    """A cell on a board.

    Attributes:
        run, row: its newest score under the board's protocol.
        rank: 1 + the number of entries that are surely better; none: it has no standard error, or of too few samples.
        ties: the places (from 0) of the entries that it cannot be told from.
        runs: in how many runs the cell has a score under this protocol.
    """

    run: PastRun
    row: Row
    rank: int | None
    ties: tuple[int, ...]
    runs: int

    def to_json(self) -> dict[str, Any]:
        row = self.row
        about = {name: getattr(row, name) for name in ("cell", "model", "sampler", "prompts", "settings", "seed")}
        score = {name: getattr(row, name) for name in ("value", "stderr", "low", "high", "n", "unsure", "note")}
        made = {"run": self.run.name, "date": self.run.to_json()["date"], "git": self.run.made.get("git")}
        return {"rank": self.rank, **about, **score, "ties": list(self.ties), "runs": self.runs, **made}


@dataclass(frozen=True)
class Board:
    """A metric under one protocol.

    Attributes:
        metric, label, better, protocol_hash, protocol: what is ranked.
        differs: what its protocol has otherwise than the metric's first board; empty of the first.
        paired: whether scores were compared sample by sample where they could be.
        entries: best first.
    """

    metric: str
    label: str
    better: str
    protocol_hash: str
    protocol: Mapping[str, Any]
    differs: str
    paired: bool
    entries: Sequence[Entry]

    def to_json(self) -> dict[str, Any]:
        about = {name: getattr(self, name) for name in ("metric", "label", "better", "protocol_hash", "differs")}
        entries = [entry.to_json() for entry in self.entries]
        return {**about, "protocol": self.protocol, "paired": self.paired, "entries": entries}


def make_boards(registry: Registry, metrics: Sequence[str] = ()) -> list[Board]:
    """The boards of all metrics, or of some: metrics of quality first; of a metric the protocol of most cells first.

    A cell (by its key) counts once per protocol, by its newest run: the same images scored again are no other entry.

    Raises:
        ConfigError: there is no run, or a metric that none has.
    """
    if not registry.runs:
        raise ConfigError(f"{registry.place}: no run is below it: a leaderboard needs one at least")
    known = list(dict.fromkeys(row.metric for run in registry.runs for row in run.table.rows))
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"no run below {registry.place} has a metric '{metric}'. {nearest(metric, known)}")
    chosen = list(metrics) or sorted(known, key=lambda metric: metric in COSTS)
    found: dict[str, dict[str, dict[Any, list[Scored]]]] = {metric: {} for metric in chosen}
    for run in registry.runs:
        samples = run.samples(*chosen)
        for row in run.table.rows:
            if row.metric in found and finite(row):
                cells = found[row.metric].setdefault(row.protocol_hash, {})
                same = run.keys.get(row.cell) or (run.name, row.cell)
                cells.setdefault(same, []).append(Scored.of(run, row, samples))
    return [board for metric in chosen for board in _of_metric(found[metric])]


def _of_metric(protocols: Mapping[str, Mapping[Any, Sequence[Scored]]]) -> Iterator[Board]:
    ordered = sorted(protocols.items(), key=lambda item: -len(item[1]))
    first = None
    for key, cells in ordered:
        board = _board(key, list(cells.values()))
        differs = protocol_difference(board.protocol, first.protocol) if first is not None else ""
        first = first or board
        yield replace(board, differs=differs)


def _board(key: str, cells: Sequence[Sequence[Scored]]) -> Board:
    """Of each cell its scores, newest first."""
    ordered = sorted(cells, key=lambda scores: -scores[0].row.sign * (scores[0].row.value or 0.0))
    newest = [scores[0] for scores in ordered]
    samples = max((len(score.influence or ()) for score in newest), default=0)
    paired = len(newest) ** 2 * (samples + 300) <= MOST_WORK  # 300: what a pair costs besides
    if not paired:
        newest = [replace(score, influence=None) for score in newest]
    ranks, ties = _ranks(newest, paired)
    row = newest[0].row
    entries = [
        Entry(scores[0].run, scores[0].row, rank, tied, len(scores))
        for scores, rank, tied in zip(ordered, ranks, ties, strict=True)
    ]
    return Board(row.metric, row.label, row.better, key, row.protocol, "", paired, entries)


def _ranks(scores: Sequence[Scored], paired: bool) -> tuple[list[int | None], list[tuple[int, ...]]]:
    """1 + how many are surely better, and which ones each cannot be told from; Holm over all pairs of the board."""
    import numpy as np

    sure = [number for number, score in enumerate(scores) if score.row.stderr is not None and not score.row.unsure]
    known = [scores[number] for number in sure]
    p = _paired_ps(known) if paired else _unpaired_ps(known)
    value = np.array([score.row.sign * (score.row.value or 0.0) for score in known])
    apart = p <= 1 - CONFIDENCE
    better = (apart & (value[None, :] > value[:, None])).sum(axis=1)
    ranks: list[int | None] = [None] * len(scores)
    ties: list[tuple[int, ...]] = [()] * len(scores)
    for place, number in enumerate(sure):
        ranks[number] = 1 + int(better[place])
        ties[number] = tuple(sure[other] for other in np.flatnonzero(~apart[place]) if other != place)
    return ranks, ties


def _paired_ps(scores: Sequence[Scored]) -> NDArray[np.float64]:
    """[K,K]: corrected p of each two, paired where their samples are; 1 on the diagonal."""
    import numpy as np

    pairs = list(combinations(range(len(scores)), 2))
    corrected = holm([scores[j].less(scores[i]).p for i, j in pairs])
    p = np.ones((len(scores), len(scores)))
    for (i, j), each in zip(pairs, corrected, strict=True):
        p[i, j] = p[j, i] = 1.0 if each is None else each
    return p


def _unpaired_ps(scores: Sequence[Scored]) -> NDArray[np.float64]:
    """The same of independent scores, all at once: Student's t of the smaller count, as `stats.difference` has it."""
    import numpy as np
    from scipy.special import stdtr

    value = np.array([score.row.value for score in scores], dtype=np.float64)
    stderr = np.array([score.row.stderr for score in scores], dtype=np.float64)
    groups = np.array([score.estimate.groups for score in scores], dtype=np.float64)
    i, j = np.triu_indices(len(scores), 1)
    gap, spread = np.abs(value[j] - value[i]), np.hypot(stderr[i], stderr[j])
    degrees = np.maximum(np.minimum(groups[i], groups[j]) - 1, 1)
    none = spread <= NO_SPREAD * gap  # nothing varies: few, and asked one by one
    ps = 2 * stdtr(degrees, -gap / np.where(none, 1.0, spread))
    for k in np.flatnonzero(none):
        ps[k] = scores[j[k]].less(scores[i[k]]).p
    order = np.argsort(ps, kind="stable")
    steps = np.minimum(1.0, ps[order] * np.arange(len(ps), 0, -1))
    p = np.ones((len(scores), len(scores)))
    p[i[order], j[order]] = p[j[order], i[order]] = np.maximum.accumulate(steps)
    return p
