"""GANs from the command line: the recipe `gan_vs_diffusion`, a StyleGAN with its path length, ONNX beside torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_stylegan
import torch
from command import results, run_evalkit
from lpips_weights import seeded_trunk

from evalkit.config.compose import compose, resolve
from evalkit.plan.plan import make_plan


def table(folder: Path) -> dict[tuple[str, str], Any]:
    return {(row["cell"], row["metric"]): row for row in results(folder)["rows"]}


def test_gan_vs_diffusion(tmp_path: Path) -> None:
    """Few samples: truncation smooths the GAN, every cell has its sheet, and nothing is made twice."""
    small = ["experiment=gan_vs_diffusion", "num_samples=24", "batch_size=24", "device=cpu", "report=false"]
    small += ["walk.lines=1", "walk.tiles=3", "sampler.ddim.num_inference_steps={sweep: [2]}", "exclude=[]"]
    done = run_evalkit(*small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "gan_vs_diffusion"
    rows = table(folder)
    cells = list(dict.fromkeys(cell for cell, _ in rows))
    assert len(cells) == 6
    narrow, whole = "digits_dcgan-truncation_0.25", "digits_dcgan"
    assert rows[narrow, "precision_digits"]["value"] >= rows[whole, "precision_digits"]["value"] > 0
    assert rows[narrow, "ppl_digits"]["value"] < rows[whole, "ppl_digits"]["value"]
    assert rows[whole, "ppl_digits"]["stderr"] > 0
    assert rows[cells[-1], "ppl_digits"]["note"] == "the model has no latents z (it has noise)"
    sheets = {path.name for path in (folder / "sheets").glob("*-walk.png")}
    assert sheets == {f"{cell}-walk.png" for cell in cells}
    before = {path: path.stat().st_mtime_ns for path in (folder / "sheets").iterdir()}
    again = run_evalkit(*small, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "sheets").iterdir()} == before
    assert table(folder)[whole, "ppl_digits"]["value"] == rows[whole, "ppl_digits"]["value"]


def test_the_recipes_cells() -> None:
    plan = make_plan(resolve(compose(["experiment=gan_vs_diffusion"])))
    assert len(plan.cells) == 8
    assert plan.baseline == "digits_dcgan"


def test_a_stylegan_and_its_path_length(tmp_path: Path) -> None:
    """psi 0 is one image: no length, no diversity; the path grows with psi."""
    tiny_stylegan.save(tmp_path / "g.safetensors")
    torch.save(seeded_trunk("vgg"), tmp_path / "vgg.pth")
    done = run_evalkit(
        *("experiment=digits", "name=style", "model=[stylegan]", "sampler=[]", "prompts=[]", "reference=none"),
        *(
            "metric=[ppl,ppl_z,vendi_digits]",
            "num_samples=16",
            "device=cpu",
            "report=false",
            "lint=false",
            "exclude=[]",
        ),
        *("model.stylegan.module=tiny_stylegan.Generator", f"model.stylegan.weights={tmp_path / 'g.safetensors'}"),
        *("model.stylegan.z_dim=16", "model.stylegan.truncation_psi={sweep: [0, 0.5, 1]}", "walk.lines=2"),
        *(f"extractor.lpips_vgg.weights={tmp_path / 'vgg.pth'}", "walk.space=w"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "runs" / "style")
    for name in ("ppl", "ppl_z"):
        values = [rows[f"stylegan-truncation_psi_{psi}", name]["value"] for psi in ("0", "0.5", "1")]
        assert values == sorted(values)
        assert values[0] == 0 < values[1]
    assert rows[next(iter(rows))[0], "ppl"]["label"].startswith("PPL [lpips_vgg:")


@pytest.mark.slow
def test_onnx_beside_torch(tmp_path: Path) -> None:
    """FID(torch) = FID(onnx) within the paired error; PSNR is that of images that hardly differ."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: torch cannot export")
    from evalkit.models.onnx.export import main

    assert main(["digits_dcgan", str(tmp_path / "g.onnx")]) == 0
    done = run_evalkit(
        *("experiment=digits", "name=onnx", "model=[digits_dcgan,onnx]", "sampler=[]", "metric=[fid_digits,psnr]"),
        *("num_samples=256", "device=cpu", "report=false", "exclude=[]", "baseline=digits_dcgan"),
        *(f"model.onnx.path={tmp_path / 'g.onnx'}", "model.onnx.latent_dim=64", "model.onnx.num_classes=10"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "runs" / "onnx")
    one, two = rows["digits_dcgan", "fid_digits"], rows["onnx", "fid_digits"]
    compared = json.loads((tmp_path / "runs/onnx/results.json").read_text())["comparisons"]
    fid = next(c for c in compared if c["metric"] == "fid_digits")
    assert abs(two["value"] - one["value"]) < 0.01 * one["stderr"]
    assert abs(fid["difference"]) <= 2 * fid["stderr"] + 1e-9
    assert rows["onnx", "psnr"]["value"] > 70
