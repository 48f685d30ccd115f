"""ControlNets, T2I-Adapters and pipelines that start from images: real classes of diffusers, tiny, made by the test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Generated, Request, Sampler
from evalkit.models.diffusers.condition_images import ImageInputs, call, check_prompts, image_inputs
from evalkit.models.diffusers.model import DiffusersModel
from evalkit.prompts.sets import Prompt

IMG2IMG, INPAINT = "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
KINDS: dict[str, dict[str, Any]] = {
    "controlnet": {"model": "plain", "controlnet": "net"},
    "controlnet_xl": {"model": "sdxl", "controlnet": "net_xl"},
    "two_controlnets": {"model": "plain", "controlnet": ["net", "other_net"]},
    "controlnet_img2img": {"model": "plain", "pipeline": IMG2IMG, "controlnet": "net"},
    "controlnet_inpaint": {"model": "plain", "pipeline": INPAINT, "controlnet": "net"},
    "adapter": {"model": "plain", "t2i_adapter": "adapter"},
    "adapter_grey": {"model": "plain", "t2i_adapter": "adapter_grey"},
    "img2img": {"model": "plain", "pipeline": IMG2IMG},
    "img2img_xl": {"model": "sdxl", "pipeline": "StableDiffusionXLImg2ImgPipeline"},
    "img2img_sd3": {"model": "sd3", "pipeline": "StableDiffusion3Img2ImgPipeline"},
    "img2img_lcm": {"model": "lcm", "pipeline": "LatentConsistencyModelImg2ImgPipeline"},
    "img2img_flux": {"model": "flux", "pipeline": "FluxImg2ImgPipeline"},
    "kontext": {"model": "flux", "pipeline": "FluxKontextPipeline"},
    "inpaint": {"model": "plain", "pipeline": INPAINT},
    "inpaint_xl": {"model": "sdxl", "pipeline": "StableDiffusionXLInpaintPipeline"},
    "edit": {"model": "edit"},
    "upscaler": {"model": "upscaler"},
    "plain": {"model": "plain"},
}
CLASSES = {
    "controlnet": "StableDiffusionControlNetPipeline",
    "controlnet_xl": "StableDiffusionXLControlNetPipeline",
    "controlnet_img2img": "StableDiffusionControlNetImg2ImgPipeline",
    "controlnet_inpaint": "StableDiffusionControlNetInpaintPipeline",
    "adapter": "StableDiffusionAdapterPipeline",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "img2img_flux": {"guidance_scale": 0.0},
    "kontext": {"guidance_scale": 0.0, "height": 16, "width": 16, "extra": {"max_area": 256, "_auto_resize": False}},
}
SCALES = {"controlnet": "controlnet_conditioning_scale", "adapter": "adapter_conditioning_scale"}
Models = Callable[[str], DiffusersModel]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_conditions

    return tiny_conditions.save(tmp_path_factory.mktemp("conditions"))


def build(folders: Path, kind: str, **changes: Any) -> DiffusersModel:
    given = {**KINDS[kind], **changes}
    for name in ("controlnet", "t2i_adapter"):
        if name in given:
            found = [str(folders / one) for one in ([given[name]] if isinstance(given[name], str) else given[name])]
            given[name] = found if len(found) > 1 else found[0]
    return DiffusersModel(str(folders / given.pop("model")), **given)


@pytest.fixture(scope="module")
def models(folders: Path) -> Models:
    """A loaded model by kind. Do not change it."""
    made: dict[str, DiffusersModel] = {}

    def get(kind: str) -> DiffusersModel:
        if kind not in made:
            made[kind] = build(folders, kind)
            made[kind].check()
            made[kind].load("cpu")
        return made[kind]

    return get


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Images of 16x16 by kind, one a sample."""
    from tiny_conditions import picture

    folder = tmp_path_factory.mktemp("pictures")
    kinds = {"source": 100, "control": 200, "mask": 300}
    return {kind: [picture(folder / f"{kind}{i}.png", seed + i) for i in range(4)] for kind, seed in kinds.items()}


def ask(
    pictures: dict[str, list[str]], indices: Sequence[int] = range(4), seed: int = 0, **changes: Any
) -> list[Request]:
    return [
        Request(
            i, seed, prompt=f"a cat {'abcd'[i]}", **({kind: paths[i] for kind, paths in pictures.items()} | changes)
        )
        for i in indices
    ]


def make(model: DiffusersModel, requests: list[Request], **settings: Any) -> Generated:
    return model.generate(requests, sampler=Sampler(num_inference_steps=4), settings=settings)


def apart(first: Generated, second: Generated) -> float:
    return float(np.abs(first.images.astype(int) - second.images).mean())


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_each_sample_depends_on_its_own_images_and_generator_alone(
    models: Models, pictures: dict[str, list[str]], kind: str
) -> None:
    """The VAE's encoding draws noise too. Batches of four, of one and three: the same images."""
    model, given = models(kind), SETTINGS.get(kind, {})
    whole = make(model, ask(pictures), **given)
    side = 32 if kind == "upscaler" else 16
    assert whole.images.shape == (4, side, side, 3)
    parts = [make(model, ask(pictures, part), **given).images for part in ([3], [0, 1, 2])]
    assert np.abs(np.concatenate([parts[1], parts[0]]).astype(int) - whole.images).max() <= 2
    assert type(model._pipe).__name__ == CLASSES.get(kind, type(model._pipe).__name__)
    one = {name: paths[0] for name, paths in pictures.items()}
    same = make(model, [Request(i, 0, "a cat", **one) for i in (0, 1)], **given)
    assert (same.images[0] != same.images[1]).any(), "the samples of one source share their noise"


@pytest.mark.parametrize(
    ("kind", "used"),
    [
        ("controlnet", {"control"}),
        ("controlnet_xl", {"control"}),
        ("two_controlnets", {"control"}),
        ("controlnet_img2img", {"source", "control"}),
        ("controlnet_inpaint", {"source", "mask", "control"}),
        ("adapter", {"control"}),
        ("adapter_grey", {"control"}),
        ("img2img", {"source"}),
        ("inpaint", {"source", "mask"}),
        ("edit", {"source"}),
        ("upscaler", {"source"}),
        ("plain", set()),
    ],
)
def test_which_images_count(models: Models, pictures: dict[str, list[str]], kind: str, used: set[str]) -> None:
    model = models(kind)
    before = make(model, ask(pictures, [0]))
    for name, paths in pictures.items():
        changed = make(model, ask(pictures, [0], **{name: paths[1]}))
        assert (apart(before, changed) > 0) is (name in used), name
        if name in used:
            with pytest.raises(DataError, match=rf"wants a {name} image of each prompt, .* sample 0 \('a cat a'\)"):
                make(model, ask(pictures, [0], **{name: None}))


@pytest.mark.parametrize("kind", ["controlnet", "adapter"])
def test_scale_zero_is_the_bare_pipeline(models: Models, pictures: dict[str, list[str]], kind: str) -> None:
    """And more of it moves the images further away; whole numbers from a YAML will do."""
    bare = make(models("plain"), ask(pictures))
    moved = [apart(make(models(kind), ask(pictures), **{SCALES[kind]: scale}), bare) for scale in (0, 0.3, 1)]
    assert moved[0] < 0.01  # of 255: the rounding of sums with zeros
    assert moved[0] < moved[1] < moved[2]


def test_guidance_interval(models: Models, pictures: dict[str, list[str]]) -> None:
    bare, whole = make(models("plain"), ask(pictures)), make(models("controlnet"), ask(pictures))
    part = make(models("controlnet"), ask(pictures), control_guidance_start=0.5, control_guidance_end=1)
    assert 0 < apart(part, bare) < apart(whole, bare)


def test_several_controlnets_have_a_scale_each(models: Models, pictures: dict[str, list[str]]) -> None:
    both = models("two_controlnets")
    one = make(models("controlnet"), ask(pictures))
    assert apart(make(both, ask(pictures), controlnet_conditioning_scale=[1.0, 0.0]), one) < 1
    assert apart(make(both, ask(pictures), controlnet_conditioning_scale=[0.0, 1.0]), one) > 1


def test_strength(models: Models, pictures: dict[str, list[str]]) -> None:
    """The less of it, the fewer steps, and the nearer to the source as the VAE gives it back."""
    model = models("img2img")
    made = {strength: make(model, ask(pictures), strength=strength) for strength in (0.25, 0.5, 1)}
    assert [made[s].nfe for s in made] == [2, 4, 8]  # guidance doubles
    nearest = apart(made[0.25], make(model, ask(pictures, seed=1), strength=0.25))
    assert nearest < apart(made[1], make(model, ask(pictures, seed=1), strength=1))


def test_inpainting_paints_where_the_mask_is_white(
    models: Models, pictures: dict[str, list[str]], tmp_path: Path
) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    model, path = models("inpaint"), str(tmp_path / "mask.png")
    one, other = (make(model, ask(pictures, [0], mask=path, seed=seed), strength=1) for seed in (0, 1))
    change = np.abs(one.images.astype(int) - other.images).mean(axis=(0, 1, 3))  # by column
    assert change[12:].mean() > 2 * change[:4].mean()


# -------------------------------------------------------------------------------------------- sizes, preparation


def test_sizes(models: Models, folders: Path, tmp_path: Path) -> None:
    """The source's size, rounded down to a multiple of 8; or what is asked for."""
    from tiny_conditions import picture

    source = picture(tmp_path / "s.png", 0, (27, 17))
    small = picture(tmp_path / "m.png", 1, (9, 5))
    for kind in ("img2img", "inpaint", "controlnet", "controlnet_inpaint", "adapter"):
        request = [Request(0, 0, "a cat", source=source, mask=small, control=source)]
        assert make(models(kind), request).images.shape == (1, 16, 24, 3), kind
        assert make(models(kind), request, width=32, height=24).images.shape == (1, 24, 32, 3), kind
    request = [Request(0, 0, "a cat", source=picture(tmp_path / "u.png", 2, (24, 16)))]
    assert make(models("upscaler"), request).images.shape == (1, 32, 48, 3)
    with pytest.raises(ConfigError, match="takes no setting 'height'"):
        make(models("upscaler"), request, height=64)


def test_images_of_two_sizes_are_one_line(models: Models, pictures: dict[str, list[str]], tmp_path: Path) -> None:
    from tiny_conditions import picture

    wide = picture(tmp_path / "wide.png", 0, (32, 16))
    requests = [*ask(pictures, [0]), *ask(pictures, [1], source=wide)]
    line = r"source0.png is 16x16 and .*wide.png is 32x16: samples of one set have one size; set height and width"
    with pytest.raises(DataError, match=line):
        make(models("img2img"), requests)
    prompts = [Prompt("a cat", source=request.source) for request in requests]
    with pytest.raises(DataError, match=line):
        models("img2img").check_prompts(prompts, {})
    models("img2img").check_prompts(prompts, {"height": 16, "width": 16})
    assert make(models("img2img"), requests, height=16, width=16).images.shape == (2, 16, 16, 3)


def test_canny_of_the_control_or_the_source(models: Models, pictures: dict[str, list[str]], tmp_path: Path) -> None:
    """`control_from: canny` gives what a map made beforehand gives."""
    from evalkit.numerics.canny import canny

    photo = np.asarray(Image.open(pictures["source"][0]))
    Image.fromarray(canny(photo[None])[0]).save(tmp_path / "map.png")
    Image.fromarray(canny(photo[None], sigma=0.5, low=20, high=30)[0]).save(tmp_path / "fine.png")
    model = models("controlnet")
    for name, given in (("map", "canny"), ("fine", {"canny": {"sigma": 0.5, "low": 20, "high": 30}})):
        by_hand = make(model, ask(pictures, [0], control=str(tmp_path / f"{name}.png")))
        of_control = make(model, ask(pictures, [0], control=pictures["source"][0]), control_from=given)
        of_source = make(model, ask(pictures, [0], control=None), control_from=given)
        assert (of_control.images == by_hand.images).all()
        assert (of_source.images == by_hand.images).all()
    assert apart(by_hand, make(model, ask(pictures, [0], control=pictures["source"][0]))) > 0


def test_each_controlnet_its_own_preparation(models: Models, pictures: dict[str, list[str]]) -> None:
    model = models("two_controlnets")
    plain, edges = make(model, ask(pictures)), make(model, ask(pictures), control_from="canny")
    mixed = make(model, ask(pictures), control_from=[None, "canny"])
    assert apart(mixed, plain) > 0
    assert apart(mixed, edges) > 0


# ----------------------------------------------------------------------------------------- what a class asks for


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("StableDiffusionPipeline", ImageInputs()),
        ("StableDiffusionControlNetPipeline", ImageInputs(control="image")),
        ("StableDiffusionAdapterPipeline", ImageInputs(control="image")),
        ("StableDiffusionInpaintPipeline", ImageInputs(source="image", mask="mask_image")),
        ("StableDiffusion3ControlNetPipeline", ImageInputs(control="control_image")),
        ("StableDiffusion3ControlNetInpaintingPipeline", ImageInputs(source="control_image", mask="control_mask")),
        ("StableDiffusionXLControlNetImg2ImgPipeline", ImageInputs(control="control_image", source="image")),
        ("StableDiffusionXLControlNetUnionPipeline", ImageInputs(control="control_image", batches=False)),
        ("FluxControlPipeline", ImageInputs(control="control_image", batches=False)),
        ("FluxKontextPipeline", ImageInputs(source="image", optional=True, batches=False)),
        ("QwenImageEditPipeline", ImageInputs(source="image", batches=False)),
        ("StableDiffusionUpscalePipeline", ImageInputs(source="image", upscales=True)),
        ("LDMSuperResolutionPipeline", ImageInputs(source="image", upscales=True, batches=False)),
    ],
)
def test_what_a_pipeline_takes(name: str, expected: ImageInputs) -> None:
    import diffusers

    assert image_inputs(getattr(diffusers, name)) == expected


def test_an_image_that_may_be_left_out(pictures: dict[str, list[str]]) -> None:
    """FLUX Kontext makes images of text alone; a source goes to it as it is, alone in its call."""
    from diffusers import FluxKontextPipeline

    want, pipe = image_inputs(FluxKontextPipeline), FluxKontextPipeline.__new__(FluxKontextPipeline)
    assert call(want, [Request(0, 0, "a cat")], {"guidance_scale": 2.0}, pipe, "x") == {"guidance_scale": 2.0}
    given = call(want, [Request(0, 0, "a cat", source=pictures["source"][0])], {}, pipe, "x")
    assert given["image"].size == (16, 16)
    assert list(given) == ["image"]
    check_prompts(want, [Prompt("a cat"), Prompt("a cat", source=pictures["source"][0])], {}, "x")


# ------------------------------------------------------------------------------------------- identity, refusals


def test_identity(folders: Path, tmp_path: Path) -> None:
    """It holds the networks' digests, and nothing of them where there are none."""
    plain, with_net = build(folders, "plain"), build(folders, "controlnet")
    assert plain.identity() == DiffusersModel(str(folders / "plain"), controlnet=None).identity()
    assert not {"controlnet", "t2i_adapter"} & plain.identity().keys()
    assert (
        with_net.identity()["controlnet"]
        != build(folders, "controlnet", controlnet="other_net").identity()["controlnet"]
    )
    shutil.copytree(folders / "net", tmp_path / "moved")
    moved = DiffusersModel(str(folders / "plain"), controlnet=str(tmp_path / "moved"))
    assert moved.identity() == with_net.identity()
    hub = DiffusersModel("owner/name", controlnet={"path": "owner/net", "revision": "abc"})
    assert hub.identity()["controlnet"] == [{"hub": "owner/net", "revision": "abc"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control_from": "cany"}, r"control_from='cany' is not known. Did you mean 'canny'\?"),
        ({"control_from": {"canny": {"sigmma": 2}}}, r"canny takes no 'sigmma'. Did you mean 'sigma'\?"),
        ({"extra": {"image": "x.png"}}, "takes no setting 'image'"),
        ({"adapter_conditioning_scale": 1.0}, "takes no setting 'adapter_conditioning_scale'"),
        ({"control_guidance_start": 0.9, "control_guidance_end": 0.1}, "cannot be larger or equal"),
    ],
)
def test_wrong_settings(models: Models, pictures: dict[str, list[str]], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(models("controlnet"), ask(pictures), **settings)
    assert "\n" not in str(caught.value)


def test_settings_are_refused_before_loading(folders: Path) -> None:
    model, steps = build(folders, "img2img"), Sampler(num_inference_steps=4)
    for settings, message in (
        ({"strength": 1.5}, "strength=1.5: give a number above 0"),
        ({"strength": 0.2}, "strength=0.2 of num_inference_steps=4 leaves no step: raise one"),
        ({"height": 16}, "give both height and width, or none"),
        ({"control_from": "canny"}, "takes no setting 'control_from'"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.check_call(steps, settings)
    model.check_call(steps, {"strength": 0.25, "height": 16, "width": 16})
    with pytest.raises(DataError, match=r"wants a source image .* column of paths \(prompts.table.source=COLUMN\)"):
        model.check_prompts([Prompt("a cat", control="x.png")], {})


def test_networks_that_cannot_be_used(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pipeline that takes both"):
        DiffusersModel(str(folders / "plain"), controlnet="a/b", t2i_adapter="c/d")
    with pytest.raises(ConfigError, match=r"controlnet: \{'pth': 'x'\} is no path, hub id or mapping"):
        DiffusersModel(str(folders / "plain"), controlnet={"pth": "x"})
    for given, message in (
        (folders / "adapter", "is a T2IAdapter, no ControlNet"),
        (folders / "plain", r"config.json is missing; give a folder that save_pretrained wrote"),
        (tmp_path / "empty", r"diffusion_pytorch_model.safetensors is missing"),
    ):
        if given.name == "empty":
            given.mkdir()
            (given / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
        with pytest.raises(ConfigError, match=message):
            DiffusersModel(str(folders / "plain"), controlnet=str(given)).check()
    shutil.copytree(folders / "net", tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DataError, match="its end is missing"):
        DiffusersModel(str(folders / "plain"), controlnet=str(tmp_path / "cut")).check()
    upscaling = build(folders, "upscaler", controlnet="net")
    with pytest.raises(ConfigError, match="diffusers has no StableDiffusionUpscalePipeline with a controlnet"):
        upscaling.check_call(None, {})


def test_a_hub_id_that_is_not_in_the_cache(folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = DiffusersModel(str(folders / "plain"), controlnet="evalkit-tests/no-such-net")
    with pytest.raises(ConfigError, match=r"'evalkit-tests/no-such-net' .* is not in the cache"):
        model.check()
