"""The run's option `votes`: files of votes -> ratings that stand among the run's metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.votes.metric import RATING, VotesRating
from evalkit.votes.records import VOTES, Vote, read_votes


@dataclass(frozen=True)
class _Files:
    """Where votes of one source lie, or the judge who casts them."""

    source: str
    where: str
    paths: tuple[Path, ...] = ()
    judge: Mapping[str, Any] | None = None


Judged = Callable[[Mapping[str, Any], str, str], VotesRating]
"""Of a source that is a judge: its option, its name and the option's -> the rating."""


def make_ratings(
    option: Any, cells: Collection[str], taken: Collection[str], out: Path, judged: Judged
) -> dict[str, VotesRating]:
    """The ratings that a run's option `votes` asks for, by metric name.

    Args:
        option: a votes.csv, a run's folder that holds one, a list of these; by name, several sources, of which each may
            be a judge, {judge: EXTRACTOR, ...}; true: the one in this run's own folder; none: no ratings.
        cells: of the run, by name.
        taken: names of the run's metrics.
        out: the run's folder.
        judged: makes the rating of a source that is a judge.

    Raises:
        ConfigError: no such file, one that is none of votes, votes on none of the run's cells.
    """
    found: dict[str, VotesRating] = {}
    for files in _sources(option, out):
        name = f"{files.source}_{RATING}"
        if name in taken:
            raise ConfigError(f"{files.where}: the run has a metric '{name}' already: give the votes another name")
        if files.judge is not None:
            found[name] = judged(files.judge, files.source, files.where)
            continue
        votes = [vote for path in files.paths for vote in _read(path, files.where)]
        named = dict.fromkeys(cell for vote in votes for cell in (vote.cell_a, vote.cell_b))
        known = [cell for cell in named if cell in cells]
        if len(known) < 2:
            what = f"{files.where}: its {len(votes)} votes are on no two cells of this run"
            raise ConfigError(what + (f". {nearest(next(iter(named)), list(cells))}" if named else ""))
        found[name] = VotesRating(files.source, votes)
    return found


def _sources(option: Any, out: Path) -> list[_Files]:
    if option is None or option is False:
        return []
    if isinstance(option, Mapping):
        return [_source(str(name), value, out) for name, value in option.items()]
    return [_Files("votes", "votes", _paths(option, "votes", out))]


def _source(name: str, value: Any, out: Path) -> _Files:
    where = f"votes.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{where}: give the votes a name of small letters, digits and _")
    if not isinstance(value, Mapping):
        return _Files(name, where, _paths(value, where, out))
    if not isinstance(value.get("judge"), str):
        raise ConfigError(f"{where}={dict(value)}: give files of votes, or a judge: {{judge: EXTRACTOR, items: 200}}")
    return _Files(name, where, judge=value)


def _paths(option: Any, where: str, out: Path) -> tuple[Path, ...]:
    if option is True:
        return (out / VOTES,)
    given = option if isinstance(option, list | tuple) else [option]
    if not given or not all(isinstance(each, str) and each for each in given):
        raise ConfigError(f"{where}={option}: give a {VOTES}, a run's folder that holds one, a list of these, or true")
    paths = [Path(each).expanduser() for each in given]
    return tuple(path / VOTES if path.is_dir() else path for path in paths)


def _read(path: Path, where: str) -> list[Vote]:
    if not path.is_file():
        raise ConfigError(f"{where}: there is no {path}: `evalkit vote RUN` makes a run's {VOTES}")
    try:
        return read_votes(path)
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from error
