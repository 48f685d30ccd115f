"""`noise_floor`: which cells are made of it, what their keys depend on, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.cell import Cell
from evalkit.config.schema import RunConfig
from evalkit.errors import ConfigError
from evalkit.plan.grid import Missing, make_grid
from evalkit.plan.remakes import change_text, make_remakes
from evalkit.results.seeds import pool_cells

MODEL = {"_target_": "fake_models.Uneven", "shift": {"sweep": ["nothing", "all"]}}
PROMPTS = {"digits": {"_target_": "grid_models.Prompts"}}
BASE = "model-shift_nothing"


def metric_of(name: str = "psnr") -> dict[str, Any]:
    from options import metric_of as built

    return {name: built(name)}


def remakes_of(asked: Any, baseline: str | None = BASE, metric: str = "psnr", **changes: Any) -> list[Cell]:
    fields = {"model": {"model": MODEL}, "prompts": PROMPTS, "noise_floor": asked, "device": "cpu", **changes}
    config = RunConfig(**fields)
    grid = make_grid(config)
    return [c for c, _ in make_remakes(config, grid.cells, baseline, grid.built, metric_of(metric), Missing())]


def test_true_is_every_change_that_costs_a_set_of_samples_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    cells = remakes_of(True)
    assert [dict(cell.remake) for cell in cells] == [
        {"again": True},
        {"batch_size": 1},
        {"threads": 1},
        {"attention": "math"},
    ]
    assert [cell.name for cell in cells] == [
        f"{BASE}+{name}" for name in ("again", "batch_size_1", "threads_1", "attention_math")
    ]
    assert [change_text(cell.remake) for cell in cells] == ["again", "batch_size 1", "threads 1", "attention math"]
    assert len({cell.key for cell in cells}) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert {"threads": 2} in [cell.remake for cell in remakes_of(True)]
    assert {"batch_size": 2} in [cell.remake for cell in remakes_of(True, batch_size=1)]
    assert not any("threads" in cell.remake for cell in remakes_of(True, device="auto"))  # it may be no CPU


def test_changes_by_name_by_value_and_of_the_models_own_options() -> None:
    assert [cell.remake for cell in remakes_of(["again", "batch_size"])] == [{"again": True}, {"batch_size": 1}]
    assert [cell.remake for cell in remakes_of({"batch_size": 3, "again": False})] == [{"batch_size": 3}]
    (cell,) = remakes_of({"mode": "fast"})
    assert (cell.remake, cell.name) == ({"option": {"mode": "fast"}}, f"{BASE}+mode_fast")
    assert cell.identity["model"]["mode"] == "fast"
    assert cell.options["model"] is not None
    assert cell.options["model"]["mode"] == "fast"


def test_of_several_seeds_the_first_is_made_again() -> None:
    config = RunConfig(model={"model": MODEL}, prompts=PROMPTS, seed={"sweep": [3, 4]}, noise_floor=["again"])
    grid = make_grid(config)
    shown = next(cell for cell, _ in pool_cells(grid.cells) if cell.settings["shift"] == "nothing")
    ((cell, _),) = make_remakes(config, grid.cells, shown.name, grid.built, metric_of(), Missing())
    assert cell.seed == 3
    assert cell.name == f"{BASE}-seed3+again"


def test_no_other_cells_identity_knows_of_it() -> None:
    fields: dict[str, Any] = {"model": {"model": MODEL}, "prompts": PROMPTS}
    plain = make_grid(RunConfig(**fields)).cells
    assert make_grid(RunConfig(**fields, noise_floor=True)).cells == plain
    assert all("remake" not in cell.identity and not cell.remake for cell in plain)


@pytest.mark.parametrize(
    ("asked", "changes", "message"),
    [
        (True, {"baseline": None}, "there is no baseline to make again: give baseline=CELL"),
        (True, {"metric": "lpips_diversity"}, "no metric compares with the baseline pair by pair"),
        (["agian"], {}, r"noise_floor.agian: model.model is not made again under such a change. Did you mean 'again'"),
        (["again", 3], {}, "give true, or changes such as"),
        ({"again": 2}, {}, "noise_floor.again=2: it takes no value"),
        ({"batch_size": 0}, {}, "noise_floor.batch_size=0: give a whole number >= 1"),
        ({"threads": "two"}, {}, "noise_floor.threads=two: give a whole number"),
        ({"attention": "flash"}, {}, "noise_floor.attention=flash: give math"),
        ({"device": "tpu"}, {}, "device=tpu: no such device"),
        ({"device": "cpu"}, {}, "noise_floor.device: this machine has no other device than cpu"),
        ({"mode": 3, "batch_size": 0}, {}, "noise_floor.batch_size"),
    ],
)
def test_what_is_wrong_is_one_line(asked: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        remakes_of(asked, **changes)
    assert "\n" not in str(caught.value)


def test_images_that_were_made_elsewhere_are_not_made_again(tmp_path: Any) -> None:
    from pictures import folder, pictures

    folder(tmp_path, pictures(2, side=8))
    model = {"folder": {"_target_": "evalkit.models.folder.FolderModel", "path": str(tmp_path)}}
    with pytest.raises(ConfigError, match="the images of folder were made elsewhere"):
        remakes_of(True, "folder", model=model, prompts={})


def test_a_service_is_asked_again_and_no_more() -> None:
    option = {"_target_": "evalkit.models.services.openai_images.OpenAIImages", "base_url": "http://localhost:1/v1"}
    cells = remakes_of(True, "service", model={"service": {**option, "model": "m"}})
    assert [cell.remake for cell in cells] == [{"again": True}]
