"""Side by side: the run's thumbnails with their prompts and scores, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run
from evalkit.report.tables import main_column
from evalkit.results.side_by_side import SampleScores, Scale, choose, make_scales
from evalkit.results.thumbnails import Thumbnail

PAGE, FRONT = 8, 12  # cards, and images per card, at a time
FIRST_PICTURES = 6
INLINE = 200  # images that a page holds in its HTML; more are data


@dataclass(frozen=True)
class CardImage:
    """One cell's image at an index: a thumbnail, or why there is none; its prompt where it is not the card's."""

    cell: str
    thumb: Thumbnail | None
    why: str
    prompt: str
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Card:
    """One prompt and seed across the cells."""

    index: int
    prompt: str
    items: Sequence[CardImage]
    category: str = ""


@dataclass(frozen=True)
class Gallery:
    """The section's content; `missing` says in plain words what is not there."""

    cards: Sequence[Card] = ()
    scales: Sequence[Scale] = ()
    total: int = 0
    missing: Sequence[str] = ()
    cells: Sequence[str] = ()
    unprompted: frozenset[str] = frozenset()  # cells that have no prompt at any card
    front: Sequence[str] = ()  # the cells that are shown first

    @property
    def whole(self) -> bool:
        """Whether all images stand in the page; else those of the first cards and cells, the rest as data."""
        return len(self.cards) * len(self.cells) <= INLINE

    @property
    def categories(self) -> list[str]:
        return sorted({card.category for card in self.cards if card.category})

    @property
    def width(self) -> int:
        """Of the widest image, in pixels on the screen; all columns are as wide."""
        return max((item.thumb.width for card in self.cards for item in card.items if item.thumb), default=0)

    def script(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """What the page's script sorts by."""
        return {
            "cards": [card.index for card in self.cards],
            "prompts": [card.prompt[:2000].lower() for card in self.cards],
            "texts": [card.prompt[:2000] for card in self.cards],
            "categories": [card.category for card in self.cards],
            "cells": [keys[cell] for cell in self.cells],
            "base": keys.get(next((s.base for s in self.scales if s.base), None) or ""),
            "page": PAGE,
            "front": FRONT,
            "scales": [
                {
                    "metric": s.metric,
                    "label": s.label,
                    "sign": s.sign,
                    "base": keys.get(s.base or ""),
                    "paired": [keys[cell] for cell in s.paired],
                    "scores": {
                        keys[cell]: [card.items[place].scores.get(s.metric) for card in self.cards]
                        for place, cell in enumerate(self.cells if self.cards else ())
                    },
                }
                for s in self.scales
            ],
        }


def make_gallery(run: Run, order: Sequence[str] = ()) -> Gallery:
    """The samples that the run has thumbnails of; without thumbnails, the same samples' prompts and scores.

    `order` is that of the table's cells.
    """
    samples = run.samples
    if isinstance(samples, str):
        return Gallery(missing=[f"{samples} Without it there are no images and no scores of single samples to show."])
    cells = [cell for cell in run.table.cells if cell in samples.counts]
    if not cells:
        return Gallery(missing=["samples.csv has no line for any of these cells: it is another run's."])
    scales = make_scales(run.table, samples)
    missing = []
    if isinstance(run.thumbnails, str):
        missing.append(run.thumbnails)
        thumbnails: Mapping[tuple[str, int], Thumbnail | None] = {}
        chosen = set(choose(samples, scales))
    else:
        thumbnails = run.thumbnails
        chosen = {index for cell, index in thumbnails if cell in cells}
    prompts = run.prompts(chosen)
    cards = []
    for index in sorted(chosen):
        texts = [text for cell in cells if (text := prompts.get((cell, index)))]
        common = max(dict.fromkeys(texts), key=texts.count, default="")
        images = []
        for cell in cells:
            scores = {scale.metric: _score(samples, scale.metric, cell, index) for scale in scales}
            thumbnail, prompt = thumbnails.get((cell, index)), prompts.get((cell, index), "")
            why = "" if thumbnail else "damaged" if (cell, index) in thumbnails else "no picture"
            other = "" if prompt == common else prompt or "no prompt"
            if index >= samples.counts[cell]:
                thumbnail, why, other = None, "no sample of this index", ""
            images.append(CardImage(cell, thumbnail, why, other, scores))
        categories = (of[index] for cell in cells if index < len(of := samples.categories.get(cell, ())))
        cards.append(Card(index, common, images, next(categories, "")))
    without = [run.keys[cell] for cell in run.table.cells if cell not in cells]
    if without:
        missing.append(f"samples.csv has no samples of {', '.join(without)} (cells of earlier runs, say).")
    prompted = {cell for (cell, _), prompt in prompts.items() if prompt}
    unprompted = frozenset(cells) - prompted if prompted else frozenset()
    total = max(samples.counts.values())
    return Gallery(cards, scales, total, missing, cells, unprompted, _front(run, order or cells, cells, scales))


def _front(run: Run, order: Sequence[str], cells: Sequence[str], scales: Sequence[Scale]) -> list[str]:
    """The first cells in the table's order, and the one that the others are held against."""
    known = [cell for cell in order if cell in cells]
    base = run.table.run.get("baseline") or next((scale.base for scale in scales if scale.base), None)
    front = known[:FRONT]
    return front if base is None or base in front or base not in cells else [base, *front[: FRONT - 1]]


def _score(samples: SampleScores, metric: str, cell: str, index: int) -> float | None:
    values = samples.scores[metric].get(cell, ())
    return None if index >= len(values) or math.isnan(values[index]) else round(values[index], 4)


@dataclass(frozen=True)
class FirstPictures:
    """Some of a cell's images, for the first screen."""

    title: str
    cell: str
    images: Sequence[tuple[int, Thumbnail]]


def first_pictures(run: Run, gallery: Gallery, best_cells: Sequence[str]) -> list[FirstPictures]:
    """The same prompts of the best cell and of the baseline, where there are pictures of them."""
    ranked = main_column(run.table)
    by_main = next((row.cell for row in ranked.ranked), None) if ranked else None
    best = next(iter(best_cells), by_main)  # the headline's, where it names one
    base = run.table.run.get("baseline")
    shown = []
    for title, cell in (
        ("Best", best),
        ("Baseline", base if base != best else None),
    ):
        items = [
            (card.index, item.thumb)
            for card in gallery.cards
            for item in card.items
            if item.cell == cell and item.thumb
        ]
        if items and cell:
            shown.append(FirstPictures(title, cell, items[:FIRST_PICTURES]))
    return shown
