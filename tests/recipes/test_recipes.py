"""The recipes that compare settings of the digits models: few samples, the whole way to the table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.data.codec import decode, encode_png
from evalkit.digits.data import reference_images
from evalkit.errors import ConfigError
from evalkit.gate import Verdict
from evalkit.plan.grid import make_grid
from evalkit.plan.plan import make_plan
from evalkit.results.table import Comparison, ResultTable

RECIPES = ROOT / "docs" / "recipes"


def recipe(name: str, cwd: Path, *overrides: str) -> ResultTable:
    """Runs `experiment=name` in a folder, as the command line does."""
    where = [f"store={cwd / 'runs'}", "device=cpu", "report=false", "contact_sheet=0"]
    return pipeline.run(make_plan(resolve(compose([f"experiment={name}", *where, *overrides]))))


def values(table: ResultTable, metric: str, *settings: str) -> dict[Any, float]:
    """A metric's values by the cells' settings; all of them must be there."""
    found = {}
    for row in table.rows:
        if row.metric == metric:
            assert row.value is not None, f"{row.cell}: {row.note}"
            key = tuple(row.settings.get(name, getattr(row, name, None)) for name in settings)
            found[key[0] if len(key) == 1 else key] = row.value
    return found


def with_baseline(table: ResultTable, metric: str, cell: str) -> Comparison:
    return next(c for c in table.comparisons if c.metric == metric and cell in c.cell)


@pytest.mark.slow
def test_sampler_sweep(tmp_path: Path) -> None:
    """The whole grid is planned; three samplers of it are run."""
    cells = make_grid(resolve(compose(["experiment=sampler_sweep"]))).cells
    assert len(cells) == 30
    assert len({cell.sampler for cell in cells}) == 10
    table = recipe("sampler_sweep", tmp_path, "num_samples=4", "lint=false", "sampler=[ddim,heun,euler_a]")
    nfe = values(table, "nfe", "sampler", "num_inference_steps")
    assert sorted(nfe) == [(s, n) for s in ("ddim", "euler_a", "heun") for n in (4, 8, 16)]
    assert nfe["ddim", 8] == nfe["euler_a", 8] == 16  # guidance counts twice
    assert nfe["heun", 8] > 1.7 * nfe["ddim", 8]
    clip = values(table, "clip_score_digits", "sampler", "num_inference_steps")
    assert clip["heun", 16] > clip["heun", 4]
    assert len(values(table, "fid_digits", "sampler", "num_inference_steps")) == 9
    compared = [c for c in table.comparisons if c.metric == "clip_score_digits"]
    assert len(compared) == 8
    assert all(c.paired and c.baseline == "digits_ldm-ddim-num_inference_steps_16-guidance_scale_2" for c in compared)


@pytest.mark.slow
def test_guidance_sweep(tmp_path: Path) -> None:
    table = recipe("guidance_sweep", tmp_path, "num_samples=24")
    clip = values(table, "clip_score_digits", "guidance_scale")
    assert list(clip) == [1, 1.5, 2, 3, 4, 8]
    assert clip[3] > clip[1] + 2
    assert values(table, "nfe", "guidance_scale") == {g: 8.0 if g == 1 else 16.0 for g in clip}
    assert {row.metric for row in table.rows} >= {"precision_digits", "recall_digits", "fid_digits", "kid_digits"}


@pytest.mark.slow
def test_release_gate(tmp_path: Path) -> None:
    """Too few samples to tell: inconclusive, exit code 4. Two steps are worse beyond doubt: 3."""
    for overrides, code in (((), 4), (("model.digits_ldm.num_inference_steps={sweep: [16, 2]}",), 3)):
        table = recipe("release_gate", tmp_path, "num_samples=40", *overrides)
        assert table.gate is not None
        assert Verdict.from_json(table.gate).exit_code == code
    assert (tmp_path / "runs" / "release_gate" / "junit.xml").is_file()


@pytest.mark.slow
def test_vae_reconstruction(tmp_path: Path) -> None:
    """The mean of the posterior is nearer than a draw from it, pair by pair; bfloat16 is no better than float32."""
    table = recipe("vae_reconstruction", tmp_path, "num_samples=96")
    psnr = values(table, "psnr_target", "dtype", "posterior")
    assert len(psnr) == 3
    assert psnr["float32", "mode"] > 22
    drawn = with_baseline(table, "psnr_target", "dtype_float32-posterior_sample")
    assert (drawn.paired, drawn.verdict) == (True, "worse")
    row = next(row for row in table.rows if row.metric == "psnr_target")
    assert row.label == "PSNR (target)"
    assert row.protocol["target"]["n"] == 96
    assert with_baseline(table, "ssim_target", "dtype_float32-posterior_sample").verdict == "worse"
    assert psnr["bfloat16", "mode"] < psnr["float32", "mode"] + 0.05


def test_the_targets_of_a_prompt_table(tmp_path: Path) -> None:
    """Each sample with its row's image; a folder's images have no row, so no score. Where none has any: refused."""
    images = reference_images()[0][:3].transpose(0, 2, 3, 1)  # u8 [3,32,32,3]
    (tmp_path / "wanted").mkdir()
    for i, image in enumerate(images):
        (tmp_path / "wanted" / f"{i}.png").write_bytes(encode_png(image))
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,digit,image\n" + "".join(f"a zero,{i},wanted/{i}.png\n" for i in range(3)))
    options = [
        *("experiment=digits", "model=[digits_dcgan,folder]", "sampler=[]", "prompts=[table]", "reference=none"),
        *("exclude=[]", "metric=[psnr_target]", f"prompts.table.path={table}", "prompts.table.class_id=digit"),
        *(f"model.folder.path={tmp_path / 'wanted'}", "num_samples=8", f"store={tmp_path / 'runs'}", "device=cpu"),
        *("report=false", "contact_sheet=0", "name=targets"),
    ]
    found = pipeline.run(make_plan(resolve(compose([*options, "prompts.table.target=image"]))))
    rows = {row.model: row for row in found.rows if row.metric == "psnr_target"}
    assert rows["digits_dcgan"].n == 8
    assert 0 < (rows["digits_dcgan"].value or 0) < 40
    assert rows["digits_dcgan"].protocol["target"]["n"] == 8
    assert (rows["folder"].value, rows["folder"].note) == (None, "the samples have no prompts that name target images")
    lines = list(csv.DictReader((tmp_path / "runs" / "targets" / "samples.csv").open()))
    made = [line for line in lines if line["cell"] == "digits_dcgan"]
    assert len(made) == 8
    for line, wanted in zip(made, images[[0, 1, 2, 0, 1, 2, 0, 1]], strict=True):
        error = np.square(decode(Path(line["file"])).astype(float) - wanted).mean()
        assert float(line["psnr_target"]) == pytest.approx(10 * np.log10(255**2 / error), rel=1e-4)
    with pytest.raises(ConfigError, match=r"no cell has any: .*prompts\.table\.target=COLUMN"):
        make_plan(resolve(compose(options)))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_has_its_page(path: Path) -> None:
    if path.stem == "digits":  # the default: the README is its page
        return
    page = {"judge_digits": "judge"}.get(path.stem, path.stem)
    assert (RECIPES / f"{page}.md").is_file()
    assert f"({page}.md)" in (RECIPES / "README.md").read_text("utf-8")
