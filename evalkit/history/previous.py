"""previous.json in a run's folder: what got better or worse since an earlier run, for the arrows in its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from evalkit.errors import ConfigError, DataError
from evalkit.history.compare import compare_runs
from evalkit.history.registry import PastRun, Registry, find_run, read_run
from evalkit.history.stores import RESULTS
from evalkit.results.previous import NAME
from evalkit.results.table import finite
from evalkit.utils.files import write_json

log = logging.getLogger(__name__)

AUTO = "auto"
RECENT = 20  # runs of the store that a run's own report looks among for the one before it


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
    before = _last_before(run, Registry.read(store).runs) if asked == AUTO else find_run(asked, store)
    if before is None:
        log.warning("%s: no earlier run in %s has a score to compare with", run.name, store)
        return None
    if before.path.resolve() == run.path.resolve():
        raise ConfigError(f"--previous {asked}: that is the run itself")
    _write(run, before)
    return before


def write_arrows(folder: Path, out: Path) -> None:
    """previous.json of a run whose files are still in the making, against the last run before it, as "auto" finds it.

    Only the store's most recent runs are looked at, so that a large store costs no run its time; and no run fails for
    it: an earlier one that cannot be read is passed over.

    Args:
        folder: where the files are made.
        out: where they go to; what lies there now is this run itself.
    """
    try:
        run = read_run(folder / RESULTS)
        before = _last_before(run, list(islice(_readable(_recent(out)), RECENT)), ties=True)
        if before is not None:
            _write(run, before)
    except (ConfigError, DataError, OSError) as error:
        log.warning("no arrows against an earlier run: %s", error)


def _recent(out: Path) -> list[Path]:
    """results.json of the runs next to `out`, the last written first."""
    files = [path for path in out.absolute().parent.glob(f"*/{RESULTS}") if path.parent.name != out.absolute().name]
    times = {path: path.stat().st_mtime for path in files if path.is_file()}
    return sorted(times, key=lambda path: -times[path])


def _readable(files: Sequence[Path]) -> Iterator[PastRun]:
    for path in files:
        try:
            yield read_run(path)
        except DataError as error:
            log.debug("passed over: %s", error)


def _write(run: PastRun, before: PastRun) -> None:
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


def _last_before(run: PastRun, runs: Sequence[PastRun], *, ties: bool = False) -> PastRun | None:
    """The newest earlier run that shares a cell and a protocol; `ties`: or one of the same second."""
    mine = {(name, row.protocol_hash) for row in run.table.rows if finite(row) for name in _names(run, row.cell)}
    for other in sorted(runs, key=lambda other: other.date, reverse=True):
        if other.path.resolve() == run.path.resolve() or other.date > run.date or (other.date == run.date and not ties):
            continue
        if any(
            (n, row.protocol_hash) in mine for row in other.table.rows if finite(row) for n in _names(other, row.cell)
        ):
            return other
    return None


def _names(run: PastRun, cell: str) -> tuple[str, ...]:
    key = run.keys.get(cell)
    return (cell, f"key {key}") if key else (cell,)
