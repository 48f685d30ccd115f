"""The scorer server: a run's numbers over HTTP, in batches of several requests, and one line for bad input."""

from __future__ import annotations

import asyncio
import base64
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from command import ROOT, environment
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import uvicorn
from starlette.testclient import TestClient

import evalkit
from evalkit.data.codec import encode_png
from evalkit.digits.data import reference_images
from evalkit.errors import EXIT_CONFIG, UnsuitedError
from evalkit.serve.app import make_app
from evalkit.serve.batcher import Asked, Batcher, Busy
from evalkit.serve.server import TOKEN, _parser, main, make

METRICS = ["clip_score_digits", "feature_mean"]
WORDS = ["metric=[clip_score_digits,feature_mean]", "device=cpu", "+extractor=[scorer]"]
SCORER = """
def score(images, prompts):
    if any("bad" in prompt for prompt in prompts):
        raise ValueError("a bad word")
    return [float(image.mean()) + len(prompt) for image, prompt in zip(images, prompts)]
"""


def settings(script: Path) -> dict[str, Any]:
    return {
        "extractor.scorer.script": str(script),
        "metric.feature_mean.features": "scorer/score",
        "metric.feature_mean.needs_prompts": True,
    }


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scorer") / "scorer.py"
    path.write_text(SCORER)
    return path


@pytest.fixture(scope="module")
def url(script: Path) -> Iterator[str]:
    """A server of a learned score, and of one in a process of its own, on the loopback."""
    words = [*WORDS, *(f"{key}={value}" for key, value in settings(script).items())]
    scores, app = make(_parser().parse_args([*words, "--window-ms", "100"]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    scores.unload()


def pictures(count: int, sizes: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 32 + i % sizes, 3), np.uint8) for i in range(count)]


def sent(images: Sequence[np.ndarray], prompts: Sequence[str] | None = None, **more: Any) -> dict[str, Any]:
    texts = [base64.b64encode(encode_png(image)).decode() for image in images]
    return {"images": texts, **({} if prompts is None else {"prompts": list(prompts)}), **more}


def test_the_numbers_of_evaluate(url: str, script: Path, tmp_path: Path) -> None:
    pixels, captions = reference_images()
    images, prompts = list(pixels[:12].transpose(0, 2, 3, 1)), [caption.text for caption in captions[:12]]
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
        (tmp_path / f"{i:02d}.txt").write_text(prompt)
    table = evalkit.evaluate(
        tmp_path, metrics=METRICS, store=tmp_path / "store", device="cpu", settings=settings(script)
    )
    answer = httpx.post(f"{url}/score", json=sent(images, prompts), timeout=60).json()
    assert answer["batch"] == 12
    values = {row.metric: row.value for row in table.rows}
    for name in METRICS:
        assert len(answer["scores"][name]) == 12
        assert np.mean(answer["scores"][name]) == pytest.approx(values[name], rel=1e-6)
    expected = [image.mean() + len(prompt) for image, prompt in zip(images, prompts, strict=True)]
    assert answer["scores"]["feature_mean"] == pytest.approx(expected, rel=1e-6)
    about = httpx.get(f"{url}/metrics").json()["metrics"]
    assert about["clip_score_digits"]["needs_prompts"]
    assert about["feature_mean"]["protocol"]["features"]["scorer/score"]["environment"]["python"]


def test_requests_that_come_together_are_one_batch(url: str) -> None:
    """Each gets its own values, also where another's fail."""
    images = pictures(6, sizes=2)
    prompts = ["a", "bb", "ccc", "bad", "eeeee", "ffffff"]
    requests = [
        sent([image], [prompt], metrics=["feature_mean"]) for image, prompt in zip(images, prompts, strict=True)
    ]
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda each: client.post(f"{url}/score", json=each), requests))
        before = client.get(f"{url}/health").json()
        again = list(pool.map(lambda each: client.post(f"{url}/score", json=each), requests[:3]))
        after = client.get(f"{url}/health").json()
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 200]
    assert answers[3].json() == {"error": "extractor 'scorer' failed: ValueError: a bad word"}
    for answer, image, prompt in zip(answers, images, prompts, strict=True):
        if prompt != "bad":
            value = answer.json()["scores"]["feature_mean"][0]
            assert value == pytest.approx(image.mean() + len(prompt), rel=1e-6)
    assert {answer.json()["batch"] for answer in again} == {3}
    assert (after["batches"] - before["batches"], after["images"] - before["images"]) == (1, 3)


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"{", 400, "this is no JSON: "),
        (b"[]", 400, 'give an object: {"images": [...], "prompts": [...]}'),
        ({"image": []}, 400, "there is no 'image'. Did you mean 'images'?"),
        ({"images": []}, 400, "images: give a list of base64 texts of PNG files"),
        ({"images": ["AA"] * 257}, 413, "images: 257 of them: send 256 at a time"),
        ({"images": ["x y"], "prompts": ["a"]}, 400, "images[0]: this is no base64: "),
        ({"images": [7], "prompts": ["a"]}, 400, "images[0]: a base64 text is wanted, not int"),
        ({"images": ["AAAA"], "prompts": ["a"]}, 400, "images[0]: "),
        ({"images": ["AAAA"]}, 400, "prompts: clip_score_digits, feature_mean needs one per image"),
        ({"images": ["AAAA"], "prompts": ["a", "b"]}, 400, "prompts: 2 of them for 1 images"),
        ({"images": ["AAAA"], "prompts": [3]}, 400, "prompts: give a list of texts, none of them empty"),
        ({"images": ["AAAA"], "metrics": ["fid"]}, 400, "metrics: 'fid' is not served. "),
        ({"images": ["AAAA"], "metrics": "all"}, 400, "metrics: give a list of names, or leave it out for all"),
    ],
)
def test_bad_input_is_one_line(url: str, content: Any, status: int, line: str) -> None:
    headers = {"content-type": "application/json"}
    body = {"content": content, "headers": headers} if isinstance(content, bytes) else {"json": content}
    answer = httpx.post(f"{url}/score", **body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.startswith(line)
    assert "\n" not in error


def test_other_kinds_and_places(url: str) -> None:
    form = httpx.post(f"{url}/score", content=b"{}", headers={"content-type": "text/plain"})
    assert (form.status_code, form.json()["error"]) == (415, "content-type: text/plain: send application/json")
    for answer, status in ((httpx.get(f"{url}/scores"), 404), (httpx.get(f"{url}/score"), 405)):
        assert answer.status_code == status
        assert "POST /score, GET /metrics, GET /health" in answer.json()["error"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["metric=[fid]"], "metric 'fid' (FID) has no value of a single image: it is not served"),
        (["device=cpu"], "which metrics? give metric=[NAME, ...]"),
        (["metric=[clip_scor]"], "metric=clip_scor: no such option. Did you mean 'clip_score'?"),
        (["metric=[clip_score_digits]", "--batch", "0"], "--batch 0: give a number of images >= 1"),
    ],
)
def test_what_cannot_be_served(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--port", "0"]) == EXIT_CONFIG
    assert capsys.readouterr().err == f"error: {line}\n"


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z"  # not yet waited for


def ask(batcher: Batcher, *requests: Asked) -> list[Any]:
    async def all_of_them() -> list[Any]:
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)
        running.cancel()
        return found

    with ThreadPoolExecutor(1) as fresh:  # a browser driven in this process leaves its loop running in the main thread
        return fresh.submit(asyncio.run, all_of_them()).result()


def test_batches_of_several_requests() -> None:
    """At most `max_images`; those of other metrics apart; where one fails, the others have theirs."""
    calls: list[int] = []

    def score(names: Sequence[str], images: Sequence[Any], prompts: Sequence[str] | None) -> dict[str, list[float]]:
        calls.append(len(images))
        if -1 in images:
            raise UnsuitedError("no")
        return {name: [float(image) for image in images] for name in names}

    def asked(*images: int, names: tuple[str, ...] = ("m",)) -> Asked:
        return Asked(names, images, None)  # type: ignore[arg-type]

    batcher = Batcher(score, window=0.05, max_images=5, max_waiting=6)
    found = ask(batcher, asked(1, 2), asked(3, 4), asked(5, 6), asked(7), asked(8, names=("n",)), asked(9))
    assert found[:4] == [({"m": [1, 2]}, 4), ({"m": [3, 4]}, 4), ({"m": [5, 6]}, 4), ({"m": [7]}, 4)]
    assert found[4:] == [({"n": [8]}, 1), ({"m": [9]}, 4)]
    assert calls == [4, 4, 1]
    found = ask(Batcher(score, window=0.05), asked(1), asked(-1), asked(2))
    assert found[0] == ({"m": [1]}, 1)
    assert isinstance(found[1], UnsuitedError)
    found = ask(Batcher(score, window=0.05, max_waiting=2), asked(1), asked(2), asked(3))
    assert isinstance(found[2], Busy)
    assert "2 requests wait already" in str(found[2])


def test_a_token() -> None:
    """All but the health check want it."""

    class Nothing:
        metrics: dict[str, Any] = {}  # noqa: RUF012
        device = "cpu"

        def describe(self) -> dict[str, Any]:
            return {}

    nothing: Any = Nothing()
    with TestClient(make_app(nothing, Batcher(lambda *_: {}), "secret")) as client:
        assert client.get("/health").json()["status"] == "ok"
        for header in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret "}):
            answer = client.get("/metrics", headers=header)
            assert (answer.status_code, "Authorization: Bearer" in answer.json()["error"]) == (401, True)
        assert client.get("/metrics", headers={"Authorization": "Bearer secret"}).json() == {"metrics": {}}


@pytest.mark.slow
def test_the_command_its_token_and_its_end(script: Path) -> None:
    """A process of its own; SIGTERM ends it and its scorer."""
    words = ["metric=[feature_mean]", *WORDS[1:], *(f"{key}={value}" for key, value in settings(script).items())]
    command = [sys.executable, "-m", "evalkit.serve", *words, "--port", "0"]
    served = subprocess.Popen(
        command, env={**environment(), TOKEN: "secret"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert served.stdout is not None
        line = served.stdout.readline().decode()
        assert line.endswith("serves feature_mean on cpu; Ctrl-C ends it\n")
        url = line.split()[0]
        body = sent(pictures(1), ["ab"])
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
        refused = httpx.post(f"{url}/score", json=body)
        assert (refused.status_code, "Authorization: Bearer" in refused.json()["error"]) == (401, True)
        answer = httpx.post(f"{url}/score", json=body, headers={"Authorization": "Bearer secret"}, timeout=60)
        assert answer.json()["scores"]["feature_mean"] == pytest.approx([pictures(1)[0].mean() + 2], rel=1e-6)
        children = Path(f"/proc/{served.pid}/task/{served.pid}/children")
        scorers = children.read_text().split() if children.is_file() else []
        served.send_signal(signal.SIGTERM)
        _, err = served.communicate(timeout=60)
    finally:
        served.kill()
    assert not err
    assert all(is_gone(int(pid)) for pid in scorers)
