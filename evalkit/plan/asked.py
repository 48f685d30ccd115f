"""What a plan's judges would be asked: refused where they have no question, and what it would cost, before anything is
made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evalkit.cell import Cell
from evalkit.extractors.base import Extractor
from evalkit.models.base import ExistingImages
from evalkit.samples.model_pool import BuiltCell


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
