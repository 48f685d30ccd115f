"""A gate's rules are checked before any work: whatever is wrong with them is one line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from gate_fakes import CELLS, METRICS, cell, gate, row

from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, DataError
from evalkit.gate import make_gates
from evalkit.plan.grid import make_grid
from evalkit.results import render
from evalkit.results.table import ResultTable
from evalkit.utils import schema


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "fdi", "max": 1}, "gate.g.rules[0]: there is no metric 'fdi' in this run. Did you mean 'fid'?"),
        ({"metric": "kid", "max": 1}, "this run does not compute kid. Add it: metric=[...,kid]"),
        ({"metric": "latnecy_p50", "max": 1}, "Did you mean 'latency_p50'?"),
        ({"max": 1}, "no metric is named"),
        ({"metric": "fid"}, "fid has no bound: give max, min, no_worse_than or within"),
        ({"metric": "fid", "mx": 1}, "gate.g.rules[0].mx: no such key. Did you mean 'max'?"),
        ({"metric": "fid", "max": "12 %"}, "gate.g.rules[0].max: '12 %' is not a number"),
        ({"metric": "fid", "max": float("nan")}, "is not a number"),
        ({"metric": "fid", "max": True}, "is not a number"),
        ({"metric": "fid", "max": 1, "min": 2}, "max 1 is below min 2"),
        ({"metric": "fid", "max": 1, "where": {"model": "aa"}}, "selects no cell: model is aa, but in this run there"),
        ({"metric": "fid", "max": 1, "where": {"stpes": 4}}, "no cell has a setting 'stpes'. Did you mean 'steps'?"),
        ({"metric": "fid", "max": 1, "where": {"model": "a", "steps": 8}}, "hold together for none of the 3"),
        ({"metric": "fid", "max": 1, "where": "a"}, "is not a mapping"),
        ("fid < 3", "is not a mapping such as {metric: fid, max: 12}"),
        ({"metric": "fid", "no_worse_than": {"margin": 1}}, "baseline is not set"),
        ({"metric": "fid", "no_worse_than": {"baseline": "bb"}}, "no such cell. "),
        ({"metric": "fid", "no_worse_than": {"baseline": {"steps": 8}}}, "picks 2 cells (b, c)"),
        (
            {"metric": "fid", "no_worse_than": {"baseline": "a", "margn": 1}},
            "margn: no such key. Did you mean 'margin'",
        ),
        ({"metric": "fid", "no_worse_than": {"baseline": "a", "cell": "b"}}, "names a cell of an earlier results.json"),
        ({"metric": "fid", "no_worse_than": {"baseline": "a", "margin": -1}}, "margin: -1 is no margin"),
        ({"metric": "fid", "no_worse_than": {"baseline": "a", "margin": "5 percent"}}, "'5 percent' is no margin"),
        ({"metric": "fid", "no_worse_than": "no/such.json"}, "no/such.json: no such file"),
        ({"metric": "fid", "no_worse_than": "a", "where": {"model": "a"}}, "which is the baseline itself"),
        ({"metric": "blanked", "no_worse_than": "a"}, "counted in each set, not estimated: give max"),
    ],
)
def test_a_wrong_rule_is_one_line_before_any_work(rule: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(rule)
    assert message in str(caught.value)
    assert "gate.g.rules[0]" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("waiver", "message"),
    [
        ({"metric": "fid", "until": "2025-07-01"}, "a waiver without a reason never counts"),
        ({"metric": "fid", "reason": "  ", "until": "2025-07-01"}, "a waiver without a reason never counts"),
        ({"metric": "fid", "reason": "x"}, "until: None is not a day such as 2030-01-31"),
        ({"metric": "fid", "reason": "x", "until": "next week"}, "until: 'next week' is not a day"),
        ({"metric": "clip", "reason": "x", "until": "2025-07-01"}, "no rule of this gate is on 'clip'"),
        ({"metric": "fid", "reason": "x", "until": "2025-07-01", "where": {"model": "z"}}, "selects no cell"),
        ({"metric": "fid", "because": "x"}, "because: no such key"),
    ],
)
def test_a_wrong_waiver_is_refused(waiver: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate({"metric": "fid", "max": 1}, waivers=[waiver])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ([{"metric": "fid", "max": 1}], "gate.g: [{'metric': 'fid', 'max': 1}] is not a mapping such as {rules: [...]"),
        ({"rules": []}, "gate.g.rules: there are none"),
        ({"rules": {"metric": "fid"}}, "is not a list"),
        ({"rule": []}, "gate.g.rule: no such key. Did you mean 'rules'?"),
    ],
)
def test_a_gate_that_says_nothing_is_refused(option: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_gates({"g": option}, CELLS, METRICS)
    assert message in str(caught.value)


def test_duplicates_need_the_lint() -> None:
    with pytest.raises(ConfigError, match="lint=true"):
        make_gates({"g": {"rules": [{"metric": "duplicates", "max": 0}]}}, CELLS, METRICS, lint=False)


def test_where_selects_cells_and_a_rule_may_hold_several_bounds() -> None:
    rules = gate({"metric": "fid", "max": 3, "min": -3, "where": {"steps": [8]}})["g"].rules
    assert [(rule.kind, rule.limit, rule.cells) for rule in rules] == [("max", 3, ("b", "c")), ("min", -3, ("b", "c"))]


def test_the_shipped_gate_fits_the_default_run() -> None:
    config = resolve(compose(["gate=[digits]"]))
    gates = make_gates(config.gate, make_grid(config).cells, config.metric)
    assert {rule.kind for rule in gates["digits"].rules} == {"max", "min", "no_worse_than"}


def test_the_documented_gates_are_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every YAML block of docs/gate.md: the rules are built, the workflows run gates that there are."""
    text = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    cells = [replace(cell(name), sampler="ddim") for name in ("mine", "base", "digits_ldm")]
    names = ("fid", "clip_score", "c_t", "precision", "psnr", "lpips", "fid_digits", "clip_score_digits")
    metrics = dict.fromkeys(names)
    rows = [row(c.name, metric, 1.0, 0.1, 100, "lower") for c in cells for metric in metrics]
    render.write(ResultTable({"name": "prev"}, rows), tmp_path / "baseline")
    monkeypatch.chdir(tmp_path)
    gates = {name: value for block in blocks for name, value in block.items() if "rules" in (value or ())}
    assert list(make_gates(gates, cells, metrics)) == ["release", "regression"]
    workflows = [block for block in blocks if "jobs" in block]
    commands = [step.get("run", "") for flow in workflows for step in flow["jobs"]["digits"]["steps"]]
    assert sum("run_eval.py" in command for command in commands) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rules": [{"metric": "fid", "max": "12"}]}, r"rules\[0\]\.max"),
        ({"rules": [{"metric": "fid", "max": float("inf")}]}, r"rules\[0\]\.max"),
        ({"rules": [{"metric": "fid"}]}, r"rules\[0\]"),
        ({"rules": [{"metric": "fid", "max": 1, "where": "a"}]}, r"rules\[0\]\.where"),
        ({"rules": [{"metric": "fid", "maxi": 1}]}, r"rules\[0\]"),
        ({"rules": {"metric": "fid", "max": 1}}, "rules"),
        ({"rules": []}, "rules"),
        ({"rules": [{"metric": "fid", "no_worse_than": {"baseline": "b", "margin": "x"}}]}, "no_worse_than"),
        ({"rules": [{"metric": "fid", "max": 1}], "waiver": []}, "waiver"),
        (
            {"rules": [{"metric": "fid", "max": 1}], "waivers": [{"metric": "fid", "until": "2030-01-31"}]},
            "reason|waivers",
        ),
    ],
)
def test_the_published_schema_refuses_what_a_run_refuses(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_gates({"g": option}, CELLS, METRICS)
    with pytest.raises(DataError, match=message):
        schema.check({"g": option}, "gate", "g.yaml")


def test_the_shipped_gates_are_of_the_published_schema() -> None:
    files = sorted((Path(__file__).parents[2] / "configs" / "gate").glob("*.yaml"))
    assert len(files) >= 3
    for file in files:
        schema.check(yaml.safe_load(file.read_text("utf-8")), "gate", file)
