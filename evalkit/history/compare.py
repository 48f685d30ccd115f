"""One run against another: what differs in how they were made, and every score's difference with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evalkit.errors import EXIT_DONE, EXIT_GATE_FAILED, EXIT_GATE_INCONCLUSIVE, ConfigError, nearest
from evalkit.gate.bounds import difference_bounds
from evalkit.history.registry import PastRun
from evalkit.history.scored import Scored
from evalkit.results.compare import verdict_of
from evalkit.results.protocols import flat, protocol_difference
from evalkit.results.stats import Difference, holm
from evalkit.results.table import COSTS, Row, finite

# How a cell of one run was found in the other, in the order in which that is tried.
IDENTITY, NAME, SETTINGS, ONLY = "the same cell", "of the same name", "of the same settings", "the only ones"


@dataclass(frozen=True)
class Pair:
    """A cell of the first run, the one of the second that it is compared with, and why that one."""

    before: str
    after: str
    by: str


@dataclass(frozen=True)
class Change:
    """A metric's score of one pair of cells, the second run's less the first's.

    Attributes:
        metric, label, before, after: what is compared (cells).
        old, new, difference: the values.
        stderr, low, high, paired: of the difference; its 95 % interval; whether it was taken sample by sample.
        p, p_holm: two-sided; corrected for all scores of quality that the two runs compare.
        verdict: "better", "worse" or "not distinguishable" (by p_holm); "" without a standard error, "not comparable".
        note: why it is not comparable; or what a margin decided.
        cost: whether it tells what samples cost: it counts only where it is asked for.
        within: the margin that it is judged by, and "pass", "fail" or "inconclusive"; none: by its verdict.
    """

    metric: str
    label: str
    before: str
    after: str
    old: float | None
    new: float | None
    better: str
    difference: float | None = None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    paired: bool = False
    p: float | None = None
    p_holm: float | None = None
    verdict: str = ""
    note: str = ""
    cost: bool = False
    within: tuple[float, str] | None = None

    @property
    def status(self) -> str:
        """What it says to the exit code: "pass", "fail", "inconclusive"; "" where it does not count."""
        if self.within is not None:
            return self.within[1]
        if self.cost:
            return ""
        return {"worse": "fail", "not comparable": "inconclusive"}.get(self.verdict, "pass")


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side.

    Attributes:
        before, after: the runs.
        config, versions: by dotted key both values, of the keys that differ.
        pairs: the cells that are compared.
        left: the cells of the first and of the second run that are not.
        changes: every score of these cells.
    """

    before: PastRun
    after: PastRun
    config: Mapping[str, tuple[Any, Any]]
    versions: Mapping[str, tuple[Any, Any]]
    pairs: Sequence[Pair]
    left: tuple[Sequence[str], Sequence[str]]
    changes: Sequence[Change]

    @property
    def exit_code(self) -> int:
        """0: nothing got significantly worse; 3: something did; 4: that could not be told."""
        said = [change.status for change in self.changes if change.status]
        if "fail" in said:
            return EXIT_GATE_FAILED
        return EXIT_GATE_INCONCLUSIVE if "inconclusive" in said or not said else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "config": self.config,
            "versions": self.versions,
            "pairs": [asdict(pair) for pair in self.pairs],
            "only_before": list(self.left[0]),
            "only_after": list(self.left[1]),
            "changes": [{**asdict(change), "status": change.status} for change in self.changes],
            "exit_code": self.exit_code,
        }


def compare_runs(
    before: PastRun,
    after: PastRun,
    *,
    metrics: Sequence[str] = (),
    within: Mapping[str, float] | None = None,
    cells: Mapping[str, str] | None = None,
) -> RunComparison:
    """Compares a run with an earlier one.

    Args:
        before, after: the runs; differences are the second's less the first's.
        metrics: what is compared; none: all that the first has. What samples cost decides only where it is named.
        within: by metric how much worse is allowed: shown to be within it passes, shown to be beyond it fails.
        cells: by cell of the first run the one of the second; the others are found by themselves.

    Raises:
        ConfigError: a metric or cell that is not there, or a margin below 0.
    """
    margins = dict(within or {})
    known = list(dict.fromkeys(row.metric for row in before.table.rows))
    for metric in [*metrics, *margins]:
        if metric not in known:
            raise ConfigError(f"{before.name} has no metric '{metric}'. {nearest(metric, known)}")
    if bad := [metric for metric, margin in margins.items() if not margin >= 0]:
        raise ConfigError(f"--within {bad[0]}={margins[bad[0]]}: give a margin of 0 or more")
    chosen = list(metrics) or known
    chosen += [metric for metric in margins if metric not in chosen]
    pairs = match(before, after, cells or {})
    changes = _changes((before, after), chosen, pairs, set(metrics), margins)
    left = (
        [cell for cell in before.table.cells if cell not in {pair.before for pair in pairs}],
        [cell for cell in after.table.cells if cell not in {pair.after for pair in pairs}],
    )
    return RunComparison(before, after, *_made_differently(before, after), pairs, left, changes)


def match(before: PastRun, after: PastRun, named: Mapping[str, str]) -> list[Pair]:
    """Which cells are compared: those named, the same ones (by key), those of one name, of one set of settings.

    Where each run has one cell alone, these two.
    """
    free = [list(run.table.cells) for run in (before, after)]
    pairs: list[Pair] = []

    def take(one: str, other: str, by: str) -> None:
        pairs.append(Pair(one, other, by))
        free[0].remove(one)
        free[1].remove(other)

    for one, other in named.items():
        for cell, cells, run in ((one, free[0], before), (other, free[1], after)):
            if cell not in cells:
                raise ConfigError(f"--cell {one}={other}: {run.name} has no cell '{cell}'. {nearest(cell, cells)}")
        take(one, other, "as asked")
    alone = len(before.table.cells) == len(after.table.cells) == 1
    rules: dict[str, Callable[[PastRun, str], Any]] = {
        IDENTITY: lambda run, cell: run.keys.get(cell),
        NAME: lambda run, cell: cell,
        SETTINGS: lambda run, cell: _settings(run, cell),
        ONLY: lambda run, cell: True if alone else None,
    }
    for by, of in rules.items():
        for one in list(free[0]):
            sought = of(before, one)
            same = [other for other in free[1] if of(after, other) == sought] if sought is not None else []
            if len(same) == 1 or (same and by in (IDENTITY, NAME)):
                take(one, same[0], by)
    order = {cell: number for number, cell in enumerate(before.table.cells)}
    return sorted(pairs, key=lambda pair: order[pair.before])


def _settings(run: PastRun, cell: str) -> tuple[Any, ...]:
    row = run.table.rows_by_cell[cell][0]
    return row.model, row.sampler, row.prompts, tuple(sorted((k, str(v)) for k, v in row.settings.items())), row.seed


def _made_differently(before: PastRun, after: PastRun) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """What differs in the configuration; and in versions, machine and commit."""
    configs = [dict(flat(run.table.run.get("config") or {})) for run in (before, after)]
    machines = []
    for run in (before, after):
        about = {key: run.table.run.get(key) for key in ("python", "platform", "reference", "training", "baseline")}
        made = {key: run.made.get(key) for key in ("host", "cpu", "gpu", "git")}
        machines.append({**run.table.run.get("versions", {}), **about, **made})
    return _differing(*configs), _differing(*machines)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}


def _changes(
    runs: tuple[PastRun, PastRun],
    metrics: Sequence[str],
    pairs: Sequence[Pair],
    asked: set[str],
    margins: Mapping[str, float],
) -> list[Change]:
    """Every metric of every pair; p-values corrected over all that count."""
    samples = [run.samples(*metrics) for run in runs]
    changes: list[Change] = []
    for metric in metrics:
        for pair in pairs:
            old, new = _row(runs[0], pair.before, metric), _row(runs[1], pair.after, metric)
            if old is None or not finite(old):
                continue  # there was nothing that could get worse
            margin = margins.get(metric)
            value = new.value if new is not None and finite(new) else None
            cost = metric in COSTS and metric not in asked and margin is None
            change = Change(metric, old.label, pair.before, pair.after, old.value, value, old.better, cost=cost)
            note = _apart(runs[1], old, new)
            if note or new is None:
                untold = None if margin is None else (margin, "inconclusive")
                changes.append(replace(change, verdict="not comparable", note=note, within=untold))
                continue
            both = Scored.of(runs[1], new, samples[1]), Scored.of(runs[0], old, samples[0])
            d = both[0].less(both[1])
            change = replace(
                change, difference=d.value, stderr=d.stderr, low=d.low, high=d.high, paired=d.paired, p=d.p
            )
            changes.append(change if margin is None else _within(change, *both, margin))
    counted = [i for i, change in enumerate(changes) if not change.cost]
    corrected = dict(zip(counted, holm([changes[i].p for i in counted]), strict=True))
    return [_judged(change, corrected.get(i, change.p)) for i, change in enumerate(changes)]


def _apart(run: PastRun, old: Row, new: Row | None) -> str:
    """Why a score cannot be compared; empty where it can."""
    if new is None or not finite(new):
        return f"{run.name} has no value: {(new and new.note) or 'it was not scored'}"
    return protocol_difference(new.protocol, old.protocol) if new.protocol_hash != old.protocol_hash else ""


def _judged(change: Change, p: float | None) -> Change:
    verdict = change.verdict or verdict_of(Difference(change.difference or 0.0), p, change.better)
    return replace(change, p_holm=p, verdict=verdict)


def _within(change: Change, new: Scored, old: Scored, margin: float) -> Change:
    """Judged as a gate's `no_worse_than` is: by one-sided bounds of 95 % each."""
    same = new.key is not None and new.key == old.key
    common = new.shares_samples_with(old)
    bounds = difference_bounds(new.estimate, old.estimate, common=common, same=same)
    if bounds is None:
        note = "without a standard error of both, the margin decides nothing"
        return replace(change, within=(margin, "inconclusive"), note=note)
    worse = (bounds.low, bounds.high) if change.better == "lower" else (-bounds.high, -bounds.low)
    status = "pass" if worse[1] <= margin else "fail" if worse[0] > margin else "inconclusive"
    edge = f"at least {worse[0]:.3g}" if status == "fail" else f"at most {worse[1] + 0.0:.3g}"
    return replace(change, within=(margin, status), note=f"worse by {edge} with 95 % confidence; allowed {margin:g}")


def _row(run: PastRun, cell: str, metric: str) -> Row | None:
    return next((row for row in run.table.rows_by_cell[cell] if row.metric == metric), None)


def about_protocols(comparison: RunComparison) -> Iterator[str]:
    """One line per difference of protocols, with the scores that it keeps apart."""
    apart: dict[str, list[str]] = {}
    for change in comparison.changes:
        if change.verdict == "not comparable" and change.new is not None:
            apart.setdefault(change.note, []).append(change.label)
    for note, labels in apart.items():
        yield f"{', '.join(dict.fromkeys(labels))}: {note}"
