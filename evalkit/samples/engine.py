"""Engines: who runs the units of work. An engine knows callables and items, and nothing of samples or models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Maps a function over items, in any order and anywhere; the store says what is done, never an engine.

    Attributes:
        in_process: whether `fn` runs in this process, one item at a time, so that it may report its progress. For other
            engines `fn` and the items are pickled, and an item may be run twice.
    """

    in_process: bool

    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results, as they arrive. The first error ends it."""
        ...


class LocalEngine:
    """One item after another in this process: a loaded model stays loaded from item to item."""

    in_process = True

    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return (fn(item) for item in items)
