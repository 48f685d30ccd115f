"""LoRAs as other trainers than diffusers' write them: their keys are counted, what does not fit is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import SETTINGS, Saved, ask, make

from evalkit.errors import DataError
from evalkit.models.diffusers.model import DiffusersModel

UNKNOWN = ("down_blocks_1", "down_blocks_7"), ("mid_block", "mid_blok")  # half of the layers


@pytest.fixture(scope="module")
def lora(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A LoRA of diffusers' format for the tiny `sd`: of its UNet, or of its text encoder."""
    from tiny_adapters import save_lora

    folder = tmp_path_factory.mktemp("lora")

    def get(text: bool = False) -> Path:
        file = folder / str(text) / "pytorch_lora_weights.safetensors"
        return file if file.is_file() else save_lora(saved("sd"), file.parent, text=text)

    return get


def loaded_model(saved: Saved, kind: str = "sd", **options: Any) -> DiffusersModel:
    model = DiffusersModel(str(saved(kind)), **options)
    model.check()
    model.load("cpu")
    return model


def pixels(model: DiffusersModel, kind: str = "sd", **settings: Any) -> np.ndarray:
    return make(model, ask(model), settings=SETTINGS.get(kind, {}) | settings).images


def test_kohyas_files_make_the_same_images(saved: Saved, lora: Callable[..., Path], tmp_path: Path) -> None:
    """alpha / rank is a factor: 1 of rank 2 is a scale of a half."""
    from tiny_adapters import as_kohya

    unet = as_kohya(lora(), tmp_path / "unet.safetensors", 1.0)
    halved = pixels(loaded_model(saved, lora={"path": str(lora()), "scale": 0.5}))
    assert (pixels(loaded_model(saved, lora=str(unet))) == halved).all()
    text = as_kohya(lora(text=True), tmp_path / "text.safetensors")
    same = pixels(loaded_model(saved, lora=str(lora(text=True))))
    assert (pixels(loaded_model(saved, lora=str(text))) == same).all()
    assert (same != pixels(loaded_model(saved))).any()


@pytest.mark.parametrize("layout", ["ai-toolkit", "xlabs", "kohya"])
def test_flux_adapters_of_three_trainers_make_the_same_images(
    saved: Saved, tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_adapters import save_flux_lora

    caplog.set_level(logging.INFO, "evalkit")
    file = save_flux_lora(tmp_path / "flux.safetensors", layout)
    model = loaded_model(saved, "flux", lora=str(file))
    assert [r.getMessage() for r in caplog.records] == [
        f"lora: {file}: 8 of its 8 keys have a layer in model '{saved('flux')}'"
    ]
    made = pixels(model, "flux")
    wanted = save_flux_lora(tmp_path / "wanted.safetensors", "ai-toolkit")
    assert (made == pixels(loaded_model(saved, "flux", lora=str(wanted)), "flux")).all()
    assert (made != pixels(model, "flux", lora_scale=0)).any()


def test_half_of_the_keys_is_a_warning_before_the_first_sample_and_with_each(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_adapters import as_kohya

    caplog.set_level(logging.INFO, "evalkit")
    half = as_kohya(lora(), tmp_path / "half.safetensors", None, *UNKNOWN)
    model = DiffusersModel(str(saved("sd")), lora=str(half))
    model.check()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"lora: {half}: 32 of its 64 keys have a layer in model '{saved('sd')}'; 32 have none and change nothing, such "
        "as lora_unet_down_blocks_7_attentions_0_transformer_blocks_0_attn1_to_k: was it made for another model?"
    )
    model.load("cpu")
    assert len(caplog.records) == 1, "the same is not said twice"
    assert make(model).warnings == [["lora_unmatched"]] * 2
    assert make(model, settings={"lora_scale": 0}).warnings == [[]] * 2


def test_a_few_unknown_keys_are_counted(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_adapters import as_kohya

    caplog.set_level(logging.INFO, "evalkit")
    few = as_kohya(lora(), tmp_path / "few.safetensors", None, UNKNOWN[1])
    model = loaded_model(saved, lora=str(few))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "48 of its 64 keys have a layer" in record.getMessage()
    assert make(model).warnings == [[]] * 2


@pytest.mark.parametrize("change", [("blocks", "blorks"), ("lora_unet", "lora_prior"), ("lora_unet", "lora_te2")])
def test_no_key_is_an_error_before_the_first_sample(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path, change: tuple[str, str]
) -> None:
    from tiny_adapters import as_kohya

    none = as_kohya(lora(), tmp_path / "none.safetensors", None, change, UNKNOWN[1])
    with pytest.raises(
        DataError, match=r"none of its 64 keys has a layer there, such as lora_\w+; it was made"
    ) as error:
        DiffusersModel(str(saved("sd")), lora=str(none)).check()
    assert "\n" not in str(error.value)


def test_a_lora_of_another_family_is_refused_when_loaded_at_the_latest(saved: Saved, tmp_path: Path) -> None:
    from tiny_adapters import save_flux_lora

    for layout in ("ai-toolkit", "xlabs", "kohya"):
        file = save_flux_lora(tmp_path / f"{layout}.safetensors", layout)
        model = DiffusersModel(str(saved("sd")), lora=str(file))
        with pytest.raises(DataError, match="does not fit model") as error:  # noqa: PT012
            model.check()
            model.load("cpu")
        assert "\n" not in str(error.value)


def test_an_untrained_lora_changes_nothing_and_says_so(
    saved: Saved, lora: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a trainer's first step: the last matrices are still zero."""
    from safetensors.torch import load_file, save_file

    state = {key: value * (0 if "lora_B" in key else 1) for key, value in load_file(lora()).items()}
    save_file(state, tmp_path / "zero.safetensors")
    model = loaded_model(saved, lora=str(tmp_path / "zero.safetensors"))
    assert "changes no pixel" in caplog.text
    made = make(model)
    assert made.warnings == [["lora_zero"]] * 2
    assert (made.images == pixels(loaded_model(saved))).all()
