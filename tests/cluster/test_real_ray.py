"""evalkit/engines/ray.py on real clusters of this host: lost workers, nodes and drivers, tokens, a cut link."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cut_link import ADDRESSES, can_cut, link
from packages import need
from ray_nodes import Nodes, ray_nodes

need("ray", "uv run --group dev --group cluster pytest -n0 -m cluster")
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

PATH = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
SETTINGS: dict[str, Any] = {"num_cpus": 1, "silence": 20}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes((1, 1)) as made:
        yield made


Driver = subprocess.Popen[str]


def drive(
    folder: Path, *stages: list[list[str]], env: dict[str, str], within: list[str] | None = None, **settings: Any
) -> Driver:
    script = Path(__file__).with_name("ray_driver.py")
    words = [str(folder), json.dumps(stages), json.dumps(SETTINGS | settings)]
    return subprocess.Popen(
        [*(within or []), sys.executable, str(script), *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, nodes: Nodes, *stages: list[list[str]], **settings: Any) -> tuple[int, str]:
    driver = drive(folder, *stages, env=nodes.environment, address=nodes.address, **settings)
    out, err = driver.communicate(timeout=300)
    assert out == ""
    return driver.returncode, err


def toys(names: str, what: str = "write") -> list[list[str]]:
    return [[name, what] for name in names]


def written(folder: Path) -> str:
    return "".join(sorted(path.name for path in folder.iterdir() if len(path.name) == 1))


def tries(folder: Path, what: str = "started") -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / what).iterdir())


def twice(folder: Path, what: str) -> list[list[str]]:
    """(name, when, process) of the runs of units that were run twice, the earlier first."""
    runs = [path.name.split("-") for path in (folder / what).iterdir()]
    names = [name for name, _, _ in runs]
    return sorted((run for run in runs if names.count(run[0]) == 2), key=lambda run: int(run[1]))


def opened(folder: Path) -> list[str]:
    file = folder / "opened"
    return file.read_text().split() if file.exists() else []


def until(ready: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_two_nodes_serve_all_stages_with_one_process_each(nodes: Nodes, tmp_path: Path) -> None:
    code, err = run(tmp_path, nodes, toys("abcdef", "sleep:0.5"), toys("ghijkl", "sleep:0.5"), toys("m", "log"))
    assert (code, written(tmp_path)) == (0, "abcdefghijklm"), err
    pids = opened(tmp_path)
    assert len(pids) == 2
    assert {(tmp_path / name).read_text() for name in "abcdefghijkl"} == set(pids)
    assert re.search(r"\[w\d on \S+\] a line of toy m", err)
    until(lambda: not nodes.left(), 20)


@pytest.mark.skipif(shutil.which("uv") is None, reason="no uv")
def test_uv_run_sends_no_folder_to_the_nodes(nodes: Nodes, tmp_path: Path) -> None:
    env = nodes.environment | {"UV_PROJECT_ENVIRONMENT": sys.prefix}
    driver = drive(tmp_path, toys("ab"), env=env, within=["uv", "run", "--no-sync"], address=nodes.address)
    _, err = driver.communicate(timeout=120)
    assert (driver.returncode, written(tmp_path)) == (0, "ab"), err
    assert not list(nodes.folder.glob("session_2*/runtime_resources/working_dir_files/*"))


def test_lost_workers_are_made_good_and_a_poison_is_named(nodes: Nodes, tmp_path: Path) -> None:
    code, err = run(tmp_path, nodes, [["k", "kill:2"], *toys("abc")], [["p", "kill"], *toys("de")])
    assert (code, written(tmp_path)) == (1, "abcdek")
    assert "evalkit: toy p: ended 3 workers" in err
    assert "(raylet)" not in err
    assert tries(tmp_path).count("k") == tries(tmp_path).count("p") == 3


def test_errors_are_one_line(nodes: Nodes, tmp_path: Path) -> None:
    code, err = run(tmp_path, nodes, [["r", "raise"]])
    assert code == 1
    assert re.fullmatch(r"evalkit: w\d on \S+: toy r has no data", err.strip().splitlines()[-1])


def test_ctrl_c_ends_all_within_5_seconds(nodes: Nodes, tmp_path: Path) -> None:
    driver = drive(tmp_path, toys("ab", "sleep:60"), env=nodes.environment, address=nodes.address)
    until(lambda: len(list(tmp_path.glob(".tmp-*"))) == 2)
    began = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    driver.communicate(timeout=30)
    took = time.monotonic() - began
    assert driver.returncode == 130
    until(lambda: not nodes.left(), 5)
    assert not list(tmp_path.glob(".tmp-*"))
    assert written(tmp_path) == ""
    assert took < 5


def test_a_driver_that_is_killed_takes_its_actors_along(nodes: Nodes, tmp_path: Path) -> None:
    driver = drive(tmp_path, toys("ab", "sleep:60"), env=nodes.environment, address=nodes.address)
    until(lambda: len(list(tmp_path.glob(".tmp-*"))) == 2)
    driver.kill()
    driver.communicate()
    until(lambda: not nodes.left(), 20)
    code, _ = run(tmp_path, nodes, toys("ab"))
    assert (code, written(tmp_path)) == (0, "ab")


def test_a_frozen_worker_is_replaced(nodes: Nodes, tmp_path: Path) -> None:
    driver = drive(tmp_path, toys("abcdef", "sleep:3"), env=nodes.environment, address=nodes.address, silence=10)
    until(lambda: len(opened(tmp_path)) == 2)
    os.kill(int(opened(tmp_path)[0]), signal.SIGSTOP)
    _, err = driver.communicate(timeout=200)
    assert (driver.returncode, written(tmp_path)) == (0, "abcdef"), err
    assert "no sign of it for 10 s" in err
    until(lambda: not nodes.left(), 20)


def test_a_node_that_joins_gets_an_actor_and_one_that_goes_is_made_good(nodes: Nodes, tmp_path: Path) -> None:
    driver = drive(tmp_path, toys("abcdefghijklmnopqrst", "sleep:3"), env=nodes.environment, address=nodes.address)
    until(lambda: len(opened(tmp_path)) == 2)
    number = nodes.add(1)
    until(lambda: len(opened(tmp_path)) == 3)
    time.sleep(1)
    nodes.end(number)
    _, err = driver.communicate(timeout=300)
    assert (driver.returncode, written(tmp_path)) == (0, "abcdefghijklmnopqrst"), err
    assert " is lost with toy " in err


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_local_cluster_leaves_nothing_whoever_ends_it(tmp_path: Path, end: signal.Signals) -> None:
    driver = drive(tmp_path, toys("ab", "sleep:120"), env={**os.environ, "PYTHONPATH": PATH})
    until(lambda: list(tmp_path.glob(".tmp-*")))
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) > 5  # a whole cluster
    began = time.monotonic()
    driver.send_signal(end)
    _, err = driver.communicate(timeout=60)
    took = time.monotonic() - began
    print(f"{end.name}: ended after {took:.1f} s")
    assert driver.returncode == (130 if end != signal.SIGKILL else -9), err
    assert took < 5
    actors = [int(pid) for pid in opened(tmp_path)]
    until(lambda: not any(map(psutil.pid_exists, actors)), 10)
    if end == signal.SIGKILL:  # of what is Ray's own, two agents wait a minute for the head that they were to tell
        psutil.wait_procs(family, timeout=100)
    else:
        psutil.wait_procs(family, timeout=5)
        assert not list(tmp_path.glob(".tmp-*"))
    assert not [process for process in family if process.is_running()]


def test_tokens(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a" * 64)
    (tmp_path / "other").write_text("b" * 64)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    with ray_nodes((1,), **token) as nodes:
        bare = {name: value for name, value in nodes.environment.items() if not name.startswith("RAY_AUTH")}
        for name, ends, said in (("token", 0, ""), ("other", 1, "token"), (None, 1, "token")):
            folder = tmp_path / f"store-{name}"
            folder.mkdir()
            file = str(tmp_path / name) if name else None
            driver = drive(folder, toys("a"), env=bare, address=nodes.address, token_file=file)
            _, err = driver.communicate(timeout=200)
            assert driver.returncode == ends, err
            last = (err.strip().splitlines() or [""])[-1]
            assert said in last, err


@pytest.mark.slow
def test_a_link_that_is_cut_for_60_seconds(tmp_path: Path) -> None:
    if not can_cut():
        pytest.skip("needs root, ip and network namespaces")
    with link() as cable, ray_nodes(()) as nodes:
        nodes.address = f"{ADDRESSES[0]}:{nodes.address.rpartition(':')[2]}"
        for side in (0, 1):
            nodes.add(1, cable.within(side), ADDRESSES[side])
        here = cable.within(0)
        stage = toys("abcdefghijkl", "sleep:4")
        driver = drive(tmp_path, stage, env=nodes.environment, within=here, address=nodes.address, silence=30)
        try:
            until(lambda: len(opened(tmp_path)) == 2)
        except AssertionError:
            driver.kill()
            pytest.fail(f"no actor on each node: {opened(tmp_path)}, {driver.communicate()[1]}")
        time.sleep(6)
        cable.cut()
        cut = time.monotonic()
        _, err = driver.communicate(timeout=300)
        took = time.monotonic() - cut
        print(f"the run ended {took:.0f} s after the link was cut")
        assert (driver.returncode, written(tmp_path)) == (0, "abcdefghijkl"), err
        assert took < 60  # it does not wait for the link
        assert len(tries(tmp_path)) == 13  # the unit beyond the link, once more
        first, second = twice(tmp_path, "finished")  # both copies
        assert first[2] != second[2]
        assert (tmp_path / first[0]).read_text() == first[2]  # what is there stays
        time.sleep(max(0.0, 60 - (time.monotonic() - cut)))
        cable.mend()
        until(lambda: not nodes.left(), 90)  # nobody works on beyond it
