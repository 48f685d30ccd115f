"""Spans within spans, by a clock that the test moves; methods watched and given back; the trace's form."""

from __future__ import annotations

import json

import pytest

from evalkit.utils.spans import Recorder, chrome_trace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Net:
    def __init__(self, clock: Clock, inner: Net | None = None) -> None:
        self.clock, self.inner = clock, inner

    def forward(self, seconds: float) -> float:
        self.clock.now += seconds
        if self.inner is not None:
            self.inner.forward(2 * seconds)
        return seconds


def recorder(clock: Clock) -> Recorder:
    return Recorder(clock, lambda began, ended: ended - began)


def test_own_time_is_without_what_lies_within() -> None:
    clock = Clock()
    inner = Net(clock)
    outer = Net(clock, inner)
    made = recorder(clock)
    with made.span("all"), made.watching([("outer", outer, "forward"), ("inner", inner, "forward")]):
        clock.now += 1
        assert outer.forward(10) == 10
        inner.forward(100)
    spans = made.spans()
    assert [(s.part, s.began, s.total, s.own, s.depth) for s in spans] == [
        ("all", 0, 131, 1, 0),
        ("outer", 1, 30, 10, 1),
        ("inner", 11, 20, 20, 2),
        ("inner", 31, 100, 100, 1),
    ]
    assert sum(s.own for s in spans) == spans[0].total


def test_methods_are_as_they_were() -> None:
    clock, made = Clock(), recorder(Clock())
    net, compiled = Net(clock), Net(clock)
    mine = compiled.forward
    compiled.forward = mine  # type: ignore[method-assign]
    of_class = vars(Net)["forward"]

    def fail() -> None:
        with made.watching([("a", net, "forward"), ("b", compiled, "forward")]):
            assert "forward" in vars(net)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "forward" not in vars(net)
    assert vars(compiled)["forward"] is mine
    with made.watching([("class", Net, "forward")]):
        net.forward(1)
    assert vars(Net)["forward"] is of_class
    assert [span.part for span in made.spans()] == ["class"]


def test_a_span_ends_where_an_error_leaves_it() -> None:
    clock = Clock()
    made = recorder(clock)

    def fail() -> None:
        with made.span("all"):
            clock.now = 3
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    with made.span("next"):
        pass
    assert [(s.part, s.total, s.depth) for s in made.spans()] == [("all", 3, 0), ("next", 0, 0)]


def test_the_trace_is_what_viewers_read() -> None:
    clock = Clock()
    made = recorder(clock)
    with made.span("image"), made.span("unet"):
        clock.now += 0.5
    trace = json.loads(json.dumps(chrome_trace(made.spans(), "a cell")))
    named, image, unet = trace["traceEvents"]
    assert named == {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": "a cell"}}
    assert (image["ph"], image["ts"], image["dur"]) == ("X", 0, 500_000)
    assert unet["name"] == "unet"
    assert image["args"] == {"without inner parts, ms": 0}
