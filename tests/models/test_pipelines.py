"""Which pipelines of diffusers stand in the grid: each made tiny from its own classes and run, the others refused.

The table of docs/adapters.md is made of the same data. `pytest tests/models/test_pipelines.py -m "slow or not slow"`
runs them all.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_table as table
import pytest
import zoo
from model_calls import Saved, make, sampler_config
from zoo import Tiny

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel

ZOO: dict[str, Any] = table.zoo()
STEPS = Sampler(num_inference_steps=2)
SAMPLERS = ("ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_sde", "euler", "euler_a", "heun", "pndm", "unipc")


def far(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two images u8, in levels."""
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if ZOO[n].slow else []) for n in sorted(ZOO)]
)
def test_a_pipeline_stands_in_the_grid(name: str, tmp_path: Path) -> None:
    entry: Tiny = ZOO[name]
    assert type(entry.make()).__name__ == name
    model = DiffusersModel(str(zoo.save(name, tmp_path)))
    model.check()
    model.check_call(STEPS, entry.settings)
    model.load("cpu")
    requests = [Request(i, 0, prompt=f"a cat {'ab'[i]}" if model.conditioning == "text" else None) for i in range(2)]

    def one(request: Request, sampler: Sampler = STEPS) -> np.ndarray:
        return make(model, [request], sampler, entry.settings).images[0]

    both = make(model, requests, STEPS, entry.settings)
    assert both.images.std() > 5, "a plain image proves nothing"
    assert both.warnings == [[], []]
    alone = [one(request) for request in requests]
    assert max(map(far, both.images, alone)) <= 1, "an image depends on its batch"
    first = requests[0]
    assert far(one(Request(0, 1, prompt=first.prompt, class_id=0)), alone[0]) > 5, "the seed changes nothing"
    if model.conditioning != "none":
        other = Request(0, 0, prompt="dogs" if first.prompt else None, class_id=None if first.prompt else 3)
        assert far(one(other), alone[0]) >= 1, "the prompt or class changes nothing"
    if entry.guidance is not None:
        assert entry.guidance.removeprefix("extra.") in inspect.signature(type(model._pipe).__call__).parameters
    check_swap(model, entry, first, alone[0])
    check_latents(model, entry, first, alone[0])


def check_swap(model: DiffusersModel, entry: Tiny, request: Request, image: np.ndarray) -> None:
    if entry.swap is not None:
        swapped = make(model, [request], sampler_config(entry.swap, num_inference_steps=2), entry.settings).images[0]
        assert far(swapped, image) >= 1
        assert swapped.std() > 5
        return
    for sampler in SAMPLERS:
        with pytest.raises(ConfigError, match=r"does not fit|works with LCMScheduler alone") as caught:
            model.check_call(sampler_config(sampler), entry.settings)
        assert "\n" not in str(caught.value)


def check_latents(model: DiffusersModel, entry: Tiny, request: Request, image: np.ndarray) -> None:
    how: dict[str, Any] = {"space": "noise", "sampler": STEPS, "settings": entry.settings}
    if not entry.latents:
        with pytest.raises(ConfigError, match=r"prepare_latents|begins with noise"):
            model.render(model.latents([request], **how), [request], **how)
        return
    latents = model.latents([request], **how)
    rendered = model.render(latents, [request], **how)[0].permute(1, 2, 0).numpy()
    assert far(rendered, image) <= 1
    assert far(model.render(-latents, [request], **how)[0].permute(1, 2, 0).numpy(), image) > 5
    if not entry.given:
        with pytest.raises(ConfigError, match=f"{entry.name} takes no starting noise"):
            model.check_takes_latents(type(model._pipe), looped=False)
        return
    drawn = model.draw_latents([request], sampler=STEPS, settings=entry.settings)[0]
    given = replace(request, latent=drawn)
    model.check_given([given], STEPS, entry.settings)
    assert far(make(model, [given], STEPS, entry.settings).images[0], image) <= 1


# ------------------------------------------------------------------------------------------------------ the table


def test_every_pipeline_of_diffusers_is_in_the_table() -> None:
    """A new version's new pipelines are named here: make them tiny (zoo_*.py), or list them in pipeline_table.py."""
    import diffusers

    listed = [name for names in table.groups().values() for name in names]
    assert sorted({name for name in listed if listed.count(name) > 1}) == []
    shipped = {n for n in dir(diffusers) if n.endswith("Pipeline") and not n.endswith("ModularPipeline")}
    assert sorted(shipped - set(listed)) == []
    assert sorted(set(listed) - shipped) == []


def test_the_docs_hold_the_table() -> None:
    text = table.DOCS.read_text()
    shown = text[text.index(table.BEGIN) + len(table.BEGIN) : text.index(table.END)].strip()
    assert shown == table.rendered(), "python tests/helpers/pipeline_table.py writes it anew"


REFUSALS = {
    "WanPipeline": "makes video, no images: frames that were saved are scored by",
    "LattePipeline": "makes video",
    "StableAudioPipeline": "makes audio, no images",
    "ShapEPipeline": "makes 3D shapes",
    "KandinskyV22PriorPipeline": "makes embeddings, no images: the whole is pipeline=KandinskyV22CombinedPipeline",
    "StableCascadeDecoderPipeline": "needs image_embeddings, .* use pipeline=StableCascadeCombinedPipeline",
    "ZImageModularPipeline": "has no call of its own",
    "OnnxStableDiffusionPipeline": "has ONNX networks",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_others_are_refused_before_anything_is_loaded(saved: Saved, name: str) -> None:
    model = DiffusersModel(str(saved("ddpm")), pipeline=name)
    with pytest.raises(ConfigError, match=f"{name} {REFUSALS[name]}") as caught:
        model.check_call(STEPS, {})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_refusal_is_one_by_the_class() -> None:
    """Imports all of diffusers' pipelines: 20 seconds."""
    import diffusers

    from evalkit.models.diffusers.condition_images import image_inputs
    from evalkit.models.diffusers.kinds import missing_arguments, why_not

    for group, names in table.groups().items():
        for name in names:
            cls = getattr(diffusers, name)
            reason = why_not(cls) or missing_arguments(cls, {})
            if group.startswith("refused"):
                assert reason is not None, name
            elif group in ("runs", "broken"):
                assert reason is None, name
            elif group == "of images":
                assert reason is not None or image_inputs(cls), name


# ------------------------------------------------------------------------------------------- what was in the way


def test_flux2_needs_as_many_layers_as_it_reads(tmp_path: Path) -> None:
    """A text encoder of fewer than 31 layers was an IndexError in the middle of a call."""
    model = DiffusersModel(str(zoo.save("Flux2KleinPipeline", tmp_path)))
    with pytest.raises(ConfigError, match=r"reads the layers \[9, 18, 27\] .* has 2: give extra\.text_encoder_out"):
        model.check_call(STEPS, {})
    model.check_call(STEPS, {"extra": {"text_encoder_out_layers": [0, 1, 2]}})


def test_a_pipeline_that_does_not_scale_its_input_takes_no_sampler_that_wants_it(tmp_path: Path) -> None:
    model = DiffusersModel(str(zoo.save("LDMTextToImagePipeline", tmp_path)))
    for sampler in ("euler", "euler_a", "heun"):
        with pytest.raises(ConfigError, match="wants its input scaled, which LDMTextToImagePipeline"):
            model.check_call(sampler_config(sampler), {})
    for sampler in ("ddim", "ddpm", "dpmpp_2m", "pndm", "unipc"):
        model.check_call(sampler_config(sampler), {})


def test_steps_of_the_callers_are_refused_where_the_solver_makes_its_own(saved: Saved) -> None:
    model = DiffusersModel(str(saved("sd3")))
    model.check_call(None, {"extra": {"sigmas": [1.0, 0.5]}})
    with pytest.raises(ConfigError, match=r"makes its own sigmas: leave extra\.sigmas out"):
        model.check_call(sampler_config("unipc"), {"extra": {"sigmas": [1.0, 0.5]}})
