"""The gate through the command line: exit codes, files, and what a wrong gate says."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command import evalkit_process, results, run_evalkit
from gate_fakes import cell

from evalkit.config.compose import compose, resolve
from evalkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_GATE_FAILED, EXIT_GATE_INCONCLUSIVE, ConfigError
from evalkit.gate import make_gates

RUN = (
    "experiment=digits",
    "model=[digits_dcgan]",
    "sampler=[]",
    "prompts=[]",
    "exclude=[]",
    "num_samples=128",
    "contact_sheet=4",
)
METRICS = ("metric=[is_digits]", "report=false")  # IS is 6.6 +- 0.26 here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in, with gates of its own."""
    folder = tmp_path_factory.mktemp("gate")
    rules = {
        "good": "{metric: is_digits, min: 4}, {metric: nfe, max: 1}, {metric: duplicates, max: 0}",
        "bad": "{metric: is_digits, min: 9}, {metric: nfe, max: 1}",
        "again": "{metric: is_digits, no_worse_than: runs/good/results.json}",
        "latency": "{metric: latency_p50, no_worse_than: runs/good/results.json}",
        "misspelt": "{metric: is_digit, min: 4}",
        "bare": None,
    }
    (folder / "gates" / "gate").mkdir(parents=True)
    for name, text in rules.items():
        content = f"{name}:\n  rules: [{text}]\n" if text else "rules: [{metric: is_digits, min: 4}]\n"
        (folder / "gates" / "gate" / f"{name}.yaml").write_text(content)
    return folder


def run(folder: Path, gate: str, command: Any = run_evalkit, **env: str) -> tuple[Any, Path]:
    done = command("--config-dir=gates", *RUN, *METRICS, f"gate={gate}", f"name={gate}", cwd=folder, **env)
    return done, folder / "runs" / gate


def test_pass_fail_and_inconclusive_exit_with_their_codes_and_write_all_files(folder: Path) -> None:
    expected = {
        "good": (EXIT_DONE, "pass", "## ✅ gate good: passed"),
        "bad": (EXIT_GATE_FAILED, "fail", "## ❌ gate bad: failed"),
        "latency": (EXIT_GATE_INCONCLUSIVE, "inconclusive", "## ⚠️ gate latency: inconclusive"),
    }
    for name, (code, status, headline) in expected.items():
        command = evalkit_process if name == "bad" else run_evalkit  # the shell sees one exit code of the gate's
        github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(folder / f"{name}.md")}
        done, out = run(folder, name, command, **github)
        assert done.returncode == code, done.stderr
        assert (out / "gate.md").read_text(encoding="utf-8").startswith(headline)
        assert (folder / f"{name}.md").read_text(encoding="utf-8").startswith(headline)
        ElementTree.parse(out / "junit.xml")
        data = results(out)
        assert (data["gate"]["status"], data["gate"]["exit_code"]) == (status, code)
        for file in ("results.json", "table.md", "samples.csv", "overview.png", "config.yaml"):
            assert (out / file).is_file(), file
        annotation = {"pass": "::notice", "fail": "::error", "inconclusive": "::warning"}[status]
        assert any(line.startswith(annotation) for line in done.stdout.splitlines())


def test_the_same_run_again_is_no_worse_than_itself(folder: Path) -> None:
    """Paired with the samples of the earlier run, at no margin."""
    done, out = run(folder, "again")
    assert done.returncode == EXIT_DONE, done.stdout + done.stderr
    (result,) = results(out)["gate"]["results"]
    assert (result["difference"], result["paired"]) == (0, True)


def test_a_wrong_gate_is_one_line_before_any_work(folder: Path) -> None:
    done, out = run(folder, "misspelt")
    assert done.returncode == EXIT_CONFIG
    errors = [line for line in done.stderr.splitlines() if line.startswith("evalkit:")]
    expected = "gate.misspelt.rules[0]: there is no metric 'is_digit' in this run. Did you mean 'is_digits'?"
    assert errors == [f"evalkit: {expected}"]
    assert not out.exists()


def test_gates_of_a_folder_of_the_users_own(folder: Path) -> None:
    config_dir = str(folder / "gates")
    config = resolve(compose(["gate=[good,bad]"], config_dir))
    assert list(make_gates(config.gate, [cell("a")], {"is_digits": None})) == ["good", "bad"]
    with pytest.raises(ConfigError, match=r"gate=goud: no such option\. Did you mean 'good'\?"):
        compose(["gate=goud"], config_dir)
    keyless = resolve(compose(["gate=bare"], config_dir))
    with pytest.raises(ConfigError, match=r"gate\.rules: \[.* is not a mapping such as \{rules: \[\.\.\.\]"):
        make_gates(keyless.gate, [cell("a")], {"is_digits": None})
