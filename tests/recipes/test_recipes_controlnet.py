"""The recipe `controlnet` from the command line, few samples; image-to-image and inpainting of the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.digits.conditions import main as write_conditions
from evalkit.errors import DataError
from evalkit.numerics.canny import canny
from evalkit.plan.plan import make_plan
from evalkit.results.table import ResultTable


def run(folder: Path, *overrides: str) -> ResultTable:
    """As the command line does, in this process."""
    where = [f"store={folder}", "device=cpu", "report=false", "contact_sheet=0", "batch_size=40"]
    steps = "sampler.ddim.num_inference_steps=4"
    return pipeline.run(make_plan(resolve(compose([*overrides, *where, steps]))))


def values(table: ResultTable, metric: str, **settings: Any) -> list[float]:
    """A metric's values, in the order of the cells, of those with some settings."""
    rows = [row for row in table.rows if row.metric == metric]
    return [row.value or 0.0 for row in rows if settings.items() <= {"model": row.model, **row.settings}.items()]


def images(folder: Path, cell: str) -> np.ndarray:
    (found,) = (folder / "samples").glob(f"{cell}-????????")
    return np.stack([np.asarray(Image.open(path)) for path in sorted(found.rglob("*.png"))])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controlnet")


@pytest.fixture(scope="module")
def drawn(store: Path) -> ResultTable:
    """The recipe's run, with the model without a ControlNet beside it."""
    return run(
        store,
        *("experiment=controlnet", "num_samples=40", "model=[digits_controlnet,digits_ldm]", "reference=none"),
        *("metric=[edge_f1,edge_ssim]", "model.digits_ldm.guidance_scale=4"),
    )


def test_adherence_rises_with_the_scale(drawn: ResultTable) -> None:
    """Paired with scale 0, sample by sample: significantly, and the more of it the more."""
    for metric in ("edge_f1", "edge_ssim"):
        found = values(drawn, metric, model="digits_controlnet")
        assert len(found) == 3
        assert found[0] < found[1] < found[2], metric
        compared = [c for c in drawn.comparisons if c.metric == metric and "controlnet" in c.cell]
        assert [(c.verdict, c.paired) for c in compared] == [("better", True)] * 2
        assert compared[1].difference > 5 * (compared[1].stderr or 1)
    labels = {row.label for row in drawn.rows}
    assert {"edge F1 (control)", "edge SSIM (control)"} <= labels


def test_scale_zero_is_the_model_without_it(drawn: ResultTable, store: Path) -> None:
    zero, bare = (
        "digits_controlnet-ddim-controlnet_conditioning_scale_0-guidance_scale_4-num_inference_steps_4",
        "digits_ldm-ddim-guidance_scale_4-num_inference_steps_4",
    )
    assert (images(store, zero) == images(store, bare)).all()
    edges = values(drawn, "edge_f1")
    assert edges[0] == edges[3]


def test_the_recipe_composes() -> None:
    plan = make_plan(resolve(compose(["experiment=controlnet"])))
    assert [cell.num_samples for cell in plan.cells] == [560] * 3
    assert plan.baseline == plan.cells[0].name


def test_the_outlines_that_ship_are_those_of_their_digits(tmp_path: Path) -> None:
    """The shipped folder is what the command writes; the outlines are Canny's, of the digits of `--sources`."""
    assert write_conditions([str(tmp_path), "--count", "30", "--sources"]) == 0
    shipped = Path(__file__).parents[2] / "evalkit" / "digits" / "control_set"
    lines = (shipped / "prompts.csv").read_text().splitlines()
    made = (tmp_path / "prompts.csv").read_text().splitlines()
    assert len(lines) == 561
    assert [line.split(",")[:4] for line in lines[1:31]] == [line.split(",")[:4] for line in made[1:]]
    assert sum(file.stat().st_size for file in shipped.rglob("*.*")) < 400_000
    for number in range(30):
        outline, source = (Image.open(tmp_path / kind / f"{number:03d}.png") for kind in ("outlines", "sources"))
        again = np.asarray(Image.open(shipped / "outlines" / f"{number:03d}.png"))
        assert (np.asarray(outline) == again).all()
        assert (canny(np.asarray(source)[None])[0] == again).mean() > 0.95


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    write_conditions([str(folder), "--count", "40", "--sources"])
    return folder / "prompts.csv"


def from_images(table: Path, name: str, *more: str) -> list[str]:
    """As on the recipe's page, with fewer samples."""
    return [
        *("experiment=digits", "model=[digits_ldm]", f"+model.digits_ldm.pipeline={name}", "sampler=[ddim]"),
        *("model.digits_ldm.guidance_scale=1", "exclude=[]", "reference=none", "prompts=[table]"),
        *(f"prompts.table.path={table}", "prompts.table.source=source", "prompts.table.target=target"),
        *("metric=[psnr_target,clip_score_digits]", *more),
    ]


def test_image_to_image(conditions: Path, tmp_path: Path) -> None:
    """The less strength, the nearer to the source."""
    sweep = "+model.digits_ldm.strength={sweep: [0.25, 0.5, 1.0]}"
    table = run(tmp_path, *from_images(conditions, "StableDiffusionImg2ImgPipeline", sweep))
    psnr = values(table, "psnr_target")
    assert psnr[0] > psnr[1] > psnr[2]
    assert values(table, "nfe") == [1, 2, 4]


def test_inpainting(conditions: Path, tmp_path: Path) -> None:
    """The lower half is painted anew, the upper half stays nearly as it was."""
    wanted = from_images(conditions, "StableDiffusionInpaintPipeline")
    with pytest.raises(
        DataError, match=r"wants a mask image of each prompt, and that of sample 0 \('a purple two on a"
    ):
        run(tmp_path, *wanted)
    assert not list(tmp_path.rglob("*.png"))
    run(tmp_path, *wanted, "prompts.table.mask=mask")
    made = images(tmp_path, "digits_ldm-ddim-guidance_scale_1-num_inference_steps_4").astype(int)
    sources = np.stack([np.asarray(Image.open(path)) for path in sorted((conditions.parent / "sources").iterdir())])
    change = np.abs(made - sources).mean(axis=(0, 2, 3))  # by row
    assert change[:12].mean() < 0.5 * change[20:].mean()
