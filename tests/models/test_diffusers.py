"""DiffusersModel on tiny pipelines of every class that the model configs name. Nothing is downloaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.models.base import Generated, Request, Sampler
from evalkit.models.diffusers import DiffusersModel

pytestmark = pytest.mark.xdist_group("diffusers")  # one worker pays for the import of diffusers

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"height": 16, "width": 16}
SETTINGS: dict[str, dict[str, Any]] = {
    "flux": {**SMALL, "guidance_scale": 0.0},
    "pixart": {**SMALL, "use_resolution_binning": False, "clean_caption": False},
    "sdxl_turbo": {"guidance_scale": 0.0},
}
Saved = Callable[[str], Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("pipelines")

    def get(kind: str) -> Path:
        import tiny_pipelines

        return folder / kind if (folder / kind).is_dir() else tiny_pipelines.save(kind, folder / kind)

    return get


@pytest.fixture(scope="session")
def loaded(saved: Saved) -> Callable[..., DiffusersModel]:
    models: dict[str, DiffusersModel] = {}

    def get(kind: str) -> DiffusersModel:
        if kind not in models:
            models[kind] = DiffusersModel(str(saved(kind)))
            models[kind].load("cpu")
        return models[kind]

    return get


def ask(model: DiffusersModel, count: int = 2, start: int = 0, seed: int = 0) -> list[Request]:
    text = model.conditioning == "text"
    return [Request(i, seed, prompt=f"a cat {'abcdefg'[i % 7]}" if text else None) for i in range(start, start + count)]


def make(
    model: DiffusersModel,
    requests: list[Request] | None = None,
    sampler: Sampler | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int = 3,
) -> Generated:
    sampler = sampler or Sampler(num_inference_steps=steps)
    return model.generate(requests or ask(model), sampler=sampler, settings=settings or {})


def sampler_config(name: str, **changes: Any) -> Sampler:
    from omegaconf import OmegaConf

    option: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "sampler" / f"{name}.yaml"))[name]  # type: ignore[index]
    option.pop("_target_")
    return Sampler(**{**option, **changes})


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
def test_every_pipeline_class(
    loaded: Callable[..., DiffusersModel], kind: str, conditioning: str, evaluations: float
) -> None:
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
@pytest.mark.parametrize("kind", ["sd", "ddpm", "dit", "sdxl"])
def test_every_sampler(loaded: Callable[..., DiffusersModel], kind: str, name: str) -> None:
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


def test_guidance_doubles_evaluations(loaded: Callable[..., DiffusersModel]) -> None:
    model = loaded("sd")
    heun = sampler_config("heun", num_inference_steps=5)
    assert make(model, sampler=heun, settings={"guidance_scale": 4.0}).nfe == 18
    assert make(model, sampler=heun, settings={"guidance_scale": 1.0}).nfe == 9
    ddim = sampler_config("ddim", num_inference_steps=5)
    assert make(model, sampler=ddim, settings={"guidance_scale": 4.0}).nfe == 10


def test_model_steps_win_over_the_samplers(loaded: Callable[..., DiffusersModel]) -> None:
    ddim = sampler_config("ddim", num_inference_steps=5)
    assert make(loaded("ddpm"), sampler=ddim, settings={"num_inference_steps": 2}).nfe == 2
    assert make(loaded("ddpm"), sampler=ddim, settings={"num_inference_steps": None}).nfe == 5


def test_each_call_starts_from_the_models_own_scheduler(loaded: Callable[..., DiffusersModel]) -> None:
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

    from evalkit.models.denoise import build_scheduler, denoise

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
        wanted = (target / 2 + 0.5).permute(0, 2, 3, 1).numpy()
        assert np.abs(pixels - wanted).max() < 0.02, name


def test_the_noise_schedule_a_model_was_trained_on_is_kept() -> None:
    """from_config alone gives Heun its own default betas where the model's config file does not spell them out."""
    import torch
    from diffusers import DDPMScheduler, HeunDiscreteScheduler

    from evalkit.models.denoise import build_scheduler

    own = DDPMScheduler()
    assert not torch.equal(HeunDiscreteScheduler.from_config(own.config).betas, own.betas)
    for name in SAMPLERS:
        scheduler = build_scheduler(sampler_config(name), type(own), own.config, "a test")
        assert torch.equal(scheduler.betas, own.betas), name
    changed = build_scheduler(Sampler("DDIMScheduler", {"beta_end": 0.01}), type(own), own.config, "a test")
    assert changed.config.beta_end == 0.01


def test_eta_makes_ddim_stochastic_and_is_refused_elsewhere(loaded: Callable[..., DiffusersModel]) -> None:
    for kind in ("ddpm", "sd"):
        model, ddim = loaded(kind), sampler_config("ddim", num_inference_steps=4)
        plain = make(model, sampler=ddim)
        assert (make(model, sampler=ddim, settings={"eta": 0.0}).images == plain.images).all()
        assert (make(model, sampler=ddim, settings={"eta": 1.0}).images != plain.images).any()
        with pytest.raises(ConfigError, match="eta is DDIM's; EulerDiscreteScheduler takes none"):
            make(model, sampler=sampler_config("euler"), settings={"eta": 0.5})


def test_class_labels(loaded: Callable[..., DiffusersModel]) -> None:
    model = loaded("ddpm_classes")
    by_index = make(model, [Request(13, 0)]).images
    assert (make(model, [Request(13, 0, class_id=3)]).images == by_index).all()
    assert (make(model, [Request(13, 0, class_id=4)]).images != by_index).any()
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
            "not implemented yet: sample",
        ),
    ],
)
def test_refusals(
    loaded: Callable[..., DiffusersModel],
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


def test_extra_settings_reach_the_pipeline(loaded: Callable[..., DiffusersModel]) -> None:
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


def test_prompts_and_negative_prompts_matter(loaded: Callable[..., DiffusersModel]) -> None:
    for kind in ("sd", "sdxl", "pixart", "sd3"):
        model, settings = loaded(kind), SETTINGS.get(kind, {})
        one = make(model, [Request(0, 0, prompt="a cat")], settings=settings).images
        assert (make(model, [Request(0, 0, prompt="dogs")], settings=settings).images != one).any(), kind
        told = [Request(0, 0, prompt="a cat", negative_prompt="blur")]
        negative = make(model, told, settings=settings).images
        assert (negative != one).any(), kind
        default = make(model, [Request(0, 0, prompt="a cat")], settings={**settings, "negative_prompt": "blur"})
        assert (default.images == negative).all(), kind


def test_negative_prompts_of_neighbours_do_not_matter(loaded: Callable[..., DiffusersModel]) -> None:
    """SDXL conditions on zeros where no negative prompt is given, on the text "" where a neighbour has one."""
    model = loaded("sdxl")
    none, some = Request(0, 0, prompt="a cat"), Request(1, 0, prompt="a dog", negative_prompt="blur")
    both = make(model, [some, none])
    assert both.nfe == 6
    alone = [make(model, [some]).images, make(model, [none]).images]
    assert np.abs(both.images.astype(int) - np.concatenate(alone)).max() <= 2


def test_negative_prompt_without_effect_is_told(loaded: Callable[..., DiffusersModel]) -> None:
    told = [Request(0, 0, prompt="a cat", negative_prompt="blur")]
    assert make(loaded("sd"), told, settings={"guidance_scale": 1.0}).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("lcm"), told).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("flux"), told, settings=SETTINGS["flux"]).warnings == [["negative_prompt_ignored"]]
    assert make(loaded("flux"), told, settings={**SETTINGS["flux"], "true_cfg_scale": 2.0}).nfe == 6
    assert make(loaded("sd"), told).warnings == [[]]


def test_cut_prompts_are_told_sample_by_sample(loaded: Callable[..., DiffusersModel]) -> None:
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


def test_missing_prompt_is_named(loaded: Callable[..., DiffusersModel]) -> None:
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


def test_nan_is_an_error(saved: Saved) -> None:
    import torch

    for kind in ("sd", "ddpm"):
        model = DiffusersModel(str(saved(kind)))
        model.load("cpu")
        module = model._pipe.vae.decoder.conv_out if kind == "sd" else model._pipe.unet.conv_out
        torch.nn.init.constant_(module.bias, float("nan"))
        with pytest.raises(DataError, match="2 of 2 images hold NaN"):
            make(model)


# ------------------------------------------------------------------------------------------------- files, identity


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_missing_file_is_named(copy: Callable[[str], Path], missing: str) -> None:
    folder = copy("sd")
    (folder / missing).unlink()
    if missing.startswith("tokenizer"):  # any one of a tokenizer's files will do
        for file in (folder / "tokenizer").iterdir():
            file.unlink()
    with pytest.raises(ConfigError) as caught:
        DiffusersModel(str(folder)).check()
    assert str(folder / missing) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:100], b"", b"garbage, not a header", b"\xff" * 64):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"vae/diffusion_pytorch_model.safetensors"):
            DiffusersModel(str(folder)).check()
    file.write_bytes(whole)
    DiffusersModel(str(folder)).check()
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"unet/config.json cannot be read as JSON"):
        DiffusersModel(str(folder)).check()


def test_pickled_weights_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("sd")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    model = DiffusersModel(str(folder))
    for act in (model.check, lambda: model.load("cpu")):
        with pytest.raises(ConfigError, match=r"pytorch_model.bin.*never loaded; if you trust them, convert"):
            act()


def test_weights_that_do_not_fit_their_config(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [8, 24]}))
    with pytest.raises(DataError, match="cannot be loaded"):
        DiffusersModel(str(folder)).load("cpu")


def test_flat_folder_as_of_google_ddpm_cifar10(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    wanted = DiffusersModel(str(folder))
    wanted.load("cpu")
    images = make(wanted).images
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    flat = DiffusersModel(str(folder))
    flat.check()
    flat.load("cpu")
    assert flat.conditioning == "none"
    assert (make(flat).images == images).all()


def test_dtypes_and_variants(saved: Saved, tmp_path: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(saved("sd")).to(torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    model = DiffusersModel(str(tmp_path / "half"))
    model.load("cpu")
    for part in ("unet", "vae", "text_encoder"):
        assert getattr(model._pipe, part).dtype == torch.float32
    auto = DiffusersModel(str(tmp_path / "half"), dtype="auto")
    auto.load("cpu")
    assert auto._pipe.unet.dtype == auto._pipe.text_encoder.dtype == torch.float16
    brain = DiffusersModel(str(tmp_path / "half"), dtype="bfloat16")
    brain.load("cpu")
    images = make(brain).images.astype(int)
    assert np.abs(images - make(model).images).mean() < 10
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    with pytest.raises(ConfigError, match="set variant: fp16"):
        DiffusersModel(str(tmp_path / "variant")).check()
    variant = DiffusersModel(str(tmp_path / "variant"), variant="fp16")
    variant.check()
    variant.load("cpu")
    assert (make(variant).images == make(model).images).all()
    with pytest.raises(ConfigError, match="no weights of the variant 'fp16': set variant: null"):
        DiffusersModel(str(tmp_path / "half"), variant="fp16").check()


def test_identity(copy: Callable[[str], Path]) -> None:
    folder = copy("ddpm")
    one = DiffusersModel(str(folder)).identity()
    assert json.loads(json.dumps(one)) == one
    (folder / "README.md").write_text("a note")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert DiffusersModel(str(folder)).identity() == one, "files that are not loaded do not matter"
    for change in ({"dtype": "float16"}, {"compile": True}, {"vae_tiling": True}, {"attention_slicing": True}):
        assert DiffusersModel(str(folder), **change).identity() != one  # type: ignore[arg-type]
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert DiffusersModel(str(folder)).identity() != one
    hub = DiffusersModel("owner/name", revision="abc")
    assert hub.identity()["weights"] == {"hub": "owner/name", "revision": "abc"}
    assert DiffusersModel("owner/name").identity() != hub.identity()


def test_building_checking_and_naming_need_no_torch(saved: Saved) -> None:
    import subprocess

    code = (
        "import sys; from evalkit.models.diffusers import DiffusersModel;"
        "from evalkit.models.gan import TorchModuleModel;"
        f"m = DiffusersModel({str(saved('sd'))!r}); m.check(); m.identity();"
        "g = TorchModuleModel('evalkit.digits.nets.DCGANGenerator', weights=sys.executable);"
        "g.check(); g.identity(); print([n for n in ('torch', 'diffusers', 'transformers', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------ the hub


class GatedRepoError(OSError):
    pass


class RevisionNotFoundError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError("401"), "gated: accept its licence at https://huggingface.co/owner/name"),
        (RevisionNotFoundError("404"), r"\(revision abc\) does not exist: see"),
        (RepositoryNotFoundError("404"), "not on the hub, or is private"),
        (OSError("no `safetensors` weights in owner/name"), "no safetensors weights.*convert"),
        (OSError("Cannot load:\n no network"), "cannot be fetched .*hf download owner/name --revision abc --local-dir"),
    ],
)
def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    from diffusers import DiffusionPipeline

    def fail(*args: Any, **kwargs: Any) -> None:
        assert kwargs["use_safetensors"] is True
        try:
            raise error
        except OSError as cause:
            raise OSError(str(cause)) from cause

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    with pytest.raises(ConfigError, match=message) as caught:
        DiffusersModel("owner/name", revision="abc").load("cpu")
    assert "\n" not in str(caught.value)


def test_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"not in the cache.*hf download owner/nothing --local-dir FOLDER"):
        DiffusersModel("owner/nothing").check()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    DiffusersModel("owner/nothing").check()
    with pytest.raises(ConfigError, match="there is no such folder"):
        DiffusersModel(str(tmp_path / "nowhere")).check()
    with pytest.raises(ConfigError, match="there is no such folder"):
        DiffusersModel("pkg://evalkit.digits/weights/nowhere").check()


def test_a_snapshot_is_loaded_like_a_folder(monkeypatch: pytest.MonkeyPatch, saved: Saved) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *args, **kwargs: str(saved("ddpm")))
    hub, local = DiffusersModel("owner/name", conditioning="none"), DiffusersModel(str(saved("ddpm")))
    hub.load("cpu")
    local.load("cpu")
    assert (make(hub).images == make(local).images).all()


# ------------------------------------------------------------------------------------------------ memory, silence


def test_memory_options(saved: Saved) -> None:
    model = DiffusersModel(str(saved("sd")), attention_slicing=True, vae_tiling=True, vae_slicing=True)
    model.load("cpu")
    assert model._pipe.vae.use_tiling
    assert model._pipe.vae.use_slicing
    assert make(model).images.shape == (2, 16, 16, 3)
    with pytest.raises(ConfigError, match="no VAE that takes vae_tiling"):
        DiffusersModel(str(saved("ddpm")), vae_tiling=True).load("cpu")


def test_compile_wraps_the_denoiser_and_keeps_the_count(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    import torch

    calls: list[int] = []

    def compile(forward: Callable[..., Any]) -> Callable[..., Any]:  # the real one takes a minute
        @functools.wraps(forward)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return forward(*args, **kwargs)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    model = DiffusersModel(str(saved("sd")), compile=True)
    model.load("cpu")
    assert make(model, settings={"guidance_scale": 1.0}).nfe == 4
    assert len(calls) == 4


def test_another_pipeline_class(saved: Saved) -> None:
    model = DiffusersModel(str(saved("ddpm")), pipeline="DDIMPipeline")
    model.load("cpu")
    assert type(model._pipe).__name__ == "DDIMPipeline"
    with pytest.raises(ConfigError, match="Did you mean 'DDIMPipeline'"):
        DiffusersModel(str(saved("ddpm")), pipeline="DDIMPipelin").load("cpu")


def test_load_and_unload_leave_no_trace(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    import diffusers
    import torch
    import transformers

    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [s.allow_tf32 for s in switches] + [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    levels = [m.utils.logging.get_verbosity() for m in (diffusers, transformers)]
    model = DiffusersModel(str(saved("sd")))
    model.load("cpu")
    make(model, [Request(0, 0, prompt="a prompt that is much too long for sixteen tokens")])
    assert capfd.readouterr() == ("", "")
    after = [s.allow_tf32 for s in switches] + [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    assert after == before
    assert [m.utils.logging.get_verbosity() for m in (diffusers, transformers)] == levels
    model.unload()
    with pytest.raises(RuntimeError, match="load"):
        make(model)


# ----------------------------------------------------------------------------------------- the configs, the digits


def test_model_configs_build_and_name_their_files() -> None:
    from omegaconf import OmegaConf

    from evalkit.config import build
    from evalkit.models.base import ExistingImages, Model

    samplers = {f.stem for f in (ROOT / "configs" / "sampler").glob("*.yaml")}
    for file in sorted((ROOT / "configs" / "model").glob("*.yaml")):
        if file.stem == "folder":
            continue
        config: Any = OmegaConf.load(file)
        assert list(config) == [file.stem]
        option: dict[str, Any] = {k: config[file.stem]._get_node(k)._value() for k in config[file.stem]}
        option = {
            k: OmegaConf.to_container(config[file.stem][k])
            if OmegaConf.is_config(config[file.stem]._get_node(k))
            else v
            for k, v in option.items()
        }
        option |= {"path": "owner/name"} if option.get("path") == "???" else {}
        option |= {"module": "a.B", "weights": "file"} if file.stem == "gan" else {}
        assert set(option.pop("samplers", None) or []) <= samplers, file.stem
        text = file.read_text()
        assert text.startswith("# "), "a config says what it is, the weights' licence and their source"
        assert "Weights:" in text.split(f"{file.stem}:")[0]
        from evalkit.config import locate

        cls = locate(option["_target_"])
        model = build({k: v for k, v in option.items() if k not in cls.call_settings}, f"model.{file.stem}")
        assert isinstance(model, Model)
        assert not isinstance(model, ExistingImages)


@pytest.mark.parametrize("name", ["ldm", "ddpm"])
def test_digits_weights(name: str) -> None:
    model = DiffusersModel(f"pkg://evalkit.digits/weights/{name}")
    try:
        model.check()
    except EvalkitError as error:
        pytest.skip(f"the weights are not there: {error}")
    model.load("cpu")
    requests = [Request(i, 0, prompt="a red seven on a blue background" if name == "ldm" else None) for i in range(2)]
    made = make(model, requests, sampler_config("dpmpp_2m", num_inference_steps=10))
    assert made.images.shape == (2, 32, 32, 3)
    assert made.images.std() > 10
