"""Scores a training's checkpoints as they arrive: which are whole, when to score again, when to stop.

What scores is given: the loop knows files, times and result tables. All that was scored before is in the store, so that
each round costs what is new, and a watch that is started again goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.config.checkpoints import SETTLE, Checkpoint, Signature, fault_of, last_change, signature
from evalkit.errors import ConfigError, EvalkitError, nearest
from evalkit.results.table import ResultTable
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

STALE = 120.0  # seconds without a change until what is half written counts as damaged

Find = Callable[[], Sequence[Checkpoint]]
"""The checkpoints that are there now, by step. ConfigError: there is none, or what is there is no series."""

Check = Callable[[Checkpoint], None]
"""Looks at one checkpoint as the plan will. EvalkitError: it is not as it should be."""

Score = Callable[[Sequence[str]], ResultTable]
"""Runs the whole pipeline with the series' other checkpoints: the paths given are left out."""


@dataclass(frozen=True)
class Rules:
    """When a watch ends by itself.

    Attributes:
        patience: after so many checkpoints without a significant gain; none: never.
        metric: by which metric of the run; none: the first whose trend is known.
        until_gate: once a checkpoint passes all of its gate's rules.
        seconds: after so long; none: never. 0: after the first round.
    """

    patience: int | None = None
    metric: str | None = None
    until_gate: bool = False
    seconds: float | None = None

    def reason(self, table: ResultTable) -> str | None:
        """Why a watch ends with these results; none: it goes on."""
        if self.until_gate and table.gate is not None and (cell := passing_cell(table.gate)) is not None:
            return f"{cell} passes the gate"
        if self.patience is None:
            return None
        lengths = since_gain(table, self.metric)
        if lengths and min(lengths.values()) >= self.patience:
            more = "; ".join(f"{name}: {count}" for name, count in lengths.items())
            return f"no significant gain in {self.patience} checkpoints ({more} since the last one)"
        return None


def passing_cell(gate: Mapping[str, Any]) -> str | None:
    """The last cell of a verdict (`Verdict.to_json`) that passes each of its rules; none: no cell does."""
    by_cell: dict[str, list[str]] = {}
    for result in gate.get("results", ()):
        if result.get("cell"):
            by_cell.setdefault(str(result["cell"]), []).append(str(result["status"]))
    passing = [cell for cell, statuses in by_cell.items() if all(status == "pass" for status in statuses)]
    return passing[-1] if passing else None


def since_gain(table: ResultTable, metric: str | None) -> dict[str, int]:
    """By series the number of checkpoints after the first from which no later one is significantly better.

    Raises:
        ConfigError: the metric has no trend though others have one.
    """
    lengths: dict[str, int] = {}
    for series in table.run.get("series") or ():
        trends = series["trends"]
        if metric is not None and trends and metric not in trends:
            raise ConfigError(f"--metric {metric}: no trend of it is known. {nearest(metric, trends)}")
        trend = trends.get(metric or next(iter(trends), ""))
        if trend is not None and trend["plateau"] is not None:
            steps = series["steps"]
            lengths[series["name"]] = sum(step > steps[trend["plateau"]] for step in steps.values())
    return lengths


@dataclass
class Watched:
    """What is known of the checkpoints of one watch.

    Attributes:
        check: looks at one as the plan will.
        settle, stale: seconds without a change until one counts as written; until a half-written one is damaged.
        scored: by path the signature that was scored.
        faulty: by path the signature that is damaged, and why.
        said: what was told of a path last: nothing is told twice.
    """

    check: Check
    settle: float = SETTLE
    stale: float = STALE
    scored: dict[str, Signature] = field(default_factory=dict)
    faulty: dict[str, tuple[Signature, str]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def whole(self, found: Sequence[Checkpoint], now: float) -> list[Checkpoint]:
        """Those that can be scored; of each other a line says why, once."""
        whole = []
        for checkpoint in found:
            mark = signature(Path(checkpoint.path))
            if self.scored.get(checkpoint.path) == mark or self._looks_whole(checkpoint, mark, now):
                whole.append(checkpoint)
        return whole

    def _looks_whole(self, checkpoint: Checkpoint, mark: Signature, now: float) -> bool:
        path = checkpoint.path
        if path in self.faulty and self.faulty[path][0] == mark:
            return False
        age = now - last_change(mark)
        if 0 <= age < self.settle:
            return False  # it is looked at again in the next round
        fault = fault_of(Path(path))
        why, damaged = (fault.why, fault.kind == "damaged") if fault is not None else (None, False)
        if fault is None:
            try:
                self.check(checkpoint)
            except EvalkitError as error:
                why = str(error)
        if why is None:
            self.faulty.pop(path, None)
            self.said.pop(path, None)
            return True
        if damaged or age >= self.stale:
            self.damaged(checkpoint, mark, why)
        else:
            self._say(checkpoint, f"step {checkpoint.step} is waited for: {why}")
        return False

    def damaged(self, checkpoint: Checkpoint, mark: Signature, why: str) -> None:
        """Passes a checkpoint over until it is written anew."""
        self.faulty[checkpoint.path] = (mark, why)
        self._say(checkpoint, f"step {checkpoint.step} is passed over, until it is written anew: {why}")

    def _say(self, checkpoint: Checkpoint, line: str) -> None:
        if self.said.get(checkpoint.path) != line:
            self.said[checkpoint.path] = line
            log.warning("%s", one_line(line, 400))


def watch(
    find: Find,
    score: Score,
    watched: Watched,
    *,
    rules: Rules,
    newest: bool = False,
    poll: float = 30.0,
    before: Callable[[Checkpoint], Collection[float]] = lambda newest: (),
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, ResultTable | None]:
    """Scores checkpoints as they arrive, until a rule ends it; why, and the last results (none: nothing was scored).

    Args:
        find, score: see `Find` and `Score`.
        watched: what is known of the checkpoints.
        rules: when it ends.
        newest: one at a time, the newest first; else all that are whole at once.
        poll: seconds between looks.
        before: the steps that an earlier watch scored, asked once: the first of its results are no step back.
        clock, sleep: the time, and how it passes.

    Raises:
        EvalkitError: what is wrong is no checkpoint's.
    """
    started, table, waiting = clock(), None, ""
    while True:
        found, problem = _found(find)
        whole = watched.whole(found, clock())
        new = [c for c in whole if c.path not in watched.scored or watched.scored[c.path] != signature(Path(c.path))]
        batch = new
        if new and newest:
            earlier = before(new[-1]) if not watched.scored else ()
            batch = [c for c in new if c is new[-1] or c.step in earlier]
        scored = _score(score, found, whole, new, batch, watched) if batch else None
        if scored is not None:
            table = scored
            if (reason := rules.reason(table)) is not None:
                return reason, table
            if len(new) > len(batch):
                continue  # the others are there already
        if rules.seconds is not None and clock() - started >= rules.seconds:
            return f"{rules.seconds:g} s have passed", table
        line = problem or ("all are scored" if len(watched.scored) >= len(found) else "")
        if line and line != waiting:
            log.info("%s; looked at every %g s", line, poll)
            waiting = line
        sleep(poll)


def _found(find: Find) -> tuple[Sequence[Checkpoint], str]:
    """What is there now, and else why nothing is."""
    try:
        return find(), ""
    except ConfigError as error:
        return (), f"waiting for checkpoints: {error}"


def _score(
    score: Score,
    found: Sequence[Checkpoint],
    whole: Sequence[Checkpoint],
    new: Sequence[Checkpoint],
    batch: Sequence[Checkpoint],
    watched: Watched,
) -> ResultTable | None:
    """Scores the batch with all that was scored before; one that cannot be scored is passed over, and none is given."""
    fresh = {c.path for c in new}
    taken = {c.path for c in whole if c.path not in fresh} | {c.path for c in batch}
    marks = {path: signature(Path(path)) for path in taken}
    try:
        table = score([c.path for c in found if c.path not in taken])
    except EvalkitError as error:
        changed = [c for c in batch if signature(Path(c.path)) != marks[c.path]]
        if changed:  # written to while it was read: it is looked at again
            return None
        if len(batch) == 1 and len(taken) > 1:
            watched.damaged(batch[0], marks[batch[0].path], str(error))
            return None
        if len(batch) == 1:
            raise
        return _one_by_one(score, found, whole, new, batch, watched)
    watched.scored.update(marks)
    return table


def _one_by_one(
    score: Score,
    found: Sequence[Checkpoint],
    whole: Sequence[Checkpoint],
    new: Sequence[Checkpoint],
    batch: Sequence[Checkpoint],
    watched: Watched,
) -> ResultTable | None:
    """Finds the one of several that cannot be scored; where none of them can, the last one's error is raised."""
    table, last, first = None, None, True
    for checkpoint in batch:
        remaining = [c for c in new if c.path not in watched.scored]
        try:
            taken = {c.path for c in whole if c not in remaining} | {checkpoint.path}
            mark = signature(Path(checkpoint.path))
            table = score([c.path for c in found if c.path not in taken])
            watched.scored[checkpoint.path], first = mark, False
        except EvalkitError as error:
            last = error
            watched.damaged(checkpoint, mark, str(error))
    if first and last is not None:
        raise last
    return table
