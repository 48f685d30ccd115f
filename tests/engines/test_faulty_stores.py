"""Stores that show late what was written, lose answers, are busy or cut bodies: engines give the same numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import flaky_store
import pytest
from fake_ray import FakeRay
from fake_slurm import FakeSlurm
from flaky_store import Faults
from pictures import folder as write_pictures
from pictures import pictures

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.engines import ray as ray_engine
from evalkit.engines import ray_actor
from evalkit.engines.base import BESIDE, Engine, InProcess
from evalkit.engines.local import Local
from evalkit.engines.ray import Ray
from evalkit.engines.slurm import Slurm
from evalkit.engines.stripe import Stripe
from evalkit.plan.plan import Plan, make_plan
from evalkit.results.table import ResultTable
from evalkit.samples import sample_set, store
from evalkit.samples.sample_set import SampleSet
from evalkit.utils import blobs
from evalkit.work import stages, stored_plan

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
LATE = Faults(late=3)
FAILING = Faults(errors=0.1, lost=0.1, cut=0.1)
BOTH = Faults(late=3, errors=0.1, lost=0.1, cut=0.1)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *sys.path]))
    monkeypatch.setenv(flaky_store.VARIABLE, "{}")
    monkeypatch.setattr("evalkit.utils.progress.share_the_terminal", lambda prefix: None)
    changed = [(store, "open_blobs"), (stored_plan, "open_blobs"), (stages, "open_worker"), (blobs, "WAITS")]
    for module, name in (*changed, (sample_set, "_POLL")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back at the end
    flaky_store.install()


def plan_of(folder: Path, store: str, engine: Engine) -> Plan:
    """300 samples, two shards, and a reference of 40 images."""
    if not (folder / "reference").is_dir():
        write_pictures(folder / "reference", pictures(40, side=32))
    words = [
        *("experiment=digits", "model=[digits_dcgan]", "metric=[fid_digits,is_digits,precision_digits]"),
        *("num_samples=300", "contact_sheet=4", "reference=folder", f"reference.folder.path={folder / 'reference'}"),
        *(f"store={store}", f"out={folder / 'out'}", "report=false", "device=cpu"),
    ]
    return replace(make_plan(resolve(compose(words))), engine=engine)


def figures(plan: Plan, table: ResultTable) -> dict[str, Any]:
    """Digests of the samples, and all scores to the last bit."""
    digests = {cell.name: SampleSet.open(plan.store, cell).digest for cell in plan.cells}
    scores = {
        (row.cell, row.metric): (row.value and row.value.hex(), row.stderr and row.stderr.hex())
        for row in table.rows
        if row.metric in plan.metrics
    }
    return {"digests": digests, "scores": scores, "lint": table.lint}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sound")
    plan = plan_of(folder, str(folder / "plain"), InProcess())
    return figures(plan, pipeline.run(plan))


def ray(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    cluster = FakeRay([{"CPU": 2.0}])
    monkeypatch.setattr(ray_engine, "connect", lambda address, token_file: (cluster, True))
    monkeypatch.setattr(ray_engine, "LOOK", 0.05)
    monkeypatch.setattr(ray_actor, "WAIT", 0.1)
    monkeypatch.setattr(ray_actor, "GATHER", 0.01)
    monkeypatch.setattr(ray_actor, "_node", lambda: "0")
    monkeypatch.setattr(ray_actor, "LOGGER", "evalkit.toy")
    return Ray(num_cpus=1)


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    pytest.importorskip("submitit")
    fake = FakeSlurm(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    store = flaky_store.url_of(folder / "store")
    ranks = "".join(
        f'{sys.executable} -m flaky_store {store} "$key" --stripe {rank}/2 > rank{rank} 2>&1 &\n' for rank in (0, 1)
    )
    fake.on_sbatch(f"""key=$(basename store/plans/*.json .json); echo 'RUNNING|None' > jobs
(
{ranks}
wait; rm -f jobs) > /dev/null 2>&1 &
""")
    return Slurm(workers=2, gpus=0, poll=0.2, patience=60)


ENGINES: dict[str, Callable[[Path, pytest.MonkeyPatch], Engine]] = {
    "in process": lambda folder, monkeypatch: InProcess(),
    "stripe": lambda folder, monkeypatch: Stripe(rank=0, world=2, patience=0.4),  # the other one never comes
    "ray": ray,
    "local": lambda folder, monkeypatch: Local(workers=2, threads=1),
    "slurm": slurm,
}
QUICK = ("in process", "stripe", "ray")  # no processes that import torch
CASES = [
    pytest.param(name, faults, id=f"{name}-{kind}", marks=() if kind == "both" and name in QUICK else pytest.mark.slow)
    for name in ENGINES
    for kind, faults in (("late", LATE), ("failing", FAILING), ("both", BOTH))
]


@pytest.mark.parametrize(("name", "faults"), CASES)
def test_every_engine_gives_the_same_on_a_faulty_store(
    name: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv(BESIDE, "1")
    flaky_store.set_faults(faults)
    flaky_store.looks.clear()
    plan = plan_of(tmp_path, flaky_store.url_of(tmp_path / "store"), ENGINES[name](tmp_path, monkeypatch))
    table = pipeline.run(plan)  # never "run again"
    assert max(flaky_store.looks.values(), default=0) == faults.late
    flaky_store.set_faults(Faults())
    assert figures(plan, table) == expected
