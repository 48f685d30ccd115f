"""Starting noise from files, and the same noise for engines of every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_calls import SETTINGS, Loaded, ask, make, sampler_config
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Sampler
from evalkit.models.starting_noise import StartingNoise, open_noise

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((3, 4, 8, 8)).astype(np.float32)


def test_every_format_gives_the_same_values_and_the_same_digest(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NOISE)
    save_file({"latents": NOISE}, tmp_path / "a.safetensors")
    save_file({str(i): x for i, x in enumerate(NOISE)}, tmp_path / "each.safetensors")
    torch.save(torch.from_numpy(NOISE), tmp_path / "a.pt")
    torch.save({"latents": torch.from_numpy(NOISE)}, tmp_path / "b.pt")
    (tmp_path / "folder").mkdir()
    for i, x in enumerate(NOISE):
        np.save(tmp_path / "folder" / f"sample{i + 8}.npy", x[None])  # sample8, sample9, sample10
    opened = [
        StartingNoise(str(tmp_path / name), "here")
        for name in ("a.npy", "a.safetensors", "each.safetensors", "a.pt", "b.pt", "folder")
    ]
    assert len({noise.sha256 for noise in opened}) == 1
    for noise in opened:
        assert (len(noise), noise.shape(2)) == (3, (4, 8, 8))
        np.testing.assert_array_equal(np.stack([noise[i] for i in range(3)]), NOISE)
        noise.check([(4, 8, 8)] * 3)


def test_half_precision_is_taken_as_it_is_and_double_is_rounded(tmp_path: Path) -> None:
    exact = torch.from_numpy(NOISE).bfloat16()
    save_torch({"x": exact}, tmp_path / "b.safetensors")
    np.testing.assert_array_equal(StartingNoise(str(tmp_path / "b.safetensors"), "")[1], exact[1].float().numpy())
    np.save(tmp_path / "h.npy", NOISE.astype(np.float16))
    np.testing.assert_array_equal(StartingNoise(str(tmp_path / "h.npy"), "")[0], NOISE[0].astype(np.float16))
    np.save(tmp_path / "d.npy", NOISE.astype(np.float64))
    np.testing.assert_array_equal(StartingNoise(str(tmp_path / "d.npy"), "")[0], NOISE[0])


def test_one_latent_is_for_all_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", NOISE[:1])
    noise = StartingNoise(str(tmp_path / "one.npy"), "here")
    noise.check([(4, 8, 8)] * 1000)
    np.testing.assert_array_equal(noise[999], NOISE[0])


@pytest.mark.parametrize(
    ("array", "needs", "words"),
    [
        (NOISE, [(4, 8, 8)] * 4, "holds 3 latents for 4 samples"),
        (NOISE, [(4, 16, 16)] * 3, r"holds \[4, 8, 8\] for sample 0, but the model begins with \[4, 16, 16\]"),
        (NOISE[0], [(4, 8, 8)] * 2, r"give \[N, 4, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    array: object, needs: list[tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.asarray(array))
    with pytest.raises(ConfigError, match=words):
        StartingNoise(str(tmp_path / "a.npy"), "model.m.latents").check(needs)


def test_what_is_no_noise_is_refused(tmp_path: Path) -> None:
    def refused(name: str, words: str, kind: type[Exception] = ConfigError) -> None:
        with pytest.raises(kind, match=words):
            _ = StartingNoise(str(tmp_path / name), "model.m.latents").sha256

    refused("nothing.npy", "model.m.latents: .* is missing")
    (tmp_path / "a.png").touch()
    refused("a.png", "no file of latents: give .safetensors")
    (tmp_path / "empty").mkdir()
    refused("empty", "holds no file of latents")
    np.save(tmp_path / "whole.npy", np.zeros((2, 3), np.int64))
    refused("whole.npy", "holds int64")
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan, np.float32))
    refused("nan.npy", "NaN or infinite")
    np.save(tmp_path / "huge.npy", np.full((2, 3), 1e300))
    refused("huge.npy", "NaN or infinite")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("objects.npy", "no .npy file of numbers", DataError)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:-8])
    refused("cut.npy", "no .npy file of numbers", DataError)
    torch.save({"net": torch.nn.Linear(2, 2)}, tmp_path / "code.pt")
    refused("code.pt", "more than tensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    refused("cut.safetensors", "no safetensors file", DataError)
    save_file({"a": np.zeros((2, 2), np.int32)}, tmp_path / "int.safetensors")
    refused("int.safetensors", "'a' holds I32")


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NOISE)
    before = open_noise(str(tmp_path / "a.npy"), "here")
    digest = before.sha256
    assert open_noise(str(tmp_path / "a.npy"), "here") is before
    np.save(tmp_path / "a.npy", NOISE + 1)
    assert open_noise(str(tmp_path / "a.npy"), "here").sha256 != digest
    with pytest.raises(DataError, match="changed since the run began"):
        before[0]


# Pipelines -----------------------------------------------------------------------------------------------------------

SLOW = ("sdxl", "sdxl_turbo", "sd3", "pixart", "lcm", "ddim")
KINDS = ["sd", "flux", "ddpm", "ddpm_classes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)]


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_noise_as_latents_makes_the_very_same_images(kind: str, loaded: Loaded) -> None:
    model, settings, sampler = loaded(kind), SETTINGS.get(kind, {}), Sampler(num_inference_steps=2)
    if kind in ("sd", "ddpm"):  # it draws again after the first noise
        sampler = sampler_config("euler_a", num_inference_steps=3)
    plain = ask(model, 3)
    noise = model.draw_latents(plain, sampler=sampler, settings=settings)
    shape = model.latent_shape(sampler, settings)
    assert shape is None or noise[0].shape == shape
    assert shape is not None or kind == "lcm" or kind in SETTINGS or kind == "pixart"
    own = make(model, plain, sampler, settings).images
    given = [replace(request, latent=latent) for request, latent in zip(plain, noise, strict=True)]
    np.testing.assert_array_equal(make(model, given, sampler, settings).images, own)
    # Unit noise, whatever the sampler makes of it; and it is what the image comes from.
    assert 0.7 < float(np.std(np.stack(noise))) < 1.3
    other = [replace(request, latent=latent) for request, latent in zip(plain, noise[::-1], strict=True)]
    moved = make(model, other, sampler, settings).images
    assert (moved != own).any()
    # Whatever the batch.
    alone = make(model, given[1:2], sampler, settings).images
    np.testing.assert_allclose(alone[0].astype(int), own[1].astype(int), atol=1)


def test_latents_of_another_shape_are_refused_once_the_pipeline_is_loaded(loaded: Loaded) -> None:
    model = loaded("sd")
    wrong = [replace(r, latent=np.zeros((4, 4, 4), np.float32)) for r in ask(model)]
    with pytest.raises(
        ConfigError, match=r"latents: \[4, 4, 4\] for sample 0, but the pipeline begins with \[4, 8, 8\]"
    ):
        make(model, wrong)


def test_a_pipeline_that_takes_no_latents_says_so(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="latents: DiTPipeline takes no starting noise"):
        loaded("dit").latent_shape(None, {})
