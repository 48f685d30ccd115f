"""Errors that go through pipes, what workers say, and the progress of a stage of which parts are lost."""

from __future__ import annotations

import logging
import pickle

import pytest
from toy_work import TwoArguments

from evalkit.engines.voice import Forward, Shown, Voice, describe, how_it_ended, rebuild
from evalkit.errors import ConfigError, DataError, EvalkitError, UnsuitedError


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.INFO, "evalkit")
    return caplog


def through(error: BaseException, where: str = "") -> BaseException:
    """Raised in a worker, raised again in the driver."""
    try:
        raise error
    except BaseException as raised:
        return rebuild(pickle.loads(pickle.dumps(describe(raised, "samples 0 to 9 of a"))), where)


class Odd(EvalkitError):
    exit_code = 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("a setting"), ConfigError),
        (UnsuitedError("too small", "inception"), UnsuitedError),
        (TwoArguments("table.csv", 7), DataError),
        (Odd("of a user's own"), EvalkitError),
    ],
)
def test_errors_that_a_user_can_mend_come_through(error: EvalkitError, kind: type[EvalkitError]) -> None:
    again = through(error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again).items() >= vars(error).items()
    assert again.exit_code == error.exit_code
    assert str(through(error, "node7, worker 2")) == f"node7, worker 2: {error}"


def test_with_pickle_itself_they_would_not() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(TwoArguments("table.csv", 7)))


def test_other_errors_are_a_line_and_a_traceback_in_the_log(lines: pytest.LogCaptureFixture) -> None:
    again = through(KeyError("name"), "worker 2")
    assert type(again) is EvalkitError
    assert str(again) == "worker 2: KeyError: 'name' (samples 0 to 9 of a); the traceback is above"
    assert lines.messages[0] == "worker 2: Traceback (most recent call last):"
    assert lines.messages[-1] == "worker 2: KeyError: 'name'"


def test_ctrl_c_stays_ctrl_c() -> None:
    assert type(through(KeyboardInterrupt())) is KeyboardInterrupt


def test_how_processes_end() -> None:
    ends = {0: "exit code 0", 3: "exit code 3", -11: "SIGSEGV", -9: "SIGKILL (out of memory?)", -77: "signal 77"}
    assert {code: how_it_ended(code) for code in ends} == ends


def test_each_line_comes_once_and_says_whose_it_is(lines: pytest.LogCaptureFixture) -> None:
    voice = Voice()
    said: list[tuple[str, int, str]] = []
    logger = logging.Logger("evalkit.models")
    logger.addHandler(Forward(lambda *record: said.append(record)))
    logger.warning("%d are cut", 3)
    for who in ("worker 1", "node7:2"):
        for name, level, text in [*said, ("transformers", logging.INFO, "another's")]:
            voice.say(who, name, level, text)
    assert lines.messages == ["[worker 1] 3 are cut", "[worker 1] another's"]
    assert lines.records[0].name == "evalkit.models"
    assert lines.records[0].levelno == logging.WARNING


def test_what_a_lost_worker_told_is_taken_back(lines: pytest.LogCaptureFixture) -> None:
    with Shown("generating", {"a": 8}, 2) as shown:
        for worker in (1, 2):
            shown.tell(worker, "a", 0)
            shown.tell(worker, "a", 2)
        shown.lost(2)
        shown.tell(1, "a", 2)
        shown.done(1)
        assert lines.messages == []
        shown.tell(1, "a", 4)
        shown.tell(1, "another", 4)
    assert [line.partition(" in ")[0] for line in lines.messages] == ["a: 8 images"]


def test_stages_without_images_count_units(lines: pytest.LogCaptureFixture) -> None:
    with Shown("scoring", {}, 2) as shown:
        for worker in (1, 1):
            shown.tell(worker, "a", 5)
            shown.done(worker)
    assert [line.partition(" in ")[0] for line in lines.messages] == ["scoring: 2 units"]
