"""Textual inversion and IP-Adapter: what files teach a pipeline, on tiny pipelines of diffusers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import Saved, make

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Request
from evalkit.models.diffusers.model import DiffusersModel
from evalkit.prompts.sets import Prompt


def sd(saved: Saved, kind: str = "sd", **options: Any) -> DiffusersModel:
    model = DiffusersModel(str(saved(kind)), **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def images(model: DiffusersModel, *prompts: str, **paths: Any) -> np.ndarray:
    requests = [Request(i, 0, prompt=prompt, **paths) for i, prompt in enumerate(prompts)]
    return make(model, requests).images


def refused(
    saved: Saved, message: str, kind: str = "sd", error: type[EvalkitError] = ConfigError, **options: Any
) -> None:
    with pytest.raises(error, match=message) as caught:  # noqa: PT012
        model = DiffusersModel(str(saved(kind)), **options)
        model.check()
        model.check_call(None, {})
    assert "\n" not in str(caught.value)


@pytest.fixture
def word(tmp_path: Path) -> Path:
    """As diffusers' trainer writes it: the embedding by its word."""
    return save_word(tmp_path / "learned.safetensors", "<cat-toy>")


def save_word(file: Path, *keys: str, width: int = 16, vectors: int = 1) -> Path:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({key: torch.randn(vectors, width) * 3 for key in keys}, file)
    return file


# ------------------------------------------------------------------------------------------------ textual inversion


def test_a_learned_word_changes_the_prompts_that_hold_it_alone(saved: Saved, word: Path) -> None:
    model = sd(saved, textual_inversion=str(word))
    bare = sd(saved)
    prompts = "a <cat-toy> on a table", "a dog"
    made, without = images(model, *prompts), images(bare, *prompts)
    assert (made[0] != without[0]).any()
    assert (made[1] == without[1]).all()


def test_words_are_named_by_the_option_the_file_or_its_name(saved: Saved, word: Path, tmp_path: Path) -> None:
    older = save_word(tmp_path / "toy.safetensors", "emb_params")
    by_option = images(sd(saved, textual_inversion={"<x>": str(word)}), "a <x>")
    assert (images(sd(saved, textual_inversion=[str(word)]), "a <cat-toy>") == by_option).all()
    assert (images(sd(saved, textual_inversion=str(older)), "a toy") == by_option).all()


def test_a_word_of_several_vectors_and_one_for_two_encoders(saved: Saved, tmp_path: Path) -> None:
    several = save_word(tmp_path / "several.safetensors", "<x>", vectors=3)
    assert (images(sd(saved, textual_inversion=str(several)), "a <x>") != images(sd(saved), "a <x>")).any()
    both = save_word(tmp_path / "both.safetensors", "clip_l", "clip_g")
    model = sd(saved, "sdxl", textual_inversion={"<x>": str(both)})
    assert "<x>" in model._pipe.tokenizer.get_vocab()
    assert "<x>" in model._pipe.tokenizer_2.get_vocab()
    assert (images(model, "a <x>") != images(sd(saved, "sdxl"), "a <x>")).any()


def test_identity_of_words(saved: Saved, word: Path, tmp_path: Path) -> None:
    def identity(given: Any) -> Any:
        return DiffusersModel(str(saved("sd")), textual_inversion=given).identity()

    assert "textual_inversion" not in identity(None)
    one = identity(str(word))
    assert json.loads(json.dumps(one)) == one
    assert identity({"<cat-toy>": str(word)}) == one
    assert identity({"<dog-toy>": str(word)}) != one
    assert identity(str(save_word(tmp_path / "other.safetensors", "<cat-toy>", vectors=2))) != one


def test_a_word_that_no_prompt_holds_is_told(saved: Saved, word: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = DiffusersModel(str(saved("sd")), textual_inversion=str(word))
    model.check_prompts([Prompt("a <cat-toy>")], {})
    assert not caplog.records
    model.check_prompts([Prompt("a dog")], {})
    assert "no prompt holds '<cat-toy>', which then changes nothing" in caplog.text


def test_words_that_do_not_fit_are_one_line(saved: Saved, word: Path, tmp_path: Path) -> None:
    wide = save_word(tmp_path / "wide.safetensors", "<x>", width=24)
    refused(saved, "is of width 24, the text_encoder of .* of 16", error=DataError, textual_inversion=str(wide))
    refused(saved, "there is no file nowhere.safetensors", textual_inversion="nowhere.safetensors")
    refused(saved, "pickled weights are never loaded", textual_inversion=str(tmp_path / "learned_embeds.bin"))
    several = save_word(tmp_path / "several.safetensors", "a", "b")
    refused(saved, "holds 2 tensors, not one embedding", error=DataError, textual_inversion=str(several))
    refused(saved, "PixArtSigmaPipeline of model .* takes none", "pixart", textual_inversion=str(word))


# ------------------------------------------------------------------------------------------------------ IP-Adapter


@pytest.fixture(scope="module")
def adapter(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The option, with its image: one in colours."""
    from PIL import Image
    from tiny_adapters import save_ip_adapter

    folder = tmp_path_factory.mktemp("ip")
    file, encoder = save_ip_adapter(saved("sd"), folder)
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return {"path": str(file), "image_encoder": str(encoder), "image": str(folder / "0.png")}


def test_an_image_prompt_changes_images_by_its_scale(saved: Saved, adapter: dict[str, Any]) -> None:
    bare = images(sd(saved), "a cat", "a dog").astype(int)
    full, half, none = (
        images(sd(saved, ip_adapter={**adapter, "scale": scale}), "a cat", "a dog") for scale in (1, 0.5, 0)
    )
    assert (none == bare).all(), "at 0 it is the model without the adapter"
    assert 0 < np.abs(half - bare).mean() < np.abs(full - bare).mean()
    other = {**adapter, "image": adapter["image"].replace("0.png", "1.png")}
    assert (images(sd(saved, ip_adapter=other), "a cat", "a dog") != full).any()


def test_each_prompt_may_show_its_own_image(saved: Saved, adapter: dict[str, Any]) -> None:
    model = sd(saved, ip_adapter={**adapter, "image": "source"})
    paths = [adapter["image"], adapter["image"].replace("0.png", "1.png")]
    requests = [Request(i, 0, prompt="a cat", source=path) for i, path in enumerate(paths)]
    made = make(model, requests).images
    for request, path, image in zip(requests, paths, made, strict=True):
        fixed = sd(saved, ip_adapter={**adapter, "image": path})
        assert np.abs(make(fixed, [request]).images[0].astype(int) - image).max() <= 2
    model.check_prompts([Prompt("a cat", source=paths[0])], {})
    with pytest.raises(
        DataError, match="ip_adapter wants a source image of each prompt, and that of sample 1 names none"
    ):
        model.check_prompts([Prompt("a cat", source=paths[0]), Prompt("a dog")], {})


def test_identity_of_an_image_prompt(saved: Saved, adapter: dict[str, Any]) -> None:
    def identity(**changes: Any) -> Any:
        return DiffusersModel(str(saved("sd")), ip_adapter={**adapter, **changes}).identity()

    one = identity()
    assert json.loads(json.dumps(one)) == one
    others = [{"scale": 0.5}, {"image": "source"}, {"image": adapter["image"].replace("0.png", "1.png")}]
    assert all(identity(**change) != one for change in others)
    assert "ip_adapter" not in DiffusersModel(str(saved("sd"))).identity()


def test_image_prompts_that_do_not_fit_are_one_line(saved: Saved, adapter: dict[str, Any], word: Path) -> None:
    def wrong(message: str, kind: str = "sd", error: type[EvalkitError] = ConfigError, **changes: Any) -> None:
        refused(saved, message, kind, error, ip_adapter={**adapter, **changes})

    wrong("ip_adapter.image: give an image's file, or source or control", image=None)
    wrong("ip_adapter.scale='much': give a number", scale="much")
    wrong("Did you mean 'image_encoder'", image_encodr="x")
    wrong("model '.*' has none: give a folder", image_encoder=None)
    wrong("config.json is missing: give the folder of its image encoder", image_encoder="nowhere")
    wrong("CLIPTextModel, no CLIPVisionModelWithProjection", image_encoder=str(saved("sd") / "text_encoder"))
    wrong("holds no IP-Adapter", error=DataError, path=str(word))
    wrong("DDPMPipeline of model .* takes none", "ddpm", image_encoder=adapter["image_encoder"])
