"""Detected objects as rows of numbers of one width, which the feature store keeps, and what can be asked of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    I64 = NDArray[np.int64]

HEAD = 2  # of a row: the number of objects that were seen, and the score above which they were
FIELDS = 6  # per object: class code, score, x0, y0, x1, y1
_CODES = 2**24 - 1  # float32 holds every whole number up to it


def class_code(name: str) -> int:
    """A class's name as a number of 1 to 2**24 - 1, so that a row needs no list of classes to be read."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _CODES


def check_codes(names: Sequence[str]) -> None:
    """Raises ValueError where two names have one code (of 100 names, one list in 3,000 would)."""
    known: dict[int, str] = {}
    for name in names:
        other = known.setdefault(class_code(name), name)
        if other != name:
            raise ValueError(f"the classes '{other}' and '{name}' have one code: rename one of them")


@dataclass(frozen=True)
class Detections:
    """The objects of one image, the surest first.

    Attributes:
        codes: i64 [n], of their classes (`class_code`).
        scores: f32 [n], 0 to 1, falling.
        boxes: f32 [n,4]: x0, y0, x1, y1 in pixels.
        seen: how many there were before the most that are kept; n or more.
        lowest: only objects of a higher score than that were looked at.
    """

    codes: I64
    scores: F32
    boxes: F32
    seen: int
    lowest: float

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of(cls, codes: Sequence[int], scores: F32, boxes: F32, *, lowest: float, most: int) -> tuple[Detections, I64]:
        """The `most` surest of some objects in any order, of a score above `lowest`; and which they are, i64 [n]."""
        order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
        order = order[np.asarray(scores, np.float32)[order] > np.float32(lowest)]
        kept = order[:most]
        codes_kept = np.asarray(codes, np.int64)[kept]
        scores_kept = np.asarray(scores, np.float32)[kept]
        boxes_kept = np.asarray(boxes, np.float32).reshape(-1, 4)[kept]
        return cls(codes_kept, scores_kept, boxes_kept, len(order), lowest), kept

    def to_row(self, most: int) -> F32:
        """f32 [HEAD + most * FIELDS]; a class code of 0 stands for no object."""
        row = np.zeros(HEAD + most * FIELDS, np.float32)
        row[:HEAD] = self.seen, self.lowest
        table = row[HEAD:].reshape(most, FIELDS)
        n = len(self)
        table[:n, 0], table[:n, 1], table[:n, 2:] = self.codes, self.scores, self.boxes
        return row

    @classmethod
    def from_row(cls, row: F32) -> Detections:
        """The reverse of `to_row`. ValueError: it is no such row."""
        if row.ndim != 1 or len(row) < HEAD or (len(row) - HEAD) % FIELDS:
            raise ValueError(f"a row of {row.shape} holds no detections")
        table = row[HEAD:].reshape(-1, FIELDS)
        table = table[table[:, 0] > 0]
        return cls(table[:, 0].astype(np.int64), table[:, 1], table[:, 2:], int(row[0]), float(row[1]))

    def chosen(self, name: str, threshold: float, most: int, max_overlap: float = 1.0) -> list[int]:
        """Which of the objects are of a class and of a score above `threshold`: the `most` surest, less those whose
        intersection over union with one before them is `max_overlap` or more (1: none is left out)."""
        fitting = np.flatnonzero((self.codes == class_code(name)) & (self.scores > np.float32(threshold)))
        kept: list[int] = []
        for i in fitting[:most].tolist():
            if max_overlap >= 1 or all(overlap(self.boxes[j], self.boxes[i]) < max_overlap for j in kept):
                kept.append(i)
        return kept


def overlap(a: F32, b: F32) -> float:
    """Intersection over union of two boxes of whole pixels, both ends counted."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0 + 1, 0.0) * max(y1 - y0 + 1, 0.0)

    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (map(float, box) for box in (a, b))
    both = area(max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1))
    union = area(ax0, ay0, ax1, ay1) + area(bx0, by0, bx1, by1) - both
    return both / union if union else 0.0


def relations(a: F32, b: F32, margin: float) -> frozenset[str]:
    """Where box a lies, seen from box b: of "left of", "right of", "above", "below"; none where they overlap too much.

    The way from b's centre to a's is shortened per axis by `margin` of both boxes' lengths together; what is left, as
    a share of the whole way, must be more than one half.
    """
    first, second = (np.asarray(box, np.float64).reshape(2, 2) for box in (a, b))  # [corner, axis]
    way = first.mean(axis=0) - second.mean(axis=0)
    lengths = np.abs(first[1] - first[0]) + np.abs(second[1] - second[0])
    left = np.maximum(np.abs(way) - margin * lengths, 0) * np.sign(way)
    if bool((np.abs(left) < 1e-3).all()):
        return frozenset()
    x, y = left / np.linalg.norm(way)
    named = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return frozenset(name for name, holds in named.items() if holds)
