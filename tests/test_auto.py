"""`num_samples=auto` through the command line: looks until it is decided, again from the store, halving, misuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import results, run_evalkit
from PIL import Image

from evalkit.digits.data import reference_images

DCGAN = ("experiment=digits", "model=[digits_dcgan]", "sampler=[]", "prompts=[]", "exclude=[]", "metric=[is_digits]")
QUICK = ("report=false", "contact_sheet=0", "lint=false", "num_samples=auto", "auto.first=100")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, digits in some noise, and in much of it."""
    folder = tmp_path_factory.mktemp("auto")
    rng, digits = np.random.default_rng(0), reference_images()[0][:1024].transpose(0, 2, 3, 1)
    for name, share in {"clean": 0.0, "hazy": 0.05, "noisy": 0.7}.items():
        (folder / name).mkdir()
        noise = rng.integers(0, 256, digits.shape)
        for i, image in enumerate(((1 - share) * digits + share * noise).astype(np.uint8)):
            Image.fromarray(image).save(folder / name / f"{i:04d}.png", compress_level=1)
    return folder


def test_it_grows_until_the_half_width_is_reached_and_again_from_the_store(folder: Path) -> None:
    words = (*DCGAN, *QUICK, "auto.ceiling=1024", "auto.target={is_digits: 0.3}", "name=grow")
    done = run_evalkit(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    table = results(folder / "runs" / "grow")
    auto, (score,) = table["run"]["auto"], [row for row in table["rows"] if row["metric"] == "is_digits"]
    assert auto["sizes"] == [256, 512, 1024]  # whole shards
    assert auto["why"] == "is_digits is known to ±0.3"
    assert score["n"] == auto["sizes"][auto["taken"] - 1]
    assert score["high"] - score["low"] <= 0.6
    assert score["high"] - score["low"] > 2 * 2.2 * score["stderr"]  # wider than that of a single look
    assert any("was settled by look" in note for note in table["notes"])
    again = run_evalkit(*words, cwd=folder)
    assert "images/s)" not in again.stderr  # nothing is made or extracted
    assert results(folder / "runs" / "grow")["rows"] == table["rows"]
    assert not (folder / "runs" / "grow-2").exists()


def test_a_gate_decides_and_its_exit_code_stands(folder: Path) -> None:
    (folder / "gates" / "gate").mkdir(parents=True)
    (folder / "gates" / "gate" / "bad.yaml").write_text("bad:\n  rules: [{metric: is_digits, min: 9.9}]\n")
    done = run_evalkit("--config-dir=gates", *DCGAN, *QUICK, "auto.ceiling=1024", "gate=bad", "name=gated", cwd=folder)
    assert done.returncode == 3, done.stderr
    table = results(folder / "runs" / "gated")
    assert table["run"]["auto"]["why"] == "the gate failed"
    assert table["run"]["auto"]["taken"] == 1


@pytest.mark.parametrize(
    ("more", "what"), [("by: value", "goes by its value"), ("samples: 5000", "is about 5,000 samples")]
)
def test_a_rule_on_a_set_of_fixed_size_is_refused(folder: Path, more: str, what: str) -> None:
    (folder / "fixed" / "gate").mkdir(parents=True, exist_ok=True)
    (folder / "fixed" / "gate" / "set.yaml").write_text(f"set:\n  rules: [{{metric: is_digits, min: 6, {more}}}]\n")
    done = run_evalkit("--config-dir=fixed", *DCGAN, *QUICK, "gate=set", cwd=folder)
    assert done.returncode == 2, done.stderr
    line = f"evalkit: num_samples=auto: gate.set: the rule is_digits min 6 {what}: give num_samples=N"
    assert done.stderr.strip().splitlines()[-1] == line


def test_cells_that_are_surely_worse_stop_early_and_are_not_ranked(folder: Path) -> None:
    words = (
        "clean",
        "hazy",
        "noisy",
        "--reference",
        "clean",
        "metric=[precision_digits]",
        *QUICK,
        "auto.ceiling=512",
        "auto.halving=precision_digits",
    )
    done = run_evalkit(*words, "name=halved", cwd=folder)
    assert done.returncode == 0, done.stderr
    table = results(folder / "runs" / "halved")
    rows = {row["cell"]: row for row in table["rows"] if row["metric"] == "precision_digits"}
    assert {cell: row["n"] for cell, row in rows.items()} == {"clean": 512, "hazy": 512, "noisy": 256}
    assert rows["noisy"]["unsure"]
    assert "stopped at N = 256: surely worse than" in rows["noisy"]["note"]
    assert "noisy" not in table["best"]["precision_digits"]
    assert all("noisy" not in (c["cell"], c["baseline"]) for c in table["comparisons"])
    assert table["run"]["auto"]["why"] == "the ceiling is reached"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "num_samples=auto: nothing says when to stop: give auto.target={is_digits: HALF_WIDTH}"),
        (("auto.target={is: 1}",), "auto: the run has no metric 'is'. "),
        (("auto.target={is_digits: 0}",), "auto.target.is_digits=0: give a half width above 0"),
        (("auto.target=3",), "auto.target=3: give half widths by metric"),
        (("auto.ceiling=50",), "auto.ceiling=50 is below auto.first=100"),
        (("auto.ceiling=many",), "auto.ceiling=many: give a whole number >= 2"),
        (("+auto.last=3",), "auto.last: there is no such setting."),
        (("num_samples=some",), "num_samples=some: give a whole number >= 1"),
        (("auto.halving=fid",), "auto: the run has no metric 'fid'."),
    ],
)
def test_misuse_is_one_line(folder: Path, words: tuple[str, ...], line: str) -> None:
    done = run_evalkit(*DCGAN, *QUICK, *words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"evalkit: {line}")
