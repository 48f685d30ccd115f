"""Services that mean harm: limits on time hold, what is answered is retried or one line, no key and no escape shown."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_services import KEY, FakeService, pixels_of, png_of, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_service import answer, answering, as_json, dripping
from service_calls import QUICK, cell_of, expected, make, option, pixels, reach_the_loopback

from evalkit.config.build import build
from evalkit.errors import EvalkitError, ServiceError
from evalkit.http.client import Client, ClientOptions, Transient
from evalkit.http.job import Job
from evalkit.http.keys import Key
from evalkit.models.base import Request
from evalkit.models.services.cache import FetchedImage, FetchedImages
from evalkit.samples.store import Store
from evalkit.utils.blobs import LocalBlobs

IMAGE = base64.b64encode(png_of(pixels_of("x", 1))).decode()
DEEP = "[" * 200_000


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)


def client_of(url: str, **options: Any) -> Client:
    return Client(url, Key("TEST_IMAGES_KEY"), ClientOptions(**{"timeout": 0.6, "budget": 5, **options}))


def asked(respond: Callable[[int, str], bytes | Iterator[bytes]], **options: Any) -> tuple[str, float]:
    """What a request ends in, and after how many seconds."""
    with answering(respond) as url:
        began = time.monotonic()
        with pytest.raises((Transient, ServiceError)) as caught:
            client_of(url, **options).json("POST", "/x", {"prompt": "x" * 100_000}, deadline=began + 5)
        return str(caught.value), time.monotonic() - began


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 4000,
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 400,
        b"HTTP/1.1 500 No\r\nContent-Length: 4000\r\n\r\n" + b"a" * 4000,
        b"",
    ],
)
def test_the_limit_on_time_is_for_all_of_an_exchange(endless: bytes) -> None:
    """Headers that drip, and `100 Continue` for ever, held a worker as long as they liked."""

    def respond(*_: Any) -> Iterator[bytes]:
        if endless:
            return dripping(endless, 0.02)
        time.sleep(3)
        return iter(())

    client_of("http://127.0.0.1:1")  # imports are not part of the time
    message, seconds = asked(respond)
    assert "no whole answer within 0.6 s (client.timeout)" in message or message.startswith("500 ")
    assert 0.5 < seconds < 1.5


def test_an_unread_request_is_given_up() -> None:
    """A server that takes the request's body at its own speed."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody accepts
        began = time.monotonic()
        with pytest.raises(Transient, match="no whole answer within"):
            client_of(f"http://127.0.0.1:{server.getsockname()[1]}").json(
                "POST", "/x", {"prompt": "x" * 30_000_000}, deadline=began + 5
            )
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "made",
    [
        answer(f'{{"data": {DEEP}'.encode()),
        answer(f'{{"error": {DEEP}'.encode(), "500 Server Error"),
        answer(b'{"data": ' + b"9" * 6000 + b"}"),
        answer(b'{"data": [{"b64_json": "\\ud800"}]}'),
        *(as_json({"data": [{"url": url}]}) for url in ("http://[::1", f"http://{'a' * 70}.com/", "http://ü..é:x/")),
    ],
    ids=range(7),
)
def test_a_bad_answer_is_asked_for_again(made: bytes, tmp_path: Path) -> None:
    """Each of these ended the run in a traceback; what was fetched before stays, and is not asked for again."""
    right = as_json({"data": [{"b64_json": IMAGE}]})
    with answering(lambda number, _: made if number in (2, 3) else right) as url, serving(FakeService()) as service:
        model = option("openai", service, tmp_path, client={"concurrency": 1}) | {"base_url": url}
        assert make(cell_of(model, 4), Store(tmp_path / "runs")).warnings == {"retried": 1}
    store = Store(tmp_path / "failing")
    with answering(lambda n, _: right if n < 2 else made) as url, serving(FakeService()) as service:
        cell = cell_of(option("openai", service, tmp_path, client={"concurrency": 1}) | {"base_url": url}, 4)
        with pytest.raises(ServiceError, match=r"sample 2: .*, 3 times\. What was fetched is kept") as caught:
            make(cell, store)
    assert "\n" not in str(caught.value)
    kept = sorted(path.name for path in (store.sample_folder(cell) / "fetched").iterdir())
    assert kept == ["000000.json", "000001.json"]  # the next run asks for the rest alone


@pytest.mark.parametrize("location", [f"http://h/{KEY}", f"http://[bad/{KEY}", f"http://h/?{KEY}", f"/{KEY}"])
def test_where_a_service_sends_on_to_is_told_without_the_key(location: str) -> None:
    message, _ = asked(lambda *_: answer(b"", "307 Temporary Redirect", Location=location))
    assert "sends on to" in message
    assert KEY not in message
    assert "very-secret" not in message


@pytest.mark.parametrize("code", ["400 Bad Request", "500 Server Error", "401 Unauthorized"])
def test_messages_are_printable_and_without_the_key(code: str) -> None:
    hidden = f"{KEY[:6]}\u200b{KEY[6:]}"  # a character that cannot be seen within it
    said = f"\x1b[2J\x1b]0;owned\x07 go\x00ne\r\n\u202eaway {hidden} \x1b[31m{KEY}"
    message, _ = asked(lambda *_: answer(json.dumps({"error": {"message": said}}).encode(), code))
    assert message.isprintable()
    assert "very-secret" not in message
    assert "401" in message or "(gone away *** ***)" in message


def test_a_kept_image_that_is_not_as_it_was_written_is_made_again(tmp_path: Path) -> None:
    """One whose latency was changed was believed; one of 200,000 brackets ended the run."""
    images, file = FetchedImages(LocalBlobs(tmp_path)), tmp_path / "fetched" / "000003.json"
    images.put(3, FetchedImage(pixels_of("x", 1), 0.5, ("retried",)))
    got = images.get(3)
    assert got is not None
    assert (got.latency, got.warnings, got.cached) == (0.5, ("retried",), True)
    about = json.loads(file.read_text())
    earlier = {name: value for name, value in about.items() if name != "check"}
    file.write_text(json.dumps(earlier))  # of a version that wrote no check
    assert images.get(3) is not None
    changes = [{"latency_s": 9.5}, {"warnings": []}, {"warnings": None}, {"latency_s": "x"}, {"sha256": 1}, {"png": 5}]
    for text in (*(json.dumps(about | change) for change in changes), DEEP, "[]", "9" * 6000, json.dumps(about)[:-9]):
        file.write_text(text)
        assert images.get(3) is None, text[:80]


NAMES = [
    *("data", "url", "b64_json", "revised_prompt", "images", "info", "seed", "prompt_id", "queue_running", "outputs"),
    *("queue_pending", "status", "status_str", "messages", "filename", "subfolder", "type", "error", "message", "p"),
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "x", IMAGE, "/"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KINDS: dict[str, list[Any]] = {
    "openai": [{"data": [{"b64_json": IMAGE}]}],
    "webui": [{"images": [IMAGE], "info": '{"seed": 3}'}],
    "comfy": [{"prompt_id": "p"}, {"p": {"outputs": {"9": {"images": [{"filename": "a.png"}]}}}}],
}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kind=st.sampled_from(list(KINDS)))
def test_whatever_is_answered_is_an_image_or_one_line(data: st.DataObject, kind: str, tmp_path: Path) -> None:
    """Answers of the right shape in which one part is something else."""

    def spoilt(value: Any) -> Any:
        if data.draw(st.integers(0, 3)) == 0:
            return data.draw(values)
        if isinstance(value, dict):
            return {key: spoilt(inner) for key, inner in value.items()}
        return [spoilt(inner) for inner in value] if isinstance(value, list) else value

    service = FakeService()
    service.url = "http://127.0.0.1:9"
    options = option(kind, service, tmp_path, client={**QUICK, "retries": 1, "backoff": 0})
    model = build({name: value for name, value in options.items() if name not in ("height", "width")})
    model.load("cpu")
    client = model.__dict__["_client"]
    sent = itertools.count()

    def send(method: str, *_: Any) -> tuple[bytes, None]:  # the network is not what is tried here
        if next(sent) == 8:  # ComfyUI is asked until the image is there
            raise ServiceError("enough")
        return json.dumps(spoilt(KINDS[kind][method == "GET" and kind == "comfy"])).encode(), None

    client._send = send
    message = ""
    try:
        job = Job(client, "sample 0", threading.Event(), time.monotonic() + 1000)
        image, *_ = model.obtain(job, Request(0, 0, "x"), {"height": 16, "width": 16})
        np.testing.assert_array_equal(image, pixels_of("x", 1))
    except EvalkitError as error:
        message = str(error)
    assert "\n" not in message


def test_the_right_answers_are_images(tmp_path: Path) -> None:
    with serving(FakeService()) as service:
        cell = cell_of(option("openai", service, tmp_path), 3)
        np.testing.assert_array_equal(pixels(make(cell, Store(tmp_path / "runs"))), expected(cell))
