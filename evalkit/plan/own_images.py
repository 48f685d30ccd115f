"""The images that a plan's metrics of pairs compare samples with: the model's own, or those that their prompts name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from evalkit.data.source import Source
from evalkit.metric import Metric, PairMetric
from evalkit.plan.grid import Grid
from evalkit.prompts.images import prompt_images
from evalkit.scoring.protocol import MASK, OWN, Own


def own_images(grid: Grid, metrics: Mapping[str, Metric], cache: Path | None) -> Mapping[str, Own]:
    """By cell and kind the images that the chosen metrics of pairs compare with, or why there are none.

    They are the model's own where it knows of some, else those that its prompts name.
    """
    of_pairs = [metric for metric in metrics.values() if isinstance(metric, PairMetric)]
    kinds: dict[str, None] = dict.fromkeys(metric.pairs for metric in of_pairs if metric.pairs in OWN)
    kinds |= {MASK: None} if any(metric.region for metric in of_pairs) else {}
    own: dict[str, dict[str, Source | str]] = {cell.name: {} for cell in grid.cells}
    for cell, kind in itertools.product(grid.cells, kinds):
        built = grid.built[cell.key]
        images: Source | str | None = built.model.own_images(kind, cell.num_samples, cache=cache)
        if images is None and built.prompts is not None:
            images = prompt_images(built.prompts, kind, cell.num_samples, cell.name)
        why = f"the samples have no prompts that name {kind} images"
        own[cell.name][kind] = why if images is None else images
    return own
