"""GenEval (Ghosh et al. 2023, arXiv:2310.11513): whether detected objects are what a prompt asks for. Pure arithmetic.

Written anew after the authors' evaluate_images.py (github.com/djghosh13/geneval, MIT). Equal to their verdicts on
released detections of 4,424 images (tests/metrics/test_geneval.py; docs/benchmarks/geneval.md says which).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.numerics.detections import Detections, relations

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COUNTING = "counting"  # the task with a threshold of its own


@dataclass(frozen=True)
class Wanted:
    """Objects of one class that must be there, or (of `exclude`) must not be there in such a number.

    Attributes:
        name: of the class.
        count: at least so many; of `exclude` fewer.
        colour: of `COLOURS`, that the `count` surest must all have; none: any.
        relation: of `RELATIONS`, in which each must stand to each of the objects of `include[target]`; none: any.
        target: place of an earlier one among `include`.
    """

    name: str
    count: int
    colour: str | None = None
    relation: str | None = None
    target: int = 0


@dataclass(frozen=True)
class Requirement:
    """What one prompt asks for: all of `include`, and none of `exclude`."""

    task: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The classes that it speaks of."""
        return frozenset(wanted.name for wanted in (*self.include, *self.exclude))

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Requirement:
        """From an object of the authors' evaluation_metadata.jsonl. ValueError: what is wrong with it."""
        task = item.get("tag")
        if not isinstance(task, str) or not task:
            raise ValueError("it has no 'tag'")
        include = [_wanted(each, place) for place, each in enumerate(_list(item, "include"))]
        exclude = [_wanted(each, 0) for each in _list(item, "exclude")]
        if not include and not exclude:
            raise ValueError("it asks for nothing: 'include' is empty")
        return cls(task, tuple(include), tuple(exclude))


def _list(item: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = item.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"'{key}' is no list of objects")
    return found


def _wanted(item: Mapping[str, Any], place: int) -> Wanted:
    name, count, colour = item.get("class"), item.get("count"), item.get("color")
    if not isinstance(name, str) or not name:
        raise ValueError("an object has no 'class'")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"'{name}': 'count' is a whole number >= 1, not {count!r}")
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"'{name}': 'color' is one of {', '.join(COLOURS)}, not {colour!r}")
    if item.get("position") is None:
        return Wanted(name, count, colour)
    match item["position"]:
        case [str(relation), int(target)] if relation in RELATIONS and 0 <= target < place:
            return Wanted(name, count, colour, relation, target)
    raise ValueError(f"'{name}': 'position' is [one of {', '.join(RELATIONS)}, the place of an object before it]")


@dataclass(frozen=True)
class Rules:
    """The authors' constants.

    Attributes:
        threshold: objects of a higher score count.
        counting_threshold: of the task "counting".
        max_objects: at most so many of a class.
        max_overlap: see `Detections.chosen`; 1 as published: nothing is suppressed.
        position_threshold: see `relations`.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    @property
    def lowest(self) -> float:
        """Objects up to this score never count."""
        return min(self.threshold, self.counting_threshold)


def verdict(asked: Requirement, objects: Detections, colours: Sequence[str], rules: Rules = Rules()) -> list[str]:
    """What is wrong with an image; nothing: it is correct.

    Args:
        asked: of its prompt.
        objects: that were detected in it.
        colours: by object the name of its colour.
        rules: thresholds.
    """
    threshold = rules.counting_threshold if asked.task == COUNTING else rules.threshold

    def of_class(name: str) -> list[int]:
        return objects.chosen(name, threshold, rules.max_objects, rules.max_overlap)

    wrong: list[str] = []
    groups: list[list[int] | None] = []  # by entry of `include` its objects, or none where it failed
    for wanted in asked.include:
        found = of_class(wanted.name)[: wanted.count]
        why = _lacks(wanted, objects, found, groups, colours, rules)
        groups.append(None if why else found)
        wrong += [why] if why else []
    for unwanted in asked.exclude:
        count = len(of_class(unwanted.name))
        if count >= unwanted.count:
            wrong.append(f"{count} of {unwanted.name}, which must be fewer than {unwanted.count}")
    return wrong


def _lacks(
    wanted: Wanted,
    objects: Detections,
    found: Sequence[int],
    groups: Sequence[Sequence[int] | None],
    colours: Sequence[str],
    rules: Rules,
) -> str | None:
    """Why an entry of `include` is not met by the surest objects of its class; none: it is."""
    if len(found) < wanted.count:
        return f"{len(found)} of {wanted.name}, which must be {wanted.count} or more"
    if wanted.colour is not None:
        shown = [colours[i] for i in found]
        if any(colour != wanted.colour for colour in shown):
            return f"{wanted.name} is {' and '.join(shown)}, not {wanted.colour}"
    if wanted.relation is not None:
        target = groups[wanted.target]
        if target is None:
            return f"{wanted.name} has nothing to be {wanted.relation}"
        for one in found:
            for other in target:
                seen = relations(objects.boxes[one], objects.boxes[other], rules.position_threshold)
                if wanted.relation not in seen:
                    return f"{wanted.name} is {' and '.join(sorted(seen)) or 'on its target'}, not {wanted.relation}"
    return None


def names_of(asked: Iterable[Requirement]) -> frozenset[str]:
    """The classes that some requirements speak of."""
    return frozenset(name for each in asked for name in each.names)
