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
    evalkit.run([*CALM, *words, f"store={tmp_path / 'store'}", f"out={tmp_path / name}"])
    results: dict[str, Any] = json.loads((tmp_path / name / "results.json").read_text())
    return results["run"] | {"notes": results["notes"], "rows": results["rows"]}


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


# Two engines ---------------------------------------------------------------------------------------------------------


def psnrs(results: dict[str, Any]) -> list[float]:
    return [row["value"] for row in results["rows"] if row["metric"] == "psnr" and row["value"] is not None]


@pytest.mark.slow
def test_diffusers_and_onnx_on_exported_noise_are_one_model(tmp_path: Path) -> None:
    """A UNet2DModel with random weights, as a pipeline and as an .onnx file, ancestral steps and all."""
    import tiny_pipelines
    import torch

    from evalkit.models.onnx.export import export_onnx

    tiny_pipelines.save("ddpm", tmp_path / "ddpm")
    unet = tiny_pipelines.MAKERS["ddpm"]().unet.from_pretrained(tmp_path / "ddpm/unet").eval()

    class Noise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            noise: torch.Tensor = self.unet(sample, timestep, return_dict=False)[0]
            return noise

    examples = [torch.randn(2, 3, 8, 8), torch.tensor([3, 70])]
    export_onnx(Noise(), examples, tmp_path / "u.onnx", ["sample", "timestep"])
    words = ["prompts=[]", "num_samples=12", "sampler=[euler_a]", "sampler.euler_a.num_inference_steps=4"]
    mine = [*words, "model=[diffusers]", f"model.diffusers.path={tmp_path / 'ddpm'}", "metric=[]", "export=[latents]"]
    written = {}
    for seed in (0, 1):
        run(tmp_path, f"seed{seed}", *mine, f"seed={seed}")
        (written[seed],) = (tmp_path / f"seed{seed}/export").glob("*.safetensors")
    both = [*words, "model=[diffusers,onnx_denoiser]", f"model.diffusers.path={tmp_path / 'ddpm'}", "metric=[psnr]"]
    both += [f"model.onnx_denoiser.path={tmp_path / 'u.onnx'}", "baseline={model: diffusers}"]
    both += [f"model.onnx_denoiser.scheduler={tmp_path / 'ddpm/scheduler'}"]
    same = run(tmp_path, "same", *both, f"model.onnx_denoiser.latents={written[0]}")
    other = run(tmp_path, "other", *both, f"model.onnx_denoiser.latents={written[1]}")
    print(f"PSNR of diffusers and ONNX: same noise {psnrs(same)}, other noise {psnrs(other)}")
    assert psnrs(same)[0] > 60
    assert psnrs(other)[0] < 20
    assert len(set(same["pairing"].values())) == 1
    assert not any("Unpaired" in note for note in same["notes"])
    assert len(set(other["pairing"].values())) == 2
    assert any("Unpaired: onnx_denoiser" in note for note in other["notes"])
    assert "unrelated" in json.dumps(other)


def test_diffusers_and_a_service_on_exported_noise_are_one_model(tmp_path: Path) -> None:
    """The digits LDM here and behind HTTP on the loopback, which takes latents."""
    import threading
    from http.server import ThreadingHTTPServer

    from digits_endpoint import Handler

    from evalkit.models.diffusers.model import DiffusersModel

    Handler.model = DiffusersModel("pkg://evalkit.digits/weights/ldm")
    Handler.model.load("cpu")
    words = ["prompts=[digits]", "num_samples=6", "sampler=[ddim]", "sampler.ddim.num_inference_steps=8"]
    run(tmp_path, "first", *words, "model=[digits_ldm]", "metric=[]", "export=[latents]", "seed=3")
    (file,) = (tmp_path / "first/export").glob("*.safetensors")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            there = ["model=[digits_ldm,openai_images]", "baseline={model: digits_ldm}", "metric=[psnr]"]
            there += [f"model.openai_images.base_url=http://127.0.0.1:{server.server_port}/v1"]
            there += ["model.openai_images.model=digits", "model.openai_images.fields=[latents]"]
            there += ["model.openai_images.api_key_env=null"]
            same = run(tmp_path, "same", *words, *there, "seed=3", f"model.openai_images.latents={file}")
            other = run(tmp_path, "other", *words, *there, "seed=3")
        finally:
            server.shutdown()
            thread.join()
    print(f"PSNR of diffusers and a service: same noise {psnrs(same)}, by seed alone {psnrs(other)}")
    assert psnrs(same)[0] > 60
    assert psnrs(other)[0] < 25
    assert len(set(same["pairing"].values())) == 1
