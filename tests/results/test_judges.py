"""A judge of a run against known answers: in the results, the report, the terminal and the gate; asked once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import results, run_evalkit

from evalkit.data.codec import encode_png
from evalkit.digits.data import DIGIT_WORDS, reference_images
from evalkit.errors import EXIT_DONE, EXIT_ERROR, EXIT_GATE_FAILED, ConfigError
from evalkit.gate import make_gates
from evalkit.gate.verdict import Result, Verdict
from evalkit.plan.auto import Growth
from evalkit.results.judges import judge_notes

ITEMS, WRONG = 60, 9
RUN = (
    *("model=[folder]", "model.folder.path=known", "device=cpu", f"num_samples={ITEMS}"),
    *("metric=[judge]", "metric.judge.judge=judge_digits", "metric.judge.needs_prompts=false", "store=store"),
    *("extractor.judge_digits.question='Is the digit a seven?'", "extractor.judge_digits.way=yes_no", "lint=false"),
    *("contact_sheet=0", "--config-dir=gates", "extractor.judge_digits.calibration=known/items.jsonl"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in: digits with questions, the answers to some of which are not those that the truth gives."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / "known").mkdir()
    images, captions = reference_images()
    lines = []
    for i, place in enumerate(range(0, len(images), len(images) // ITEMS)[:ITEMS]):
        (folder / "known" / f"{i}.png").write_bytes(encode_png(images[place].transpose(1, 2, 0).copy()))
        word = DIGIT_WORDS[captions[place].digit]
        asked = word if i % 2 else DIGIT_WORDS[(captions[place].digit + 1) % 10]
        right = (i % 2 == 1) != (i < WRONG)
        lines.append({"image": f"{i}.png", "question": f"Is the digit a {asked}?", "answer": "yes" if right else "no"})
    (folder / "known" / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "gates" / "gate").mkdir(parents=True)
    for name, least in {"low": 0.6, "near": 0.83, "high": 0.97}.items():
        text = f"{name}:\n  rules: [{{metric: judge_agreement, min: {least}}}]\n"
        (folder / "gates" / "gate" / f"{name}.yaml").write_text(text)
    return folder


def test_it_stands_in_the_results_the_report_and_the_gate(folder: Path) -> None:
    done = run_evalkit(*RUN, "name=first", "gate=[low,near,high]", cwd=folder)
    assert done.returncode == EXIT_GATE_FAILED, done.stderr
    data = results(folder / "store" / "first")
    known = data["run"]["judges"]["judge_digits"]
    assert (known["items"], known["images"], known["unread"]) == (ITEMS, ITEMS, 0)
    assert known["agreement"]["value"] == pytest.approx(
        (ITEMS - WRONG) / ITEMS, abs=0.035
    )  # it misreads a digit or two
    assert sum(map(sum, known["table"])) == ITEMS
    words = f"judge_digits:truth agrees with {known['table'][0][0] + known['table'][1][1]} of 60 known answers"
    assert words in " ".join(done.stdout.split())
    page = (folder / "store" / "first" / "report.html").read_text()
    assert "Judges and known answers" in page
    assert words in page
    judged = [(result["cell"], result["status"]) for result in data["gate"]["results"]]
    assert judged == [("judge_digits", status) for status in ("pass", "inconclusive", "fail")]
    assert "known answers would decide it" in data["gate"]["results"][1]["reason"]

    def stored() -> int:
        return sum(1 for file in folder.glob("store/answers/*/*.jsonl") for _ in file.open())

    asked = stored()
    sevens = (folder / "known" / "items.jsonl").read_text().count("a seven?")
    assert asked == 2 * ITEMS - sevens  # the run's own question is among the known ones
    assert sevens
    assert run_evalkit(*RUN, "name=second", "report=false", cwd=folder).returncode == EXIT_DONE
    assert stored() == asked


def test_refused_before_anything_is_made(folder: Path) -> None:
    done = run_evalkit(*RUN[:-1], "extractor.judge_digits.calibration=missing.jsonl", cwd=folder)
    assert done.returncode == EXIT_ERROR
    assert "extractor.judge_digits.calibration=missing.jsonl: cannot be read: No such file" in done.stderr


@pytest.mark.parametrize(
    ("rule", "judges", "message"),
    [
        ({"min": 0.8}, (), r"no judge of this run is held against known answers: give extractor\.NAME\.calibration"),
        ({"min": 80}, ("judge",), r"min=80: an agreement is a share, from 0 to 1"),
        ({"max": 0.8}, ("judge",), r"rules\[0\]\.max: no such key"),
        ({}, ("judge",), r"min: None is not a number"),
    ],
)
def test_rules_on_the_agreement(rule: dict[str, Any], judges: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_gates({"g": {"rules": [{"metric": "judge_agreement", **rule}]}}, [], {}, judges=judges)


def test_a_judges_own_noise_is_told_where_it_counts() -> None:
    def outcome(*details: dict[str, float]) -> Any:
        cells = {(f"cell {i}", "vqa"): SimpleNamespace(score=SimpleNamespace(details=d)) for i, d in enumerate(details)}
        return SimpleNamespace(scored=cells, metrics={"vqa": None}, seeds={})

    noisy = {"judge_variance_share": 0.28, "judge_repeats_enough": 11.0}
    assert judge_notes(outcome({}, {"judge_variance_share": 0.1}), {}) == []
    assert judge_notes(outcome({"judge_variance_share": 0.2}, noisy), {}) == [
        "vqa: up to 28 % of the squared standard error is the judge's own: 11 answers per sample would bring it to a "
        "tenth."
    ]
    assert judge_notes(outcome({"judge_variance_share": 1.0}), {})[0].endswith(
        "100 % of the squared standard error is the judge's own."
    )


def test_a_judge_never_keeps_a_run_growing() -> None:
    """More samples decide nothing of a judge: `num_samples=auto` stops where all else is decided."""
    growth = Growth(64, 256, {}, None)

    def result(metric: str, status: Any, bound: float | None = 0.5) -> Result:
        return Result("g", "r", "c", metric, "m", "min", 0.4, 0.6, 0.1, bound, status, "")

    def decided(*results: Result) -> str:
        return growth.decide(SimpleNamespace(rows=[]), Verdict("pass", results), set(), ())  # type: ignore[arg-type]

    unsure = result("judge_agreement", "inconclusive")
    assert decided(result("fid", "pass"), unsure) == "the gate is decided but for a judge"
    assert decided(result("fid", "inconclusive"), unsure) == ""
    assert decided(result("judge_agreement", "fail"), result("fid", "inconclusive")) == "the gate failed"
    assert decided(result("fid", "pass"), result("judge_agreement", "pass")) == "the gate passed"
