"""The run's option `votes`: files of votes -> ratings that stand among the run's metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.metric import Metric
from evalkit.utils.files import sha256_json
from evalkit.votes.ratings import DRAWS, PRIOR, SEED, Ratings
from evalkit.votes.records import VOTES, Vote, read_votes

RATING = "rating"  # a metric's name ends so
DIGEST_DIGITS = 16


class VotesRating(Metric):
    """The rating of a cell by votes between two cells at a time: all cells are rated together.

    Args:
        source: the name of the votes' source ("votes", "judge", ...).
        votes: as cast, without those that were undone.
    """

    title = "Elo"
    better = "higher"
    revision = 1

    def __init__(self, source: str, votes: Sequence[Vote]) -> None:
        self.source = source
        self.votes = tuple(votes)
        self.title = f"Elo ({source})"

    def constants(self) -> dict[str, Any]:
        return {
            "model": "Bradley-Terry with ties (Davidson 1970), maximum likelihood",
            "scale": "400 log10 of the odds, mean 1000 over the rated cells",
            "both_bad": "a tie",
            "prior": f"{PRIOR} wins and {PRIOR} losses of each cell against one of mean strength",
            "stderr": f"cluster bootstrap over prompts and voters, {DRAWS} draws, seed {SEED}",
        }

    def protocol(self, cells: Mapping[str, str]) -> dict[str, Any]:
        """What a rating rests on, as JSON. `cells`: by name the key of each that is rated."""
        cast = [[v.voter, v.cell_a, v.cell_b, v.index, v.outcome] for v in self.votes if not v.check]
        return {
            "metric": f"{type(self).__module__}.{type(self).__qualname__}",
            "revision": self.revision,
            "constants": self.constants(),
            "votes": {"digest": sha256_json(cast)[:DIGEST_DIGITS], "count": len(cast)},
            "together": dict(cells),
        }


@dataclass(frozen=True)
class Rated:
    """One source's votes, and what was made of them.

    Attributes:
        metric: the votes.
        ratings: of the cells that they connect; none where they connect no two.
        left_out: how many votes are on cells or samples that the run has not.
    """

    metric: VotesRating
    ratings: Ratings | None
    left_out: int


@dataclass(frozen=True)
class _Files:
    """Where votes of one source lie."""

    source: str
    where: str
    paths: tuple[Path, ...]


def make_ratings(option: Any, cells: Collection[str], taken: Collection[str], out: Path) -> dict[str, VotesRating]:
    """The ratings that a run's option `votes` asks for, by metric name.

    Args:
        option: a votes.csv, a run's folder that holds one, a list of these; by name, several sources; true: the one in
            this run's own folder; none: no ratings.
        cells: of the run, by name.
        taken: names of the run's metrics.
        out: the run's folder.

    Raises:
        ConfigError: no such file, one that is none of votes, votes on none of the run's cells.
    """
    found: dict[str, VotesRating] = {}
    for files in _sources(option, out):
        name = f"{files.source}_{RATING}"
        if name in taken:
            raise ConfigError(f"{files.where}: the run has a metric '{name}' already: give the votes another name")
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
        for name in option:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
                raise ConfigError(f"votes.{name}: give the votes a name of small letters, digits and _")
        return [
            _Files(str(name), f"votes.{name}", _paths(value, f"votes.{name}", out)) for name, value in option.items()
        ]
    return [_Files("votes", "votes", _paths(option, "votes", out))]


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
