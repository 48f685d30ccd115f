"""A training's checkpoints through a whole run: what is best, where gains end, what is written."""

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_series import NOISE, cut, dcgan, ddpm, settled

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


SHARED = ["metric=[kid_digits]", "device=cpu", "lint=false", "num_samples=96", "name=run"]


def run(store: Path, *words: str) -> ResultTable:
    return pipeline.run(make_plan(resolve(compose([*SHARED, f"store={store}", *words]))))


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


def test_a_watch_is_the_same_run_again_and_again(
    finished: Path, reference: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from evalkit.commands.watch import run_watch
    from evalkit.loop.watch import Rules

    logging.getLogger("evalkit").propagate = True
    checkpoints, store = finished.parents[1] / "ckpt", finished.parent
    half = dcgan(checkpoints / "g_2000.safetensors", 0.0)
    cut(half)
    words = [f"model.digits_dcgan.checkpoints={checkpoints}/g_*", "prompts=[digits]", "contact_sheet=8"]
    config = resolve(compose([*SHARED, f"store={store}", *words, f"reference.folder.path={reference}"]))
    options = {"choose": False, "newest": False, "poll": 1.0, "settle": 2.0}
    try:
        assert run_watch(config, Rules(seconds=0), stale=1000.0, **options) == 0
        assert "step 2000 is waited for: " in caplog.text
        assert run_watch(config, Rules(seconds=0), stale=10.0, **options) == 0
        assert "step 2000 is passed over, until it is written anew: " in caplog.text
    finally:
        half.unlink()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "digits_dcgan, KID [digits] by step: best at 1000; still significantly better at the last step."
    assert said[1] == f"results: {finished}"
    assert [path.name for path in store.iterdir() if path.name.startswith("run")] == ["run"]


@pytest.mark.slow
def test_a_watch_that_is_stopped_leaves_a_whole_report_and_goes_on(tmp_path: Path, reference: Path) -> None:
    for step, std in ((1, 1.0), (2, 0.5)):
        dcgan(tmp_path / "ckpt" / f"g_{step}.safetensors", std)
    words = [f"model.digits_dcgan.checkpoints={tmp_path}/ckpt/g_*", "prompts=[digits]", f"store={tmp_path}/runs"]
    words += [*SHARED, f"reference.folder.path={reference}"]
    command = [sys.executable, "-c", "from evalkit.cli import main; main()", "watch", *words, "--poll", "1"]
    results = tmp_path / "runs" / "run" / "results.json"
    process = subprocess.Popen(command)
    try:
        deadline = time.time() + 120
        while not results.is_file() and time.time() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        process.kill()
    assert len(ResultTable.load(results).cells) == 2
    assert "Along step" in results.with_name("report.html").read_text()
    dcgan(tmp_path / "ckpt" / "g_3.safetensors", 0.0)
    done = subprocess.run([*command, "--for", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(ResultTable.load(results).cells) == 3
    assert "step_3: 96 images in" in done.stderr
    assert "step_1: 96 images in" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=[digits_dcgan]"], "watch wants one series, and there is no series of checkpoints: give model.NAME"),
        (["model.digits_dcgan.checkpoints=x_*", "--until-gate"], "--until-gate: there is no gate"),
        (["model.digits_dcgan.checkpoints=x_*", "--for", "soon"], "--for soon: give a time such as 90m, 6h or 2d"),
        (["model.digits_dcgan.checkpoints=x_*", "--patience", "0"], "--patience at least 1 checkpoint"),
        (["model.digits_dcgan.checkpoints=x_*", "metric=[fidd]"], "metric=fidd: no such option"),
    ],
)
def test_what_cannot_be_watched_is_one_line_at_once(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evalkit.cli import main

    monkeypatch.setattr(sys, "argv", ["evalkit", "watch", "prompts=[digits]", "reference=digits", *words])
    with pytest.raises(SystemExit) as stop:
        main(program=False)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


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


@pytest.mark.slow
def test_a_series_of_a_trainers_denoisers(tmp_path: Path, reference: Path) -> None:
    """`checkpoint-N/unet` and `unet_ema`, over the pipeline that they were trained from."""
    import torch
    from diffusers import UNet2DConditionModel

    from evalkit.utils.files import resolve_path

    for step, std in {100: 0.1, 200: 0.0}.items():  # noise in place of training: it gets better
        for name, factor in (("unet", 1.0), ("unet_ema", 0.5)):
            torch.manual_seed(0)
            unet = UNet2DConditionModel.from_pretrained(resolve_path("pkg://evalkit.digits/weights/ldm/unet"))
            for weight in unet.parameters():
                weight.data += torch.randn_like(weight) * std * factor
            unet.save_pretrained(tmp_path / f"checkpoint-{step}" / name)
        settled(tmp_path / f"checkpoint-{step}")
    words = ["model=[digits_ldm]", f"+model.digits_ldm.denoiser={{checkpoints: '{tmp_path}/checkpoint-*'}}"]
    words += ["sampler=[ddim]", "sampler.ddim.num_inference_steps=4", "prompts=[digits]"]
    table = run(tmp_path / "runs", *words, f"reference.folder.path={reference}")
    [series] = table.run["series"]
    assert list(series["steps"].values()) == [100, 200]
    assert series["steps"][series["trends"]["kid_digits"]["best"]] == 200
