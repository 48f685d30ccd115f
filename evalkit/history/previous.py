"""previous.json in a run's folder: what got better or worse since an earlier run, for the arrows in its report."""

from __future__ import annotations

import logging
from pathlib import Path

from evalkit.errors import ConfigError
from evalkit.history.compare import compare_runs
from evalkit.history.registry import PastRun, Registry, find_run
from evalkit.results.previous import NAME
from evalkit.results.table import finite
from evalkit.utils.files import write_json

log = logging.getLogger(__name__)

AUTO = "auto"


def write_previous(run: PastRun, asked: str, store: Path | None = None) -> PastRun | None:
    """Compares a run with an earlier one, and writes the result into the run's folder.

    Args:
        run: whose folder takes it.
        asked: the earlier run, as on the command line; "auto": the last one before it in its store that has a score
            of a cell of the same name or key under the same protocol.
        store: where runs are looked for; none: the folder that holds the run's.

    Returns:
        The earlier run; none where "auto" finds none.

    Raises:
        ConfigError, DataError: the earlier run is not there, or cannot be read; it is the run itself.
    """
    store = store or run.path.parent.absolute().parent
    before = _last_before(run, Registry.read(store)) if asked == AUTO else find_run(asked, store)
    if before is None:
        log.warning("%s: no earlier run in %s has a score to compare with", run.name, store)
        return None
    if before.path.resolve() == run.path.resolve():
        raise ConfigError(f"--previous {asked}: that is the run itself")
    comparison = compare_runs(before, run)
    changes = [
        {
            "cell": change.after,
            "metric": change.metric,
            "old": change.old,
            "new": change.new,
            "low": change.low,
            "high": change.high,
            "verdict": change.verdict,
        }
        for change in comparison.changes
        if change.difference is not None
    ]
    write_json(run.path.with_name(NAME), {"run": before.name, "date": before.to_json()["date"], "changes": changes})
    return before


def _last_before(run: PastRun, registry: Registry) -> PastRun | None:
    """The newest earlier run that shares a cell and a protocol."""
    mine = {(name, row.protocol_hash) for row in run.table.rows if finite(row) for name in _names(run, row.cell)}
    for other in registry.runs:
        if other.path.resolve() == run.path.resolve() or other.date >= run.date:
            continue
        if any(
            (n, row.protocol_hash) in mine for row in other.table.rows if finite(row) for n in _names(other, row.cell)
        ):
            return other
    return None


def _names(run: PastRun, cell: str) -> tuple[str, ...]:
    key = run.keys.get(cell)
    return (cell, f"key {key}") if key else (cell,)
