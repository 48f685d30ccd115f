"""Images in memory, step after step: the same bits as of the same images in files, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from noise import noise, write_sides
from PIL import Image

import evalkit
from evalkit.errors import EvalkitError

METRICS = ["fid_digits", "kid_digits", "precision_digits", "is_digits", "clip_score_digits"]
COUNT = 300  # a whole chunk and a part of one


def pictures(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """u8 [count,32,32,3]."""
    return noise(count, seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Samples with prompts, and a reference."""
    return write_sides(tmp_path_factory.mktemp("folders"), COUNT, prompts=True)


def scores(table: evalkit.ResultTable) -> dict[str, tuple[str, str, str]]:
    """By metric the value and its error in hex, and the protocol."""
    return {
        row.metric: (float(row.value).hex(), float(row.stderr or 0).hex(), row.protocol_hash)
        for row in table.rows
        if row.value is not None and row.metric in METRICS
    }


def test_bits_are_those_of_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    samples, reference = folders
    expected = scores(
        evalkit.evaluate(
            samples, reference, METRICS, store=tmp_path, device="cpu", settings={"report": False, "lint": False}
        )
    )
    evaluation = evalkit.Evaluation(reference, METRICS, device="cpu")
    tensor = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    for start in range(0, COUNT, 70):
        texts = [f"digit {i % 7}" for i in range(start, min(start + 70, COUNT))]
        evaluation.update(tensor[start : start + 70], prompts=texts)
    assert scores(evaluation.compute(step=5)) == expected
    assert set(expected) == set(METRICS)
    order = np.random.default_rng(0).permutation(COUNT)  # in any order, by index
    for part in np.array_split(order, 3):
        evaluation.update(pictures()[part], prompts=[f"digit {i % 7}" for i in part], index=part)
    assert scores(evaluation.compute(step=6)) == expected
    history = evaluation.history
    assert [row.settings["step"] for row in history.rows if row.metric == "fid_digits"] == [5, 6]
    assert sorted(history.best["fid_digits"]) == ["samples-step5", "samples-step6"]


def test_the_reference_is_read_once(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit.extractors.digits import Digits

    calls = []
    call = Digits.__call__
    monkeypatch.setattr(
        Digits, "__call__", lambda self, images, *a: calls.append(len(images)) or call(self, images, *a)
    )
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits"], device="cpu")
    for step in range(2):
        evaluation.update(pictures(100, seed=step))
        evaluation.compute(step)
    assert sum(calls) == COUNT + 2 * 100


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(4, 3, 8, 8), "value_range=(0, 1)"),
        (torch.rand(4, 3, 8, 8) * 2 - 1, "value_range=(-1, 1)"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.uint8), ".permute(0, 3, 1, 2)"),
        (np.zeros((4, 3, 8, 8), np.uint8), ".transpose(0, 2, 3, 1)"),
        (np.zeros((4, 8, 8, 3), np.int64), 'x.clip(0, 255).astype("uint8")'),
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), ".expand(-1, 3, -1, -1)"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int32), ".to(torch.uint8)"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], "resize them to one size"),
        ({"a": 1}, "is no batch of images"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "uint8 [N,3,H,W]"),
    ],
)
def test_a_wrong_batch_is_one_line_with_the_conversion(images: object, words: str) -> None:
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits"], device="cpu")
    with pytest.raises(EvalkitError) as error:
        evaluation.update(images)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_floats_by_their_declared_range_are_the_bytes() -> None:
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits"], device="cpu", value_range=(-1, 1))
    tensor = torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    evaluation.update(tensor.to(torch.float32) / 127.5 - 1)
    by_floats = scores(evaluation.compute(0))
    evaluation.update(tensor)
    assert scores(evaluation.compute(1)) == by_floats


def test_gaps_doubles_and_few_samples_are_told() -> None:
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits"], device="cpu")
    evaluation.update(pictures(2), index=[0, 2])
    with pytest.raises(EvalkitError, match="no image of index 1"):
        evaluation.compute()
    with pytest.raises(EvalkitError, match="two images of index 0"):
        evaluation.update(pictures(1, seed=9), index=[0])
    evaluation.reset()
    evaluation.update(pictures(1))
    with pytest.raises(EvalkitError, match="needs at least 2 samples"):
        evaluation.compute()
    with pytest.raises(EvalkitError, match="give a list"):
        evalkit.Evaluation(pictures(seed=1), "fid_digits")


def test_a_sheet_of_the_last_samples_and_the_best_step(tmp_path: Path) -> None:
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits", "kid_digits"], device="cpu")
    with pytest.raises(EvalkitError, match="no samples to draw"):
        evaluation.sheet()
    with pytest.raises(EvalkitError, match="nothing was computed"):
        evaluation.best("fid_digits")
    for step, seed in ((10, 2), (20, 3), (30, 4)):
        images = pictures(70, seed)
        evaluation.update(images // 4 if step == 20 else images)  # 20 is the worst by far
        evaluation.compute(step)
    sheet = evaluation.sheet(tmp_path / "sheets" / "last.png")
    with Image.open(tmp_path / "sheets" / "last.png") as written:
        assert written.tobytes() == sheet.tobytes()
    tile = np.asarray(sheet)[30 : 30 + 64, 4 : 4 + 64][::2, ::2]  # enlarged twice
    assert (tile == pictures(70, 4)[0]).all()
    best = evaluation.best("kid_digits")
    assert best.step in (10, 30)
    assert best.alike == [10, 30]
    assert 0 < evaluation.seconds < 600
    for wrong in (lambda: evaluation.sheet(tmp_path / "a.txt"), lambda: evaluation.best("fid")):
        with pytest.raises(EvalkitError, match=r"ends in \.png|there is no metric .fid."):
            wrong()
