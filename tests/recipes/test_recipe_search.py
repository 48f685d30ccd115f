"""docs/recipes/search.md as it stands there: Optuna over `evalkit.run`, and the command of `wandb sweep`, offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ROOT, run_evalkit
from packages import need

from evalkit.config.compose import compose, resolve
from evalkit.plan.grid import make_grid

need("optuna", "optuna is not installed")
need("wandb", "the extra 'wandb' is not installed")

PAGE = (ROOT / "docs" / "recipes" / "search.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert len(found) == 1
    return str(found[0])


def searched(trials: int, *sizes: int) -> dict[str, Any]:
    """Runs the script here, shortened, at two steps; what it leaves by name."""
    import optuna

    optuna.logging.disable_default_handler()
    code = block("python")
    for text, shorter in (
        ("TRIALS, SIZES = 16, (256, 512)\n", f"TRIALS, SIZES = {trials}, {sizes}\n"),
        ('"num_inference_steps", 2, 12, step=2', '"num_inference_steps", 2, 2'),
    ):
        assert text in code
        code = code.replace(text, shorter)
    names: dict[str, Any] = {}
    exec(compile(code, "search.md", "exec"), names)
    return names


def made() -> dict[Path, int]:
    """The images of the store, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in Path("runs/samples").rglob("*.png")}


def test_a_setting_that_comes_again_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = searched(1, 128)
    study, objective = names["study"], names["objective"]
    assert re.search(
        r"\{'num_inference_steps': \d+, 'guidance_scale': [\d.]+\} [\d.]+ ± [\d.]+, N = 128", capsys.readouterr().out
    )
    before = made()
    assert len(before) == 128
    study.enqueue_trial(study.best_params)
    study.optimize(objective, n_trials=1)
    first, again = study.trials
    assert first.params == again.params
    assert first.value == again.value == first.intermediate_values[128]
    value, error = map(float, re.findall(r"[\d.]+", first.user_attrs["FID"])[:2])
    assert first.value == pytest.approx(value + 2 * error, abs=0.2 * error)
    assert made() == before


@pytest.mark.slow
def test_what_is_pruned_stays_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended at the first size; tried again to the end, it makes the rest alone."""
    import optuna

    monkeypatch.chdir(tmp_path)
    names = searched(1, 256)
    study, objective, first = names["study"], names["objective"], made()
    names["SIZES"] = (256, 512)
    study.pruner = optuna.pruners.ThresholdPruner(upper=0.0)
    study.enqueue_trial(setting := {"num_inference_steps": 2, "guidance_scale": 2.0})
    study.optimize(objective, n_trials=1)
    assert study.trials[1].state == optuna.trial.TrialState.PRUNED
    assert list(study.trials[1].intermediate_values) == [256]
    before = made()
    assert len(before) == len(first) + 256
    objective(optuna.trial.FixedTrial(setting))
    after = made()
    assert len(after) == len(first) + 512
    assert before.items() <= after.items()


def sweep() -> dict[str, Any]:
    found = yaml.safe_load(block("yaml"))
    assert isinstance(found, dict)
    return found


def filled(parameters: dict[str, Any]) -> list[str]:
    """The command that the agent makes of a sweep's and a trial's parameters: by W&B's own functions, and its loop."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in parameters.items()}})
    macros["program"] = [sweep()["program"]]
    words = create_sweep_command(sweep()["command"])
    return [word for each in words for word in (macros[each[2:-1]] if each.startswith("${") else [each])]


def test_the_command_of_a_sweep_is_one_that_evalkit_takes() -> None:
    """Filled in as W&B's agent does, at the upper end of each parameter: one cell, with these settings."""
    spaces = sweep()["parameters"]
    ends = {name: space["max"] if "max" in space else max(space["values"]) for name, space in spaces.items()}
    program, *words = filled(ends)
    assert program == "evalkit"
    (cell,) = make_grid(resolve(compose(words))).cells
    assert cell.settings == {"num_inference_steps": 12, "guidance_scale": 6}


@pytest.mark.slow
def test_a_trial_is_a_run_of_its_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, with the variables that the agent sets: its run's id and parameters, the metric by the sweep's name."""
    from wandb_file import read

    parameters = {"sampler.ddim.num_inference_steps": 2, "model.digits_ldm.guidance_scale": 1.0}
    (tmp_path / "parameters.yaml").write_text(
        yaml.safe_dump({"wandb_version": 1} | {name: {"value": value} for name, value in parameters.items()})
    )
    agent = {
        "WANDB_RUN_ID": "trial001",
        "WANDB_SWEEP_ID": "sweep001",
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "parameters.yaml"),
        "HOME": str(tmp_path),
    }
    small = ["num_samples=8", "report=false", "lint=false", "tracker.wandb.mode=offline"]
    done = run_evalkit(*filled(parameters)[1:], *small, cwd=tmp_path, **agent)
    assert done.returncode == 0, done.stderr
    assert "tracker.wandb: offline; upload it with: wandb sync" in done.stderr, done.stderr
    (file,) = (tmp_path / "runs" / "sweep" / "wandb").glob("offline-run-*/run-*.wandb")
    held = read(file)
    assert (held.run.run_id, held.run.sweep_id) == ("trial001", "sweep001")
    assert {name: held.config[name] for name in parameters} == parameters
    assert held.summary[sweep()["metric"]["name"]] > 0
