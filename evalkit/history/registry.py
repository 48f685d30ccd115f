"""The runs below a folder, from their results.json alone: there is no database that could be out of date."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.gate.baseline import read_influences
from evalkit.history.stores import RESULTS, fetch, on_this_machine
from evalkit.results.compare import Clusters, Influences
from evalkit.results.table import ResultTable, of_present_schema
from evalkit.utils.json_files import read_json

log = logging.getLogger(__name__)

STORE = "runs"  # where runs are looked for by their names
# Of a store and of a run: they hold millions of files, and no run.
_NO_RUNS = frozenset({"samples", "features", "scores", "lint", "shards", "sheets", "nearest", "export"})


@dataclass(frozen=True)
class PastRun:
    """A finished run as its folder tells it.

    Attributes:
        path: its results.json.
        name: its folder's, relative to where runs were looked for; of a file of another name that name.
        schema: of the file: 1 or 2.
        table: its scores, as the present schema has them.
        date: of the scores' making, UTC; of a file that does not tell it (schema 1) the file's own time.
        dated: whether the file tells it.
    """

    path: Path
    name: str
    schema: int
    table: ResultTable
    date: datetime
    dated: bool

    @property
    def made(self) -> Mapping[str, Any]:
        """date, host, cpu, gpu, git; empty where the file does not tell."""
        made: Mapping[str, Any] = self.table.run.get("made") or {}
        return made

    @property
    def day(self) -> str:
        """The date for people, with "~" where it is the file's own."""
        return f"{'' if self.dated else '~'}{self.date:%Y-%m-%d %H:%M}"

    @cached_property
    def keys(self) -> dict[str, str]:
        """By cell its key: the digest of all that can change a pixel; of the cells that have one."""
        return dict(self.table.run.get("cells", {}))

    @cached_property
    def pairing(self) -> dict[str, str]:
        """By cell the digest of its prompts and seed; empty where the file does not tell."""
        return dict(self.table.run.get("pairing", {}))

    def samples(self, *metrics: str) -> tuple[Influences, Clusters]:
        """What some metrics' scores rest on, from the samples.csv next to the file; empty where that cannot be read."""
        wanted = replace(self.table, rows=[row for row in self.table.rows if row.metric in metrics])
        try:
            return read_influences(fetch(self.path.with_name("samples.csv")), wanted)
        except (DataError, OSError) as error:
            log.warning("%s: its scores are compared unpaired", error)
            return {}, {}

    def to_json(self) -> dict[str, Any]:
        """What `evalkit runs --json` says of it."""
        gate = self.table.gate or {}
        return {
            "name": self.name,
            "path": str(self.path),
            "schema": self.schema,
            "date": self.date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "dated": self.dated,
            "host": self.made.get("host"),
            "git": self.made.get("git"),
            "evalkit": self.table.run.get("versions", {}).get("evalkit"),
            "cells": self.table.cells,
            "metrics": [column.metric for column in self.table.columns],
            "gate": gate.get("status"),
        }


@dataclass(frozen=True)
class Registry:
    """The runs below a folder.

    Attributes:
        place: the folder, or the URL.
        runs: newest first.
        passed_over: one line per results.json that could not be read: damaged, or of a later schema.
    """

    place: str | Path
    runs: tuple[PastRun, ...]
    passed_over: tuple[str, ...] = ()

    @classmethod
    def read(cls, place: str | Path) -> Registry:
        """Looks through a store (a folder or a URL), a folder of stores, or one run's folder.

        Raises:
            ConfigError: there is no such folder.
            StoreError: the URL cannot be reached.
        """
        folder = on_this_machine(place)
        if not folder.is_dir():
            raise ConfigError(f"{place}: there is no such folder: give a store (runs), or a folder with runs in it")
        runs: list[PastRun] = []
        passed: list[str] = []
        for path in _results_files(folder):
            try:
                runs.append(read_run(path, folder))
            except DataError as error:
                passed.append(str(error))
        runs.sort(key=lambda run: (-run.date.timestamp(), run.name))
        return cls(place, tuple(runs), tuple(passed))

    def say(self) -> None:
        """Tells in the log what was passed over."""
        for line in self.passed_over:
            log.warning("passed over: %s", line)

    def find(self, name: str) -> PastRun:
        """The run of a folder's name, or the newest of a name in its results.

        Raises:
            ConfigError: there is none; the nearest name is offered.
        """
        same = [run for run in self.runs if name in (run.name, run.table.run.get("name"))]
        if not same:
            known = [run.name for run in self.runs]
            raise ConfigError(
                f"{name}: no such file or folder, and no run of that name in {self.place}. {nearest(name, known)}"
            )
        return next((run for run in same if run.name == name), same[0])


def read_run(path: Path, place: Path | None = None) -> PastRun:
    """A run of its results.json; `place` is what its name is relative to.

    Raises:
        DataError: it cannot be read, is none, or is of a later schema.
    """
    try:
        data = read_json(path, finite=True)
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DataError(f"{path}: {'no such file' if missing else error.strerror or error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    try:
        table = ResultTable.from_results(of_present_schema(data, path), path)
    except (TypeError, ValueError, LookupError) as error:  # what the schema leaves open
        raise DataError(f"{path}: not a results.json of evalkit ({error})") from error
    date = _date(table.run.get("made"))
    folder = path.parent if path.name == RESULTS else path
    name = folder.name if place is None or place == folder else folder.relative_to(place).as_posix()
    return PastRun(path, name or folder.resolve().name, int(schema or 0), table, date or written, date is not None)


def find_run(text: str, store: str | Path = STORE) -> PastRun:
    """The run that a command line's RUN means: a folder (or a URL), a results.json, or the name of a run in a store.

    Raises:
        ConfigError: there is none.
        DataError: it cannot be read.
    """
    path = on_this_machine(text)
    if (path / RESULTS).is_file():
        return read_run(path / RESULTS)
    if path.is_file():
        return read_run(path)
    if path.is_dir():
        raise ConfigError(
            f"{text}: no {RESULTS} in this folder: give a run's folder (`evalkit runs {text}` lists them)"
        )
    folder = on_this_machine(store)
    if not folder.is_dir():
        raise ConfigError(
            f"{text}: no such file or folder, and there is no store {store} to look for a run of that name"
        )
    if (folder / text / RESULTS).is_file():  # before a look at all of them
        return read_run(folder / text / RESULTS, folder)
    registry = Registry.read(store)
    registry.say()
    return registry.find(text)


def _results_files(place: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(place):
        inner[:] = sorted(name for name in inner if name not in _NO_RUNS and not name.startswith("."))
        if RESULTS in files:
            yield Path(folder) / RESULTS


def _date(made: Any) -> datetime | None:
    """The time that `made` tells; none where it tells none, or one that is none."""
    try:
        date = datetime.fromisoformat(made["date"])
    except (LookupError, TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
