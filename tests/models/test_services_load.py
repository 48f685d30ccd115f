"""Services under load, against real servers with a queue: what is recorded, nothing lost, numbers that hold anywhere.

Counts and orders are tested, and times by bounds that a busy machine cannot break: it makes them longer, never shorter.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from queue_server import queueing
from service_calls import cell_of, expected, make, option, pixels, reach_the_loopback

from evalkit.cell import Cell
from evalkit.errors import ConfigError, ServiceError
from evalkit.http.job import Job, seconds_of
from evalkit.models.services.load import Load, RequestTimes
from evalkit.samples.store import SampleSet, Store

KINDS = ("openai", "webui", "comfy")


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def loaded(kind: str, server: Any, folder: Path, load: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return option(kind, server, folder, load=dict(load), **changes)


def measured(samples: SampleSet) -> list[Mapping[str, Any]]:
    return [row for row in samples.rows if "measured_at" in row and not row["warmup"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("load", [{"concurrency": 3, "warmup": 2}, {"rate": 200.0, "warmup": 2}])
def test_what_is_recorded(kind: str, load: dict[str, Any], store: Store, tmp_path: Path) -> None:
    with queueing(seconds=0.01) as server:
        cell = cell_of(loaded(kind, server, tmp_path, load), 14)
        samples = make(cell, store, batch_size=3)
        np.testing.assert_array_equal(pixels(samples), expected(cell))  # images are as any others
        assert len(server.came) == 14
        make(cell, store)
        assert len(server.came) == 14  # a finished run asks for nothing
    rows = list(samples.rows)
    assert [row["warmup"] for row in rows] == [True] * 2 + [False] * 12
    assert len({row["measured_at"] for row in rows}) == 1
    assert {row["arrivals"] for row in rows} == {"closed" if "concurrency" in load else "poisson"}
    for row in rows:
        assert 0 <= row["scheduled_s"] <= row["sent_s"] < row["answered_s"]
        assert row["latency_s"] == pytest.approx(row["answered_s"] - row["scheduled_s"], abs=1e-5)
        assert row["answered_s"] - row["sent_s"] >= 0.01 + row["queued_s"] - 0.002  # ComfyUI tells milliseconds
        assert "load" not in row
        assert "others" not in row
    assert max(row["answered_s"] for row in rows[:2]) <= min(row["scheduled_s"] for row in rows[2:])
    stats = samples.stats()
    assert stats.under_load is not None
    assert (stats.under_load.requests, stats.under_load.request_errors, stats.under_load.parts) == (12, 0.0, 1)
    assert stats.under_load.tells
    assert stats.latency_p50 <= stats.under_load.latency_p90 <= stats.latency_p95 <= stats.under_load.latency_p99
    assert stats.images_per_second <= 1 / 0.01  # one worker


def test_a_closed_loop_keeps_as_many_under_way(store: Store, tmp_path: Path) -> None:
    with queueing(workers=8, seconds=0.02) as server:
        for concurrency in (1, 4):
            server.most_inside = 0
            load = {"concurrency": concurrency, "warmup": 0}
            samples = make(cell_of(loaded("openai", server, tmp_path, load), 16), store, batch_size=2)
            assert server.most_inside == concurrency
            assert samples.rows[0]["batch"] == concurrency
            assert samples.stats().images_per_second <= concurrency / 0.02


def test_an_open_loop_sends_while_others_wait(store: Store, tmp_path: Path) -> None:
    """Requests leave at their times whatever is under way, and latency holds the wait in the server's queue."""
    with queueing(seconds=0.05) as server:
        load = {"rate": 400, "warmup": 0}
        samples = make(cell_of(loaded("openai", server, tmp_path, load), 20), store, batch_size=2)
        assert server.most_inside > 4  # more than client.concurrency
    rows = measured(samples)
    sent = sorted(row["scheduled_s"] for row in rows)
    wanted = Load(rate=400).times(20)
    np.testing.assert_allclose(np.diff(sent), np.diff(wanted), atol=2e-6)
    assert max(row["latency_s"] for row in rows) >= 20 * 0.05 - wanted[-1]  # the last one waited for all others
    queueing_s = samples.stats().under_load.queueing  # type: ignore[union-attr]
    assert queueing_s is not None
    assert queueing_s >= 0.05 * 19 / 2 - wanted[-1]


def test_latency_counts_from_the_scheduled_time() -> None:
    times = RequestTimes(1.0, "poisson", scheduled_s=1.0, sent_s=3.0, answered_s=4.0)
    assert RequestTimes.of({"latency_s": 3.0, **times.record()}) == times
    assert RequestTimes.of({"latency_s": 3.0}) is None
    late: list[float] = []
    Load(rate=1000.0, arrivals="constant").run([0, 1, 2], lambda number, at: late.append(at) or 0.0, threading.Event())
    assert np.diff(sorted(late)) == pytest.approx([0.001, 0.001])


def test_arrivals_are_drawn_once() -> None:
    poisson = Load(rate=4.0)
    assert poisson.times(500) == poisson.times(500)
    assert poisson.times(500) != Load(rate=4.0, seed=1).times(500)
    gaps = np.diff(poisson.times(4000))
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.06)
    assert gaps.std() == pytest.approx(1 / 4, rel=0.1)  # of an exponential distribution they are equal
    assert Load(rate=4.0, arrivals="constant").times(3) == [0, 0.25, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_sheds_load(kind: str, store: Store, tmp_path: Path) -> None:
    """What is turned away counts as an error, in no latency; its image is asked for again when the load is over."""
    with queueing(seconds=0.03, places=2) as server:
        cell = cell_of(loaded(kind, server, tmp_path, {"rate": 500, "warmup": 0}, client={"retries": 20}), 20)
        samples = make(cell, store)
        np.testing.assert_array_equal(pixels(samples), expected(cell))
        assert server.turned_away > 0
    load = samples.stats().under_load
    assert load is not None
    failed = [row for row in samples.rows if "failed" in row]
    assert {row["failed"] for row in failed} == {"503"}
    assert load.kinds == {"503": len(failed)}
    assert 0 < load.request_errors == pytest.approx(len(failed) / 20)
    assert len(failed) >= 5  # 20 in 40 ms, of which a server with 2 places makes one in 30 ms
    assert samples.stats().images_per_second == pytest.approx(
        (20 - len(failed)) / (max(r["answered_s"] for r in samples.rows) - min(r["scheduled_s"] for r in samples.rows))
    )


def test_a_closed_loop_waits_after_an_error(store: Store, tmp_path: Path) -> None:
    """As long as Retry-After says: else a client that is turned away at once would ask without a pause."""
    with queueing(seconds=0.02, places=1, retry_after=0.2) as server:
        client = {"retries": 20, "backoff": 0.01, "max_backoff": 1}
        load = {"concurrency": 2, "warmup": 0}
        samples = make(cell_of(loaded("openai", server, tmp_path, load, client=client), 10), store)
    failed = sorted(row["answered_s"] for row in samples.rows if "failed" in row)
    assert failed
    sent = sorted(row["sent_s"] for row in samples.rows)
    for at in failed:  # the other client goes on; both together cannot have left within the pause
        assert sum(at < other < at + 0.15 for other in sent) <= 0.2 / 0.02 + 1
    assert all(b - a >= 0.19 for a, b in itertools.pairwise(failed))


@pytest.mark.parametrize("load", [{"concurrency": 4, "warmup": 1}, {"rate": 100, "warmup": 1}])
def test_a_server_that_dies_and_comes_back(load: dict[str, Any], store: Store, tmp_path: Path) -> None:
    with queueing(seconds=0.02, dies_after={10}, down=0.3) as server:
        client = {"retries": 40, "backoff": 0.05, "max_backoff": 0.1, "budget": 60}
        cell = cell_of(loaded("openai", server, tmp_path, load, client=client), 40)
        samples = make(cell, store)
        assert server.deaths == 1
    np.testing.assert_array_equal(pixels(samples), expected(cell))
    under = samples.stats().under_load
    assert under is not None
    assert under.kinds
    assert set(under.kinds) <= {"refused", "cut"}
    assert under.requests == 39
    assert sum(under.kinds.values()) + sum("failed" not in row for row in measured(samples)) == 39


def test_a_time_out_is_an_error_of_its_kind(store: Store, tmp_path: Path) -> None:
    with queueing(seconds=0.4, workers=1) as server:
        load = {"concurrency": 2, "warmup": 0}
        client = {"timeout": 0.6, "concurrency": 1, "retries": 5}
        samples = make(cell_of(loaded("openai", server, tmp_path, load, client=client), 4), store)
    kinds = samples.stats().under_load.kinds  # type: ignore[union-attr]
    assert set(kinds) == {"timeout"}  # two at a time of 0.4 s each: one of them takes 0.8 s


def test_a_run_that_is_broken_off_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured stays; what is missing is measured in another part, which the set's statistics say."""
    with queueing(seconds=0.005) as server:
        cell = cell_of(loaded("openai", server, tmp_path, {"concurrency": 2, "warmup": 1}), 20)
        put = store.place(cell).fetched(0, 1024).put
        count = 0

        def breaking(fetched: Any, index: int, image: Any) -> None:
            nonlocal count
            put(index, image)
            count += 1
            if count == 8:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("evalkit.models.services.cache.FetchedImages.put", breaking)
            with pytest.raises(KeyboardInterrupt):
                make(cell, store)
        before = {path.name for path in store.place(cell).folder.glob("fetched/*.json")}  # type: ignore[union-attr]
        assert len(before) >= 8
        asked = len(server.came)
        samples = make(cell, store)
        np.testing.assert_array_equal(pixels(samples), expected(cell))
        assert len(server.came) - asked == 20 - len(before)
    under = samples.stats().under_load
    assert under is not None
    assert under.parts == 2
    parts = sorted({row["measured_at"] for row in samples.rows})
    assert sum(row["measured_at"] == parts[0] for row in samples.rows) == len(before)
    assert under.requests == 20 - sum(row["warmup"] for row in samples.rows)


def test_a_set_that_grows_measures_what_is_new(store: Store, tmp_path: Path) -> None:
    with queueing(seconds=0.001) as server:
        asked = loaded("openai", server, tmp_path, {"concurrency": 2, "warmup": 1})
        short = make(cell_of(asked, 6), store)
        longer = make(cell_of(asked, 10), store)
        assert len(server.came) == 10
    assert [dict(row) | {"check": 0} for row in longer.rows[:6]] == [dict(row) | {"check": 0} for row in short.rows]
    assert longer.stats().under_load.parts == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "queued"),
    [
        ("queue;dur=12.5, generate;dur=310", 0.0125),
        ('generate;dur=3, queue;desc="x";dur=0', 0.0),
        ("queue", None),
        ("queues;dur=3", None),
        (f"queue;dur={'9' * 400}", None),
        ("queue;dur=-1", None),
    ],
)
def test_what_a_service_says_of_its_queue(header: str, queued: float | None) -> None:
    job = Job(None, "x", threading.Event(), 0.0)  # type: ignore[arg-type]
    job._note_timing(header)
    assert job.queued == queued
    assert [seconds_of(x) for x in (1, 0.5, True, "1", -1, float("nan"), float("inf"), 10**400, None)] == [
        *(1.0, 0.5),
        *[None] * 7,
    ]


def test_a_refusal_for_good_ends_the_load(store: Store, tmp_path: Path) -> None:
    with queueing() as server:
        option_ = loaded("openai", server, tmp_path, {"concurrency": 2})
        cell = cell_of({**option_, "base_url": f"{server.url}/v2"}, 50)
        with pytest.raises(ServiceError, match=r"/v2, sample \d: .*404 Not Found .there is no /v2"):
            make(cell, store)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({}, "load: give concurrency"),
        ({"concurrency": 1, "rate": 1}, "load: give concurrency"),
        ({"rate": 0}, "load.rate=0: give requests per second"),
        ({"rate": "2"}, "load.rate='2': give requests per second"),
        ({"concurrency": 0}, "load.concurrency=0"),
        ({"concurrency": 1, "arrivals": "poisson"}, "load: arrivals and seed are of an open loop"),
        ({"rate": 1, "arrivals": "poison"}, "load.arrivals='poison': there is no such way. Did you mean 'poisson'"),
        ({"rate": 1, "warm_up": 3}, "load.warm_up: there is no such setting. Did you mean 'warmup'"),
        (4, "load=4: give a mapping"),
    ],
)
def test_loads_that_make_no_sense(load: Any, words: str, tmp_path: Path) -> None:
    server = type("Nowhere", (), {"url": "http://127.0.0.1:1"})()
    with pytest.raises(ConfigError, match=f"model.served.{words}".replace(".", r"\.")):
        cell_of(option("openai", server, tmp_path, load=load))  # type: ignore[arg-type]


def test_a_load_is_a_setting_of_its_cell(tmp_path: Path) -> None:
    server = type("Nowhere", (), {"url": "http://127.0.0.1:1"})()

    def cell(**more: Any) -> Cell:
        return cell_of(option("openai", server, tmp_path, **more))  # type: ignore[arg-type]

    bare, two, four = cell(), cell(load={"concurrency": 2}), cell(load={"concurrency": 4})
    assert len({bare.key, two.key, four.key}) == 3
    assert bare.key == cell(load=None).key
    assert two.settings == {**bare.settings, "concurrency": 2}
    assert "concurrency_2" in two.name
    assert cell(load={"rate": 2, "seed": 1, "warmup": 4}).settings == {**bare.settings, "rate": 2, "load.seed": 1}
