"""The same starting noise in every engine: written by one run, given to another engine, compared pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import evalkit
from evalkit.errors import ConfigError
from evalkit.models.starting_noise import StartingNoise

CALM = [
    "lint=false",
    "report=false",
    "contact_sheet=0",
    "device=cpu",
    "reference=none",
    "sampler=[default]",
    "name=auto",
]
GAN = ["model=[digits_dcgan]", "prompts=[]", "num_samples=12", "metric=[feature_diversity_digits]"]


def run(tmp_path: Path, name: str, *words: str) -> dict[str, Any]:
    evalkit.run([*words, *CALM, f"store={tmp_path / 'store'}", f"out={tmp_path / name}"])
    results: dict[str, Any] = json.loads((tmp_path / name / "results.json").read_text())
    return results["run"] | {"notes": results["notes"]}


def images(folder: Path) -> np.ndarray:
    from evalkit.data.open import open_images

    source = open_images(folder)
    return np.stack(source.read(range(len(source))))


def test_exported_noise_makes_the_same_images_and_pairs_with_its_cell(tmp_path: Path) -> None:
    first = run(tmp_path, "first", *GAN, "export=[latents,folder]")
    file = tmp_path / "first/export/digits_dcgan.latents.safetensors"
    assert load_file(file)["latents"].shape == (12, 64)
    noise = StartingNoise(str(file), "here")
    assert noise.cell == first["cells"]["digits_dcgan"]
    both = ["model.digits_dcgan.latents={sweep: [null, " + str(file) + "]}", "baseline=digits_dcgan"]
    second = run(tmp_path, "second", *GAN, *both, "export=[folder]")
    (given,) = second["latents"]
    assert second["latents"][given] == noise.about()
    assert second["latents"][given]["sha256"] == noise.sha256
    assert second["pairing"]["digits_dcgan"] == second["pairing"][given]
    assert not any(note.startswith("Unpaired") for note in second["notes"])
    own = images(tmp_path / "second/export/digits_dcgan")
    np.testing.assert_array_equal(images(tmp_path / "second/export" / given), own)
    # Another's noise: no pair, and it is said.
    turned = tmp_path / "turned.npy"
    np.save(turned, load_file(file)["latents"][::-1])
    third = run(
        tmp_path, "third", *GAN, f"model.digits_dcgan.latents={{sweep: [null, {turned}]}}", "baseline=digits_dcgan"
    )
    (given,) = third["latents"]
    assert third["pairing"]["digits_dcgan"] != third["pairing"][given]
    (note,) = [note for note in third["notes"] if note.startswith("Unpaired")]
    assert f"{given} begins with that of {turned}, digits_dcgan begins with the noise of its seed" in note
    # What was altered after it was written is no longer what it says.
    tensors = load_file(file)
    save_file({"latents": tensors["latents"] + 1}, file, {"evalkit_sha256": noise.sha256})
    with pytest.raises(evalkit.errors.DataError, match="was altered after it was written"):
        run(tmp_path, "fourth", *GAN, f"model.digits_dcgan.latents={file}")


def test_what_cannot_be_is_told_before_the_first_sample(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros((3, 64), np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((1, 128), np.float32))
    wrong = {
        f"model.digits_dcgan.latents={tmp_path / 'few.npy'}": "holds 3 latents for 12 samples",
        f"model.digits_dcgan.latents={tmp_path / 'wide.npy'}": r"the model begins with \[64\]",
    }
    for word, words in wrong.items():
        with pytest.raises(ConfigError, match=words):
            run(tmp_path, "out", *GAN, word)
    with pytest.raises(ConfigError, match="truncation draws latents again"):
        run(
            tmp_path,
            "out",
            *GAN,
            f"model.digits_dcgan.latents={tmp_path / 'few.npy'}",
            "model.digits_dcgan.truncation=1",
        )
    vae = ["model=[digits_vae]", "prompts=[]", "num_samples=4", "metric=[feature_diversity_digits]", "export=[latents]"]
    with pytest.raises(ConfigError, match=r"export\.latents: .* shows no starting noise"):
        run(tmp_path, "out", *vae)
    assert not (tmp_path / "store" / "samples").exists()
