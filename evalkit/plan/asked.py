"""What a plan's judges would be asked: refused where they have no question, and what it would cost, before anything is
made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalkit.cell import Cell
from evalkit.config.schema import RunConfig
from evalkit.extractors.base import Extractor
from evalkit.judges.place import AnswerPlace
from evalkit.models.base import ExistingImages
from evalkit.samples.model_pool import BuiltCell
from evalkit.votes.metric import VotesRating
from evalkit.votes.option import Judged


def check_asked(
    extractors: Mapping[str, Extractor], cells: tuple[Cell, ...], built: Mapping[str, BuiltCell], cache: Path | None
) -> None:
    """ConfigError where a judge has no question about a prompt; of samples without one their scores tell."""
    for extractor in extractors.values():
        if extractor.asks:
            for prompts in {tuple(prompts_of(cell, built[cell.key], cache)) for cell in cells}:
                extractor.check_prompts([text for text in prompts if text is not None])


def prompts_of(cell: Cell, built: BuiltCell, cache: Path | None) -> list[str | None]:
    """By sample."""
    if isinstance(built.model, ExistingImages):
        return list(built.model.open(cell.num_samples, cache=cache).prompts)
    prompts = built.prompts
    return [None if prompts is None else prompts[i].text for i in range(cell.num_samples)]


def judged_votes(config: RunConfig, answers: AnswerPlace, *, fetch: bool) -> Judged:
    """What makes ratings of the run's judges, which `votes.NAME={judge: EXTRACTOR}` asks for.

    Args:
        config: whose extractors these are.
        answers: where the store holds judges' answers.
        fetch: false in a dry run.
    """

    def make(option: Mapping[str, Any], name: str, where: str) -> VotesRating:
        from evalkit.votes.judged import JudgedRating, Judges, make_asked

        return JudgedRating(name, make_asked(option, Judges(config.extractor, answers, fetch, config.device), where))

    return make
