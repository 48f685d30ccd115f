"""The stages as units over engines: the same numbers from any of them, whatever is run twice, late, or elsewhere."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.engines.base import BESIDE, Work, missing
from evalkit.engines.stripe import Stripe
from evalkit.plan.plan import Plan, make_plan
from evalkit.results.table import ResultTable
from evalkit.samples.store import SampleSet
from evalkit.work.__main__ import main
from evalkit.work.stored_plan import Leftovers, come, store_plan

METRICS = "metric=[fid_digits,is_digits,precision_digits,feature_diversity_digits,ssim,ppl_digits]"
SMALL = (
    "experiment=digits",
    "model=[digits_dcgan]",
    METRICS,
    "metric.ppl_digits.num_pairs=8",
    "baseline=digits_dcgan",
    "num_samples=64",
    "contact_sheet=0",
    "reference=folder",
)


def plan_of(folder: Path, engine: Any = None, *overrides: str) -> Plan:
    reference = write_pictures(folder / "reference")
    words = [
        *SMALL,
        f"reference.folder.path={reference}",
        f"store={folder / 'runs'}",
        f"out={folder / 'out'}",
        "report=false",
        "device=cpu",
        *overrides,
    ]
    plan = make_plan(resolve(compose(words)))
    return plan if engine is None else replace(plan, engine=engine)


def write_pictures(folder: Path) -> Path:
    """Noise, 40 images of 32 px."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def figures(plan: Plan, table: ResultTable) -> dict[str, Any]:
    """Digests of the samples, and all scores to the last bit."""
    digests = {cell.name: SampleSet.open(plan.store, cell).digest for cell in plan.cells}
    scores = {
        (row.cell, row.metric): (row.value and row.value.hex(), row.stderr and row.stderr.hex(), row.note, row.broken)
        for row in table.rows
        if row.metric in plan.metrics
    }
    return {"digests": digests, "scores": scores, "lint": table.lint}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this process alone gives."""
    plan = plan_of(tmp_path_factory.mktemp("alone"))
    found = figures(plan, pipeline.run(plan))
    assert len(found["scores"]) == 6
    assert sum(value is None for value, *_ in found["scores"].values()) == 1  # the baseline's own
    return found


class Elsewhere:
    """An engine whose workers are not the driver; counts what it was given."""

    in_process = False
    leads = True
    many = True

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.closed = 0

    def map(self, work: Work) -> None:
        units = missing(work)
        random.Random(len(self.ran)).shuffle(units)
        for unit in pickle.loads(pickle.dumps(units)):
            assert len(pickle.dumps(unit)) < 250
            self.ran.append(unit.key)
            self.run(work, unit)
        assert missing(work) == []

    def run(self, work: Work, unit: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


def test_the_first_shard_of_each_cell_is_timed_alone(tmp_path: Path) -> None:
    class Timing(Elsewhere):
        timing = "alone"

        def map(self, work: Work) -> None:
            assert [unit.key for unit in work.units if unit.key in work.alone] == ["shard/digits_dcgan/0-64"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan_of(tmp_path, Timing()))


def test_workers_of_this_machine(tmp_path: Path, expected: dict[str, Any]) -> None:
    """Real worker processes, which make the plan again from the store."""
    plan = plan_of(tmp_path, None, "engine.local.workers=2")
    assert figures(plan, pipeline.run(plan)) == expected


class Idle(Elsewhere):
    """There is nothing left to do."""

    def run(self, work: Work, unit: Any) -> None:
        pytest.fail(f"{unit.label} was run again")


def test_where_the_leader_never_came_the_first_that_did_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements of one Slurm array may be runs of their own: each makes its table."""
    monkeypatch.setenv(BESIDE, "1")
    monkeypatch.setattr("evalkit.utils.progress.share_the_terminal", lambda prefix: None)
    engines = {rank: Stripe(rank=rank, world=3, patience=0.1) for rank in (1, 2)}
    plan = plan_of(tmp_path, engines[1], "metric=[fid_digits,ppl_digits]")
    assert pipeline.fill(plan).leads()
    assert not pipeline.fill(replace(plan, engine=engines[2])).leads()
    come(plan.store.address, store_plan(plan), 0)
    assert not pipeline.fill(plan).leads()


def test_a_stripe_by_command(tmp_path: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does all stages and writes no table; whoever comes to the table then finds everything."""
    monkeypatch.setenv(BESIDE, "1")
    monkeypatch.setattr("evalkit.utils.progress.share_the_terminal", lambda prefix: None)
    plan = plan_of(tmp_path, Idle())
    key = store_plan(plan)
    assert main([str(plan.store.root), key, "--stripe", "0/1"]) == 0
    assert not plan.out.exists()
    with mock.patch.object(Leftovers, "sweep"):  # what the stripe left is of this run
        assert figures(plan, pipeline.run(plan)) == expected
