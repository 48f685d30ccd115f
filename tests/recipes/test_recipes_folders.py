"""The recipe `experiment=existing_folders` from the command line: exports of a run, one of them behind a URL."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from command import results, run_evalkit
from pictures_with_texts import write_outputs
from PIL import Image
from range_server import Files, serving

from evalkit.digits.data import reference_images

MADE = (
    *("experiment=digits", "model=[digits_ldm,digits_dcgan]", "sampler=[ddim]", "exclude=[]", "num_samples=48"),
    *("model.digits_ldm.guidance_scale={sweep: [4]}", "sampler.ddim.num_inference_steps={sweep: [4, 8]}"),
    *("metric=[fid_digits]", "export=[folder,npz,webdataset]", "report=false", "lint=false", "device=cpu"),
)


def values(folder: Path, metric: str) -> dict[str, float]:
    return {row["cell"]: row["value"] for row in results(folder)["rows"] if row["metric"] == metric}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose cells were exported."""
    folder = tmp_path_factory.mktemp("recipe")
    done = run_evalkit(*MADE, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_recipe(made: Path) -> None:
    pytest.importorskip("aiohttp")
    export = made / "runs" / "digits" / "export"
    tar = "digits_ldm-ddim-guidance_scale_4-num_inference_steps_8.tar"
    with serving(Files({f"/data/{tar}": (export / tar).read_bytes()})) as root:
        far = f"model.ldm_8_steps_tar.path={root}/data/{tar}"
        done = run_evalkit("experiment=existing_folders", far, "device=cpu", cwd=made)
        assert done.returncode == 0, done.stderr
        again = run_evalkit("experiment=existing_folders", far, "device=cpu", cwd=made)
        assert again.returncode == 0, again.stderr
        assert "features of" not in again.stderr, "the finished run computed features again"
    fid = values(made / "runs" / "existing_folders", "fid_digits")
    cells = values(made / "runs" / "digits", "fid_digits")
    assert list(fid) == ["ldm_8_steps", "ldm_8_steps_tar", "ldm_4_steps", "dcgan"]
    assert (
        fid["ldm_8_steps"] == fid["ldm_8_steps_tar"] == cells["digits_ldm-ddim-guidance_scale_4-num_inference_steps_8"]
    )
    assert fid["ldm_4_steps"] == cells["digits_ldm-ddim-guidance_scale_4-num_inference_steps_4"] > fid["ldm_8_steps"]
    assert fid["dcgan"] == pytest.approx(cells["digits_dcgan"], rel=1e-9)
    clip = values(made / "runs" / "existing_folders", "clip_score_digits")
    assert clip["ldm_8_steps"] == clip["ldm_8_steps_tar"] > clip["ldm_4_steps"]
    assert clip["dcgan"] is None  # an .npz holds no prompts
    page = (made / "runs" / "existing_folders" / "report.html").read_text(encoding="utf-8")
    assert len(re.findall("data:image/webp", page)) > 40, "the remote archive's images are not shown"


def test_outputs_of_automatic1111_become_cells_by_themselves(tmp_path: Path) -> None:
    """Real digits, and the same under noise, in one folder: told apart by what their PNGs say."""
    pixels, captions = reference_images()
    spread = slice(None, None, len(pixels) // 48)
    clean = pixels[spread][:48].transpose(0, 2, 3, 1)
    noise = np.random.default_rng(0).integers(-90, 90, clean.shape)
    damaged = (clean.astype(int) + noise).clip(0, 255).astype(np.uint8)
    texts = [caption.text for caption in captions[spread]][:48]
    images = {
        ("Euler a", 20, 7.0): list(zip(clean, texts, strict=True)),
        ("Euler a", 5, 7.0): list(zip(damaged, texts, strict=True)),
        ("DPM++ 2M", 20, 7.0): list(zip(clean[:40], texts, strict=False)),
    }
    write_outputs(tmp_path / "outputs", images)
    Image.fromarray(clean[0]).save(tmp_path / "outputs" / "a_grid.png")  # says nothing of its making
    done = run_evalkit(
        *("name=outputs", "model=[folder]", "model.folder.path=outputs", "model.folder.split_by=[sampler,steps]"),
        *("reference=digits", "exclude=[{sampler: none}]", "metric=[fid_digits,clip_score_digits]"),
        *("baseline={sampler: Euler a, num_inference_steps: 20}", "device=cpu", "report=false"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = results(tmp_path / "runs" / "outputs")["rows"]
    found = {
        (r["sampler"], r["settings"]["num_inference_steps"]): (r["value"], r["n"])
        for r in rows
        if r["metric"] == "fid_digits"
    }
    assert set(found) == {("DPM++ 2M", 20), ("Euler a", 5), ("Euler a", 20)}
    assert found["DPM++ 2M", 20][1] == 40
    assert found["Euler a", 5][0] > 1.5 * found["Euler a", 20][0]
    clip = values(tmp_path / "runs" / "outputs", "clip_score_digits")
    assert clip["folder-Euler_a-num_inference_steps_20"] > clip["folder-Euler_a-num_inference_steps_5"] > 0
