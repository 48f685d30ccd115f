"""Models behind HTTP against real servers that misbehave: nothing is lost, nothing made twice, no key shown."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_services import KEY, RETRY_AFTER, SHORT, FakeService, serving
from hydra.utils import get_class
from service_calls import PROMPTS, all_text, cell_of, expected, make, option, pixels, reach_the_loopback

from evalkit.config.build import locate
from evalkit.errors import ConfigError, EvalkitError, ServiceError
from evalkit.http.client import Client, ClientOptions, Transient
from evalkit.http.keys import Key
from evalkit.models import services
from evalkit.models.base import Request
from evalkit.samples.store import SampleSet, Store

KINDS = ("openai", "webui", "comfy")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)


@pytest.fixture
def service() -> Iterator[FakeService]:
    with serving(FakeService()) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def forms_of_the_key() -> list[bytes]:
    pieces = [KEY, base64.b64encode(KEY.encode()).decode(), urllib.parse.quote(KEY, safe=""), "very-secret"]
    return [piece.encode() for piece in pieces]


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_those_of_prompt_and_seed(kind: str, service: FakeService, store: Store, tmp_path: Path) -> None:
    cell = cell_of(option(kind, service, tmp_path), 10, seed=3)
    samples = make(cell, store, batch_size=4)
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    assert sorted(service.delivered.values()) == [1] * 10
    seeds = {seed for _, seed in service.delivered}
    assert len(seeds) == 10
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)
    assert samples.warnings == {}
    assert (samples.stats().device, samples.stats().peak_memory_mb, samples.stats().nfe) == ("service", None, None)
    asked = len(service.asked)
    make(cell, store)
    assert len(service.asked) == asked  # a finished run asks for nothing


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "garbage", "list", "echo", "drip"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_is_tried_again(
    kind: str, fault: str, service: FakeService, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service.faults = {0: fault, 3: fault}
    began = time.monotonic()
    cell = cell_of(option(kind, service, tmp_path, client={"timeout": SHORT} if fault == "drip" else {}), 6)
    samples = make(cell, store)
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    assert sorted(service.delivered.values()) == [1] * 6
    assert len(service.asked) == 8
    assert 1 <= samples.warnings["retried"] <= 2
    assert time.monotonic() - began < 15  # a drip takes 20 s
    out = capfd.readouterr()
    shown = all_text(store.root) + out.out.encode() + out.err.encode()
    assert not any(form in shown for form in forms_of_the_key())


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *(
            (kind, fault)
            for kind in ("openai", "webui")
            for fault in ("cut", "slow", "wrong_size", "not_image", "two", "none")
        ),
        ("openai", "not_base64"),
        ("openai", "file_url"),
        ("openai", "broken_image"),
        ("comfy", "execution"),
        ("comfy", "two"),
        ("comfy", "none"),
        ("comfy", "forgotten"),
    ],
)
def test_a_wrong_answer_is_asked_for_again(
    kind: str, fault: str, service: FakeService, store: Store, tmp_path: Path
) -> None:
    service.faults = {1: fault}
    cell = cell_of(option(kind, service, tmp_path, client={"timeout": SHORT} if fault == "slow" else {}), 5)
    samples = make(cell, store)
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    assert samples.warnings == {"retried": 1}
    assert len(service.asked) == 6


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("openai", "500", r"127.0.0.1:\d+/v1, sample \d: 500 Internal Server Error \(it went wrong\), 3 times\."),
        ("openai", "slow", r"no whole answer within 0.1 s \(client.timeout\), 3 times"),
        ("openai", "reset", r"the connection was cut, 3 times"),
        ("openai", "cut", r"the connection was cut, 3 times"),
        ("openai", "garbage", r"the answer is no JSON \(\{\"data\": \[\), 3 times"),
        ("openai", "wrong_size", r"the image is 24x16 \(width x height\), not 16x16, 3 times"),
        ("openai", "not_image", r"the answer: not an image file of a kind that is read \(.*\), 3 times"),
        ("openai", "two", r"the answer holds 2 images, not 1, 3 times"),
        ("openai", "file_url", r"the image's address is broken, or not http\(s\), 3 times"),
        ("webui", "wrong_size", r"the image is 24x16 \(width x height\), not 16x16, 3 times"),
        ("comfy", "wrong_size", r"the image is 24x16 \(width x height\), not 16x16, 3 times"),
        ("comfy", "not_image", r"not an image file of a kind that is read \(.*\), 3 times"),
        ("comfy", "execution", r"ComfyUI failed: KSampler: out of memory, 3 times"),
        ("comfy", "two", r"the workflow made 2 images, not 1 \(output_node picks a node\), 3 times"),
        # What no waiting mends is not asked for again
        (
            "openai",
            "400",
            r"sample \d: http://127.0.0.1:\d+/v1/images/generations: 400 Bad Request \(it went wrong\)\.",
        ),
        ("openai", "401", r"sample \d: http.*/generations refuses the key in TEST_IMAGES_KEY: 401 Unauthorized\."),
        ("openai", "quota", r"429 Too Many Requests \(it went wrong\)\."),
        ("openai", "429-long", r"3.6e\+03 s more would go beyond its 10 s \(client.budget\)"),
        ("openai", "redirect", r"sends on to http://elsewhere.invalid/x: set base_url to where it is"),
        ("comfy", "400", r"sample \d: http://127.0.0.1:\d+/prompt: 400 Bad Request \(it went wrong\)\."),
    ],
)
def test_one_line_after_the_retries(
    kind: str, fault: str, words: str, service: FakeService, store: Store, tmp_path: Path
) -> None:
    service.always = fault
    limits = {"concurrency": 1, **({"timeout": 0.1} if fault == "slow" else {})}
    cell = cell_of(option(kind, service, tmp_path, client=limits), 4)
    with pytest.raises(ServiceError, match=words) as caught:
        make(cell, store)
    line = str(caught.value)
    assert "\n" not in line
    assert line.count("What was fetched is kept: the same command goes on from there") == 1
    assert not any(form.decode() in line for form in forms_of_the_key())
    assert "abc" not in line
    same_file = kind == "comfy" and fault in ("wrong_size", "not_image")  # fetched again, not made again
    final = fault in ("400", "401", "quota", "429-long", "redirect")
    assert len(service.asked) == (1 if same_file or final else 3)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_nothing_made_twice_over_failing_runs(
    kind: str, service: FakeService, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the run dies of, what was delivered is in the store or kept; the next runs ask for the rest alone."""
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 8)
    cell = cell_of(option(kind, service, tmp_path, client={"retries": 0, "concurrency": 3}), 20)
    failures = 0
    service.faults = dict.fromkeys((2, 5, 6, 11, 15, 19), "500")
    for _ in range(12):
        try:
            samples = make(cell, store, batch_size=5)
            break
        except ServiceError:
            failures += 1
            assert store.sample_folder(cell).is_dir()
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    assert failures >= 3
    assert sorted(service.delivered.values()) == [1] * 20
    assert (
        len(service.asked) == 20 + 6 + service.dropped
    )  # each fault cost one request, and nothing else was asked twice
    assert not (store.sample_folder(cell) / "fetched").exists()
    assert not any(form in all_text(store.root) for form in forms_of_the_key())


def test_a_set_that_grows_asks_for_what_is_new(service: FakeService, store: Store, tmp_path: Path) -> None:
    model = option("openai", service, tmp_path, seed_field=None)  # it would not give the same image again
    short = make(cell_of(model, 5), store)
    assert short.warnings == {"unseeded": 5}
    longer = make(cell_of(model, 9), store)
    assert len(service.asked) == 9
    np.testing.assert_array_equal(pixels(longer)[:5], pixels(short))
    assert [row["latency_s"] for row in longer.rows[:5]] == [row["latency_s"] for row in short.rows]
    assert [row["clock_s"] is None for row in longer.rows] == [True] * 5 + [False] * 4


def test_a_kept_image_that_is_damaged_is_asked_for_again(service: FakeService, store: Store, tmp_path: Path) -> None:
    model = option("openai", service, tmp_path, client={"retries": 0, "concurrency": 1})
    cell = cell_of(model, 4)
    service.faults = {3: "500"}
    with pytest.raises(ServiceError):
        make(cell, store)
    kept = sorted((store.sample_folder(cell) / "fetched").iterdir())
    assert [path.name for path in kept] == ["000000.json", "000001.json", "000002.json"]
    about = json.loads(kept[0].read_text())
    other = json.loads(kept[2].read_text())
    kept[0].write_text(json.dumps({**about, "png": other["png"]}))  # not the recorded one
    kept[1].write_text(kept[1].read_text()[:40])
    np.testing.assert_array_equal(pixels(make(cell, store)), expected(cell))
    assert len(service.asked) == 4 + 3  # the failed one, and the two damaged


def test_requests_go_side_by_side_and_each_has_its_own_latency(
    service: FakeService, store: Store, tmp_path: Path
) -> None:
    service.delay = 0.15
    samples = make(cell_of(option("openai", service, tmp_path, client={"concurrency": 4}), 16), store, batch_size=8)
    assert service.most_at_once == 4
    stats = samples.stats()
    assert 0.15 <= stats.latency_p50 < 0.45  # of one request, not of the four together
    assert stats.images_per_second > 1.5 / stats.latency_p50  # four at a time
    assert stats.batch_size == 4


def test_the_latency_is_that_of_the_attempt_that_succeeded(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.faults = {0: "429"}
    samples = make(cell_of(option("openai", service, tmp_path), 1), store)
    assert samples.rows[0]["latency_s"] < RETRY_AFTER
    assert service.asked_at[1] - service.asked_at[0] > RETRY_AFTER
    assert samples.rows[0]["clock_s"] > RETRY_AFTER  # the wait is in the throughput
    assert samples.rows[0]["warnings"] == ["retried"]


def test_a_429_holds_all_requests_back(service: FakeService, store: Store, tmp_path: Path) -> None:
    """One is told to wait: the others, which have not left yet, wait as well."""
    service.faults = {0: "429"}
    service.delay = RETRY_AFTER / 2  # of the other one's image
    made = make(cell_of(option("openai", service, tmp_path, client={"concurrency": 2}), 6), store)
    assert service.asked_at[2] - service.asked_at[0] > RETRY_AFTER
    assert made.warnings == {"retried": 1}
    assert len(service.asked) == 7


def test_ctrl_c_keeps_what_is_under_way(
    service: FakeService, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.delay = 0.2
    cell = cell_of(option("openai", service, tmp_path, client={"concurrency": 2}), 8)

    def interrupted(*args: Any) -> Any:
        time.sleep(0.05)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evalkit.models.services.base.as_completed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(cell, store)
    assert len(service.asked) == 2
    np.testing.assert_array_equal(pixels(make(cell, store)), expected(cell))
    assert sorted(service.delivered.values()) == [1] * 8


# Keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_is_sent_and_nowhere_to_be_found(
    kind: str, service: FakeService, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    service.always = "echo"
    cell = cell_of(option(kind, service, tmp_path, client={"concurrency": 1}), 3)
    with pytest.raises(ServiceError, match=r"you sent (Bearer|Basic) \*\*\*\), 3 times") as caught:
        make(cell, store)
    service.always = None
    make(cell, store)
    scheme = {"webui": "Basic " + base64.b64encode(KEY.encode()).decode()}.get(kind, f"Bearer {KEY}")
    assert {headers.get("Authorization") for headers in service.headers} == {scheme}
    shown = all_text(store.root) + caplog.text.encode() + str(caught.value).encode() + repr(cell).encode()
    assert caplog.text.count("again in") == 2  # one a retry of the failing run; debug lines included
    assert not any(form in shown for form in forms_of_the_key())


def test_the_key_does_not_go_to_other_hosts(
    service: FakeService, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service.by_url = True
    make(cell_of(option("openai", service, tmp_path), 2), store)
    own = [h for p, h in zip(service.paths, service.headers, strict=True) if p.startswith("/files/")]
    assert len(own) == 2
    assert all("Authorization" in headers for headers in own)
    with serving(FakeService()) as elsewhere:
        elsewhere.files = service.files
        home, service.url = service.url, elsewhere.url  # image addresses now lead elsewhere
        model = option("openai", service, tmp_path) | {"base_url": f"{home}/v1"}
        samples = make(cell_of(model, 4, seed=1), store)
    np.testing.assert_array_equal(pixels(samples), expected(cell_of(model, 4, seed=1)))
    assert len(elsewhere.headers) == 4
    assert not any("Authorization" in headers for headers in elsewhere.headers)
    assert "signature" not in caplog.text  # httpx would log each address


def test_an_image_that_has_moved(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.by_url = True
    cell = cell_of(option("openai", service, tmp_path), 2)
    with serving(FakeService()) as elsewhere:
        elsewhere.files, service.moves_to = service.files, elsewhere.url
        np.testing.assert_array_equal(pixels(make(cell, store)), expected(cell))
        assert len(elsewhere.headers) == 2
        assert not any("Authorization" in headers for headers in elsewhere.headers)
        elsewhere.moves_to = elsewhere.url
        with pytest.raises(ServiceError, match="the image's address sends on more than 5 times, 3 times"):
            make(cell_of(option("openai", service, tmp_path), 3), store)


def test_all_proxy_is_not_heeded_and_http_proxy_is(
    service: FakeService, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    make(cell_of(option("openai", service, tmp_path), 1), store)
    monkeypatch.setenv("http_proxy", service.url.removeprefix("http://"))
    model = option("openai", service, tmp_path) | {"base_url": "http://images.invalid/v1"}
    make(cell_of(model, 2), store)
    assert service.paths[1:] == ["http://images.invalid/v1/images/generations"] * 2
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match="http_proxy names no http"):
        make(cell_of(model, 3), store)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9/x?token=abc", "the connection was refused"),
        ("http://[bad/x", "there is no such host"),
        ("http://images.invalid/x", "there is no such host"),
        ("https://{service}/x", "wrong version number"),
        ("ftp://127.0.0.1/x", "the image's address is broken, or not http(s)"),
        ("x.png", "the image's address is broken, or not http(s)"),
        ("http://a\0b/x", "the image's address is broken, or not http(s)"),
    ],
)
def test_why_an_image_cannot_be_had(address: str, words: str, service: FakeService) -> None:
    client = Client(service.url, Key(None), ClientOptions())
    with pytest.raises(Transient) as caught:
        client.download(address.format(service=service.url.removeprefix("http://")), deadline=time.monotonic() + 5)
    assert words in str(caught.value).lower()


def test_a_certificate_that_is_not_trusted_is_final() -> None:
    with serving(FakeService(), tls=True) as running:
        client = Client(running.url, Key(None), ClientOptions())
        with pytest.raises(ServiceError, match=r"https://127.0.0.1:\d+/x: its certificate is not trusted: "):
            client.download(f"{running.url}/x?token=abc", deadline=time.monotonic() + 5)


def test_an_answer_without_end(
    service: FakeService, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalkit.http.client.MAX_BYTES", 500)
    with pytest.raises(ServiceError, match="the answer is larger than 0 MB, 3 times"):
        make(cell_of(option("openai", service, tmp_path), 1), store)


@pytest.mark.parametrize(
    ("earlier", "name"),
    [
        ("openai_images", "OpenAIImages"),
        ("automatic1111", "Automatic1111"),
        ("comfyui", "ComfyUI"),
        ("service", "Service"),
    ],
)
def test_earlier_targets_are_found(earlier: str, name: str) -> None:
    target = f"evalkit.models.{earlier}.{name}"
    assert locate(target) is get_class(target) is getattr(services, name)
    with pytest.raises(ConfigError, match=f"'evalkit.models.{earlier}' has no 'Other'"):
        locate(f"evalkit.models.{earlier}.Other")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_key_env": KEY}, "api_key_env takes the name of an environment variable"),
        ({"base_url": f"http://me:{KEY}@127.0.0.1/v1"}, "base_url holds a user, a password or a query"),
        ({"base_url": f"http://127.0.0.1/v1?key={KEY}"}, "base_url holds a user, a password or a query"),
        ({"base_url": "127.0.0.1:8000"}, r"base_url=127.0.0.1:8000: give an address such as http://"),
        ({"client": {"concurency": 3}}, r"client.concurency: there is no such setting. Did you mean 'concurrency'"),
        ({"client": {"concurrency": 0}}, r"client.concurrency=0: give a whole number >= 1"),
        ({"client": {"timeout": "1 s"}}, r"client.timeout='1 s': give seconds"),
        ({"client": {"retries": True}}, r"client.retries=True"),
        ({"response_format": "png"}, r"response_format=png: give b64_json, url"),
        ({"seed_field": "prompt"}, r"seed_field=prompt: this field has another meaning"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, Any], words: str, service: FakeService, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        cell_of(option("openai", service, tmp_path) | changes)
    assert not any(form.decode() in str(caught.value) for form in forms_of_the_key())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "the key is not set: export NO_SUCH_KEY=KEY"),
        ({"base_url": "http://127.0.0.1:9/v1"}, r"127.0.0.1:9/v1 cannot be reached \(the connection was refused\)"),
        ({"height": None}, "height=None, width=16: give both height and width"),
        ({"extra": {"prompt": "x"}}, "extra.prompt: this field is set by evalkit"),
        ({"extra": 3}, "extra=3: give a mapping"),
    ],
)
def test_what_is_refused_before_the_first_request(
    changes: dict[str, Any], words: str, service: FakeService, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(cell_of(option("openai", service, tmp_path) | changes), store)
    assert service.asked == []


def test_a_finished_run_needs_no_key_and_no_service(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FakeService()) as service:
        model = option("openai", service, tmp_path)
        make(cell_of(model, 3), store)
    monkeypatch.delenv("TEST_IMAGES_KEY")
    assert SampleSet.missing(store, cell_of(model, 3)) == []


# What goes into a request, and into the cell's key ----------------------------------------------------------------


def test_fields_of_openai(service: FakeService, store: Store, tmp_path: Path) -> None:
    model = option("openai", service, tmp_path, quality="high", extra={"user": "x"}, response_format="b64_json")
    prompts = [{"text": "a fox", "negative": "blurry"}]
    assert make(cell_of(model, 1, prompts=prompts), store).warnings == {"negative_prompt_ignored": 1}
    seed = Request(0, 0).seed32()
    assert service.asked == [
        {
            "model": "small", "prompt": "a fox", "n": 1, "size": "16x16", "quality": "high", "user": "x",
            "response_format": "b64_json", "seed": seed,
        }
    ]  # fmt: skip


def test_openai_rewrites_prompts(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.faults = {0: "revised"}
    assert make(cell_of(option("openai", service, tmp_path), 3), store).warnings == {"prompt_revised": 1}


def test_fields_of_the_web_ui(service: FakeService, store: Store, tmp_path: Path) -> None:
    model = option(
        "webui", service, tmp_path, num_inference_steps=4, guidance_scale=6.5, sampler_name="Euler a", clip_skip=2,
        checkpoint="x.safetensors", negative_prompt="ugly", extra={"override_settings": {"eta": 1}, "tiling": True},
    )  # fmt: skip
    prompts = ["a fox", {"text": "a cat", "negative": "blurry"}]
    service.faults = {0: "other_seed"}
    samples = make(cell_of({**model, "client": {"concurrency": 1}}, 2, prompts=prompts), store)
    assert samples.warnings == {"seed_ignored": 1}
    first, second = service.asked
    assert (first["negative_prompt"], second["negative_prompt"]) == ("ugly", "blurry")
    assert first == {
        "prompt": "a fox", "negative_prompt": "ugly", "seed": Request(0, 0).seed32(), "steps": 4, "cfg_scale": 6.5,
        "height": 16, "width": 16, "sampler_name": "Euler a", "tiling": True, "batch_size": 1, "n_iter": 1,
        "send_images": True, "save_images": False,
        "override_settings": {"eta": 1, "CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": "x.safetensors"},
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_cells_key_knows_what_changes_pixels(kind: str, service: FakeService, tmp_path: Path) -> None:
    model = option(kind, service, tmp_path)
    key = cell_of(model).key
    assert cell_of({**model, "client": {"concurrency": 9}, "api_key_env": "OTHER"}).key == key
    assert cell_of({**model, "version": "2026-05"}).key != key
    assert cell_of({**model, "base_url": "http://127.0.0.1:1/v1"}).key != key
    assert cell_of({**model, "width": 24}).key != key


def test_without_a_size_the_first_image_tells(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.faults = {2: "wrong_size"}
    model = option("openai", service, tmp_path, height=None, width=None, client={"concurrency": 1})
    assert make(cell_of(model, 4), store).warnings == {"retried": 1}


# ComfyUI ----------------------------------------------------------------------------------------------------------


def test_a_workflow_whose_answer_is_lost_is_not_queued_twice(
    service: FakeService, store: Store, tmp_path: Path
) -> None:
    service.faults = {1: "lost_answer"}
    cell = cell_of(option("comfy", service, tmp_path), 4)
    samples = make(cell, store)
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    assert len(service.asked) == 4
    assert samples.warnings == {"retried": 1}


def test_a_comfyui_that_gives_its_own_ids(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.takes_ids = False
    cell = cell_of(option("comfy", service, tmp_path), 4)
    np.testing.assert_array_equal(pixels(make(cell, store)), expected(cell))


def test_an_image_that_takes_longer_than_the_budget(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.polls = 1000
    cell = cell_of(option("comfy", service, tmp_path, client={"budget": 0.3}), 2)
    with pytest.raises(ServiceError, match=r"would go beyond its 0.3 s \(client.budget\)"):
        make(cell, store)


def test_workflows_that_wait_are_taken_out_of_the_queue_when_a_batch_ends(
    service: FakeService, store: Store, tmp_path: Path
) -> None:
    """One fails; the others' workflows, which would be made for nobody, leave the queue or are fetched and kept."""
    service.polls = 5
    service.faults = {2: "execution"}
    cell = cell_of(option("comfy", service, tmp_path, client={"retries": 0, "concurrency": 3}), 6)
    with pytest.raises(ServiceError, match="ComfyUI failed"):
        make(cell, store)
    assert service.queue == {}
    make(cell, store)
    assert set(service.delivered.values()) == {1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("{{seed}}", "7"), r"has no \{\{seed\}\}: put it where"),
        (lambda text: text.replace("{{prompt}}", "a fox"), r"has no \{\{prompt\}\}"),
        (
            lambda text: text.replace('"{{seed}}"', "{{seed}}"),
            r'not JSON.*laceholders are in quotes: "\{\{seed\}\}"',
        ),
        (lambda text: '{"nodes": [], "links": []}', r"in the editor's format: export it again with Export \(API\)"),
        (lambda text: "[]", r"is no workflow in the API format"),
        (None, r"workflow .*workflow.json cannot be read: No such file"),
    ],
)
def test_workflows_that_are_refused(change: Any, words: str, service: FakeService, tmp_path: Path) -> None:
    model = option("comfy", service, tmp_path)
    file = tmp_path / "workflow.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(change(file.read_text()))
    with pytest.raises(ConfigError, match=words) as caught:
        cell_of(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_inference_steps": 4},
            r"has no \{\{num_inference_steps\}\}: the setting num_inference_steps would change",
        ),
        ({"negative_prompt": "ugly"}, r"has no \{\{negative_prompt\}\}"),
        ({"width": None, "height": None}, r"\{\{height\}\} has no value"),
        ({"extra": {"seed": 3}}, r"extra.seed: this field is set by evalkit"),
    ],
)
def test_placeholders_and_settings_fit_one_another(
    changes: dict[str, Any], words: str, service: FakeService, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(cell_of(option("comfy", service, tmp_path) | changes), store)


def test_placeholders_keep_types_and_prompts_are_not_read_as_such(
    service: FakeService, store: Store, tmp_path: Path
) -> None:
    model = option("comfy", service, tmp_path, extra={"prefix": "x"})
    file = tmp_path / "workflow.json"
    graph = json.loads(file.read_text())
    graph["9"]["inputs"]["filename_prefix"] = "{{prefix}}-{{seed}}-{{ width }}"
    file.write_text(json.dumps(graph))
    make(cell_of(model, 2, prompts=PROMPTS[1:2]), store)
    sent = sorted(service.asked, key=lambda body: body["prompt"]["3"]["inputs"]["seed"] != Request(0, 0).seed32())
    inputs = {node: value["inputs"] for node, value in sent[0]["prompt"].items()}
    assert inputs["6"]["text"] == "zwei Füchse {{seed}}"
    assert inputs["5"] == {"width": 16, "height": 16, "batch_size": 1}
    assert inputs["9"]["filename_prefix"] == f"x-{Request(0, 0).seed32()}-16"


def test_the_output_node(service: FakeService, store: Store, tmp_path: Path) -> None:
    service.faults = {0: "two"}
    model = option("comfy", service, tmp_path, output_node=8)  # the preview's
    assert make(cell_of(model, 1), store).warnings == {}
    with pytest.raises(ConfigError, match="has no node '7'"):
        cell_of({**model, "output_node": 7})


def test_seeds_are_of_sample_and_cell() -> None:
    seeds = {Request(i, seed).seed32() for i in range(200) for seed in range(5)}
    assert len(seeds) == 1000
    assert max(seeds) > 2**31
    assert Request(3, 1, "any prompt").seed32() == Request(3, 1).seed32()


def test_no_thread_stays(service: FakeService, store: Store, tmp_path: Path) -> None:
    before = set(threading.enumerate())  # other tests of this process may have left the pool that reads URLs
    make(cell_of(option("openai", service, tmp_path), 4), store)
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("evalkit")]


def test_errors_are_of_the_kind_that_is_one_line() -> None:
    assert issubclass(ServiceError, EvalkitError)
    assert ServiceError.exit_code == 1
