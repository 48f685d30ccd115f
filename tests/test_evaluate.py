"""`evalkit.evaluate` of what is in memory: whatever it is, the scores are those of the same images in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noise import noise, write_sides
from PIL import Image

import evalkit
from evalkit.data import held
from evalkit.errors import EvalkitError

METRICS = ["fid_digits", "kid_digits"]
COUNT = 60
QUIET: dict[str, Any] = {"device": "cpu", "settings": {"report": False, "lint": False}}


def pictures(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """u8 [count,32,32,3]."""
    return noise(count, seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Samples and a reference."""
    return write_sides(tmp_path_factory.mktemp("folders"), COUNT)


@pytest.fixture(scope="module")
def expected(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Scores of the files."""
    return scores(evalkit.evaluate(*folders, METRICS, store=tmp_path_factory.mktemp("store"), **QUIET))


def scores(table: evalkit.ResultTable, model: str | None = None) -> dict[str, tuple[str, str]]:
    """By metric the value and its error in hex."""
    return {
        row.metric: (float(row.value).hex(), float(row.stderr or 0).hex())
        for row in table.rows
        if row.value is not None and row.metric in METRICS and model in (None, row.model)
    }


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """As of torchvision: (image, label)."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], index % 10


def hugging_face(images: np.ndarray) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    return datasets.Dataset.from_dict({"image": [Image.fromarray(image) for image in images]}, features=features)


def function(images: np.ndarray) -> Callable[[int], Any]:
    """Makes the images, 7 at most at a time."""
    made = iter(range(0, len(images), 7))

    def make(count: int) -> Any:
        start = next(made)
        return tensor(images)[start : start + min(count, 7)]

    return make


def batches(images: np.ndarray) -> Iterator[Any]:
    for start in range(0, len(images), 11):
        yield {"images": tensor(images)[start : start + 11]}


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": tensor,
    "floats": lambda images: tensor(images).float() / 255,
    "array": lambda images: images,
    "pictures": lambda images: [Image.fromarray(image) for image in images],
    "iterable": batches,
    "loader": lambda images: torch.utils.data.DataLoader(Pairs(tensor(images)), batch_size=13),
    "dataset": lambda images: Pairs([Image.fromarray(image) for image in images]),
    "tensor dataset": lambda images: torch.utils.data.TensorDataset(tensor(images), torch.arange(len(images))),
    "hugging face": hugging_face,
    "function": function,
}


def test_each_kind_scores_as_files(
    folders: tuple[Path, Path], expected: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    given = {kind: make(pictures()) for kind, make in KINDS.items()} | {"files": folders[0]}
    table = evalkit.evaluate(given, folders[1], METRICS, store=tmp_path, num_samples=COUNT, value_range=(0, 1), **QUIET)
    assert {kind: scores(table, kind) for kind in given} == dict.fromkeys(given, expected)


@pytest.mark.parametrize(
    "kind", ["loader", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("floats", "hugging face"))]
)
def test_a_reference_may_be_in_memory(
    kind: str, folders: tuple[Path, Path], expected: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    reference = KINDS[kind](pictures(seed=1))
    table = evalkit.evaluate(folders[0], reference, METRICS, store=tmp_path, value_range=(0, 1), **QUIET)
    assert scores(table) == expected
    assert not held._held


def test_results_report_and_lint_are_there_as_for_folders(tmp_path: Path) -> None:
    images = pictures()
    images[7] = images[3]  # a copy, which the lint names
    table = evalkit.evaluate(tensor(images), pictures(seed=1), METRICS, store=tmp_path, device="cpu")
    assert any("samples" in json.dumps(finding) for finding in table.lint)
    assert {path.name for path in (tmp_path / "evaluate").iterdir()} >= {"results.json", "report.html", "sheets"}
    again = evalkit.evaluate(tensor(images), pictures(seed=1), METRICS, store=tmp_path, device="cpu")
    assert scores(again) == scores(table)
    evalkit.evaluate(pictures(seed=5), pictures(seed=1), METRICS, store=tmp_path, device="cpu")
    assert (tmp_path / "evaluate-2" / "results.json").is_file()  # other images are another configuration


WRONG: dict[str, tuple[Any, str]] = {
    "floats": (torch.rand(4, 3, 8, 8), "value_range=(0, 1)"),
    "channels last": (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), ".permute(0, 3, 1, 2)"),
    "channels first": (np.zeros((4, 3, 8, 8), np.uint8), ".transpose(0, 2, 3, 1)"),
    "whole numbers": (np.zeros((4, 8, 8, 3), np.int64), 'x.clip(0, 255).astype("uint8")'),
    "no end": (lambda count: np.zeros((count, 8, 8, 3), np.uint8), "give num_samples"),
    "sizes": ([np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 9, 8, 3), np.uint8)], "resize them to one size"),
    "a text": (["a.png", "b.png"], "is no batch of images"),
    "a number": (3, "is no images"),
    "nothing": ([], "no images"),
    "no image in it": ([{"picture": 1}], "must be called 'image'"),
}


@pytest.mark.parametrize("side", ["samples", "reference"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_conversion(kind: str, side: str, tmp_path: Path) -> None:
    images, words = WRONG[kind]
    given = {"samples": pictures(4), "reference": pictures(4)} | {side: images}
    with pytest.raises(EvalkitError) as error:
        evalkit.evaluate(given["samples"], given["reference"], METRICS, store=tmp_path, **QUIET)
    assert words in str(error.value)
    assert str(error.value).startswith(side)
    assert "\n" not in str(error.value)
    assert not held._held


def test_other_processes_are_refused(tmp_path: Path) -> None:
    settings = {"engine.local.workers": 2}
    with pytest.raises(EvalkitError, match="other processes do not see images in memory"):
        evalkit.evaluate(pictures(), pictures(), METRICS, store=tmp_path, device="cpu", settings=settings)
