"""Side by side: which prompts are shown, their images and scores cell by cell, the worst regressions among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.report.run_folder import Run, Samples, sign
from evalkit.report.stored_samples import Inside
from evalkit.report.summary import ranked
from evalkit.report.thumbnails import Shelf, Thumb
from evalkit.results.table import Column

FIRST, WORST, LOWEST = 24, 24, 12  # prompts to embed: the first, the largest drops, the lowest scores
PER_CELL = 3  # of the last two at least so many a cell, though no more than LIMIT prompts in all
LIMIT = 72


@dataclass(frozen=True)
class Scale:
    """A metric of single samples.

    Attributes:
        metric, label: its names.
        sign: +1 where higher is better.
        base: the cell that drops are counted from: the run's baseline, else the metric's best.
        paired: the other cells that share the base's prompts and seeds.
    """

    metric: str
    label: str
    sign: int
    base: str | None
    paired: Sequence[str]


@dataclass(frozen=True)
class Shown:
    """One cell's image at an index: a thumbnail, or why there is none; its prompt where it is not the card's."""

    cell: str
    thumb: Thumb | None
    why: str
    prompt: str
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Card:
    """One prompt and seed across the cells."""

    index: int
    prompt: str
    items: Sequence[Shown]


@dataclass(frozen=True)
class Gallery:
    """The section's content; `missing` says in plain words what is not there."""

    cards: Sequence[Card] = ()
    scales: Sequence[Scale] = ()
    total: int = 0
    missing: Sequence[str] = ()
    lost: int = 0  # cells whose files are gone: a later page may have them
    cells: Sequence[str] = ()
    unprompted: frozenset[str] = frozenset()  # cells that have no prompt at any card

    @property
    def width(self) -> int:
        """Of the widest image, in pixels on the screen; all columns are as wide."""
        return max((item.thumb.width for card in self.cards for item in card.items if item.thumb), default=0)

    def script(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """What the page's script sorts by."""
        return {
            "cards": [card.index for card in self.cards],
            "scales": [
                {
                    "metric": s.metric,
                    "label": s.label,
                    "sign": s.sign,
                    "base": keys.get(s.base or ""),
                    "paired": [keys[cell] for cell in s.paired],
                    "scores": {
                        keys[item.cell]: [
                            next((i.scores.get(s.metric) for i in card.items if i.cell == item.cell), None)
                            for card in self.cards
                        ]
                        for item in (self.cards[0].items if self.cards else ())
                    },
                }
                for s in self.scales
            ],
        }


def make_gallery(run: Run, shelf: Shelf) -> Gallery:
    """Chooses the prompts, reads their images and shrinks them, as many as the shelf holds."""
    samples = run.samples
    if isinstance(samples, str):
        return Gallery(missing=[f"{samples} Without it there are no images and no scores of single samples to show."])
    cells = [cell for cell in run.table.cells if cell in samples.counts]
    if not cells:
        return Gallery(missing=["samples.csv has no line for any of these cells: it is another run's."])
    scales = make_scales(run, samples)
    chosen = choose(samples, scales)
    lines = run.shown(set(chosen))
    inside = Inside(run)
    cards, gone = [], dict[str, list[str]]()
    for index in chosen:
        card = _card(index, [(cell, *lines.get((cell, index), ("", ""))) for cell in cells], inside, shelf)
        if card is None:
            break
        for item in card.items:
            if item.why in ("gone", "no file"):
                gone.setdefault(item.why, []).append(item.cell)
        cards.append(_with_scores(card, samples, scales))
    cards.sort(key=lambda card: card.index)
    missing = _missing(run, cells, lines, gone)
    lost = len(set(gone.get("gone", ())))
    prompted = {cell for (cell, _), (_, prompt) in lines.items() if prompt}
    unprompted = frozenset(cells) - prompted if prompted else frozenset()
    return Gallery(cards, scales, max(samples.counts.values()), missing, lost, cells, unprompted)


def make_scales(run: Run, samples: Samples) -> list[Scale]:
    """The metrics of single samples, those of many values first (a CLIP score before a precision of 0 and 1)."""
    columns = {column.metric: column for column in run.table.columns}
    found = []
    for metric, by_cell in samples.scores.items():
        if metric in columns:
            found.append(make_scale(run, columns[metric], list(by_cell)))
    few = {s.metric for s in found if len({v for by in samples.scores[s.metric].values() for v in by}) < 5}
    return sorted(found, key=lambda s: (s.metric in few, not s.metric.startswith("clip_score")))


def make_scale(run: Run, column: Column, cells: Sequence[str]) -> Scale:
    """A metric's scale over the cells that have values of single samples."""
    pairing = run.table.run.get("pairing") or {}
    baseline = run.table.run.get("baseline")
    base = baseline or next((row.cell for row in ranked(column) if row.cell in cells), None)
    base = base if base in cells else None
    paired = [c for c in cells if base and c != base and pairing.get(c) and pairing.get(c) == pairing.get(base)]
    first = next(iter(column.rows.values()))
    return Scale(column.metric, first.label, sign(first), base, paired)


def drop(scale: Scale, value: float, base: float) -> float:
    """How much worse a sample is than the base's: positive is worse."""
    return scale.sign * (base - value)


def choose(samples: Samples, scales: Sequence[Scale]) -> list[int]:
    """The indices to show, by turns the first, the largest drops and the lowest scores of each cell."""
    total = max(samples.counts.values())
    scale = next(iter(scales), None)
    first = total if total <= LIMIT else FIRST if scale else LIMIT
    lists: list[tuple[int, list[int]]] = [(2, list(range(first)))]
    if scale is not None:
        scores = samples.scores[scale.metric]
        base = scores.get(scale.base or "", ())
        lowest = [_worst([-scale.sign * v for v in values]) for values in scores.values()]
        drops = [
            _worst([drop(scale, v, b) for v, b in zip(scores[cell], base, strict=False)], above=0.0)
            for cell in scale.paired
        ]
        lists.append((2, _in_turn(drops, max(WORST, PER_CELL * len(drops)))))
        lists.append((1, _in_turn(lowest, max(LOWEST, PER_CELL * len(lowest)))))
    chosen: dict[int, None] = {}
    while any(rest for _, rest in lists) and len(chosen) < LIMIT:
        for share, rest in lists:
            for index in rest[:share]:
                chosen[index] = None
            del rest[:share]
    return list(chosen)[:LIMIT]


def _worst(values: Sequence[float], above: float = -math.inf, most: int = 40) -> list[int]:
    order = sorted((-v, i) for i, v in enumerate(values) if not math.isnan(v) and v > above)
    return [i for _, i in order[:most]]


def _in_turn(lists: Sequence[Sequence[int]], most: int) -> list[int]:
    """One of each list by turns, each index once, `most` at most."""
    longest = max((len(one) for one in lists), default=0)
    order = dict.fromkeys(one[place] for place in range(longest) for one in lists if place < len(one))
    return list(order)[:most]


def _card(index: int, lines: Sequence[tuple[str, str, str]], inside: Inside, shelf: Shelf) -> Card | None:
    """A prompt's images; none where the shelf is full."""
    run = inside.run
    prompts = [prompt for _, _, prompt in lines if prompt]
    common = max(dict.fromkeys(prompts), key=prompts.count) if prompts else ""
    items = []
    for cell, file, prompt in lines:
        thumb, why = None, "no sample of this index"
        if file:
            if shelf.is_full:
                return None
            path = run.find(file)
            image, why = (path, "") if path is not None else inside.read(file)
            if image is not None:
                thumb, why = shelf.add(image)
        other = "" if prompt == common or not file else prompt or "no prompt"
        items.append(Shown(cell, thumb, why, other, {}))
    return Card(index, common, items)


def _with_scores(card: Card, samples: Samples, scales: Sequence[Scale]) -> Card:
    def value(metric: str, cell: str) -> float | None:
        values = samples.scores[metric].get(cell, ())
        found = values[card.index] if card.index < len(values) else math.nan
        return None if math.isnan(found) else round(found, 4)

    items = [
        Shown(i.cell, i.thumb, i.why, i.prompt, {s.metric: value(s.metric, i.cell) for s in scales}) for i in card.items
    ]
    return Card(card.index, card.prompt, items)


def _missing(
    run: Run, cells: Sequence[str], lines: Mapping[tuple[str, int], tuple[str, str]], gone: Mapping[str, Sequence[str]]
) -> list[str]:
    said = []
    if gone.get("gone"):
        lost = list(dict.fromkeys(gone["gone"]))
        example = next(file for (cell, _), (file, _) in sorted(lines.items()) if cell == lost[0])
        every = "all cells" if len(lost) == len(cells) else f"{len(lost)} of {len(cells)} cells ({_keys(run, lost)})"
        said.append(f"The images of {every} are no longer where samples.csv says; for instance {example}.")
    if gone.get("no file"):
        lost = list(dict.fromkeys(gone["no file"]))
        said.append(f"The images of {_keys(run, lost)} have no files of their own that could be read here.")
    without = [cell for cell in run.table.cells if cell not in cells]
    if without:
        said.append(f"samples.csv has no samples of {_keys(run, without)} (cells of earlier runs, say).")
    return said


def _keys(run: Run, cells: Any) -> str:
    return ", ".join(run.keys[cell] for cell in cells)
