"""The baseline's own noise: made, stored, compared and shown next to every cell; and what is called none."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from options import metric_of, option

from evalkit import pipeline
from evalkit.config.schema import RunConfig
from evalkit.metric import Score
from evalkit.plan.grid import make_grid
from evalkit.plan.plan import make_plan
from evalkit.results import render
from evalkit.results.floor_text import BEYOND, IDENTICAL, RUN, WITHIN
from evalkit.results.noise_floor import measure_floor
from evalkit.results.table import ResultTable
from evalkit.scoring.scoring import Scored

BASE = "model-shift_nothing"
PIXELS = 3 * 8 * 8
METRICS = {"brightness": {"_target_": "fake_metrics.Brightness"}, "psnr": option("metric", "psnr")}


def dB(levels: float) -> float:
    """PSNR where the sum of squared errors is `levels` over an image of 8x8."""
    return 10 * math.log10(255**2 * PIXELS / levels)


def config_of(folder: Path, **changes: Any) -> RunConfig:
    shifts = {"sweep": ["nothing", "pixel", "all"]}
    model = {"_target_": "fake_models.Uneven", "shift": shifts, "log": str(folder / "log")}
    fields = {
        **{"model": {"model": model}, "metric": {"psnr": option("metric", "psnr"), "ssim": option("metric", "ssim")}},
        **{"prompts": {"digits": {"_target_": "grid_models.Prompts"}}, "num_samples": 6, "batch_size": 4},
        **{"baseline": {"shift": "nothing"}, "store": str(folder / "runs"), "name": "run", "device": "cpu"},
        **{"noise_floor": {"again": True, "batch_size": True, "threads": 3, "attention": True}},
    }
    return RunConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResultTable]:
    folder = tmp_path_factory.mktemp("floor")
    return folder, pipeline.run(make_plan(config_of(folder)))


def test_each_remake_is_made_from_a_fresh_load_under_its_change(made: tuple[Path, ResultTable]) -> None:
    lines = (made[0] / "log").read_text().splitlines()
    batches = {
        "again": ["4 by {}, None", "2 by {}, None"],
        "batch_size": ["1 by {}, None"] * 6,
        "threads": ["4 by 3, None", "2 by 3, None"],
        "attention": ["4 by {}, math, None", "2 by {}, math, None"],
    }
    usual = torch.get_num_threads()
    expected = [["load on cpu", *(line.format(usual) for line in batches[name])] for name in batches]
    loads = [index for index, line in enumerate(lines) if line.startswith("load")]
    groups = [lines[a:b] for a, b in zip(loads, [*loads[1:], len(lines)], strict=True)]
    groups = [[line for line in group if line != "unload"] for group in groups]
    assert groups[0] == expected[0]  # the baseline itself
    assert groups[1:5] == expected
    assert len(groups) == 7  # and two cells more


def test_the_floor_is_the_worst_remakes_mean(made: tuple[Path, ResultTable]) -> None:
    floor = made[1].run[RUN]
    psnr = floor["metrics"]["psnr"]
    assert psnr["worst"] == "batch_size 1"
    assert psnr["floor"] == pytest.approx(dB(PIXELS / 3))
    assert psnr["remakes"]["batch_size 1"]["p1"] == pytest.approx(dB(PIXELS / 3))
    assert psnr["remakes"]["again"]["identical"] == psnr["remakes"]["again"]["pairs"] == 6
    assert not psnr["identical"]
    assert floor["baseline"] == BASE
    assert [remake["name"] for remake in floor["remakes"]] == ["again", "batch_size 1", "threads 3", "attention math"]


def test_what_is_below_the_floor_is_none(made: tuple[Path, ResultTable]) -> None:
    verdicts = made[1].run[RUN]["cells"]["psnr"]
    assert verdicts == {"model-shift_pixel": WITHIN, "model-shift_all": BEYOND}
    rows = {row.cell: row for row in made[1].rows if row.metric == "psnr"}
    assert rows["model-shift_pixel"].value == pytest.approx(dB(1))
    assert rows["model-shift_all"].value == pytest.approx(dB(PIXELS))
    assert all(row.details[RUN] == pytest.approx(dB(PIXELS / 3)) for row in rows.values())


def test_no_remake_stands_in_the_table_or_its_files(made: tuple[Path, ResultTable]) -> None:
    folder, table = made
    assert table.cells == [BASE, "model-shift_pixel", "model-shift_all"]
    assert not any("+" in str(finding) for finding in table.lint)
    out = folder / "runs" / "run"
    assert [path.name for path in out.rglob("*") if "+" in path.name] == []
    assert "+again" not in (out / "samples.csv").read_text()
    assert sum("+" in path.name for path in (folder / "runs" / "samples").iterdir()) == 4


def test_it_is_next_to_every_cell_wherever_scores_are_shown(made: tuple[Path, ResultTable]) -> None:
    folder, table = made
    out = folder / "runs" / "run"
    lines = {line["cell"]: line for line in csv.DictReader((out / "table.csv").open())}
    assert {cell: line["psnr.against_floor"] for cell, line in lines.items()} == {
        **{BASE: "", "model-shift_pixel": WITHIN, "model-shift_all": BEYOND}
    }
    assert all(float(line["psnr.noise_floor"]) == pytest.approx(dB(PIXELS / 3)) for line in lines.values())
    markdown = (out / "table.md").read_text().splitlines()
    assert f"| floor {dB(PIXELS / 3):.2f} |" in markdown[2]
    assert "≈" in markdown[3]
    assert "≈" not in markdown[4]
    note = next(line for line in markdown if line.startswith("≈"))
    assert f"PSNR {dB(PIXELS / 3):.2f} (batch_size 1)" in note
    assert "(again, batch_size 1, threads 3, attention math; N = 6)" in note
    assert r"$\approx$" in (out / "table.tex").read_text()
    assert json.loads((out / "results.json").read_text())["run"][RUN] == table.run[RUN]
    assert ResultTable.load(out / "results.json").run[RUN] == table.run[RUN]


def test_a_rerun_makes_nothing_and_says_the_same(made: tuple[Path, ResultTable]) -> None:
    """The baseline has no score of pairs, though a remake of the very same images has one in the cache."""
    folder, table = made
    before = (folder / "log").read_text()
    again = pipeline.run(make_plan(config_of(folder)))
    assert (folder / "log").read_text() == before
    assert again.run[RUN] == table.run[RUN]
    assert [(row.cell, row.metric, row.value) for row in again.rows] == [
        (row.cell, row.metric, row.value) for row in table.rows
    ]
    assert next(row for row in again.rows if row.cell == BASE and row.metric == "psnr").value is None
    plain = pipeline.run(make_plan(config_of(folder, noise_floor=False)))
    assert RUN not in plain.run
    assert ".noise_floor" not in render.to_csv(plain)


def test_where_all_remakes_are_identical_only_identical_images_are_within(made: tuple[Path, ResultTable]) -> None:
    folder, _ = made
    twin = {"_target_": "fake_models.Uneven", "mode": "another", "log": str(folder / "log")}
    config = config_of(folder, noise_floor=["again"], name="twin")
    table = pipeline.run(make_plan(config_of(folder, noise_floor=["again"], model={**config.model, "twin": twin})))
    psnr = table.run[RUN]["metrics"]["psnr"]
    assert psnr["identical"]
    assert table.run[RUN]["cells"]["psnr"] == {
        **{"model-shift_pixel": BEYOND, "model-shift_all": BEYOND, "twin": IDENTICAL}
    }
    assert "floor identical" in render.to_markdown(table)


def test_a_cell_of_the_baselines_very_images_is_not_the_baseline(tmp_path: Path) -> None:
    """Also in a first run, whose lint measures sets of the same images once."""
    twins = {name: {"_target_": "fake_models.Uneven", "mode": name} for name in ("one", "two")}
    table = pipeline.run(make_plan(config_of(tmp_path, model=twins, baseline="one", noise_floor=False)))
    assert {row.cell: row.value for row in table.rows if row.metric == "psnr"} == {"one": None, "two": 100.0}


@pytest.mark.slow
def test_workers_of_this_machine_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes the plan again, with other numbers of threads around it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    engine = {"local": {"_target_": "evalkit.engines.Local", "workers": 2, "threads": 2}}
    shared = {"noise_floor": ["batch_size", "threads"], "model": {"model": {"_target_": "fake_models.Uneven"}}}
    plan = make_plan(config_of(tmp_path, **shared, baseline="model", engine=engine))
    assert plan.config.noise_floor == {"batch_size": 1, "threads": 2}
    floor = pipeline.run(plan).run[RUN]
    alone = pipeline.run(make_plan(config_of(tmp_path / "alone", **shared, baseline="model"))).run[RUN]
    assert floor["metrics"] == alone["metrics"]
    assert floor["metrics"]["psnr"]["floor"] == pytest.approx(dB(PIXELS / 3))


def test_other_scores_have_the_largest_distance_of_a_remakes(tmp_path: Path) -> None:
    table = pipeline.run(make_plan(config_of(tmp_path, metric=METRICS)))
    about = table.run[RUN]["metrics"]["brightness"]
    assert about["kind"] == "difference"
    assert about["worst"] == "batch_size 1"
    assert about["floor"] == pytest.approx(1 / 3)
    assert table.run[RUN]["cells"]["brightness"] == {"model-shift_pixel": WITHIN, "model-shift_all": BEYOND}
    verdicts = {c.cell: c.verdict for c in table.comparisons if c.metric == "brightness"}
    assert verdicts["model-shift_pixel"] == WITHIN  # the baseline differs from itself by more
    assert verdicts["model-shift_all"] != WITHIN


def test_a_metric_without_a_value_has_no_floor() -> None:
    model = {"model": {"_target_": "fake_models.Uneven"}}
    cell = make_grid(RunConfig(model=model, prompts={"digits": {"_target_": "grid_models.Prompts"}})).cells[0]
    scored = {(name, "psnr"): Scored(Score(None, 6), {}, "x", "PSNR") for name in (cell.name, "again")}
    floor = measure_floor(cell, [(replace(cell, name="again"), "again")], {"psnr": metric_of("psnr")}, scored)
    assert floor["metrics"] == {}
