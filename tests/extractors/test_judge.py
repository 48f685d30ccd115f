"""The judge: a real endpoint on the loopback that knows the digits' truth and misbehaves when told to; functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from judge_server import JudgeService, judging

from evalkit.digits.data import reference_images
from evalkit.errors import ConfigError, DataError, ServiceError
from evalkit.extractors.judge import Judge
from evalkit.features.store import extractor_id
from evalkit.judges import DigitsTruth
from evalkit.judges.asker import Answer, FunctionAsker
from evalkit.judges.place import AnswerPlace

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'
CLIENT = {"concurrency": 3, "retries": 2, "backoff": 0.01, "max_backoff": 0.05, "timeout": 10}
LAYERS = ("score", "answers", "repeats", "calls")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(scope="module")
def digits() -> tuple[list[np.ndarray], list[str]]:
    """24 reference digits u8 [32,32,3] with their captions; every third with that of another."""
    images, captions = reference_images()
    texts = [caption.text for caption in captions[:24]]
    texts[::3] = [caption.text for caption in captions[100:108]]
    return [image.transpose(1, 2, 0).copy() for image in images[:24]], texts


@pytest.fixture
def service() -> Iterator[JudgeService]:
    with judging(JudgeService()) as running:
        yield running


def chat(service: JudgeService, place: Path | None = None, **options: object) -> Judge:
    """A loaded judge over the service."""
    asker = {k: options.pop(k) for k in ("model", "revision", "temperature", "encoding", "client") if k in options}
    judge = Judge(
        {"_target_": "evalkit.judges.Chat", "base_url": service.url, "client": CLIENT, **asker},
        **{"question": QUESTION, "way": "yes_no", **options},
    )
    if place is not None:
        judge.keep_in(AnswerPlace(place))
    judge.check()
    judge.load("cpu")
    return judge


def score(judge: Judge, images: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
    return {layer: value.numpy() for layer, value in judge(images, prompts, LAYERS).items()}


def test_the_endpoint_says_what_the_truth_says(service: JudgeService, digits: tuple) -> None:
    truth = Judge(DigitsTruth(), "yes_probability", QUESTION)
    truth.load("cpu")
    expected = score(truth, *digits)
    given = score(chat(service, way="yes_probability"), *digits)
    np.testing.assert_allclose(given["score"], expected["score"], atol=1e-6)
    assert expected["score"][::3].max() < 0.1 < 0.5 < np.median(expected["score"][1::3])
    assert given["calls"][:, 0].tolist() == [1] * 24
    assert (given["calls"][:, 2] > 10).all()
    body = service.asked[0]
    assert (body["temperature"], body["seed"], body["max_tokens"], body["top_logprobs"]) == (0, 0, 1, 20)


def test_nothing_is_asked_twice(service: JudgeService, digits: tuple, tmp_path: Path) -> None:
    """An error in the middle, then the same again; then another way of reading the same answers."""
    service.faults = {9: "400"}
    with pytest.raises(ServiceError, match="Answers so far are stored"):
        score(chat(service, tmp_path, way="yes_probability"), *digits)
    stored = len(service.answered)
    assert 0 < stored < 24
    score(chat(service, tmp_path, way="yes_probability"), *digits)
    assert sorted(service.answered.values()) == [1] * 24
    asked = len(service.asked)
    hard = score(chat(service, tmp_path, way="yes_no"), *digits)
    assert set(np.unique(hard["score"])) == {0, 1}
    assert len(service.asked) == asked
    assert service.probes == 1


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "cut", "garbage", "no_choices", "slow"])
def test_what_passes_is_tried_again(service: JudgeService, digits: tuple, fault: str) -> None:
    images, prompts = (part[:4] for part in digits)
    service.faults = {1: fault}
    client = {**CLIENT, "timeout": 0.3} if fault == "slow" else CLIENT
    given = score(chat(service, client=client), images, prompts)
    assert given["score"][:, 0].tolist() == [0, 1, 1, 0]
    assert len(service.asked) == 5


def test_answers_that_cannot_be_read(service: JudgeService, digits: tuple) -> None:
    """They are asked for again, twice; then they count the lowest value, and are counted. Refusals likewise."""
    images, prompts = digits[0][1:3], digits[1][1:3]
    service.faults = {0: "strange", 1: "refusal"}
    given = score(chat(service, client={**CLIENT, "concurrency": 1}), images, prompts)
    assert given["score"][:, 0].tolist() == [1, 1]
    assert given["calls"][:, :2].tolist() == [[2, 0], [2, 0]]
    for fault in ("strange", "refusal", "filter"):
        service.always = fault
        given = score(chat(service, reask=1), images, prompts)
        assert given["score"][:, 0].tolist() == [0, 0], fault
        assert given["calls"][:, :2].tolist() == [[2, 1], [2, 1]]


def test_a_model_that_changes_is_refused(service: JudgeService, digits: tuple, tmp_path: Path) -> None:
    judge = chat(service, tmp_path)
    service.faults = {5: "other_model"}
    with pytest.raises(ServiceError, match="answers as 'other-8b' now, and was 'truth-7b'") as refused:
        score(judge, *digits)
    assert "\n" not in str(refused.value)
    ids = {extractor_id(judge), extractor_id(chat(service, tmp_path, revision="2"))}
    service.root = "/models/other"  # under the same name
    ids.add(extractor_id(chat(service, tmp_path)))
    ids.add(extractor_id(chat(service, tmp_path, temperature=0.5)))
    assert len(ids) == 4


def test_an_endpoint_that_is_gone(digits: tuple, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it answered is enough; without that it is refused in one line."""
    with judging(JudgeService()) as service:
        before = score(chat(service, tmp_path), *digits)
    after = score(chat(service, tmp_path), *digits)
    np.testing.assert_array_equal(after["score"], before["score"])
    assert "answers that are stored will do, no other can be asked for" in caplog.text
    with pytest.raises(ConfigError, match="cannot be reached"):
        chat(service, tmp_path / "empty")


def test_logprobs_that_are_not_given(service: JudgeService) -> None:
    service.logprobs = False
    with pytest.raises(ConfigError, match="gives no logprobs, which the way yes_probability reads: take yes_no"):
        chat(service, way="yes_probability")


def test_questions_of_a_file(digits: tuple, tmp_path: Path) -> None:
    """A parent that counts 0, an answer of "no", weights, and prompts with fewer questions."""
    images, prompts = digits
    file = tmp_path / "questions.jsonl"
    asked = [{"id": "a", "text": "A?"}, {"id": "b", "text": "B?", "parents": ["a"]}]
    asked.append({"id": "c", "text": "C?", "answer": "no", "weight": 2})
    rows = [{"prompt": prompts[1], "questions": asked}, {"prompt": prompts[2], "questions": asked[:1]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    says = FunctionAsker(lambda shown, text, repeat: "no" if text[0] in "AC" else "Yes.", "says")
    judge = Judge(says, questions=str(file))
    judge.load("cpu")
    given = score(judge, images[1:3], prompts[1:3])
    np.testing.assert_array_equal(given["answers"], [[0, 0, 1], [0, np.nan, np.nan]])
    assert given["score"][:, 0].tolist() == [0.5, 0]
    with pytest.raises(DataError, match="has none for the prompt"):
        score(judge, images[:1], prompts[:1])
    judge.check_prompts(prompts[1:3])
    with pytest.raises(
        ConfigError, match=r"extractor\.judge\.questions: a prompt has no questions in the file, such as"
    ):
        judge.check_prompts(prompts[:2])


def test_repeats_of_a_noisy_judge(digits: tuple) -> None:
    images, prompts = digits
    says = FunctionAsker(lambda shown, text, repeat: Answer(str(repeat + 2)), "counts")
    judge = Judge(says, "rubric_5", "How well does it show {prompt}?", repeats=3)
    judge.load("cpu")
    given = score(judge, images, prompts)
    assert given["repeats"].tolist() == [[2, 3, 4]] * 24
    assert given["score"].tolist() == [[3]] * 24
