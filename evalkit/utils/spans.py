"""Spans of work, one within another, by any clock: what a part of a call takes, without what it calls in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """One call of a part.

    Attributes:
        part: its name.
        began: since the first span began, in the clock's unit.
        total: from its begin to its end.
        own: of that, what no span within it took.
        depth: how many spans it lies in.
    """

    part: str
    began: float
    total: float
    own: float
    depth: int


class Recorder:
    """Records spans of one thread.

    Args:
        mark: reads the clock.
        between: from one reading to another: seconds, or whatever the clock counts. Called by `spans` alone, so that
            readings may be events of a device that is still at work.
    """

    def __init__(self, mark: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self._mark, self._between = mark, between
        self._open: list[int] = []
        self._records: list[tuple[str, int | None, Any, Any]] = []  # part, number of the span around it, begin, end

    @contextmanager
    def span(self, part: str) -> Iterator[None]:
        """What is done within belongs to `part`."""
        number, parent = len(self._records), self._open[-1] if self._open else None
        began = self._mark()
        self._records.append((part, parent, began, began))
        self._open.append(number)
        try:
            yield
        finally:
            self._open.pop()
            self._records[number] = (part, parent, began, self._mark())

    @contextmanager
    def watching(self, parts: Iterable[tuple[str, Any, str]]) -> Iterator[None]:
        """Makes each call of some methods a span, while it lasts; then the objects are as they were.

        Args:
            parts: (name of the part, object or class, name of its method).
        """
        with ExitStack() as stack:
            for part, owner, method in parts:
                stack.enter_context(_replaced(owner, method, self._timed(part, getattr(owner, method))))
            yield

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.span(part):
                return call(*args, **kwargs)

        return timed

    def spans(self) -> list[Span]:
        """All that were recorded, in the order in which they began."""
        totals = [self._between(began, ended) for _, _, began, ended in self._records]
        within = [0.0] * len(totals)
        depths: list[int] = []
        for (_, parent, _, _), total in zip(self._records, totals, strict=True):
            depths.append(0 if parent is None else depths[parent] + 1)
            if parent is not None:
                within[parent] += total
        first = self._records[0][2] if self._records else None
        return [
            Span(part, self._between(first, began), totals[i], totals[i] - within[i], depths[i])
            for i, (part, _, began, _) in enumerate(self._records)
        ]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced on the object itself, and then as it was, be it the object's or its class's."""
    mine = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if mine else delattr(owner, name)


def chrome_trace(spans: Sequence[Span], title: str) -> dict[str, Any]:
    """Spans in seconds as the JSON that chrome://tracing, Perfetto and TensorBoard read (Trace Event Format)."""
    named = [{"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": title}}]
    events = [
        {
            **{"name": span.part, "cat": "part", "ph": "X", "pid": 0, "tid": 0},
            **{"ts": round(span.began * 1e6, 3), "dur": round(span.total * 1e6, 3)},
            "args": {"without inner parts, ms": round(span.own * 1e3, 6)},
        }
        for span in spans
    ]
    return {"traceEvents": [*named, *events], "displayTimeUnit": "ms"}
