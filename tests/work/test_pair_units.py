"""Blocks of pairs as units: many workers share those of a cell, and what is there is compared no second time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from counting_engine import Counting

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.engines.base import BESIDE
from evalkit.engines.stripe import Stripe
from evalkit.metrics.psnr import Psnr
from evalkit.plan.plan import Plan, make_plan
from evalkit.work.stored_plan import Leftovers

METRICS = ("metric=[psnr,ssim,feature_diversity_digits]", "metric.feature_diversity_digits.max_pairs=20")


def plan_of(folder: Path, *metrics: str, count: int = 300, engine: Any = None) -> Plan:
    """Two cells of noise, of two shards."""
    words = [
        "experiment=digits",
        *(metrics or METRICS),
        "reference=none",
        f"num_samples={count}",
        f"store={folder}",
        "device=cpu",
    ]
    words += ["model=[digits_dcgan]", "report=false", "lint=false", "contact_sheet=0"]
    words += ["prompts=inline", "prompts.inline.prompts=[one, two, three, four]"]
    config = resolve(compose(words))
    noise = {"_target_": "fake_models.Noise", "size": 16}
    plan = make_plan(replace(config, model={"first": noise, "second": {**noise, "version": 2}}, baseline="first"))
    return plan if engine is None else replace(plan, engine=engine)


def figures(plan: Plan) -> dict[Any, Any]:
    """All scores to the last bit; the run's own."""
    table = pipeline.run(plan)
    return {
        (row.cell, row.metric): (row.value and row.value.hex(), row.stderr and row.stderr.hex(), row.note, row.broken)
        for row in table.rows
        if row.metric in plan.metrics
    }


BLOCKS = [
    "pairs/first/feature_diversity_digits/0-20",
    "pairs/second/psnr/0-256",  # and SSIM: they pair in the same way
    "pairs/second/psnr/256-300",
    "pairs/second/feature_diversity_digits/0-20",
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What this process alone gives."""
    found = figures(plan_of(tmp_path_factory.mktemp("alone")))
    assert sum(value is not None for value, *_ in found.values()) == 4  # the baseline has no baseline
    return found


def test_a_run_that_was_stopped_goes_on_by_the_block(tmp_path: Path, expected: dict[Any, Any]) -> None:
    stopped, again = Counting(stop_after=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(plan_of(tmp_path, engine=stopped))
    assert figures(plan_of(tmp_path, engine=again)) == expected
    assert (stopped.of("pairs"), again.of("pairs")) == (BLOCKS[:2], BLOCKS[2:])


def test_a_set_that_grows_has_its_new_blocks_compared(tmp_path: Path) -> None:
    only = "metric=[psnr]"
    plan = plan_of(tmp_path, only, count=280, engine=Counting())
    pipeline.run(plan)
    longer = Counting()
    figures(plan_of(tmp_path, only, "name=longer", engine=longer))
    assert longer.of("pairs") == ["pairs/second/psnr/256-300"]  # the first shard is whole, and the same


def test_stripes_share_the_pairs_of_a_cell(
    tmp_path: Path, expected: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two does its part, and then the other's, which never came; whoever comes later finds all of it."""
    monkeypatch.setenv(BESIDE, "1")
    monkeypatch.setattr("evalkit.utils.progress.share_the_terminal", lambda prefix: None)
    plan, later = plan_of(tmp_path), Counting()
    pipeline.fill(replace(plan, engine=Stripe(rank=0, world=2, patience=0.1)))
    with mock.patch.object(Leftovers, "sweep"):  # what the stripe left is of this run
        assert figures(replace(plan, engine=later)) == expected
    assert later.ran == []


def test_a_metric_that_fails_is_told_by_whoever_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks leave word, so that the stage ends; the other metric of the block goes on."""

    def refuse(self: Psnr, first: Any, second: Any) -> Any:
        raise ValueError("not these")

    monkeypatch.setattr(Psnr, "distance", refuse)
    found = figures(plan_of(tmp_path, engine=Counting()))
    assert found["second", "psnr"] == (None, None, "not these", True)
    assert found["second", "ssim"][0] is not None


@pytest.mark.slow  # two processes import torch; test_stages.py has a block of pairs in such
def test_workers_of_this_machine(tmp_path: Path, expected: dict[Any, Any]) -> None:
    assert figures(plan_of(tmp_path, *METRICS, "engine.local.workers=2", "engine.local.threads=1")) == expected
