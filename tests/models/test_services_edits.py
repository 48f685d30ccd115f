"""/v1/images/edits, and the fields that vLLM-Omni and SGLang take besides OpenAI's, against real servers."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_services import FakeService, serving
from PIL import Image
from queue_server import QueueServer, queueing
from service_calls import cell_of, expected, make, option, pixels, reach_the_loopback

from evalkit.config.build import build
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.services import OpenAIImages
from evalkit.prompts.sets import Prompt
from evalkit.samples.store import Store


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)


@pytest.fixture
def server() -> Iterator[QueueServer]:
    with queueing() as running:
        yield running


@pytest.fixture
def service() -> Iterator[FakeService]:
    with serving(FakeService()) as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two sources and a mask, white in its left half, as files of other formats."""
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 256, (16, 24, 3), dtype=np.uint8) for name in ("a.png", "b.bmp")}
    made["mask.png"] = np.zeros((16, 24, 3), np.uint8)
    made["mask.png"][:, :12] = 255
    for name, array in made.items():
        Image.fromarray(array).save(tmp_path / name)
    return made


def prompts_of(folder: Path) -> list[dict[str, str]]:
    a, b, mask = (str(folder / name) for name in ("a.png", "b.bmp", "mask.png"))
    return [{"text": "red", "source": a, "mask": mask}, {"text": "blue", "source": b}]


def edits(server: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    return option("openai", server, folder, height=16, width=24, **{"edits": True, **changes})


def test_source_and_mask_go_along(server: QueueServer, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = edits(server, tmp_path, fields=["guidance_scale"], guidance_scale=2.5, extra={"user": "me"})
    samples = make(cell_of(made, 4, prompts=prompts_of(tmp_path)), Store(tmp_path / "runs"), batch_size=2)
    inverted = 255 - images["a.png"]
    inverted[:, 12:] = images["a.png"][:, 12:]  # black in the mask: it stays
    for sample, wanted in zip(pixels(samples), [inverted, 255 - images["b.bmp"]] * 2, strict=True):
        np.testing.assert_array_equal(sample, wanted)
    forms = sorted(server.forms, key=lambda form: form["prompt"])
    assert [sorted(form) for form in forms[:1]] == [
        ["guidance_scale", "image", "model", "n", "prompt", "seed", "size", "user"]
    ]
    first = forms[-1]
    assert (first["prompt"], first["n"], first["size"], first["guidance_scale"]) == ("red", "1", "24x16", "2.5")
    assert first["image"] == (tmp_path / "a.png").read_bytes()  # as it is
    assert {int(form["seed"]) for form in forms} == {Request(i, 0).seed32() for i in range(4)}
    assert np.asarray(Image.open(io.BytesIO(first["mask"]))).shape == (16, 24, 4)


def test_a_mask_as_vllm_omni_wants_it(server: QueueServer, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = edits(server, tmp_path, mask_field="mask_image")
    make(cell_of(made, 1, prompts=prompts_of(tmp_path)), Store(tmp_path / "runs"))
    head, _, data = server.forms[0]["mask_image"].partition(",")
    assert head == "data:image/png;base64"
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(mask, images["mask.png"][..., 0])


def test_a_source_is_turned_as_it_says(server: QueueServer, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    array = np.full((24, 16, 3), 200, np.uint8)
    Image.fromarray(array).save(tmp_path / "turned.jpg", exif=exif)
    made = edits(server, tmp_path)
    make(cell_of(made, 1, prompts=[{"text": "x", "source": str(tmp_path / "turned.jpg")}]), Store(tmp_path / "runs"))
    sent = Image.open(io.BytesIO(server.forms[0]["image"]))
    assert (sent.size, sent.format, sent.getexif().get(0x0112, 1)) == ((24, 16), "PNG", 1)


@pytest.mark.parametrize(
    ("changes", "prompts", "words"),
    [
        ({"edits": None}, None, "2 of 2 prompts name a source image: give edits=true"),
        ({}, [Prompt("x")], "edits=true, but prompt 0 names no source image"),
        ({}, [Prompt("x", source="nowhere.png", mask="mask.png")], "mask.png cannot be read as an image"),
        ({}, "small mask", "mask .*small.png is 8x8, its source image 24x16"),
    ],
)
def test_prompts_that_do_not_fit(
    changes: dict[str, Any], prompts: Any, words: str, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    nowhere = type("Nowhere", (), {"url": "http://127.0.0.1:1"})()
    cell = cell_of(edits(nowhere, tmp_path, **changes), 1, prompts=prompts_of(tmp_path))
    model = build(cell.options["model"] or {})
    if prompts == "small mask":
        Image.fromarray(images["mask.png"][:8, :8]).save(tmp_path / "small.png")
        prompts = [Prompt("x", source=str(tmp_path / "a.png"), mask=str(tmp_path / "small.png"))]
    asked = prompts or [Prompt(**prompt) for prompt in prompts_of(tmp_path)]
    with pytest.raises(DataError, match=words):
        model.check_prompts(asked, cell.call_settings)


def test_without_edits_sources_stay_here(service: FakeService, images: dict[str, np.ndarray], tmp_path: Path) -> None:
    made = option("openai", service, tmp_path, edits=False)
    make(cell_of(made, 2, prompts=prompts_of(tmp_path)), Store(tmp_path / "runs"))
    assert [sorted(body) for body in service.asked] == [["model", "n", "prompt", "seed", "size"]] * 2


def test_fields_that_the_service_is_said_to_take(service: FakeService, tmp_path: Path) -> None:
    fields = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale", "negative_prompt": "negative_prompt"}
    made = option("openai", service, tmp_path, fields=fields, num_inference_steps=4, negative_prompt="blur")
    prompts = [{"text": "one", "negative": "grey"}, {"text": "two"}]
    samples = make(cell_of(made, 2, prompts=prompts), Store(tmp_path / "runs"))
    bodies = {body["prompt"]: body for body in service.asked}
    assert (bodies["one"]["steps"], bodies["one"]["negative_prompt"]) == (4, "grey")
    assert (bodies["two"]["steps"], bodies["two"]["negative_prompt"]) == (4, "blur")
    assert "guidance_scale" not in bodies["one"]
    assert samples.warnings == {}


def test_a_prompts_own_settings_go_where_they_are_taken(service: FakeService, tmp_path: Path) -> None:
    prompts = [{"text": "one", "guidance_scale": 2.0, "seed": 7}, {"text": "two", "guidance_scale": 3.0, "seed": 8}]
    made = option("openai", service, tmp_path, fields=["guidance_scale"])
    make(cell_of(made, 2, prompts=prompts), Store(tmp_path / "runs"))
    asked = {body["prompt"]: (body["guidance_scale"], body["seed"]) for body in service.asked}
    assert asked == {"one": (2.0, 7), "two": (3.0, 8)}
    with pytest.raises(ConfigError, match="which no model of this run takes"):
        cell_of(option("openai", service, tmp_path), 2, prompts=prompts)


def test_a_latent_is_sent(service: FakeService, tmp_path: Path) -> None:
    model: OpenAIImages = build(cell_of(option("openai", service, tmp_path, fields=["latents"])).options["model"] or {})
    latent = np.random.default_rng(0).standard_normal((4, 2, 2)).astype(np.float32)
    request = Request(0, 0, "x", latent=latent)
    body, _ = model._fields_of(request, {})
    sent = np.load(io.BytesIO(base64.b64decode(body["latents"])), allow_pickle=False)
    assert sent.dtype == np.float32
    np.testing.assert_array_equal(sent, latent)
    assert model.latent_shape(None, {}) is None
    with pytest.raises(ConfigError, match=r"latents: is it a field of this service\?"):
        build(cell_of(option("openai", service, tmp_path)).options["model"] or {}).latent_shape(None, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fields": ["steps"]}, "fields: 'steps' is not one of them. Did you mean 'num_inference_steps'|Choices"),
        ({"fields": ["seed"]}, "fields: 'seed' is not one of them. seed_field names the seed's"),
        ({"fields": {"latents": "prompt"}}, "fields.latents='prompt': give the name of the request's field"),
        ({"mask_field": "masks"}, "mask_field=masks: give mask"),
        ({"num_inference_steps": 4}, r"num_inference_steps: is it a field of this service\? Then say so: fields="),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    nowhere = type("Nowhere", (), {"url": "http://127.0.0.1:1"})()

    def plan() -> None:
        cell = cell_of(option("openai", nowhere, tmp_path, **changes))
        build(cell.options["model"] or {}).check_call(None, cell.call_settings)

    with pytest.raises(ConfigError, match=words):
        plan()


def test_what_changes_pixels_is_in_the_key(tmp_path: Path) -> None:
    nowhere = type("Nowhere", (), {"url": "http://127.0.0.1:1"})()
    of = {
        name: cell_of(option("openai", nowhere, tmp_path, **changes)).key
        for name, changes in {
            "bare": {},
            "defaults": {"fields": [], "edits": None, "mask_field": "mask", "num_inference_steps": None},
            "ignored": {"edits": False},
            "fields": {"fields": ["negative_prompt"]},
            "edits": {"edits": True},
            "mask": {"edits": True, "mask_field": "mask_image"},
        }.items()
    }
    assert of["bare"] == of["defaults"] == of["ignored"]
    assert len({of["bare"], of["fields"], of["edits"], of["mask"]}) == 4


def test_an_address_without_a_host_is_the_services(service: FakeService, tmp_path: Path) -> None:
    """SGLang answers response_format=url with /v1/images/ID/content."""
    made = option("openai", service, tmp_path, response_format="url")
    service.by_url, service.url = True, ""
    cell = cell_of(made, 3)
    np.testing.assert_array_equal(pixels(make(cell, Store(tmp_path / "runs"))), expected(cell))
