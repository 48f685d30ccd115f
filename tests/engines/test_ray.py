"""The engine over Ray's actors, on a stand-in for Ray: tests/cluster/test_real_ray.py runs it on real clusters."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fake_ray import FakeRay
from toy_units import Toy, toy_work

from evalkit.engines import ray as ray_engine
from evalkit.engines import ray_actor, ray_cluster
from evalkit.engines.base import BESIDE
from evalkit.engines.ray import Ray
from evalkit.engines.ray_actor import Actor
from evalkit.engines.ray_cluster import connect, places
from evalkit.engines.voice import describe
from evalkit.errors import ConfigError, DataError, EvalkitError, StoreError
from evalkit.utils.progress import Progress


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay([{"CPU": 2.0}])
    monkeypatch.setattr(ray_engine, "connect", lambda address, token_file: (fake, True))
    monkeypatch.setattr(ray_engine, "LOOK", 0.05)
    monkeypatch.setattr(ray_actor, "WAIT", 0.1)
    monkeypatch.setattr(ray_actor, "GATHER", 0.01)
    monkeypatch.setattr(ray_actor, "_node", lambda: "0")
    monkeypatch.setenv(BESIDE, "1")  # actors are in this process here
    monkeypatch.setattr(ray_actor, "LOGGER", "evalkit.toy")  # the driver's own is in another process, but for here

    def kill(pid: int, number: int) -> None:
        raise SystemExit("its worker process has died")

    monkeypatch.setattr(os, "kill", kill)
    return fake


@pytest.fixture
def engine(cluster: FakeRay) -> Iterator[Ray]:
    logger = logging.getLogger("evalkit.toy")
    yield Ray(num_cpus=1)
    logger.handlers.clear()
    logger.propagate = True


def toys(names: str, what: str = "write") -> list[Toy]:
    return [Toy(name, what) for name in names]


def written(folder: Path) -> str:
    return "".join(sorted(path.name for path in folder.iterdir() if len(path.name) == 1))


def test_an_actor_per_place_serves_all_stages(engine: Ray, cluster: FakeRay, tmp_path: Path) -> None:
    engine.map(toy_work(tmp_path, toys("abc")))
    engine.map(toy_work(tmp_path, toys("defg")))
    engine.close()
    assert written(tmp_path) == "abcdefg"
    assert cluster.asked == [{"concurrency_groups": {"unit": 1, "news": 2}, "max_restarts": 0, "num_cpus": 1}] * 2
    assert len((tmp_path / "opened").read_text().split()) == 2
    assert cluster.shut == 1
    assert all(actor.dead for actor in cluster.actors)


def test_what_is_done_already_starts_nothing(engine: Ray, cluster: FakeRay, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    engine.map(toy_work(tmp_path, toys("a")))
    assert not cluster.actors


def test_a_lost_worker_is_replaced_and_its_unit_run_again(
    engine: Ray, cluster: FakeRay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.map(toy_work(tmp_path, [Toy("k", "kill:2"), *toys("abc")]))
    assert written(tmp_path) == "abck"
    assert len(cluster.actors) == 4
    assert "is lost with toy k: its worker process has died" in caplog.text


def test_a_unit_that_ends_three_workers_is_named_when_all_else_is_done(engine: Ray, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match="toy k: ended 3 workers"):
        engine.map(toy_work(tmp_path, [Toy("k", "kill"), *toys("abc")]))
    assert written(tmp_path) == "abc"
    assert len(list((tmp_path / "started").glob("k-*"))) == 3


def test_a_node_that_went_is_hardly_the_unit_s_fault(
    engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_actor, "_node", lambda: "one that is no longer in the cluster")
    engine.map(toy_work(tmp_path, [Toy("k", "kill:5")]))
    assert written(tmp_path) == "k"


def test_who_gives_no_sign_is_replaced(
    engine: Ray, cluster: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine._silence = 0.5

    def freeze(pid: int, number: int) -> None:
        next(a for a in cluster.actors if a.instance.thread is threading.current_thread()).frozen = True
        time.sleep(1.5)

    def run(actor: Actor, unit: Toy, beside: int) -> object:
        actor.thread = threading.current_thread()
        return Actor_run(actor, unit, beside)

    Actor_run = Actor.run
    monkeypatch.setattr(Actor, "thread", None, raising=False)
    monkeypatch.setattr(Actor, "run", run)
    monkeypatch.setattr(os, "kill", freeze)
    engine.map(toy_work(tmp_path, [Toy("k", "kill:1"), *toys("ab")]))
    assert written(tmp_path) == "abk"
    assert len(list((tmp_path / "started").glob("k-*"))) == 2
    assert "is lost with toy k: no sign of it for 0 s" in caplog.text


def test_an_error_is_one_line_of_its_class_with_the_host(engine: Ray, cluster: FakeRay, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^w[12] on \S+: toy r has no data$"):
        engine.map(toy_work(tmp_path, [Toy("r", "raise")]))
    assert all(actor.dead for actor in cluster.actors)
    assert cluster.shut == 1


def test_a_bug_comes_with_the_worker_s_traceback(engine: Ray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(EvalkitError, match=r"^w\d on \S+: ZeroDivisionError: a bug \(toy x\); the traceback is above"):
        engine.map(toy_work(tmp_path, [Toy("x", "bug")]))
    assert "in run_toy" in caplog.text


def test_all_workers_that_refuse_end_the_run_in_one_line(engine: Ray, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^w\d on \S+: it does not see the store$"):
        engine.map(toy_work(tmp_path, toys("a"), refuse="it does not see the store"))


def test_one_that_refuses_takes_no_part_and_its_place_stays_taken(
    engine: Ray, cluster: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Actor.open

    def refusing(actor: Actor, opener: object) -> object:
        host, node, refusal = opened(actor, opener)
        return host, node, describe(StoreError("not this one")) if actor is cluster.actors[0].instance else refusal

    monkeypatch.setattr(Actor, "open", refusing)
    engine.map(toy_work(tmp_path, [Toy("a", "sleep:0.3"), *toys("bc")]))
    assert written(tmp_path) == "abc"
    assert len(cluster.actors) == 2
    assert "takes no part: not this one" in caplog.text


def test_a_worker_without_the_units_code_is_one_line(
    engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(actor: Actor, unit: Toy, beside: int) -> object:
        raise ModuleNotFoundError("No module named 'mine'")  # as where a unit cannot be unpickled

    monkeypatch.setattr(Actor, "run", run)
    with pytest.raises(EvalkitError, match=r"^w\d on \S+: evalkit does not work there: No module named 'mine'$"):
        engine.map(toy_work(tmp_path, toys("a")))


def test_a_cluster_that_has_no_room_is_told_of(
    engine: Ray, cluster: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.0)
    caplog.set_level(logging.INFO)
    cluster.resources = [{}]

    def grow(seconds: float) -> None:
        cluster.resources = [{"CPU": 1.0}]

    monkeypatch.setattr(ray_engine.time, "sleep", grow)
    engine.map(toy_work(tmp_path, toys("a")))
    assert "no worker is up yet; Ray has 0 to start" in caplog.text
    assert written(tmp_path) == "a"


def test_workers_that_end_as_they_start_end_the_run(engine: Ray, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match="10 workers in a row ended as they started: its worker process has died"):
        engine.map(toy_work(tmp_path, toys("a"), die=True))


def test_nodes_that_join_get_actors(engine: Ray, cluster: FakeRay, tmp_path: Path) -> None:
    cluster.resources, cluster.alive = [{"CPU": 1.0}], [True]
    units = toys("abcdef", "sleep:0.2")
    seen = []

    def advance(self: object, name: str, count: int) -> None:
        seen.append(count)
        cluster.resources, cluster.alive = [{"CPU": 1.0}, {"CPU": 2.0}], [True, True]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", advance)
        engine.map(toy_work(tmp_path, units))
    assert len(cluster.actors) == 3
    assert sum(seen) <= 6


def test_ctrl_c_has_units_put_away_what_they_began(engine: Ray, cluster: FakeRay, tmp_path: Path) -> None:
    def interrupted(calls: object, num_returns: int = 1, timeout: float | None = None) -> object:
        if any(tmp_path.glob(".tmp-*")) and not any(actor.instance._stopped.is_set() for actor in cluster.actors):
            raise KeyboardInterrupt
        return FakeRay.wait(cluster, calls, num_returns, timeout)

    cluster.wait = interrupted  # type: ignore[method-assign]
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.map(toy_work(tmp_path, [Toy("a", "sleep:60"), Toy("b", "sleep:60")]))
    assert time.monotonic() - before < 5
    assert not list(tmp_path.glob(".tmp-*"))
    assert written(tmp_path) == ""


def test_lines_of_workers_name_them(engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[object, ...]] = []
    monkeypatch.setattr(engine._voice, "say", lambda *line: said.append(line))
    engine.map(toy_work(tmp_path, [Toy("a", "log"), Toy("b", "sleep:0.5")]))
    assert {line[1:] for line in said} == {("evalkit.toy", logging.WARNING, "a line of toy a")}
    assert re.fullmatch(r"w\d on \S+", str(said[0][0]))


def test_a_unit_knows_how_many_work_beside_it(engine: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, int] = {}
    run = Actor.run

    def noting(actor: Actor, unit: Toy, beside: int) -> object:
        told[unit.key] = beside
        return run(actor, unit, beside)

    monkeypatch.setattr(Actor, "run", noting)
    engine.map(toy_work(tmp_path, [Toy("a", "sleep:0.3"), Toy("b", "sleep:0.3")]))  # both actors are at work now
    engine.map(toy_work(tmp_path, toys("cd"), alone=frozenset("c")))
    assert (told["c"], told["d"]) == (1, 2)


@pytest.mark.parametrize(
    ("nodes", "count", "needs"),
    [
        ([{"GPU": 8.0, "CPU": 64.0}, {"CPU": 8.0}], 8, {"num_gpus": 1, "num_cpus": 4}),
        ([{"GPU": 8.0, "CPU": 16.0}, {"GPU": 2.0, "CPU": 64.0}], 10, {"num_gpus": 1, "num_cpus": 2.0}),
        ([{"CPU": 16.0}, {"CPU": 2.0}, {}], 4, {"num_cpus": 4}),
        ([{"CPU": 2.0}, {"CPU": 1.0}], 1, {"num_cpus": 2}),
        ([], 0, {"num_cpus": 1}),
    ],
)
def test_places(nodes: list[dict[str, float]], count: int, needs: dict[str, float]) -> None:
    assert places(nodes, 1, 4) == (count, needs)


def test_half_a_gpu_each() -> None:
    assert places([{"GPU": 2.0, "CPU": 64.0}], 0.5, 4) == (4, {"num_gpus": 0.5, "num_cpus": 4})


@pytest.mark.parametrize("setting", [{"num_gpus": 0}, {"num_cpus": 0}, {"losses": 0}, {"actors": 0}, {"silence": 1}])
def test_a_setting_that_cannot_be_is_one_line(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}=[01]"):
        Ray(**setting)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Ray is not installed: pip install 'evalkit\[ray\]'"):
        connect("local", None)


def stand_in(monkeypatch: pytest.MonkeyPatch, *, fails: int) -> list[str]:
    """A module `ray` whose `init` fails so many times; returns the addresses that it was asked for."""
    asked: list[str] = []
    fake = ModuleType("ray")
    fake.exceptions = FakeRay([]).exceptions  # type: ignore[attr-defined]
    fake._private = ModuleType("private")  # type: ignore[attr-defined]
    fake._private.worker = ModuleType("worker")
    fake.is_initialized = lambda: False  # type: ignore[attr-defined]
    fake.shutdown = lambda: None  # type: ignore[attr-defined]

    def init(address: str, **options: object) -> None:
        asked.append(address)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if len(asked) <= fails:
            raise TimeoutError("Timed out\n  waiting for file")

    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: type("spec", (), {"origin": "ray"}))
    ours = ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *ours):
        monkeypatch.setenv(name, "to be taken away again")
        monkeypatch.delenv(name)
    return asked


def test_a_local_cluster_that_does_not_come_up_is_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(monkeypatch, fails=3)
    with pytest.raises(EvalkitError, match=r"Timed out waiting for file; on a busy machine .* engine.ray.address=auto"):
        connect("local", None)
    assert asked == ["local"] * 3
    asked = stand_in(monkeypatch, fails=2)
    assert connect("local", None)[1]
    assert asked == ["local"] * 3
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_a_cluster_that_is_not_there_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = stand_in(monkeypatch, fails=1)
    with pytest.raises(EvalkitError, match=r"engine.ray.address=head:6379: Timed out .* token .*this one\?$"):
        connect("head:6379", None)
    assert asked == ["head:6379"]
    assert "RAY_AUTH_MODE" not in os.environ
    with pytest.raises(ConfigError, match=r"token_file=nowhere: there is no such file"):
        connect("head:6379", "nowhere")
    (tmp_path / "token").write_text("secret")
    connect("head:6379", str(tmp_path / "token"))
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")


def test_sigterm_stays_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, fails=0)
    before = signal.getsignal(signal.SIGTERM)
    connect("local", None)
    assert signal.getsignal(signal.SIGTERM) == before
