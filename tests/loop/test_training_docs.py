"""The programs of docs/training.md run, shortened, as they stand there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def program(heading: str) -> str:
    """The first program below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"# {heading}\n")[1]
    found = re.search(r"```python\n(.*?)```", re.split(r"\n##+ ", section)[0], re.S)
    assert found is not None, heading
    return found[1]


def run(code: str, folder: Path) -> str:
    """What a program prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def shortened(code: str, **constants: int) -> str:
    """The program with other values of its constants, each of which must be there."""
    names = re.search(r"^([A-Z, ]+) = ([\d, ]+)$", code, re.M)
    assert names is not None
    assert set(constants) == set(names[1].split(", "))
    return code.replace(names[0], f"{names[1]} = {', '.join(str(constants[name]) for name in names[1].split(', '))}")


def needs(package: str) -> None:
    """Skips where it is not installed; it is not imported (Keras would look for TensorFlow)."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.slow
def test_the_dcgan_logs_scores_and_sheets_and_names_the_best(tmp_path: Path) -> None:
    code = program("A DCGAN that logs FID, KID and a sheet per epoch")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    said = run(shortened(code, EPOCHS=2, TRAIN=300, SAMPLES=256), tmp_path)
    assert re.search(r"^epoch 2: FID [\d.]+, KID -?[\d.]+$", said, re.M)
    best = re.search(r"^best: (gan/epoch0[12]\.pt); as good as it may be: \[[12, ]+\]$", said, re.M)
    assert best is not None
    assert (tmp_path / best[1]).is_file()
    assert re.search(r"^evaluation took [\d.]+ s of [\d.]+ s, \d+%$", said, re.M)
    with Image.open(tmp_path / "gan" / "epoch02.png") as sheet:
        assert sheet.width > 500


def example(heading: str, folder: Path, *, steps: tuple[str, str] = ("", ""), **changes: str) -> str:
    """What the example of a trainer prints, with fewer steps and samples: by argument the shorter value."""
    code = program(heading)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    for name, value in {**changes, "num_samples": "64"}.items():
        code, count = re.subn(rf"(\b{name}\"?[=:] ?)\d+", rf"\g<1>{value}", code)
        assert count == 1, name
    assert steps[0] in code
    code = code.replace(*steps) if steps[0] else code
    (folder / "denoiser.py").write_text(program("What the examples train"), encoding="utf-8")
    return run(code, folder)


@pytest.mark.slow
def test_the_loop_with_accelerate_and_diffusers(tmp_path: Path) -> None:
    said = example(
        "accelerate, and diffusers' training scripts",
        tmp_path,
        steps=("enumerate(batches, 1)", "zip((1, 2), batches)"),
        every="2",
    )
    assert re.search(r"^1 \{\}\n2 \{'fid_digits': [\d.]+, 'kid_digits': -?[\d.]+\}$", said, re.M)


@pytest.mark.slow
def test_the_callback_of_lightning(tmp_path: Path) -> None:
    needs("pytorch_lightning")
    said = example("Lightning", tmp_path, max_epochs="2", limit_train_batches="2")
    kept = re.search(r"^(.*\.ckpt) Best\(step=([24]), alike=\[[24, ]+\]\)$", said, re.M)
    assert kept is not None
    assert f"step={kept[2]}" in kept[1]
    assert Path(kept[1]).is_file()


@pytest.mark.slow
def test_the_callback_of_transformers(tmp_path: Path) -> None:
    said = example("transformers", tmp_path, max_steps="2", eval_steps="1", save_steps="1")
    kept = re.search(r"^transformers/checkpoint-([12]) Best\(step=([12]), alike=\[[12, ]+\]\)$", said, re.M)
    assert kept is not None
    assert kept[1] == kept[2]


@pytest.mark.slow
def test_the_callback_of_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("keras")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    example("Keras", tmp_path, epochs="2")
    assert (tmp_path / "best.keras").is_file()
