"""The chat asker: what it sends, what it reports, which answers are none, and the key that nobody sees."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from judge_server import JudgeService, judging
from PIL import Image

from evalkit.errors import ConfigError, ServiceError
from evalkit.http.client import Transient
from evalkit.judges.asker import Item
from evalkit.judges.chat import Chat, parse_completion
from evalkit.judges.place import AnswerPlace

KEY = "sk-very-secret-4711"
CLIENT = {"retries": 0, "timeout": 5}
IMAGE = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeService]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with judging(JudgeService()) as running:
        yield running


def test_what_is_sent(service: JudgeService) -> None:
    """Images come first; a JPEG has the quality asked for, a PNG every level; fields are those that were named."""
    options = {"system": "Be strict.", "limit_field": "max_completion_tokens", "detail": "low", "extra": {"top_p": 0.5}}
    plain = Chat(f"{service.url}/chat/completions", "m")
    body = plain.body(Item((IMAGE, IMAGE[::-1].copy()), "Which?", repeat=2))
    images, text = body["messages"][0]["content"][:2], body["messages"][0]["content"][2]
    assert text == {"type": "text", "text": "Which?"}
    decoded = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(i["image_url"]["url"].split(",")[1])))) for i in images
    ]
    np.testing.assert_array_equal(decoded, [IMAGE, IMAGE[::-1]])
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (2, 0, 512)
    assert "logprobs" not in body
    full = Chat(service.url, "m", temperature=None, seed=None, encoding="jpeg:40", **options)
    body = full.body(Item((IMAGE,), "Q?", first_token=True, max_tokens=1))
    assert body["messages"][0] == {"role": "system", "content": "Be strict."}
    image = body["messages"][1]["content"][0]["image_url"]
    assert (image["detail"], image["url"][:23]) == ("low", "data:image/jpeg;base64,")
    assert body.keys().isdisjoint({"temperature", "seed", "max_tokens"})
    assert (body["max_completion_tokens"], body["top_p"], body["logprobs"], body["top_logprobs"]) == (1, 0.5, True, 20)


def test_what_it_reports(service: JudgeService, tmp_path: Path) -> None:
    """The listed weights and the answer's model; Ollama's digest; all of them are another judge when they change."""
    seen = []
    renamed = {"model": "truth-9b", "alias": "truth-9b"}
    for change in ({}, {"digest": "ab12"}, {"digest": "cd34"}, renamed):
        for name, value in change.items():
            setattr(service, name, value)
        asker = Chat(service.url, client=CLIENT)
        asker.keep_in(AnswerPlace(tmp_path))
        asker.check()
        seen.append(asker.identity()["reported"])
    assert seen[0] == {"root": "/models/truth-7b", "model": "truth-7b"}
    assert [each.get("digest") for each in seen] == [None, "ab12", "cd34", "cd34"]
    assert seen[3]["model"] == "truth-9b"
    assert service.probes == 4
    service.others = ["another"]
    with pytest.raises(ConfigError, match=r"model is not set: .* lists 2 models"):
        Chat(service.url, client=CLIENT).check()


def test_a_dry_run_asks_nothing_that_costs(service: JudgeService) -> None:
    asker = Chat(service.url, client=CLIENT)
    asker.check(fetch=False)
    assert (service.probes, asker.label()) == (0, "truth-7b")


def test_the_key_is_not_shown(service: JudgeService, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Chat(service.url, api_key_env="JUDGE_KEY", client=CLIENT)
    asker.check()
    asker.load("cpu")
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
    for fault in ("500", "401", "400"):
        service.always = fault
        with pytest.raises(ServiceError) as error:
            asker.ask([Item((IMAGE,), "Q?")])
        assert KEY not in str(error.value)
    assert KEY not in str(asker.identity())
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="the key is not set: export JUDGE_KEY=KEY"):
        asker.check()


WRONG = [
    ({"top_logprobs": 21}, "top_logprobs=21: give 1 to 20"),
    ({"limit_field": "max_token"}, "limit_field=max_token: Did you mean 'max_tokens'"),
    ({"temperature": -1}, "temperature=-1: give 0 or more, or null"),
    ({"encoding": "webp"}, r"encoding=webp: give png, or jpeg:QUALITY"),
    ({"encoding": "jpeg:0"}, "encoding=jpeg:0"),
    ({"extra": {"seed": 1}}, "extra.seed: this field is set by evalkit"),
    ({"base_url": "http://a:b@c/v1"}, "holds a user, a password or a query"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Chat(**{"base_url": "http://127.0.0.1:1/v1", **options})


def completion(**changes: object) -> dict:
    choice = {"message": {"role": "assistant", "content": "Yes"}, "finish_reason": "stop"} | changes
    return {"choices": [choice], "model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 1}}


def test_completions() -> None:
    top = [
        {"token": "Yes", "logprob": -0.1},
        {"token": "No", "logprob": -2.5},
        {"token": "x", "logprob": float("-inf")},
    ]
    answer = parse_completion(completion(logprobs={"content": [{**top[0], "top_logprobs": top}]}))
    assert answer.first == {"Yes": -0.1, "No": -2.5}
    assert (answer.text, answer.finish, answer.model, answer.sent, answer.received) == ("Yes", "stop", "m", 7, 1)
    assert parse_completion(completion(message={"content": None}, finish_reason="length")).text == ""
    assert parse_completion(completion(finish_reason="content_filter")).finish == "refusal"
    assert parse_completion(completion(message={"content": None, "refusal": "No."})).text == "No."
    assert parse_completion({**completion(), "usage": {"prompt_tokens": "7"}}).sent == 0


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"choices": []},
        {"choices": [3]},
        {"choices": [{"message": "x"}]},
        completion(message={"content": [1]}),
        completion(logprobs={"content": [{"token": "a", "logprob": "b", "top_logprobs": []}]}),
        completion(logprobs={"content": [{"token": "a", "logprob": 0, "top_logprobs": [3]}]}),
    ],
)
def test_what_is_no_completion(value: dict) -> None:
    with pytest.raises(Transient):
        parse_completion(value)
