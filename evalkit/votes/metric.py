"""Ratings of votes as a metric: how they are called, what they rest on, and where their votes come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.data.source import Source
from evalkit.metric import Metric
from evalkit.utils.files import sha256_json
from evalkit.votes.ratings import DRAWS, PRIOR, SEED, Ratings
from evalkit.votes.records import Vote

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

    def cast(self, sources: Mapping[str, Source]) -> VotesRating:
        """With its votes, now that the run's samples are there; people's were cast before."""
        return self

    def forecast(self) -> str | None:
        """Of a judge: what it will be asked, in words."""
        return None

    @property
    def position(self) -> dict[str, Any] | None:
        """Of a judge: how far its verdicts depend on the order in which images are shown."""
        return None

    def write(self, out: Path) -> None:
        """Leaves its votes in the run's folder, where they came about in this run."""

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
