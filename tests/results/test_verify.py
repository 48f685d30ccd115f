"""`evalkit verify`: every kind of file in a store, whole and harmed in each way, and what is said of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import run_evalkit
from fakes import random_images
from leftovers import left_by_the_dead
from PIL import Image

from evalkit.data.arrays import ArrayImages
from evalkit.errors import EXIT_CONFIG, EXIT_ERROR, StoreError
from evalkit.lint.copies import check_copies
from evalkit.results.verify import print_verification, verify
from evalkit.utils.blobs import LocalBlobs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run of a generated cell and a folder of images, with an export."""
    root = tmp_path_factory.mktemp("verify")
    (root / "images").mkdir()
    noise = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(root / "images" / f"{i:02d}.bmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalkit.data.scan._SETTLED_NS", 0)
        done = run_evalkit(
            *("model=[digits_dcgan,folder]", f"model.folder.path={root / 'images'}", "num_samples=16"),
            *("prompts=[digits]", "metric=[is_digits]", "export=[folder,npz]", "name=small", "report=false"),
            cwd=root,
        )
    assert done.returncode == 0, done.stderr
    return root / "runs"


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "runs")
    return tmp_path / "runs"


def test_what_a_lint_of_sources_keeps_is_whole(store: Path) -> None:
    """Samples compared with the images that they were made from: its files lie among the lint's."""
    images = ArrayImages("sixteen", np.stack(random_images(16)))
    check_copies("cell", images, {"source": images}, LocalBlobs(store / "lint"))
    (file,) = (path for path in (store / "lint").glob("*.json") if '"copies"' in path.read_text("utf-8"))
    assert not [fault for part in verify(store) for fault in part.wrong]
    file.write_text(file.read_text("utf-8").replace('"looked": 16', '"looked": 15'), encoding="utf-8")
    assert check_copies("cell", images, {"source": images}, LocalBlobs(store / "lint"))[0].of == 16  # measured again
    assert not [fault for part in verify(store) for fault in part.wrong]


def test_a_whole_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_verification(store) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["files", "MB", "wrong"]
    counts = {name: (files, wrong) for name, files, _, wrong in lines[1:]}
    assert counts == {
        "samples": ("16", "0"),
        "metadata": ("3", "0"),
        "features": ("2", "0"),
        "answers": ("0", "0"),
        "scores": ("2", "0"),
        "scans": ("1", "0"),
        "lint": ("2", "0"),
        "exports": ("36", "0"),
        "results": ("4", "0"),
    }


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def other_value(data: bytes) -> bytes:
    row = json.loads(data.split(b"\n")[0])
    return json.dumps({**row, "latency_s": 9.0}).encode() + b"\n" + data.partition(b"\n")[2]


@pytest.mark.parametrize(
    ("part", "pattern", "harm", "words"),
    [
        ("samples", "samples/*/shards/*/000003.png", flipped, "altered .*: delete .*00000-016, and the next run makes"),
        ("samples", "samples/*/shards/*/000003.png", None, "No such file .*: delete .*00000-016, and the next run"),
        ("metadata", "samples/*/shards/*/metadata.jsonl", flipped, "is not as it was written: delete"),
        ("metadata", "samples/*/shards/*/metadata.jsonl", other_value, "line 1 is not as it was written: delete"),
        (
            "metadata",
            "samples/*/shards/*/metadata.jsonl",
            lambda data: data[:-1].rpartition(b"\n")[0],
            "15 lines for 16",
        ),
        ("metadata", "samples/*/manifest-*", flipped, "altered or cut short: delete it, and it is made again"),
        ("metadata", "samples/*/cell.json", flipped, "altered or cut short .*: put it back, or delete"),
        ("features", "features/*/*/*.safetensors", flipped, "altered, cut short, or another's: delete it"),
        ("features", "features/*/*/*.safetensors", lambda data: data[:99], "altered or cut short .*: delete it"),
        ("scores", "scores/*.safetensors", flipped, "altered or cut short .*: delete it, and the next run makes it"),
        ("scores", "scores/*.safetensors", lambda data: data[:99], "altered or cut short .*: delete it"),
        ("scans", "cache/scan4-*.jsonl", flipped, "1 lines are altered or cut short: delete it"),
        ("scans", "cache/scan4-*.jsonl", lambda data: data[9:], "not what was written there .*: delete it"),
        ("lint", "lint/*.json", flipped, "altered or cut short .*: delete it"),
        ("exports", "small/export/digits_dcgan/000003.png", flipped, "altered since it was written: delete it"),
        ("exports", "small/export/digits_dcgan/000003.png", None, "altered since it was written: delete it"),
        ("exports", "small/export/digits_dcgan.npz", lambda data: data[:-1], "altered since it was written: delete it"),
        ("results", "small/thumbnails.json", flipped, "altered or cut short .*: give the run's command again"),
        ("results", "small/sheets/digits_dcgan.png", flipped, "no whole PNG: give the run's command again"),
        ("results", "small/results.json", lambda data: data[:-9], "not JSON.*: give the run's command again"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(
    store: Path, part: str, pattern: str, harm: Callable[[bytes], bytes] | None, words: str
) -> None:
    file = sorted(store.glob(pattern))[0]
    file.unlink() if harm is None else file.write_bytes(harm(file.read_bytes()))
    wrong = {each.name: each.wrong for each in verify(store) if each.wrong}
    assert list(wrong) == [part]
    (line,) = wrong[part]
    assert line.startswith(str(file.parent if part == "exports" and file.suffix == ".png" else file))
    assert re.search(words, line), line


def test_features_by_whole_sets_are_old(store: Path) -> None:
    file = store / "features" / "0123" / "digits-4567" / "features" / "00000.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of an earlier evalkit")
    (part,) = (part for part in verify(store) if part.name == "features")
    assert (part.old, part.wrong) == (1, [])


def test_files_put_in_anothers_place(store: Path) -> None:
    for pattern in ("features/*/*/*.safetensors", "scores/*.safetensors", "lint/*.json"):
        first, second = sorted(store.glob(pattern))[:2]
        a, b = first.read_bytes(), second.read_bytes()
        first.write_bytes(b)
        second.write_bytes(a)
    wrong = {part.name: len(part.wrong) for part in verify(store) if part.wrong}
    assert wrong == {"features": 2, "scores": 2, "lint": 2}


def test_the_command(store: Path, tmp_path: Path) -> None:
    left = left_by_the_dead(store / "small" / "export" / "digits_dcgan")
    left.mkdir()
    done = run_evalkit("verify", "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 leftovers of killed runs were removed"
    assert not left.exists()
    for file in store.glob("scores/*.safetensors"):
        file.write_bytes(flipped(file.read_bytes()))
    done = run_evalkit("verify", "runs", cwd=tmp_path)
    assert done.returncode == EXIT_ERROR
    assert sum(line.startswith("- runs/scores/") for line in done.stdout.splitlines()) == 2
    done = run_evalkit("verify", "elsewhere", cwd=tmp_path)
    assert done.returncode in (EXIT_ERROR, EXIT_CONFIG)
    assert done.stderr.strip() == (
        "evalkit: elsewhere: no store: none of samples, features, scores and cache is in it: check the path"
    )
    with pytest.raises(StoreError):
        verify(tmp_path)
