"""Text encoders that run once per prompt: the images of the plain pipeline, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_calls import SETTINGS, Loaded, Saved, make

from evalkit.errors import ConfigError
from evalkit.models.base import Request
from evalkit.models.diffusers import prompt_cache
from evalkit.models.diffusers.model import DiffusersModel

PROMPTS = ["a cat", "a dog", "a cat", "a bird"]
GUIDED = {"sd": {"guidance_scale": 5.0}, "sdxl": {"guidance_scale": 5.0, "negative_prompt": "bad"}}


def requests(*texts: str) -> list[Request]:
    return [Request(i, 0, prompt=text, negative_prompt=None) for i, text in enumerate(texts)]


def caching(saved: Saved, kind: str) -> tuple[DiffusersModel, list[Any]]:
    """A model that caches prompts, and the texts that its text encoder was given."""
    model = DiffusersModel(str(saved(kind)), cache_prompts=True)
    model.load("cpu")
    asked: list[Any] = []
    assert model._prompts is not None
    inner = model._prompts._encode

    def encode(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["prompt"])
        return inner(*args, **kwargs)

    model._prompts._encode = encode
    return model, asked


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "pixart", "lcm"])
def test_images_stay_and_a_prompt_is_encoded_once(saved: Saved, loaded: Loaded, kind: str) -> None:
    settings = SETTINGS.get(kind, GUIDED.get(kind, {}))
    model, asked = caching(saved, kind)
    plain = make(loaded(kind), requests(*PROMPTS), settings=settings)
    made = make(model, requests(*PROMPTS), settings=settings)
    assert asked == [["a cat"], ["a dog"], ["a bird"]]
    assert np.abs(made.images.astype(int) - plain.images).max() <= 1
    assert (made.nfe, made.warnings) == (plain.nfe, plain.warnings)
    make(model, requests("a bird", "a cat"), settings=settings)
    assert len(asked) == 3


def test_what_is_remembered_depends_on_the_negative_prompt_and_the_call(saved: Saved) -> None:
    model, asked = caching(saved, "sd")
    one = make(model, requests("a cat"), settings={"guidance_scale": 5.0}).images
    other = make(model, requests("a cat"), settings={"guidance_scale": 5.0, "negative_prompt": "a cat"}).images
    assert (one != other).any()
    make(model, requests("a cat"), settings={"guidance_scale": 1.0})
    assert asked == [["a cat"]] * 3
    assert (make(model, requests("a cat"), settings={"guidance_scale": 5.0}).images == one).all()
    assert len(asked) == 3


def test_memory_is_bounded(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = caching(saved, "sd")
    monkeypatch.setattr(prompt_cache, "BYTES", 1)
    for text in ("a", "b", "a"):
        make(model, requests(text), settings={"guidance_scale": 1.0})
    assert asked == [["a"], ["b"], ["a"]]
    assert model._prompts is not None
    assert len(model._prompts._known) == 1


def test_identity_and_refusal(saved: Saved) -> None:
    plain, cached = (DiffusersModel(str(saved("sd")), cache_prompts=on) for on in (False, True))
    assert cached.identity() == {**plain.identity(), "cache_prompts": True}
    assert "cache_prompts" not in plain.identity()
    with pytest.raises(ConfigError, match=r"DDPMPipeline of model '.*' has no encode_prompt: set cache_prompts: false"):
        DiffusersModel(str(saved("ddpm")), cache_prompts=True).check_call(None, {})
