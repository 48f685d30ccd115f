from __future__ import annotations

from dataclasses import dataclass

import pytest

from evalkit.engines.base import Work
from evalkit.engines.queue import Queue
from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class Step:
    key: str

    @property
    def label(self) -> str:
        return f"step {self.key}"


def queue(keys: str, *, alone: str = "", pinned: str = "", losses: int = 3) -> Queue:
    units = [Step(key) for key in keys]
    work = Work("stage", units, {}, open=lambda: lambda unit, tell: None, done=lambda units: set())
    return Queue(Work(**{**vars(work), "alone": frozenset(alone), "pinned": frozenset(pinned)}), losses)


def take(waiting: Queue, worker: str) -> str | None:
    unit = waiting.take(worker)
    return unit and unit.key


def test_units_go_out_one_at_a_time_in_their_order() -> None:
    waiting = queue("abc")
    assert [take(waiting, "w1"), take(waiting, "w2")] == ["a", "b"]
    waiting.finish("w2")
    assert waiting.left == 2
    assert [take(waiting, "w2"), take(waiting, "w3"), waiting.of("w2").key] == ["c", None, "c"]
    waiting.finish("w1")
    waiting.finish("w2")
    assert waiting.left == 0
    waiting.check()


def test_a_lost_worker_s_unit_is_the_next_one_given_out() -> None:
    waiting = queue("abc")
    take(waiting, "w1"), take(waiting, "w2")
    assert waiting.lose("w1").key == "a"
    assert waiting.lose("w9") is None  # had nothing
    assert waiting.left == 3
    assert take(waiting, "w3") == "a"


def test_three_losses_set_a_unit_aside_and_name_it_when_all_else_is_done() -> None:
    waiting = queue("ab")
    for worker in ("w1", "w2", "w3"):
        assert take(waiting, worker) == "a"
        waiting.lose(worker)
    assert take(waiting, "w4") == "b"
    waiting.finish("w4")
    assert waiting.left == 0
    with pytest.raises(EvalkitError, match=r"step a: ended 3 workers \(each\); all else is done"):
        waiting.check()


def test_a_machine_that_went_weighs_a_fifth_of_a_worker_that_ended() -> None:
    waiting = queue("a", losses=2)
    for _ in range(9):
        assert take(waiting, "w") == "a"
        waiting.lose("w", blame=1)
    assert waiting.left == 1
    take(waiting, "w")
    waiting.lose("w", blame=1)  # some unit may bring machines down
    assert waiting.left == 0


def test_units_that_are_timed_alone_run_first_and_while_nobody_else_works() -> None:
    waiting = queue("abcd", alone="bd")
    assert [take(waiting, "w1"), take(waiting, "w2")] == ["b", None]
    waiting.finish("w1")
    assert [take(waiting, "w2"), take(waiting, "w1")] == ["d", None]
    waiting.finish("w2")
    assert [take(waiting, "w1"), take(waiting, "w2")] == ["a", "c"]


def test_one_lost_while_alone_waits_until_the_others_are_idle() -> None:
    waiting = queue("ab", alone="a")
    take(waiting, "w1")
    waiting.lose("w1")
    assert [take(waiting, "w2"), take(waiting, "w3")] == ["a", None]


def test_pinned_units_run_in_one_worker_alone_until_it_is_lost() -> None:
    waiting = queue("abPcQd", pinned="PQ")
    assert [take(waiting, "w1"), take(waiting, "w2")] == ["a", "b"]
    waiting.finish("w1")
    assert take(waiting, "w1") == "P"
    waiting.finish("w2")
    assert take(waiting, "w2") == "c"
    waiting.finish("w2")
    assert take(waiting, "w2") == "d"  # passes Q by
    waiting.finish("w2")
    assert take(waiting, "w2") is None
    waiting.lose("w1")
    assert [take(waiting, "w2"), take(waiting, "w3")] == ["P", None]
    waiting.finish("w2")
    assert take(waiting, "w2") == "Q"


def test_pinned_and_alone() -> None:
    waiting = queue("PQa", pinned="PQ", alone="PQ")
    assert take(waiting, "w1") == "P"
    waiting.finish("w1")
    assert [take(waiting, "w2"), take(waiting, "w1"), take(waiting, "w2")] == [None, "Q", None]


def test_each_unit_is_given_out_once_whatever_happens() -> None:
    import random

    chance = random.Random(5)
    waiting = queue("abcdefghijklmnopqrstuvwxyz", alone="cx", pinned="fgy", losses=99)
    done: list[str] = []
    running: dict[str, str] = {}
    while waiting.left:
        worker = chance.choice(["w1", "w2", "w3"])
        if worker not in running:
            unit = take(waiting, worker)
            if unit is not None:
                assert unit not in running.values()
                assert not running or not (set(running.values()) | {unit}) & set("cx")
                running[worker] = unit
        elif chance.random() < 0.3:
            waiting.lose(worker)
            del running[worker]
        else:
            waiting.finish(worker)
            done.append(running.pop(worker))
    assert sorted(done) == list("abcdefghijklmnopqrstuvwxyz")
