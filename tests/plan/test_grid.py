"""The grid: which cells are formed, what their keys depend on, and what is said of those left out."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grid_models import TextModel
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cell import Cell
from evalkit.config.compose import compose, resolve
from evalkit.config.schema import RunConfig
from evalkit.config.sweep import expand
from evalkit.errors import ConfigError
from evalkit.models.starting_noise import StartingNoise
from evalkit.plan.grid import Missing, _slug, make_grid

SAMPLER = {"_target_": "evalkit.models.base.Sampler", "scheduler": "DDIMScheduler", "num_inference_steps": 10}
OTHER = {**SAMPLER, "scheduler": "HeunDiscreteScheduler"}
TEXT = {"_target_": "grid_models.TextModel", "guidance_scale": 4.0}
PROMPTS = {"digits": {"_target_": "grid_models.Prompts"}}


def cells_of(**groups: Any) -> tuple[Cell, ...]:
    fields: dict[str, Any] = {"model": {"text": TEXT}, "sampler": {"ddim": SAMPLER}, "prompts": PROMPTS}
    return make_grid(RunConfig(**{**fields, **groups})).cells


def test_the_grid_is_the_product_of_its_axes() -> None:
    cells = cells_of(
        model={"a": {**TEXT, "guidance_scale": {"sweep": [1.0, 4.0]}}, "b": {**TEXT, "path": "other"}},
        sampler={"ddim": {**SAMPLER, "num_inference_steps": {"sweep": [5, 10, 20]}}, "heun": OTHER},
        seed={"sweep": [0, 1]},
    )
    assert len(cells) == (2 + 1) * (3 + 1) * 2
    assert len({c.key for c in cells}) == len({c.name for c in cells}) == len(cells)
    assert [c.model for c in cells] == sorted(c.model for c in cells)  # each model is loaded once
    assert json.loads(json.dumps(cells[0].spec())) == cells[0].spec()


def test_models_without_sampler_or_prompts_stand_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("evalkit").propagate = True
    with caplog.at_level(logging.INFO):
        cells = cells_of(model={"gan": {"_target_": "grid_models.Bare"}}, sampler={"ddim": SAMPLER, "heun": OTHER})
    assert [(c.sampler, c.prompts, c.num_samples) for c in cells] == [(None, None, 6)]
    assert "takes no sampler" in caplog.text


def test_a_class_conditional_model_takes_the_prompts_classes() -> None:
    assert [c.prompts for c in cells_of(model={"gan": {"_target_": "grid_models.ClassModel"}})] == ["digits"]


def test_a_model_names_the_samplers_that_fit() -> None:
    cells = cells_of(model={"text": {**TEXT, "samplers": ["heun"]}}, sampler={"ddim": SAMPLER, "heun": OTHER})
    assert [c.sampler for c in cells] == ["heun"]
    with pytest.raises(ConfigError, match="the grid is empty"):
        cells_of(model={"text": {**TEXT, "samplers": ["unipc"]}})


def test_without_a_sampler_the_models_own_is_taken() -> None:
    assert [c.sampler for c in cells_of(sampler={})] == ["default"]


def test_a_text_model_without_prompts_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose prompts"):
        cells_of(prompts={})


def test_call_settings_go_to_the_call_and_not_to_the_model() -> None:
    (cell,) = cells_of()
    assert cell.call_settings == {"guidance_scale": 4.0}
    assert "guidance_scale" not in (cell.options["model"] or {})
    assert cell.settings == {"guidance_scale": 4.0, "num_inference_steps": 10}


def test_a_models_own_steps_win_and_sampler_steps_then_make_no_new_cell() -> None:
    cells = cells_of(
        model={"turbo": {**TEXT, "num_inference_steps": 2}},
        sampler={"ddim": {**SAMPLER, "num_inference_steps": {"sweep": [5, 10]}}},
    )
    assert [c.settings["num_inference_steps"] for c in cells] == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"model": {"text": {**TEXT, "guidance_scale": 5.0}}},
        {"model": {"text": {**TEXT, "path": "other"}}},
        {"sampler": {"ddim": {**SAMPLER, "num_inference_steps": 11}}},
        {"sampler": {"ddim": {**SAMPLER, "options": {"eta": 1.0}}}},
        {"prompts": {"digits": {"_target_": "grid_models.Prompts", "count": 7}}},
    ],
)
def test_the_key_changes_with_everything_that_can_change_a_pixel(change: dict[str, Any]) -> None:
    assert cells_of()[0].key != cells_of(**change)[0].key


@pytest.mark.parametrize("change", [{"num_samples": 3}, {"batch_size": 7}, {"name": "x"}, {"device": "cuda"}])
def test_the_key_does_not_change_with_the_rest(change: dict[str, Any]) -> None:
    assert cells_of()[0].key == cells_of(**change)[0].key


def test_the_key_does_not_depend_on_names() -> None:
    assert cells_of(model={"renamed": TEXT}, sampler={"other": SAMPLER})[0].key == cells_of()[0].key


def test_exclude_matches_all_its_parts() -> None:
    sampler = {"ddim": {**SAMPLER, "num_inference_steps": {"sweep": [5, 10]}}, "heun": OTHER}
    kept = cells_of(sampler=sampler, exclude=[{"sampler": "ddim", "num_inference_steps": [5, 7]}])
    assert [(c.sampler, c.settings["num_inference_steps"]) for c in kept] == [("ddim", 10), ("heun", 10)]
    with pytest.raises(ConfigError, match="exclude"):
        cells_of(exclude=["ddim"])
    with pytest.raises(ConfigError, match=r"leaves out all of its 1 cells"):
        cells_of(exclude=[{"sampler": "ddim"}])


@pytest.mark.parametrize("sweep", [[], "abc", 3, None])
def test_a_bad_sweep_is_refused(sweep: Any) -> None:
    with pytest.raises(ConfigError, match=r"ddim\.num_inference_steps\.sweep"):
        cells_of(sampler={"ddim": {**SAMPLER, "num_inference_steps": {"sweep": sweep}}})


@pytest.mark.parametrize("seed", [-1, "x", 1.5, [], True])
def test_a_bad_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        cells_of(seed=seed)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.lists(st.integers(), min_size=1, max_size=3), max_size=3)
)
def test_expanding_gives_each_combination_once(axes: dict[str, list[int]]) -> None:
    option = {"_target_": "x.Y", "deep": {name: {"sweep": values} for name, values in axes.items()}}
    variants = expand("x", option)
    product = 1
    for values in axes.values():
        product *= len(values)
    assert len(variants) == product
    for variant in variants:
        assert all(variant.option["deep"][name] in values for name, values in axes.items())
        assert len(variant.swept) == len(axes)


def test_swept_values_in_a_cells_name() -> None:
    """A setting has the name that it has in the YAML; lists and mappings in short."""
    swept = {"dtype": "bfloat16", "quantize": "int8_dynamic", "lora_scale": [1, 0.5], "lora.scale": 0.25}
    assert [_slug(key, value) for key, value in swept.items()] == [
        "dtype_bfloat16",
        "quantize_int8_dynamic",
        "lora_scale_1+0.5",
        "scale_0.25",
    ]
    assert _slug("cache", {"name": "taylorseer", "cache_interval": 2}) == "cache_taylorseer"
    assert _slug("lora", {"path": "a/style.safetensors"}) == "lora_a_style.safetensors"


def test_each_distinct_option_is_built_once_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call setting, a sampler, a seed or a second name makes no second model; a constructor's argument does."""
    built: list[str] = []

    def init(self: TextModel, path: str = "weights") -> None:
        built.append(path)
        self.path, self.width = path, 8

    monkeypatch.setattr(TextModel, "__init__", init)
    swept = {**TEXT, "guidance_scale": {"sweep": [1.0, 4.0]}}
    grid = make_grid(
        RunConfig(
            model={"a": swept, "again": {**TEXT, "guidance_scale": 8.0}, "b": {**swept, "path": "other"}},
            sampler={"ddim": {**SAMPLER, "num_inference_steps": {"sweep": [5, 10]}}},
            prompts=PROMPTS,
            seed={"sweep": [0, 1]},
        )
    )
    assert built == ["weights", "other"]
    objects = [grid.built[cell.key] for cell in grid.cells]
    assert len(grid.cells) == (2 + 1 + 2) * 2 * 2
    assert [len({id(getattr(each, kind)) for each in objects}) for kind in ("model", "sampler", "prompts")] == [2, 2, 1]
    assert {each.sampler.num_inference_steps for each in objects if each.sampler} == {5, 10}


def test_a_dry_run_checks_without_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def check(self: TextModel, *, fetch: bool = True) -> None:
        asked.append(fetch)
        if not fetch:
            raise ConfigError("the weights are not here")

    monkeypatch.setattr(TextModel, "check", check)
    config = RunConfig(model={"text": TEXT}, sampler={"ddim": SAMPLER}, prompts=PROMPTS)
    missing = Missing(dry=True)
    assert len(make_grid(config, missing).cells) == len(make_grid(config).cells) == 1
    assert asked == [False, True]
    assert missing.lines == ["model.text: the weights are not here"]


def test_the_keys_of_the_embedded_cells_stay() -> None:
    """Another key, and every store made before loses its samples. The source of the DCGAN's class is part of its key,
    so that an edit of evalkit/digits/nets.py shows here."""
    cells = make_grid(resolve(compose([]))).cells
    assert [cell.key[:8] for cell in cells] == [
        *("35e8c05d", "88202475", "dac2ac06", "f2bf90a4", "be64c62b", "18d9f161", "5b81651b"),  # the LDM
        *("ff2c0c01", "1573a9eb"),  # the DDPM, the DCGAN
    ]


def test_latents_are_part_of_the_key_and_leave_other_keys_alone(tmp_path: Path) -> None:
    gan = {"_target_": "evalkit.models.gan.TorchModuleModel", "module": "evalkit.digits.nets.DCGANGenerator"}
    gan |= {"weights": "pkg://evalkit.digits/weights/dcgan.safetensors", "latent_dim": 64, "num_classes": 10}
    noise = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    np.save(tmp_path / "a.npy", noise)
    np.save(tmp_path / "b.npy", noise + 1)
    (plain,), (null,) = cells_of(model={"gan": gan}), cells_of(model={"gan": {**gan, "latents": None}})
    assert plain.key == null.key
    assert "latents" not in plain.identity
    paths = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    first, second = cells_of(model={"gan": {**gan, "latents": {"sweep": paths}}})
    assert len({plain.key, first.key, second.key}) == 3
    assert first.identity["latents"] == {"sha256": StartingNoise(paths[0], "").sha256, "shape": [64]}
    (again,) = cells_of(model={"gan": {**gan, "latents": paths[0]}})
    assert again.key == first.key
    with pytest.raises(ConfigError, match=r"model\.gan\.latents: .* is missing"):
        cells_of(model={"gan": {**gan, "latents": str(tmp_path / "c.npy")}})
    with pytest.raises(ConfigError, match=r"model\.text\.latents: .* takes no starting noise"):
        cells_of(model={"text": {**TEXT, "latents": paths[0]}})
