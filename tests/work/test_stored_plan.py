"""A plan in the store: the same plan for whoever opens it, or one line of what is not the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, EvalkitError, StoreError
from evalkit.plan.plan import Plan, make_plan
from evalkit.work.__main__ import main
from evalkit.work.stages import Stages
from evalkit.work.stored_plan import Leftovers, open_plan, store_plan
from evalkit.work.units import Extract, Measure, Score, Shard


def plan_of(*overrides: str) -> Plan:
    words = ["experiment=digits", "model=[digits_dcgan]", "metric=[is_digits]", "reference=none", "num_samples=64"]
    return make_plan(resolve(compose([*words, *overrides])))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return plan_of("store=runs", "gate=[]", "save_stats=stats")


def stored_file(plan: Plan, key: str) -> Path:
    return plan.store.root.absolute() / "plans" / f"{key}.json"


def test_the_same_plan_elsewhere(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is found by an absolute path, the rest from the folder that the plan was made in."""
    key = store_plan(plan)
    monkeypatch.chdir("/")
    opened = open_plan(str(tmp_path / "runs"), key)
    assert opened.cells == plan.cells
    assert Path.cwd() == tmp_path
    assert opened.store.root == tmp_path / "runs"
    assert opened.config.save_stats is None  # the driver's business
    assert [path.name for path in (tmp_path / "runs" / "plans").iterdir()] == [f"{key}.json"]  # no probe is left


def test_one_plan_has_one_key(plan: Plan) -> None:
    """Whichever process stores it, from whichever folder; what changes a number changes the key."""
    assert store_plan(plan) == store_plan(plan) == store_plan(plan_of("store=runs", "report=false", "tracker=[]"))
    assert store_plan(plan) != store_plan(plan_of("store=runs", "seed=1"))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("code", "0", "evalkit's code is not the driver's"),
        ("versions", {"torch": "0.1"}, "libraries: of torch the driver has 0.1, .* install the same"),
        ("cells", {"another": "0"}, "cells: of another the driver has 0, .* give all machines the same"),
        ("metrics", {"is_digits": "0"}, "metrics: of is_digits"),
        ("extractors", {"digits": "0"}, "extractors: of digits"),
    ],
)
def test_what_is_not_the_same_is_refused(plan: Plan, part: str, value: Any, words: str) -> None:
    key = store_plan(plan)
    stored = json.loads(stored_file(plan, key).read_text())
    stored[part] = stored[part] | value if isinstance(value, dict) else value
    stored_file(plan, key).write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=words):
        open_plan(str(plan.store.root.absolute()), key)


def test_a_store_that_is_not_seen(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no plan abc .*a folder that all machines share"):
        open_plan(str(tmp_path / "elsewhere"), "abc")
    assert not (tmp_path / "elsewhere").exists()


def test_the_command_refuses_in_one_line(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(plan.store.root.absolute())
    assert main([store, store_plan(plan), "--stripe", "8/8"]) == 2
    assert capsys.readouterr().err == "evalkit: --stripe 8/8: give I/N, with I from 0 to N - 1\n"
    assert main([store, "abc", "--stripe", "0/8"]) == 1
    assert "holds no plan abc" in capsys.readouterr().err


def test_units_are_small(plan: Plan) -> None:
    name = "digits_ldm-dpmpp_2m-guidance_scale_4-num_inference_steps_8"
    addresses = ("inception/pool3", "clip_vit_b32/image")
    for unit in (Shard(name, 0, 256), Extract(name, 0, 256, addresses), Measure(name, "ppl"), Score(name)):
        assert len(pickle.dumps(unit)) < 250
        assert name in unit.label
    assert len({Shard(name, 0, 256).key, Extract(name, 0, 256, ()).key, Score(name).key}) == 3


def test_word_that_units_leave(plan: Plan) -> None:
    left = Leftovers.of(plan, "key")
    assert left.of_units(["score/a"]) == set()
    left.leave("score/a", {"scores": {}})
    assert left.of_units(["score/a", "score/b"]) == {"score/a"}
    assert left.read("score/a")["scores"] == {}
    assert left.read("score/b") == {}
    left.sweep()
    assert left.of_units(["score/a"]) == set()


def test_what_stops_a_stage_closes_nothing_else(plan: Plan) -> None:
    """A unit that is none of a plan's is a fault of ours, not of the images."""
    with pytest.raises(TypeError, match="no unit"):
        Stages(plan).worker.run(object(), lambda name, count: None)
    assert not issubclass(TypeError, EvalkitError)
