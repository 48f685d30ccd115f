"""Readers of what judges say: chat completions in all ways, stored answers, files of questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from fuzz import Target

from evalkit.errors import DataError
from evalkit.judges.asker import Answer, Item

SAID = Answer("yes", {"yes": -0.5}, sent=3)


def known_answers() -> Target:
    """Files that a judge is held against."""
    from evalkit.judges.calibration import read_items

    yes = {"image": "a.png", "question": "Is it?", "answer": "yes"}
    grade = {"image": "a.png", "question": "How good?", "answer": 4, "way": "rubric_5", "prompt": "a fox"}
    lines = {"a.jsonl": (yes, {**yes, "answer": "no"}), "b.jsonl": (grade, {**grade, "answer": "1"})}
    seeds = {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in lines.items()}
    return Target("known answers", seeds, lambda path: read_items(path, None, "yes_no", "x"), text=True)


def completions() -> Target:
    """Answers as an endpoint sends them, read in every way."""
    from evalkit.http.client import Transient
    from evalkit.judges.chat import parse_completion
    from evalkit.judges.questions import Question
    from evalkit.judges.ways import WAYS
    from evalkit.utils.json_files import parse_json

    first = {"token": "Yes", "logprob": -0.1}
    logprobs = {"content": [{**first, "top_logprobs": [first, {"token": "No", "logprob": -2.5}]}]}
    texts = {
        "yes": "Yes",
        "score": '{"score": [7, 8]}',
        "list": "1. yes\n2. no",
        "five": "4 out of 5",
    }
    seeds = {
        f"{name}.json": json.dumps(
            {
                "choices": [{"message": {"content": text}, "finish_reason": "stop", "logprobs": logprobs}],
                "model": "m",
                "usage": {"prompt_tokens": 7, "completion_tokens": 1},
            }
        ).encode()
        for name, text in texts.items()
    }

    def read(path: Path) -> None:
        value = parse_json(path.read_bytes(), "the answer")
        if not isinstance(value, dict):
            raise DataError("no object")
        try:
            answer = parse_completion(value)
        except Transient as error:
            raise DataError(str(error)) from None
        for way in WAYS.values():
            for part in range(max(len(way.parts), 1)):
                read = way.read(answer, Question("q", "A?\nB?", answer="yes"), part)
                assert read is None or way.scale[0] <= read <= way.scale[1]

    return Target("judges' completions", seeds, read, text=True)


def stored_answers() -> Target:
    """Lines of the store: found, read, and passed over where they are not as they were written."""
    from evalkit.judges.answers import Answers, answer_line, verify_file
    from evalkit.judges.place import AnswerPlace

    items = [Item((np.zeros((2, 2, 3), np.uint8),), f"{number}?") for number in range(3)]
    line = b"".join(answer_line(item, SAID) for item in items)

    def read(path: Path) -> None:
        empty = Answers(AnswerPlace(path.parent), {"judge": "x"})
        folder = path.parent / empty.name
        folder.mkdir(exist_ok=True)
        (folder / "a.jsonl").write_bytes(path.read_bytes())
        answers = Answers(AnswerPlace(path.parent), {"judge": "x"})
        assert all(found is None or found == SAID for found in map(answers.get, items))
        answers.usage()
        verify_file(folder / "a.jsonl")

    return Target("stored answers", {"answers.jsonl": line}, read, text=True)


def questions() -> Target:
    from evalkit.judges.questions import read_questions

    asked = [{"id": "a", "text": "A?"}, {"id": "b", "text": "B?", "parents": ["a"], "tags": ["x"], "weight": 2}]
    row = json.dumps({"prompt": "a fox", "questions": asked}).encode() + b"\n"
    return Target("questions", {"questions.jsonl": row * 2}, lambda path: read_questions(path) and None, text=True)
