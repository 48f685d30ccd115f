"""The first hour's command lines: folders, subcommands, help of one screen; and what is refused, in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, environment, evalkit_process, results, run_evalkit

import evalkit
from evalkit.data.codec import encode_png
from evalkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_ERROR, ConfigError

CHEAP = ("device=cpu", "report=false", "contact_sheet=0")


def write_images(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)))


def refusal(*words: str, cwd: Path, code: int = EXIT_CONFIG) -> str:
    """What stderr's last line says; it is evalkit's own, and nothing was made."""
    done = run_evalkit(*words, cwd=cwd)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evalkit: ")
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert not (cwd / "runs" / "samples").exists()
    return last


def test_folders_against_a_reference_and_nothing_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FOLDER REFERENCE`, `A B --reference R`; the same line again reuses its folder, another one gets a number."""
    for seed, name in enumerate(("v1.0", "b", "real")):
        write_images(tmp_path / name, 12, seed)
    metric = "metric=[FID_digits]"
    first = run_evalkit("v1.0", "real", metric, *CHEAP, cwd=tmp_path)
    assert first.returncode == EXIT_DONE, first.stderr
    before = (tmp_path / "runs" / "v1.0" / "results.json").read_bytes()
    run = json.loads(before)["run"]
    assert (run["name"], list(run["cells"]), list(run["config"]["metric"])) == ("v1.0", ["v1.0"], ["fid_digits"])
    assert (
        run["command"] == "python run_eval.py v1.0 real 'metric=[FID_digits]' device=cpu report=false contact_sheet=0"
    )
    assert run["config"]["exclude"] == []
    assert run_evalkit("v1.0", "real", metric, *CHEAP, cwd=tmp_path).returncode == EXIT_DONE
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.name.startswith("v1")) == ["v1.0"]
    other = run_evalkit("v1.0", "--reference", "b", metric, *CHEAP, cwd=tmp_path)
    assert "runs/v1.0 holds the results of another configuration: these go to runs/v1.0-2" in other.stderr
    assert results(tmp_path / "runs" / "v1.0-2")["run"]["name"] == "v1.0-2"
    assert json.loads((tmp_path / "runs" / "v1.0" / "results.json").read_bytes())["rows"] == json.loads(before)["rows"]
    two = run_evalkit("v1.0", metric, "b", "-r", "real", *CHEAP, cwd=tmp_path)
    assert two.returncode == EXIT_DONE, two.stderr
    assert list(results(tmp_path / "runs" / "v1.0-b")["run"]["cells"]) == ["v1.0", "b"]
    line = refusal("v1.0", "out=runs/v1.0", "metric=[is_digits]", cwd=tmp_path)
    assert "out=runs/v1.0 holds another configuration's finished run" in line


def test_a_folder_alone_gets_metrics_that_can_be_computed_here(tmp_path: Path) -> None:
    """With no weights on the machine but a package's: the line says what was chosen and what would add more."""
    write_images(tmp_path / "mine", 12, 0)
    cache = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}
    done = run_evalkit("mine", "dry_run=true", cwd=tmp_path, **cache)
    assert done.returncode == EXIT_DONE, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("metrics chosen: ")]
    assert "fid, kid, precision, recall with a reference" in line
    assert "weights-inception-2015-12-05-6726825d.pth in " in line
    assert "Results would go to runs/mine." in done.stdout


def test_the_program_answers_at_once(tmp_path: Path) -> None:
    """`--help` on one screen and `--version`, without Hydra, torch or a table of results."""
    env = environment(PYTHONPROFILEIMPORTTIME="1")
    command = [sys.executable, str(ROOT / "run_eval.py")]
    began = time.process_time()
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert time.process_time() - began < 5
    lines = shown.stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    for word in ("FOLDER [REFERENCE]", "--reference", "dry_run=true", "ls", "init", "report", "--hydra-help"):
        assert word in shown.stdout, word
    imported = {
        line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time:")
    }
    assert not imported & {"hydra", "torch", "omegaconf", "PIL", "evalkit.pipeline"}
    assert run_evalkit("--version", cwd=tmp_path).stdout == f"evalkit {evalkit.__version__}\n"
    assert run_evalkit("num_samples=3", "--help", cwd=tmp_path).stdout == shown.stdout


def test_hydras_own_help_is_there(tmp_path: Path) -> None:
    # In a process: Hydra closes all handlers of logging, and absl's, which Keras brings, closes pytest's stderr.
    done = evalkit_process("--hydra-help", cwd=tmp_path)
    assert done.returncode == EXIT_DONE, done.stderr
    assert "Hydra" in done.stdout
    job = run_evalkit("--cfg", "job", "--package", "sampler", "model=[digits_ldm]", "sampler=[ddim]", cwd=tmp_path)
    assert job.stdout.startswith("ddim:\n  _target_: evalkit.models.base.Sampler\n")


def test_ls(tmp_path: Path) -> None:
    cache = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}
    metrics = run_evalkit("ls", "metrics", cwd=tmp_path, **cache).stdout
    lines = {line.split()[0]: line for line in metrics.splitlines()}
    assert lines["fid"].split()[1:5] == ["↓", "no", "inception", "reference"]
    assert "Frechet Inception Distance" in lines["fid"]
    assert lines["clip_score_digits"].split()[1:4] == ["↑", "here", "prompts"]
    assert lines["psnr"].split()[1:4] == ["↑", "needs", "none"]
    assert "baseline images" in lines["psnr"]
    assert "inception" in lines["inception,"]  # the footnote: which file to put where
    models = run_evalkit("ls", "model", cwd=tmp_path, **cache).stdout
    assert "\nsdxl_turbo " in models
    assert "\ndigits_ldm         here " in models
    assert "DDIMScheduler" in run_evalkit("ls", "samplers", cwd=tmp_path).stdout
    extractors = run_evalkit("ls", "Extractors", cwd=tmp_path, **cache).stdout
    assert [line.split()[1] for line in extractors.splitlines() if line.startswith("digits ")] == ["here"]
    assert "Choices" in refusal("ls", "cats", cwd=tmp_path)


def test_init_writes_what_runs_and_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "prompts.txt").write_text("a red one on a black background\n")
    done = run_evalkit("init", cwd=tmp_path)
    assert done.returncode == EXIT_DONE, done.stderr
    assert "eval/prompts.txt is there: left as it is" in done.stdout
    assert (tmp_path / "eval" / "prompts.txt").read_text() == "a red one on a black background\n"
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {
        *("eval/experiment/mine.yaml", "eval/gate/mine.yaml", "eval/prompts.txt", ".github/workflows/evalkit.yml")
    }
    again = run_evalkit("init", cwd=tmp_path).stdout
    assert again.count("is there: left as it is") == 4
    words = ("--config-dir", "eval", "experiment=mine", "model=[digits_dcgan]", "dry_run=true")
    dry = run_evalkit(*words, cwd=tmp_path)  # the gate's rules and the prompts are read
    assert dry.returncode == EXIT_DONE, dry.stderr
    assert "Results would go to runs/mine." in dry.stdout


def test_report_and_verify_say_what_they_want(tmp_path: Path) -> None:
    assert "no such file" in refusal("report", "runs/gone", cwd=tmp_path, code=EXIT_ERROR)
    assert "Missing argument" in refusal("report", cwd=tmp_path)


def test_completion_knows_subcommands_groups_and_options(tmp_path: Path) -> None:
    def completed(*words: str) -> list[str]:
        env = environment(_EVALKIT_COMPLETE="complete_bash", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
        shown = subprocess.run(
            [sys.executable, "-c", "from evalkit.cli import main; main()"], cwd=tmp_path, env=env, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        return shown.stdout.split()

    assert completed("evalkit", "rep") == ["report", "report="]
    assert completed("evalkit", "metric=[fid_in") == ["metric=[fid_infinity", "metric=[fid_infinity_digits"]
    assert completed("evalkit", "ls", "sa") == ["samplers"]


LDM = ("experiment=digits", "model=[digits_ldm]", "num_samples=4", "exclude=[]", "dry_run=true")
WRONG_VALUES = [
    ("batch_size=-1", "batch_size=-1: give a whole number >= 1"),
    ("device=cudda", "Did you mean 'cuda'?"),
    ("sampler.ddim.num_inference_steps=0", "sampler.ddim.num_inference_steps=0: give a whole number >= 1"),
    ("model.digits_ldm.guidance_scale=nan", "model.digits_ldm.guidance_scale=nan: give a finite number"),
    ("model.digits_ldm.guidance_scale={sweep: [1, high]}", "guidance_scale=high: give a number"),
    ("+model.digits_ldm.height=0", "model.digits_ldm.height=0: give a whole number >= 1"),
    ("save_stats=file", "save_stats=file is a file: give a folder"),
    ("out=file", "out=file is a file: give a folder"),
    ("name=a/b", "give a folder's name, without slashes"),
    ("exclude=[{modell: digits_ldm}]", "exclude[0]: no cell has a setting 'modell'. Did you mean 'model'?"),
    ("baseline={model: x}", "picks 0 cells: model is x, but in this run there are digits_ldm"),
    ("seed={sweep: [" + ",".join(map(str, range(2000))) + "]}", "up to 36,000 cells, more than max_cells=10,000"),
    ("num_samples=${nope}", "num_samples: Interpolation key 'nope' not found"),
    ("+foo=1", "foo: no such key."),
    ("experiment=tab", "tab.yaml, line 2, column 6: this is no YAML: "),
    ("experiment=deep", "a YAML file is nested too deeply"),
]


@pytest.mark.parametrize(("override", "message"), WRONG_VALUES, ids=[text[:40] for text, _ in WRONG_VALUES])
def test_a_dry_run_refuses_what_the_run_refuses(override: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tab.yaml").write_text("# @package _global_\nname:\tx\n")
    (tmp_path / "mine" / "experiment" / "deep.yaml").write_text("name: " + "[" * 5000)
    others = LDM[1:] if override.startswith("experiment") else LDM
    assert message in refusal(*others, override, "--config-dir", "mine", cwd=tmp_path)


def test_a_setting_that_a_model_does_not_take_is_refused_in_a_dry_run_too(tmp_path: Path) -> None:
    line = refusal(*LDM, "sampler=[ddim]", "+sampler.ddim.options.etaa=1", cwd=tmp_path)
    assert "'etaa'" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--multirun", "seed=0,1"), "seed={sweep: [0, 1]}"),
        (("gate=[digits]", "-m", "seed=0,1"), "seed={sweep: [0, 1]}"),
        (("--config-path", "x"), "give --config-dir DIR"),
        (("--config-dir", "gone"), "--config-dir gone: there is no such folder"),
        (("--reverence", "x"), "No such option: --reverence"),
        (("reprot",), "Did you mean 'report'?"),
    ],
)
def test_what_hydra_would_have_done_otherwise(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in refusal(*words, cwd=tmp_path)


def test_overrides_and_options_in_any_order(tmp_path: Path) -> None:
    """F20: `gate=[x]` after `--config-dir` was "unrecognized arguments"."""
    (tmp_path / "mine").mkdir()
    gan = ("model=[digits_dcgan]", "num_samples=4", "metric=[is_digits]")
    done = run_evalkit(*gan, "--config-dir", "mine", "name=[x]", "dry_run=true", cwd=tmp_path)
    assert done.returncode == EXIT_CONFIG
    done = run_evalkit(*gan, "--config-dir", "mine", "name='a [b] [bold]c'", "metric=[]", "dry_run=true", cwd=tmp_path)
    assert done.returncode == EXIT_DONE, done.stderr
    assert "a [b] [bold]c: 1 cells" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_evaluate_takes_values_that_must_be_given_and_other_extractors(monkeypatch: pytest.MonkeyPatch) -> None:
    """L5: `metric.frechet.features` was "not there", and no extractor could be chosen."""
    import evalkit.api as api

    monkeypatch.setattr(api, "make_plan", lambda config: config)
    monkeypatch.setattr(api.pipeline, "run", lambda config, command: config)
    settings = {"metric.frechet.features": "timm/features", "extractor.timm.model": "resnet18"}
    config: Any = evalkit.evaluate("a", "digits", ["Frechet"], settings=settings)
    assert config.metric["frechet"]["features"] == "timm/features"
    assert config.extractor["timm"]["model"] == "resnet18"
    assert (config.model["folder"]["path"], list(config.reference)) == ("a", ["digits"])
    with pytest.raises(ConfigError, match=r"there is no 'metric\.frechet\.feature'.* Did you mean 'features'\?"):
        evalkit.evaluate("a", "digits", ["frechet"], settings={"metric.frechet.feature": "x"})
