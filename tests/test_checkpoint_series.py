"""A training's checkpoints through a whole run: what is best, where gains end, what is written."""

from pathlib import Path

import numpy as np
import pytest
from checkpoint_series import NOISE, dcgan, ddpm, settled

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.digits.data import reference_images
from evalkit.plan.plan import make_plan
from evalkit.results.table import ResultTable
from evalkit.trackers.base import FinishedRun


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "digits.npy"
    np.save(path, reference_images()[0][::12].transpose(0, 2, 3, 1))
    return path


def run(store: Path, *words: str) -> ResultTable:
    given = [f"store={store}", "metric=[kid_digits]", "device=cpu", "lint=false", "num_samples=96", "name=run"]
    return pipeline.run(make_plan(resolve(compose([*given, *words]))))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    folder = tmp_path_factory.mktemp("series")
    for step, std in NOISE.items():
        dcgan(folder / "ckpt" / f"g_{step}.safetensors", std)
    words = [f"model.digits_dcgan.checkpoints={folder}/ckpt/g_*", "prompts=[digits]", "contact_sheet=8"]
    run(folder / "runs", *words, f"reference.folder.path={reference}")
    return folder / "runs" / "run"


def test_a_run_says_which_step_is_best_and_draws_it(finished: Path) -> None:
    table = ResultTable.load(finished / "results.json")
    assert [row.settings["step"] for row in table.rows if row.metric == "kid_digits"] == [100, 200, 1000]
    values = [row.value or 0.0 for row in table.rows if row.metric == "kid_digits"]
    assert values == sorted(values, reverse=True)
    [series] = table.run["series"]
    assert list(series["steps"].values()) == [100, 200, 1000]
    assert series["trends"]["kid_digits"] == {
        "best": "digits_dcgan-step_1000",
        "ties": [],
        "plateau": "digits_dcgan-step_1000",
    }
    page = (finished / "report.html").read_text()
    assert "best at 1000; still significantly better at the last step" in page
    assert page.count('class="track band"') == 1
    assert (finished / "steps" / "digits_dcgan.png").stat().st_size > 1000
    pushed = FinishedRun.load(finished)
    assert [step for step, _ in pushed.curves["digits_dcgan/kid_digits"]] == [100, 200, 1000]
    assert "steps/digits_dcgan" in pushed.images


@pytest.mark.slow
def test_a_series_of_diffusers_folders(tmp_path: Path, reference: Path) -> None:
    for step, std in {1: 0.6, 2: 0.3, 3: 0.0}.items():
        ddpm(tmp_path / f"ckpt-{step}", std)
    words = [f"model.digits_ddpm.checkpoints={tmp_path}/ckpt-*", "sampler=[ddim]", "sampler.ddim.num_inference_steps=4"]
    table = run(tmp_path / "runs", *words, f"reference.folder.path={reference}")
    [series] = table.run["series"]
    assert series["trends"]["kid_digits"]["best"] == "digits_ddpm-ddim-step_3-num_inference_steps_4"


@pytest.mark.slow
def test_a_series_of_loras(tmp_path: Path, reference: Path) -> None:
    from tiny_adapters import save_lora

    from evalkit.utils.files import resolve_path

    for step, std in {100: 0.0, 200: 0.3, 300: 1.0}.items():  # noise in place of training: it gets worse
        save_lora(resolve_path("pkg://evalkit.digits/weights/ldm"), tmp_path / f"checkpoint-{step}", std=std)
        settled(tmp_path / f"checkpoint-{step}")
    words = ["model=[digits_ldm]", f"+model.digits_ldm.lora={{checkpoints: '{tmp_path}/checkpoint-*'}}"]
    words += ["sampler=[ddim]", "sampler.ddim.num_inference_steps=4", "prompts=[digits]"]
    table = run(tmp_path / "runs", *words, f"reference.folder.path={reference}")
    [series] = table.run["series"]
    assert list(series["steps"].values()) == [100, 200, 300]
    trend = series["trends"]["kid_digits"]
    assert series["steps"][trend["best"]] == series["steps"][trend["plateau"]] == 100
