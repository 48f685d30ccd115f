"""Ratings of votes among a run's scores, and ratings.json, which holds what the report shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.metric import Score
from evalkit.utils.files import sha256_json
from evalkit.utils.json_files import read_checked, write_checked

if TYPE_CHECKING:
    from evalkit.results.rows import Outcome
    from evalkit.votes.groups import Gap, Need
    from evalkit.votes.metric import Rated, VotesRating
    from evalkit.votes.ratings import Ratings
    from evalkit.votes.records import Vote

NAME = "ratings.json"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def with_ratings(outcome: Outcome, metrics: Mapping[str, VotesRating]) -> Outcome:
    """The outcome with the ratings of all cells among its scores.

    Raises:
        DataError: a vote is on a sample of another prompt than the run's.
    """
    if not metrics:
        return outcome
    from evalkit.scoring.protocol import error_kind
    from evalkit.scoring.scoring import HASH_DIGITS, Scored
    from evalkit.votes.metric import Rated
    from evalkit.votes.ratings import rate, scores

    cells = [cell.name for cell in outcome.cells]
    clusters = {cell: outcome.clusters_of(cell) for cell in cells}
    scored, rated = dict(outcome.scored), dict[str, Rated]()
    cast = {name: metric.cast(outcome.sources) for name, metric in metrics.items()}
    prompts = {cell: outcome.sources[cell].prompts for cell in cells}  # once: of pooled seeds they are joined anew
    for name, metric in cast.items():
        votes = [vote for vote in metric.votes if _is_here(vote, prompts)]
        ratings = rate(votes, cells, lambda cell, index: clusters[cell][index])
        rated[name] = Rated(metric, ratings, len(metric.votes) - len(votes))
        keys = {cell.name: cell.key for cell in outcome.cells if ratings is not None and cell.name in ratings.cells}
        protocol = metric.protocol(keys)
        given = scores(ratings, clusters) if ratings is not None else {}
        for cell in cells:
            why = "no votes connect it with other cells" if ratings is None else "no votes connect it with those rated"
            score = given.get(cell, Score(None, len(clusters[cell]), note=why))
            kind = error_kind(clusters[cell])
            scored[cell, name] = Scored(score, protocol, sha256_json(protocol)[:HASH_DIGITS], metric.title, kind)
    return replace(outcome, scored=scored, metrics={**outcome.metrics, **cast}, ratings=rated)


def _is_here(vote: Vote, prompts: Mapping[str, Sequence[str | None]]) -> bool:
    """Whether a vote is on samples of the run, whose prompts are given by cell."""
    for cell in (vote.cell_a, vote.cell_b):
        if cell not in prompts or vote.index >= len(prompts[cell]):
            return False
        prompt = prompts[cell][vote.index] or ""
        if prompt != vote.prompt:
            raise DataError(
                f"votes: sample {vote.index} of {cell} was voted on as '{vote.prompt[:60]}', and is '{prompt[:60]}': "
                "these votes are on another run's samples"
            )
    return True


def rating_notes(outcome: Outcome) -> list[str]:
    """What must be read with the ratings, as lines below the table."""
    return [line for rated in outcome.ratings.values() for line in _lines(rated)]


def _lines(rated: Rated) -> list[str]:
    from evalkit.votes.agreement import overall
    from evalkit.votes.groups import gaps, groups, needs

    label, ratings = rated.metric.title, rated.ratings
    if ratings is None:
        return [f"{label}: nothing is rated: no votes connect two cells."]
    same, alpha, items = overall(ratings.votes)
    position = rated.metric.position
    kind = "voter" if position is None else "judge"
    voters = f"1 {kind}" if ratings.voters == 1 else f"{ratings.voters} {kind}s"
    ties = float(ratings.arrays.counts[0, :, 2].sum()) / len(ratings.votes)
    first = f"{label}: {len(ratings.votes)} votes by {voters} on {ratings.prompts} prompts, {100 * ties:.0f} % ties"
    if same is not None:
        shown = "" if alpha is None else f" (alpha {alpha:.2f})"
        first += f"; on {items} items that several had they agree in {100 * same:.0f} %{shown}"
    if ratings.voters == 1:
        first += f"; intervals are over prompts, and tell nothing of other {kind}s"
    if position is not None:
        share = 100 * position["flips"] / position["pairs"]
        first += f"; {share:.0f} % of {position['pairs']} verdicts change with the images' order, and count as ties"
    if rated.left_out:
        first += f"; {rated.left_out} votes are on cells or samples that this run has not, and left out"
    found = gaps(ratings)
    if not found:
        return [f"{first}."]
    alike = [_ranks(ratings, one) for one in groups(ratings, found) if len(one) > 1]
    if not alike:
        return [f"{first}.", f"{label}: all rated cells are told apart, with 95 % confidence in all of that."]
    second = f"{label}: not told apart are the ranks {'; '.join(alike)}, all others are, with 95 % confidence"
    nearest = min(needs(ratings, found), key=lambda need: need.between or float("inf"), default=None)
    return [f"{first}.", f"{second}.{_need_text(ratings, nearest) if nearest is not None else ''}"]


def _ranks(ratings: Ratings, places: Sequence[int]) -> str:
    """Such as "1 to 3 and 5"."""
    ranks = sorted(ratings.order.index(place) + 1 for place in places)
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return " and ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _need_text(ratings: Ratings, need: Need) -> str:
    """How many more votes would tell apart two neighbours, those that are nearest to it, as a sentence."""
    pair = f"{ratings.cells[need.gap.better]} and {ratings.cells[need.gap.worse]}"
    if need.between is None:
        return " Neighbours are too near to one another for any number of votes to tell them apart."
    at_large = "" if need.at_large is None else f", or {need.at_large:,} between all as they were cast,"
    return f" About {need.between:,} more votes between {pair}{at_large} would tell these two apart (4 times in 5)."


def write_ratings(outcome: Outcome, out: Path) -> None:
    """ratings.json, where there are votes."""
    if outcome.ratings:
        listed = [_to_json(name, rated) for name, rated in outcome.ratings.items()]
        write_checked(out / NAME, {"ratings": listed})


def _to_json(name: str, rated: Rated) -> dict[str, Any]:
    from evalkit.votes.agreement import overall, voters
    from evalkit.votes.groups import gaps, groups, needs

    ratings, cast = rated.ratings, rated.metric.votes
    about: dict[str, Any] = {"name": name, "label": rated.metric.title, "lines": _lines(rated), "cells": []}
    about |= {"voters": [asdict(voter) for voter in voters(cast)], "left_out": rated.left_out}
    same, alpha, items = overall(cast)
    about["agreement"] = {"share": same, "alpha": alpha, "items": items}
    about["position"] = rated.metric.position
    if ratings is None:
        return about
    found = gaps(ratings)
    sets = groups(ratings, found) if found else []
    order = ratings.order
    about["cells"] = [ratings.cells[place] for place in order]
    about["letters"] = ["".join(LETTERS[i % 26] for i, one in enumerate(sets) if place in one) for place in order]
    about["groups"] = [[ratings.cells[place] for place in one] for one in sets]
    about["matrix"] = ratings.matrix[order][:, order].tolist()
    about["expected"] = [[list(ratings.chance(i, j)) if i != j else None for j in order] for i in order]
    tie = float(ratings.fit.tie[0])
    about |= {"votes": len(ratings.votes), "prompts": ratings.prompts, "tie": tie if tie < float("inf") else None}
    about["of_voters"] = ratings.spread.of_voters if ratings.spread is not None else None
    about["gaps"] = [_gap(ratings, gap) for gap in found]
    about["needs"] = [
        {**_gap(ratings, need.gap), "at_large": need.at_large, "between": need.between}
        for need in needs(ratings, found)
    ]
    return about


def _gap(ratings: Ratings, gap: Gap) -> dict[str, Any]:
    named = {"better": ratings.cells[gap.better], "worse": ratings.cells[gap.worse], "told_apart": gap.told_apart}
    return asdict(gap) | named


def read_ratings(path: Path) -> Sequence[Mapping[str, Any]]:
    """What ratings.json holds.

    Raises:
        OSError, DataError, LookupError: the file cannot be read, or was altered.
    """
    found: list[dict[str, Any]] = read_checked(path)["ratings"]
    return found
