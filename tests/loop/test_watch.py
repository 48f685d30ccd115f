"""The watch on checkpoints: what is whole, waited for or damaged; rounds, rules, starting again; a clock of its own."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_series import cut, settled
from finished_run import make_table, row
from safetensors.torch import save_file

from evalkit.config.checkpoints import Checkpoint, find
from evalkit.errors import ConfigError, DataError
from evalkit.loop.watch import Rules, Watched, passing_cell, since_gain, watch
from evalkit.results.table import ResultTable


class Training:
    """A folder of checkpoints, a clock that only sleeping moves, and what was scored in which round."""

    def __init__(self, folder: Path, plateau: int = 0) -> None:
        self.folder, self.plateau = folder, plateau
        self.now = 1_000_000.0
        self.rounds: list[list[float]] = []
        self.events: list[Callable[[], None]] = []
        self.broken: set[str] = set()  # names that no pipeline can score

    def save(self, step: int, size: int = 64) -> Path:
        path = self.folder / f"c_{step}.safetensors"
        save_file({"w": torch.full((size,), float(step))}, path)
        return self.touch(path)

    def touch(self, path: Path, age: float = 0.0) -> Path:
        os.utime(path, (self.now - age,) * 2)
        return path

    def cut(self, step: int) -> bytes:
        path = self.save(step)
        whole = cut(path)
        self.touch(path)
        return whole

    def find(self) -> Sequence[Checkpoint]:
        return find({"checkpoints": str(self.folder / "c_*")}, "model.m.path")

    def score(self, left_out: Sequence[str]) -> ResultTable:
        taken = [c for c in self.find() if c.path not in left_out]
        for checkpoint in taken:
            if Path(checkpoint.path).name in self.broken:
                raise DataError(f"{Path(checkpoint.path).name} does not fit")
        self.rounds.append([c.step for c in taken])
        cells = {f"m-step_{c.step}": c.step for c in taken}
        plateau = next((cell for cell, step in cells.items() if step >= self.plateau), next(iter(cells)))
        trend = {"best": plateau, "ties": [], "plateau": plateau}
        rows = tuple(row(cell, "fid", 1.0, 0.1, settings={"step": step}) for cell, step in cells.items())
        series = [{"name": "m", "steps": cells, "trends": {"fid": trend}}] if len(cells) > 1 else []
        return replace(make_table(), run={**make_table().run, "series": series}, rows=rows, gate=None)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            self.events.pop(0)()

    def watch(self, rules: Rules, **options: Any) -> tuple[str, ResultTable | None]:
        watched = options.pop("watched", None) or Watched(lambda checkpoint: None, settle=2.0, stale=100.0)
        return watch(
            self.find, self.score, watched, rules=rules, poll=10.0, clock=lambda: self.now, sleep=self.sleep, **options
        )


@pytest.fixture
def training(tmp_path: Path) -> Training:
    logging.getLogger("evalkit").propagate = True
    return Training(tmp_path)


def test_half_written_ones_are_waited_for_and_damaged_ones_passed_over(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    whole = training.save(1)
    training.touch(whole, 60)
    end = training.cut(2)
    bad = training.touch(training.folder / training.save(3).name)
    content = bad.read_bytes()
    bad.write_bytes(b"\xff" * 64)
    training.touch(bad, 60)

    def finish() -> None:
        path = training.folder / "c_2.safetensors"
        path.write_bytes(end)
        training.touch(path)

    def write_anew() -> None:
        bad.write_bytes(content)
        training.touch(bad)

    training.events = [lambda: None, lambda: None, finish, lambda: None, write_anew, lambda: None]
    with caplog.at_level(logging.INFO):
        reason, table = training.watch(Rules(seconds=100))
    assert training.rounds == [[1], [1, 2], [1, 2, 3]]
    assert reason == "100 s have passed"
    assert table is not None
    assert len(table.cells) == 3
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2  # each once, however often it is looked at
    assert said[0].startswith("step 3 is passed over, until it is written anew: ")
    assert said[0].endswith("does not begin as a safetensors file")
    assert said[1].startswith("step 2 is waited for: ")
    assert "its header promises" in said[1]


def test_what_stays_half_written_is_damaged(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    training.touch(training.save(1), 60)
    training.cut(2)
    training.watch(Rules(seconds=150))
    assert training.rounds == [[1]]
    assert [line.partition(":")[0] for line in caplog.messages if line.startswith("step 2")] == [
        "step 2 is waited for",
        "step 2 is passed over, until it is written anew",
    ]


def test_one_that_was_just_written_is_left_alone_for_some_seconds(training: Training) -> None:
    training.save(1)
    training.watch(Rules(seconds=0))
    assert training.rounds == []
    training.now += 3
    training.watch(Rules(seconds=0))
    assert training.rounds == [[1]]


def test_nothing_is_there_yet(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    training.events = [lambda: None, lambda: settled(training.save(7), 0) and training.touch(training.save(7))]
    with caplog.at_level(logging.INFO):
        _reason, _ = training.watch(Rules(seconds=50))
    assert training.rounds == [[7]]
    assert sum("waiting for checkpoints" in line for line in caplog.messages) == 1


def test_the_newest_first_or_all_at_once_and_again(training: Training) -> None:
    for step in (1, 2, 3):
        training.touch(training.save(step), 60)
    training.watch(Rules(seconds=0))
    assert training.rounds == [[1, 2, 3]]
    training.rounds.clear()
    training.watch(Rules(seconds=0), newest=True)
    assert training.rounds == [[3], [2, 3], [1, 2, 3]]
    training.rounds.clear()
    training.touch(training.save(4), 60)
    training.watch(Rules(seconds=0), newest=True, before=lambda newest: (1, 3))  # an earlier watch had these
    assert training.rounds == [[1, 3, 4], [1, 2, 3, 4]]


def test_a_checkpoint_that_no_pipeline_can_score_costs_itself_alone(
    training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        training.touch(training.save(step), 60)
    training.broken = {"c_2.safetensors"}
    training.watch(Rules(seconds=30))
    assert training.rounds[-1] == [1, 3]
    assert "step 2 is passed over, until it is written anew: c_2.safetensors does not fit" in caplog.text
    training.broken = {"c_1.safetensors", "c_2.safetensors", "c_3.safetensors"}
    with pytest.raises(DataError, match="does not fit"):  # that is no checkpoint's fault
        training.watch(Rules(seconds=30))

    def check(checkpoint: Checkpoint) -> None:
        if checkpoint.step == 2:
            raise ConfigError("model_index.json is missing")

    training.broken, training.rounds = set(), []
    training.watch(Rules(seconds=0), watched=Watched(check))
    assert training.rounds == [[1, 3]]


def test_it_ends_without_a_gain_in_so_many_checkpoints(training: Training) -> None:
    training.plateau = 2
    training.touch(training.save(1), 60)
    training.events = [lambda step=step: training.touch(training.save(step), 5) for step in range(2, 20)]
    reason, table = training.watch(Rules(patience=3))
    assert training.rounds[-1] == [1, 2, 3, 4, 5]
    assert reason == "no significant gain in 3 checkpoints (m: 3 since the last one)"
    assert table is not None
    assert since_gain(table, "fid") == {"m": 3}
    with pytest.raises(ConfigError, match=r"--metric fig: no trend of it is known. Did you mean 'fid'\?"):
        since_gain(table, "fig")


def test_it_ends_where_a_checkpoint_passes_all_of_its_rules() -> None:
    results = [
        {"cell": "a", "status": "pass"},
        {"cell": "a", "status": "inconclusive"},
        {"cell": "b", "status": "pass"},
        {"cell": "b", "status": "pass"},
        {"cell": "c", "status": "fail"},
    ]
    assert passing_cell({"results": results}) == "b"
    assert passing_cell({"results": results[:2]}) is None
    table = replace(make_table(), gate={"results": results})
    assert Rules(until_gate=True).reason(table) == "b passes the gate"
    assert Rules().reason(table) is None
