"""The run's own process is killed in each stage: its workers end or go on; the same command ends it, and makes no
shard again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from real_run import GAN, command, files_of, litter, plan_of, scores_of
from test_stages import write_pictures

from evalkit import pipeline
from evalkit.results.table import ResultTable
from evalkit.samples.cells import look

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"generating": "shard", "extracting features": "extract", "measuring models": "measure", "scoring": "score"}
WORKERS = ("engine.local.workers=2", "engine.local.threads=1")
END = 10.0  # seconds in which a worker has ended after its driver, on a busy machine: it takes under one


class Runs:
    """The command in a folder, by processes of which some kill themselves."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.words = folder, words
        self.log = folder / "units"

    def start(self, stage: str, **variables: str) -> subprocess.Popen[str]:
        """One process, which dies in a stage, or lives ("-"). It and all that it starts know the folder by a mark."""
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MARK": str(self.folder)}
        script = Path(__file__).with_name("doomed.py")
        words = [sys.executable, str(script), stage, str(self.log), *command(self.folder, *self.words)]
        with (self.folder / f"said-{variables.get('RANK', '')}").open("w") as said:
            return subprocess.Popen(words, env=env | variables, stdout=said, stderr=said, text=True)

    def units(self, kind: str) -> list[str]:
        """The units of a kind that were run since the last `forget`."""
        lines = self.log.read_text().split("\n") if self.log.exists() else []
        return [line for line in lines if line.startswith(f"{kind}/")]

    def forget(self) -> None:
        self.log.unlink(missing_ok=True)

    def alive(self) -> list[int]:
        """All processes with the mark."""
        mark, pids = f"MARK={self.folder}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    pids.append(int(path.name))
            except OSError:
                continue
        return pids

    def missing(self) -> set[str]:
        """The shards that are not there, as their units' keys."""
        plan = plan_of(self.folder, None, *(word for word in self.words if not word.startswith("engine")))
        found = look(plan.store, plan.generated)
        return {f"shard/{cell.name}/{a}-{b}" for cell in plan.generated for a, b in found[cell.key].missing}

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Inode and time of each image, feature file and score: whatever is written anew has others."""
        store = self.folder / "runs"
        stats = {name: (store / name).stat() for name in files_of(store)}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def within(seconds: float, what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def check_same(runs: Runs, table: ResultTable, alone: tuple[dict[str, str], dict[str, str]]) -> None:
    assert scores_of(table) == alone[0]
    assert files_of(runs.folder / "runs") == alone[1]
    assert litter(runs.folder) == []


def run_alone(folder: Path, *words: str) -> tuple[dict[str, str], dict[str, str]]:
    """Scores and files of a run by this process."""
    table = pipeline.run(plan_of(folder, None, *words))
    return scores_of(table), files_of(folder / "runs")


def test_a_driver_that_is_lost_while_shards_are_made(tmp_path: Path) -> None:
    """One worker ends with it; the same run, by this process, makes what is missing and nothing else."""
    words = (*GAN, "num_samples=260", "metric=[fid_digits,ppl_digits]", "metric.ppl_digits.num_pairs=8")
    for name in ("alone", "lost"):
        (tmp_path / name).mkdir()
        write_pictures(tmp_path / name / "reference")
    alone = run_alone(tmp_path / "alone", *words)
    runs = Runs(tmp_path / "lost", *words)
    killed = Runs(tmp_path / "lost", *words, "engine.local.workers=1", "engine.local.threads=1")
    assert killed.start("generating").wait(60) == -9
    within(END, lambda: not runs.alive())
    missing, before = runs.missing(), runs.stamps()
    assert len(missing) in (2, 3)  # of four; the next one may be there, too
    plan = plan_of(runs.folder, None, *words)
    check_same(runs, pipeline.run(plan), alone)
    assert before.items() <= runs.stamps().items()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    return run_alone(tmp_path_factory.mktemp("alone"), *GAN)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [*STAGES, "report"])
def test_a_driver_of_two_workers_that_is_lost(
    stage: str, tmp_path: Path, alone: tuple[dict[str, str], dict[str, str]]
) -> None:
    """Both workers end with it; the same command again makes what is missing, each unit once."""
    runs = Runs(tmp_path, *GAN, "engine.local.workers=2", "engine.local.threads=1")
    assert runs.start(stage).wait(300) == -9
    killed = time.monotonic()
    within(END, lambda: not runs.alive())
    ended = time.monotonic() - killed
    missing, before = runs.missing(), runs.stamps()
    runs.forget()
    assert runs.start("-").wait(300) == 0, (tmp_path / "said-").read_text()
    assert sorted(runs.units("shard")) == sorted(missing)
    check_same_command(runs, stage, before, alone)
    print(f"{stage}: workers gone after {ended:.2f} s; {told(runs, before)}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [*STAGES, "report"])
def test_a_stripe_that_leads_and_is_lost(
    stage: str, tmp_path: Path, alone: tuple[dict[str, str], dict[str, str]]
) -> None:
    """The other one goes on to the end of all units; the same command again makes the table, and no unit but those
    that have no value to store."""
    runs = Runs(tmp_path, *GAN, "engine=stripe", "engine.stripe.patience=3")
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in range(2)]
    leader, other = runs.start(stage, **ranks[0]), runs.start("-", **ranks[1])
    assert leader.wait(300) == -9
    killed = time.monotonic()
    assert other.wait(300) == 0, (tmp_path / "said-1").read_text()
    went_on = time.monotonic() - killed
    assert runs.missing() == set()
    before = runs.stamps()
    assert not (tmp_path / "runs" / "real" / "results.json").exists()
    runs.forget()
    again = [runs.start("-", **rank) for rank in ranks]
    assert [process.wait(300) for process in again] == [0, 0], (tmp_path / "said-0").read_text()
    assert [unit for kind in ("shard", "extract", "measure") for unit in runs.units(kind)] == []
    check_same_command(runs, "report", before, alone)
    print(f"{stage}: the other stripe went on for {went_on:.1f} s; {told(runs, before)}")


def check_same_command(
    runs: Runs, stage: str, before: dict[str, tuple[int, int]], alone: tuple[dict[str, str], dict[str, str]]
) -> None:
    """What was there is as it was, stages that were over ran no unit, and all is as it is without a kill."""
    assert before.items() <= runs.stamps().items()
    over = list(STAGES.values())[: [*STAGES, "report"].index(stage)]
    assert [unit for kind in over[:3] for unit in runs.units(kind)] == []
    table = ResultTable.load(runs.folder / "runs" / "real" / "results.json")
    assert (runs.folder / "runs" / "real" / "report.html").exists()
    check_same(runs, table, alone)
    assert runs.alive() == []


def told(runs: Runs, before: dict[str, tuple[int, int]]) -> str:
    units = {kind: len(runs.units(kind)) for kind in STAGES.values()}
    return f"{len(before)} files were there and stay, {len(runs.stamps())} at the end; units run again {units}"
