"""Notes of units that were begun: whose are left of the dead, and who may try next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_contract import wait_until
from toy_work import ToyUnit

from evalkit.engines import tries as module
from evalkit.engines.tries import Tries
from evalkit.utils.blobs import LocalBlobs

UNIT = ToyUnit("a")
PATIENCE = 1000.0  # notes do not grow by themselves in these tests


@pytest.fixture
def notes(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    return clock


def tries(notes: LocalBlobs, rank: int = 0, patience: float = PATIENCE) -> Tries:
    made = Tries(notes, rank, patience, losses=3)
    made.look()
    return made


def die(notes: LocalBlobs, rank: int) -> str:
    """A process of a rank begins on the unit and is heard of no more; the note's name."""
    earlier = dict(notes.list())
    left: dict[str, bytes] = {}

    def run(unit: ToyUnit, tell: object) -> None:
        left.update({name: notes.get(name) for name, _ in notes.list() if name not in earlier})

    tries(notes, rank).noted(run)(UNIT, None)
    ((name, text),) = left.items()
    notes.put(name, text)
    return name


def test_a_note_is_there_while_a_unit_runs_however_it_ends(notes: LocalBlobs) -> None:
    def run(unit: ToyUnit, tell: object) -> None:
        assert len(list(notes.list())) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tries(notes).noted(run)(UNIT, None)
    assert not list(notes.list())


def test_a_note_grows_while_its_unit_runs(notes: LocalBlobs) -> None:
    def run(unit: ToyUnit, tell: object) -> None:
        wait_until(lambda: dict(notes.list()).popitem()[1] > 4)

    tries(notes, patience=0.04).noted(run)(UNIT, None)
    assert not list(notes.list())


def test_only_a_silent_one_counts_as_dead(notes: LocalBlobs, clock: SimpleNamespace) -> None:
    name, other = die(notes, 1), tries(notes)
    assert not other.free(UNIT.key)
    for beats in range(1, 5):
        clock.now += PATIENCE * 0.9
        notes.put(name, b"1 " + b"." * beats)
        other.look()
    assert other.count(UNIT.key) == 0
    assert other.free(UNIT.key)  # it is slow: another may do it too
    clock.now += PATIENCE
    other.look()
    assert other.count(UNIT.key) == 1
    assert other.free(UNIT.key)


def test_those_that_were_of_this_rank_before_it_are_dead_at_once(notes: LocalBlobs, clock: SimpleNamespace) -> None:
    for _ in range(2):
        die(notes, 0)
        assert tries(notes).free(UNIT.key)
    die(notes, 0)
    assert tries(notes).set_aside(UNIT.key)
    assert not tries(notes).free(UNIT.key)
    assert not tries(notes, 1).set_aside(UNIT.key)
    assert tries(notes).free("b")


def test_of_two_who_try_after_the_same_loss_one_does(notes: LocalBlobs, clock: SimpleNamespace) -> None:
    die(notes, 0)
    one, other, ran = tries(notes, 1), tries(notes, 2), list[str]()
    clock.now += PATIENCE
    assert one.free(UNIT.key)
    assert other.free(UNIT.key)
    again = other.noted(lambda unit, tell: ran.append("other"))
    one.noted(lambda unit, tell: (ran.append("one"), again(unit, tell)))(UNIT, None)
    assert ran == ["one"]


def test_what_was_named_is_tried_again_by_the_next_start(notes: LocalBlobs, clock: SimpleNamespace) -> None:
    for _ in range(3):
        die(notes, 0)
    tries(notes).name([UNIT])
    assert tries(notes).free(UNIT.key)
    assert not list(notes.list())
