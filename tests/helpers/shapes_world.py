"""Drawn shapes that GenEval's six tasks can be asked of: a model that draws what a prompt says, or at times something
else, and a detector, a plain function, that sees what is there. Class names are COCO's, shapes stand for them.

An image's first pixel tells whether it was drawn as asked (1) or not (0): the truth that scores are held against.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

SIDE = 96
CELL = 24  # pixels of the grid that shapes stand on
INKS = {
    "red": (220, 20, 20),
    "green": (20, 160, 20),
    "blue": (20, 20, 220),
    "yellow": (240, 220, 20),
    "purple": (140, 20, 160),
    "black": (10, 10, 10),
}
FILLED = {"book": 1.0, "clock": 0.76, "kite": 0.52}  # the share of its box that a shape covers: square, disc, diamond
NOTHING = (200, 200, 200)  # the background

Object = tuple[str, str, int, int]  # class, colour, column, row


def item(tag: str, prompt: str, *include: dict[str, Any], exclude: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {"tag": tag, "include": list(include), "prompt": f"a photo of {prompt}"}
    return found | ({"exclude": list(exclude)} if exclude else {})


def one(name: str, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": 1, **more}


ITEMS = (
    item("single_object", "a kite", one("kite")),
    item("single_object", "a clock", one("clock")),
    item("two_object", "a kite and a book", one("kite"), one("book")),
    item("two_object", "a book and a clock", one("book"), one("clock")),
    item("counting", "two clocks", one("clock") | {"count": 2}, exclude=[one("clock") | {"count": 3}]),
    item("counting", "three kites", one("kite") | {"count": 3}, exclude=[one("kite") | {"count": 4}]),
    item("colors", "a red book", one("book", color="red")),
    item("colors", "a blue kite", one("kite", color="blue")),
    item("position", "a book left of a clock", one("clock"), one("book", position=["left of", 0])),
    item("position", "a kite below a book", one("book"), one("kite", position=["below", 0])),
    item("color_attr", "a green clock and a red kite", one("clock", color="green"), one("kite", color="red")),
    item("color_attr", "a black book and a yellow clock", one("book", color="black"), one("clock", color="yellow")),
)
BY_PROMPT = {each["prompt"]: each for each in ITEMS}


def write_items(path: Path) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in ITEMS))
    return path


def draw(prompts: Sequence[str], seeds: Sequence[int], faults: float = 0.4) -> list[np.ndarray]:
    """Images u8 [96,96,3]; a share `faults` of them misses one thing that its prompt asks for."""
    given = zip(prompts, seeds, strict=True)
    return [_drawn(BY_PROMPT[prompt], np.random.default_rng(seed), faults) for prompt, seed in given]


def _drawn(asked: dict[str, Any], rng: np.random.Generator, faults: float) -> np.ndarray:
    objects = _objects(asked, rng)
    right = bool(rng.random() >= faults)
    if not right:
        objects = _spoiled(asked["tag"], objects)
    image = np.full((SIDE, SIDE, 3), NOTHING, np.uint8)
    for name, colour, column, row in objects:
        part = image[row * CELL + 2 : row * CELL + CELL - 2, column * CELL + 2 : column * CELL + CELL - 2]
        part[_shape(name, len(part))] = INKS[colour]
    image[0, 0] = right
    return image


def _objects(asked: dict[str, Any], rng: np.random.Generator) -> list[Object]:
    """As asked: one per row and column, in the order of `include`, or as its position says."""
    names = [(each["class"], each.get("color")) for each in asked["include"] for _ in range(each["count"])]
    inks = list(INKS)
    coloured = [(name, colour or inks[rng.integers(len(inks))]) for name, colour in names]
    relation = asked["include"][-1].get("position", [None])[0]
    places = {"left of": [(3, 1), (0, 1)], "below": [(1, 0), (1, 3)], None: [(0, 0), (2, 2), (3, 0)]}[relation]
    return [(name, colour, *place) for (name, colour), place in zip(coloured, places, strict=False)]


def _spoiled(tag: str, objects: list[Object]) -> list[Object]:
    (name, colour, column, row), *others = objects
    if tag in ("single_object", "two_object"):
        return others
    if tag == "counting":
        return [*objects, (name, colour, 3, 3)]
    if tag == "position":
        return [(name, colour, *others[0][2:]), (*others[0][:2], column, row)]
    return [(name, "purple", column, row), *others]


def _shape(name: str, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    half = side / 2
    return {"book": np.ones((side, side), bool), "clock": x**2 + y**2 <= half**2, "kite": abs(x) + abs(y) <= half}[name]


def detect(image: np.ndarray) -> list[dict[str, Any]]:
    """Every shape that is there, sure of each; and a ghost over the whole image, of a score that counts nowhere."""
    found: list[dict[str, Any]] = [
        {"class": "book", "score": 0.2, "box": (0, 0, SIDE, SIDE), "colour": "white"},
    ]
    for colour, ink in INKS.items():
        labels, count = ndimage.label((image == ink).all(axis=2))
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels, count), 1):
            mask = labels == number
            share = mask.sum() / ((rows.stop - rows.start) * (columns.stop - columns.start))
            name = min(FILLED, key=lambda each: abs(FILLED[each] - share))
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append({"class": name, "score": 0.95, "box": box, "colour": colour})
    return found
