"""DiffusersModel on tiny pipelines of every class that the model configs name: images, samplers, settings, prompts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_calls import ROOT, SETTINGS, SMALL, Loaded, Saved, ask, make, sampler_config

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel

# ---------------------------------------------------------------------------------------------- all pipeline classes


@pytest.mark.parametrize(
    ("kind", "conditioning", "evaluations"),
    [
        ("sd", "text", 8.0),  # its own scheduler, PLMS, takes one more step; guidance doubles
        ("sdxl", "text", 6.0),
        ("sdxl_turbo", "text", 3.0),
        ("sd3", "text", 6.0),
        ("flux", "text", 3.0),
        ("pixart", "text", 6.0),
        ("dit", "class", 6.0),
        ("lcm", "text", 3.0),
        ("ddpm", "none", 3.0),
        ("ddim", "none", 3.0),
        ("ddpm_classes", "class", 3.0),
    ],
)
def test_every_pipeline_class(loaded: Loaded, kind: str, conditioning: str, evaluations: float) -> None:
    model, settings = loaded(kind), SETTINGS.get(kind, {})
    model.check()
    assert model.conditioning == conditioning
    whole = make(model, ask(model, 4), settings=settings)
    assert whole.nfe == evaluations
    assert whole.images.dtype == np.uint8
    assert whole.images.shape[0] == 4
    assert whole.images.shape[3] == 3
    assert whole.warnings == [[], [], [], []]
    assert len({image.tobytes() for image in whole.images}) == 4
    again = make(model, ask(model, 4), settings=settings)
    assert (again.images == whole.images).all()
    other = make(model, ask(model, 4, seed=1), settings=settings)
    assert (other.images != whole.images).any()
    parts = [make(model, ask(model, n, start), settings=settings).images for start, n in ((0, 1), (1, 3))]
    assert np.abs(np.concatenate(parts).astype(int) - whole.images).max() <= 2


# -------------------------------------------------------------------------------------------------------- samplers


# Network evaluations of 6 steps without guidance.
SAMPLERS = {
    "default": None,
    "ddpm": 6,
    "ddim": 6,
    "pndm": 7,
    "dpmpp_2m": 6,
    "dpmpp_2m_karras": 6,
    "dpmpp_sde": 6,
    "euler": 6,
    "euler_a": 6,
    "heun": 11,
    "unipc": 6,
    "lcm": 6,
}


def test_every_sampler_config_is_tested() -> None:
    assert {f.stem for f in (ROOT / "configs" / "sampler").glob("*.yaml")} == set(SAMPLERS)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("kind", ["sd", "ddpm", "dit"])
def test_every_sampler(loaded: Loaded, kind: str, name: str) -> None:
    import torch

    model, sampler = loaded(kind), sampler_config(name, num_inference_steps=6)
    model.check_call(sampler, {})
    before = torch.get_rng_state()
    settings = {} if kind == "ddpm" else {"guidance_scale": 1.0}
    whole = make(model, ask(model, 4), sampler, settings)
    assert (torch.get_rng_state() == before).all(), "noise came from the global generator"
    if SAMPLERS[name] is not None:
        assert whole.nfe == SAMPLERS[name]
    parts = [make(model, ask(model, n, start), sampler, settings).images for start, n in ((0, 1), (1, 3))]
    assert np.abs(np.concatenate(parts).astype(int) - whole.images).max() <= 2
    assert len({image.tobytes() for image in whole.images}) == 4


def test_guidance_doubles_evaluations(loaded: Loaded) -> None:
    model = loaded("sd")
    heun = sampler_config("heun", num_inference_steps=5)
    assert make(model, sampler=heun, settings={"guidance_scale": 4.0}).nfe == 18
    assert make(model, sampler=heun, settings={"guidance_scale": 1.0}).nfe == 9
    ddim = sampler_config("ddim", num_inference_steps=5)
    assert make(model, sampler=ddim, settings={"guidance_scale": 4.0}).nfe == 10


def test_model_steps_win_over_the_samplers(loaded: Loaded) -> None:
    ddim = sampler_config("ddim", num_inference_steps=5)
    assert make(loaded("ddpm"), sampler=ddim, settings={"num_inference_steps": 2}).nfe == 2
    assert make(loaded("ddpm"), sampler=ddim, settings={"num_inference_steps": None}).nfe == 5


def test_each_call_starts_from_the_models_own_scheduler(loaded: Loaded) -> None:
    model = loaded("sd")
    karras = sampler_config("dpmpp_2m_karras", num_inference_steps=4)
    plain = sampler_config("dpmpp_2m", num_inference_steps=4)
    first = make(model, sampler=plain)
    make(model, sampler=karras)
    assert (make(model, sampler=plain).images == first.images).all()
    assert type(model._own_scheduler).__name__ == "PNDMScheduler"


@pytest.mark.parametrize(("kind", "scheduler"), [("ddpm", "DDPMScheduler"), ("ddim", "DDIMScheduler")])
def test_own_loop_equals_diffusers_pipelines(saved: Saved, kind: str, scheduler: str) -> None:
    import torch
    from diffusers import DiffusionPipeline

    model = DiffusersModel(str(saved(kind)))
    model.load("cpu")
    ours = make(model, ask(model, 3), Sampler(scheduler, {}, 7)).images
    pipe = DiffusionPipeline.from_pretrained(saved(kind))
    pipe.set_progress_bar_config(disable=True)
    generators = [r.generator() for r in ask(model, 3)]
    with torch.no_grad():
        theirs = pipe(batch_size=3, generator=generators, num_inference_steps=7, output_type="pil").images
    assert (np.stack([np.asarray(image) for image in theirs]) == ours).all()


def test_own_loop_is_right_for_schedulers_that_scale(saved: Saved) -> None:
    """With an exact denoiser of one known image, every deterministic sampler ends at that image."""
    import torch

    from evalkit.models.diffusers.sampling import denoise
    from evalkit.models.diffusers.schedulers import build_scheduler

    target = torch.linspace(-0.8, 0.8, 3 * 64).reshape(1, 3, 8, 8)

    class Exact(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")

        class config:
            sample_size, in_channels = 8, 3

        def forward(self, x: Any, t: Any, class_labels: Any = None) -> Any:
            alpha = alphas[t.long()] if torch.is_tensor(t) else alphas[int(t)]
            noise = (x - alpha.sqrt() * target) / (1 - alpha).sqrt()
            return type("Output", (), {"sample": noise})

    from diffusers import DDPMScheduler

    own = DDPMScheduler(clip_sample=False)
    alphas = own.alphas_cumprod
    for name in ("ddim", "dpmpp_2m", "euler", "euler_a", "heun", "unipc", "ddpm", "dpmpp_sde", "pndm"):
        scheduler = build_scheduler(sampler_config(name), type(own), own.config, "a test")
        generators = [Request(i, 0).generator() for i in range(2)]
        pixels = denoise(Exact(), scheduler, steps=50, generators=generators, classes=None, eta=None)
        assert (pixels - (target / 2 + 0.5)).abs().max() < 0.02, name


def test_the_noise_schedule_a_model_was_trained_on_is_kept() -> None:
    """from_config alone gives Heun its own default betas where the model's config file does not spell them out."""
    import torch
    from diffusers import DDPMScheduler, HeunDiscreteScheduler

    from evalkit.models.diffusers.schedulers import build_scheduler

    own = DDPMScheduler()
    assert not torch.equal(HeunDiscreteScheduler.from_config(own.config).betas, own.betas)
    for name in SAMPLERS:
        scheduler = build_scheduler(sampler_config(name), type(own), own.config, "a test")
        assert torch.equal(scheduler.betas, own.betas), name
    changed = build_scheduler(Sampler("DDIMScheduler", {"beta_end": 0.01}), type(own), own.config, "a test")
    assert changed.config.beta_end == 0.01


def test_eta_makes_ddim_stochastic_and_is_refused_elsewhere(loaded: Loaded) -> None:
    for kind in ("ddpm", "sd"):
        model, ddim = loaded(kind), sampler_config("ddim", num_inference_steps=4)
        plain = make(model, sampler=ddim)
        assert (make(model, sampler=ddim, settings={"eta": 0.0}).images == plain.images).all()
        assert (make(model, sampler=ddim, settings={"eta": 1.0}).images != plain.images).any()
        with pytest.raises(ConfigError, match="eta is DDIM's; EulerDiscreteScheduler takes none"):
            make(model, sampler=sampler_config("euler"), settings={"eta": 0.5})


def test_class_labels(loaded: Loaded) -> None:
    model = loaded("ddpm_classes")
    by_index = make(model, [Request(13, 0)]).images
    assert (make(model, [Request(13, 0, class_id=3)]).images == by_index).all()
    assert (make(model, [Request(13, 0, class_id=4)]).images != by_index).any()
    assert model.settled(Request(13, 0)).class_id == 3  # of a walk, which moves the noise alone
    assert model.settled(Request(13, 0, class_id=4)).class_id == 4
    with pytest.raises(DataError, match=r"sample 0 asks for class 10; .* has 10"):
        make(model, [Request(0, 0, class_id=10)])
    dit = loaded("dit")
    assert (make(dit, [Request(0, 0, class_id=1)]).images != make(dit, [Request(0, 0, class_id=2)]).images).any()


# ----------------------------------------------------------------------------------------- refusals, one line each


@pytest.mark.parametrize(
    ("kind", "sampler", "settings", "message"),
    [
        ("sd", Sampler("DDIMSchedular"), {}, "no scheduler 'DDIMSchedular'. Did you mean 'DDIMScheduler'"),
        ("sd", Sampler("DDIMScheduler", {"set_alpha_to_won": 1}), {}, "Did you mean 'set_alpha_to_one'"),
        ("sd", Sampler("DPMSolverSDEScheduler"), {}, "use sampler=dpmpp_sde"),
        ("sd", Sampler("FlowMatchEulerDiscreteScheduler"), {}, "does not fit .* betas .* flow matching"),
        ("sd3", Sampler("DDIMScheduler"), {}, "does not fit .* flow matching, the sampler for a schedule of betas"),
        ("flux", Sampler("EulerDiscreteScheduler"), {}, "does not fit .*use sampler=default"),
        ("lcm", Sampler("DDIMScheduler"), {}, "works with LCMScheduler alone"),
        ("sd", None, {"guidance_scal": 3.0}, "takes no setting 'guidance_scal'. Did you mean 'guidance_scale'"),
        ("sd", None, {"max_sequence_length": 3}, "takes no setting 'max_sequence_length'"),
        ("sd", None, {"extra": {"true_cfg_scale": 3}}, "takes no setting 'true_cfg_scale'"),
        ("sd", None, {"extra": {"generator": 1}}, "takes no setting 'generator'"),
        ("ddpm", None, {"guidance_scale": 3.0}, "DDPMPipeline takes no setting 'guidance_scale'. Choices: eta, num"),
        ("ddpm", Sampler(num_inference_steps=0), {}, "give a whole number >= 1"),
        ("ddpm", Sampler("DDIMScheduler", {}, 2000), {}, "DDIMScheduler: .*num_inference_steps"),
        ("sd", None, {"height": 17, "width": 16}, "have to be divisible by 8"),
        ("sd", None, {"height": 32}, "were asked for"),
        ("flux", None, {"height": 17, "width": 16}, "were asked for"),
        ("flux", None, {**SMALL, "guidance_scale": 3.5}, "guidance_scale would change nothing"),
        (
            "sd",
            Sampler("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}, 3),
            {},
            "does not fit .* predicts the sample",
        ),
    ],
)
def test_refusals(
    loaded: Loaded,
    kind: str,
    sampler: Sampler | None,
    settings: dict[str, Any],
    message: str,
) -> None:
    model = loaded(kind)
    with pytest.raises(ConfigError, match=message) as caught:
        model.generate(ask(model), sampler=sampler, settings=settings)
    assert "\n" not in str(caught.value)


def test_check_call_refuses_before_loading(saved: Saved) -> None:
    model = DiffusersModel(str(saved("sd3")))
    with pytest.raises(ConfigError, match="does not fit"):
        model.check_call(Sampler("DDIMScheduler"), {})
    with pytest.raises(ConfigError, match="Did you mean 'guidance_scale'"):
        model.check_call(None, {"guidance": 3})
    model.check_call(None, {"guidance_scale": 3})


def test_extra_settings_reach_the_pipeline(loaded: Loaded) -> None:
    model = loaded("sd")
    plain = make(model)
    assert (make(model, settings={"extra": {"guidance_rescale": 0.7}}).images != plain.images).any()
    assert make(model, settings=SMALL).images.shape == (2, 16, 16, 3)
    assert make(model, settings={"height": 32, "width": 16}).images.shape == (2, 32, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"conditioning": "txt"}, "Did you mean 'text'"),
    ],
)
def test_constructor_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusersModel("owner/name", **arguments)


# ------------------------------------------------------------------------------------------------ prompts, warnings


def test_prompts_and_negative_prompts_matter(loaded: Loaded) -> None:
    for kind in ("sd", "sdxl", "pixart", "sd3"):
        model, settings = loaded(kind), SETTINGS.get(kind, {})
        one = make(model, [Request(0, 0, prompt="a cat")], settings=settings).images
        assert (make(model, [Request(0, 0, prompt="dogs")], settings=settings).images != one).any(), kind
        told = [Request(0, 0, prompt="a cat", negative_prompt="blur")]
        negative = make(model, told, settings=settings).images
        assert (negative != one).any(), kind
        default = make(model, [Request(0, 0, prompt="a cat")], settings={**settings, "negative_prompt": "blur"})
        assert (default.images == negative).all(), kind


def test_negative_prompts_of_neighbours_do_not_matter(loaded: Loaded) -> None:
    """SDXL conditions on zeros where no negative prompt is given, on the text "" where a neighbour has one."""
    model = loaded("sdxl")
    none, some = Request(0, 0, prompt="a cat"), Request(1, 0, prompt="a dog", negative_prompt="blur")
    both = make(model, [some, none])
    assert both.nfe == 6
    alone = [make(model, [some]).images, make(model, [none]).images]
    assert np.abs(both.images.astype(int) - np.concatenate(alone)).max() <= 2


def test_negative_prompt_without_effect_is_told(loaded: Loaded) -> None:
    told = [Request(0, 0, prompt="a cat", negative_prompt="blur")]
    assert make(loaded("sd"), told, settings={"guidance_scale": 1.0}).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("lcm"), told).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("flux"), told, settings=SETTINGS["flux"]).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("flux"), told, settings={**SETTINGS["flux"], "true_cfg_scale": 2.0}).nfe == 6
    assert make(loaded("sd"), told).warnings == [[]]


def test_cut_prompts_are_told_sample_by_sample(loaded: Loaded) -> None:
    long, short = "a cat on a very long mat", "a cat"
    for kind in ("sd", "sdxl"):
        requests = [Request(0, 0, prompt=long), Request(1, 0, prompt=short)]
        assert make(loaded(kind), requests).warnings == [["prompt_truncated"], []]
    exact = "abcdefghijklmn"  # 14 letters, with start and end 16 tokens
    assert make(loaded("sd"), [Request(0, 0, prompt=exact)]).warnings == [[]]
    assert make(loaded("sd"), [Request(0, 0, prompt=exact + "o")]).warnings == [["prompt_truncated"]]
    sd3 = loaded("sd3")
    assert make(sd3, [Request(0, 0, prompt=long)]).warnings == [["prompt_truncated_partly"]]
    cut = make(sd3, [Request(0, 0, prompt=long)], settings={"max_sequence_length": 8})
    assert cut.warnings == [["prompt_truncated"]]


def test_missing_prompt_is_named(loaded: Loaded) -> None:
    with pytest.raises(DataError, match="sample 5 has no prompt"):
        make(loaded("sd"), [Request(5, 0)])


def test_blanked_images_are_told(tmp_path: Path) -> None:
    """A stand-in for the safety checker: it blanks the second image of a batch, as the real one does."""
    import tiny_pipelines
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 16, "patch_size": 8, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=tower, projection_dim=16))
    torch.manual_seed(0)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipe: StableDiffusionPipeline = tiny_pipelines.sd(checker, processor)
    pipe.save_pretrained(tmp_path)
    model = DiffusersModel(str(tmp_path))
    model.check()
    model.load("cpu")

    def blank_second(clip_input: Any, images: Any) -> Any:
        images[1] = 0.0
        return images, [False, True]

    assert type(model._pipe.safety_checker).__name__ == "StableDiffusionSafetyChecker"
    model._pipe.safety_checker.forward = blank_second
    made = make(model)
    assert made.warnings == [[], ["blanked"]]
    assert made.images[1].max() == 0
    without = DiffusersModel(str(tmp_path), safety_checker=False)
    assert without.identity() != model.identity()
    without.load("cpu")
    assert without._pipe.safety_checker is None
    assert make(without).warnings == [[], []]
    shutil.rmtree(tmp_path / "safety_checker")
    without.check()
    with pytest.raises(ConfigError, match="safety_checker"):
        model.check()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_nan_is_an_error(saved: Saved, value: str) -> None:
    """Infinities as well, which diffusers' clamping would make a plain white or black."""
    import torch

    for kind in ("sd", "ddpm") if value == "nan" else ("sd",):  # DDPM's scheduler clips what it makes of an infinity
        model = DiffusersModel(str(saved(kind)))
        model.load("cpu")
        module = model._pipe.vae.decoder.conv_out if kind == "sd" else model._pipe.unet.conv_out
        torch.nn.init.constant_(module.bias, float(value))
        with pytest.raises(DataError, match="2 of 2 images hold NaN"):
            make(model)
