"""What benchmarks ask of a judge: graphs of questions, grids of pictures, edits next to what they were made from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evalkit.data.arrays import InHand
from evalkit.errors import DataError, UnsuitedError
from evalkit.extractors.base import Edit
from evalkit.extractors.judge import Judge
from evalkit.features.feature_pass import FeaturePass
from evalkit.judges.asker import Answer, FunctionAsker
from evalkit.judges.place import AnswerPlace
from evalkit.judges.questions import Question
from evalkit.judges.tiles import tiles
from evalkit.judges.ways import WAYS


def grey(level: int, size: int = 4) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def write(file: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(file)}


def bright(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
    """Whether the last image is brighter than the number in the text."""
    return "yes" if images[-1].mean() > int(text.split()[-1]) else "no"


def loaded(judge: Judge, folder: Path) -> Judge:
    judge.keep_in(AnswerPlace(folder / "answers"))
    judge.check()
    judge.load("cpu")
    return judge


CHAIN = {
    "questions": {
        **{"each": "asked", "text": "brighter than {n}", "id": "n", "parents": "up"},
    }
}
ASKED = [{"n": 200, "up": []}, {"n": 100, "up": [200]}, {"n": 10, "up": [100]}]


def test_a_benchmarks_graph_takes_children_along_or_not(tmp_path: Path) -> None:
    """An image of 150: no to 200; yes to 100, which depends on it; yes to 10, which depends on that."""
    options = write(tmp_path / "b.jsonl", [{"prompt": "p", "asked": ASKED}]) | CHAIN
    answers = {}
    for cascade in (True, False):
        judge = loaded(Judge(FunctionAsker(bright, "bright"), questions=options, cascade=cascade), tmp_path)
        answers[cascade] = judge([grey(150)], ["p"], ["answers"])["answers"].tolist()
    assert answers[True] == [[0.0, 0.0, 0.0]]  # DPG-Bench
    assert answers[False] == [[0.0, 0.0, 1.0]]  # OneIG-Bench: the parent itself was answered with yes


def test_a_grid_is_asked_picture_by_picture_and_the_graph_holds_in_each(tmp_path: Path) -> None:
    options = write(tmp_path / "b.jsonl", [{"prompt": "p", "asked": ASKED[:2]}]) | CHAIN
    rows = [np.hstack([grey(250), grey(150)]), np.hstack([grey(50), grey(220)])]
    judge = loaded(Judge(FunctionAsker(bright, "bright"), questions=options, grid=2), tmp_path)
    given = judge([np.vstack(rows)], ["p"], ["answers", "score", "calls"])
    assert given["answers"].tolist() == [[0.5, 0.5]]  # two of four are above 200; 150 is above 100, and has no parent
    assert given["score"].tolist() == [[0.5]]
    assert given["calls"][0, 0] == 8
    assert [int(tile.mean()) for tile in tiles(np.vstack(rows), 2)] == [250, 150, 50, 220]
    with pytest.raises(DataError, match="an image of 5x4 is no grid of 2x2 pictures"):
        tiles(np.zeros((4, 5, 3), np.uint8), 2)


def test_the_lower_of_two_ratings_counts_and_a_count_may_be_written_as_a_number() -> None:
    lower, question = WAYS["lower_10"], Question("SC", "?")
    assert lower.read(Answer("8, 6"), question, 0) == 6.0
    assert lower.read(Answer('{"score": [9, 3]}'), question, 0) == 3.0
    assert lower.read(Answer("8"), question, 0) is None
    four = Question("n", "How many?", answer="four")
    first = {"four": np.log(0.5), "4": np.log(0.25), "14": np.log(0.1), "Four": np.log(0.05)}
    assert WAYS["yes_probability"].read(Answer("four", first), four, 0) == pytest.approx(0.8)


@dataclass(frozen=True, eq=False)
class Edits(InHand):
    """Images in hand that know what they were made from, as a sample set does."""

    originals: Sequence[Path] = ()


def by_how_much(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
    """How much brighter the edit is than what it was made from, in tens; of an edit alone: 10, 9."""
    if len(images) == 1:
        return "10, 9"
    return f"{(int(images[1].mean()) - int(images[0].mean())) // 10}, 10"


def test_edits_stand_next_to_their_own_originals_though_instructions_repeat(tmp_path: Path) -> None:
    """Two pictures under one instruction: the sample's own is shown; with another original features are others."""
    rows = []
    for name, level in (("dark", 20), ("light", 100)):
        Image.fromarray(grey(level)).save(tmp_path / f"{name}.png")
        rows.append({"prompt": "brighten it", "file": f"{name}.png"})
    questions = [{"id": "SC", "text": "{prompt}", "way": "lower_10", "images": 2}]
    questions += [{"id": "PQ", "text": "?", "way": "lower_10"}]
    options = write(tmp_path / "b.jsonl", rows) | {"image": "file", "questions": questions}
    judge = loaded(Judge(FunctionAsker(by_how_much, "by"), questions=options), tmp_path)

    images = [grey(60), grey(120)]
    originals = [tmp_path / "dark.png", tmp_path / "light.png"]
    source = Edits("edits", images, ["a" * 64, "b" * 64], ["brighten it"] * 2, originals=originals)
    features = FeaturePass(tmp_path / "features", {"judge": judge})
    features.compute(source, ["judge/answers"])
    (batch,) = features.batches(source, ["judge/answers"])
    assert batch.features["judge/answers"].tolist() == [[4.0, 9.0], [2.0, 9.0]]
    (chunk,) = source.chunks
    before = features.digest(source, "judge/answers", chunk)
    originals.reverse()
    assert features.digest(source, "judge/answers", chunk) != before

    with pytest.raises(UnsuitedError, match="which picture was edited by 'brighten it' is not known"):
        judge([grey(60)], ["brighten it"], ["answers"])
    assert judge([grey(60)], [Edit.of("brighten it", tmp_path / "dark.png")], ["score"])["score"].tolist() == [[6.5]]


def test_an_instruction_that_stands_for_one_picture_needs_no_more(tmp_path: Path) -> None:
    """Of edits that were made elsewhere the prompt is all that is known."""
    Image.fromarray(grey(20)).save(tmp_path / "dark.png")
    questions = [{"id": "SC", "text": "{prompt}", "way": "lower_10", "images": 2}]
    options = write(tmp_path / "b.jsonl", [{"prompt": "brighten it", "file": "dark.png"}])
    options |= {"image": "file", "questions": questions}
    judge = loaded(Judge(FunctionAsker(by_how_much, "by"), questions=options), tmp_path)
    assert judge([grey(70)], ["brighten it"], ["answers"])["answers"].tolist() == [[5.0]]
