"""Real runs of two machines whose link is cut for a minute while both are at work: what they leave is equal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cut_link import ADDRESSES, Link, can_cut, link
from equal_everywhere import Outcome, outcome
from runs import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

CUT = 60.0  # seconds
RUN = (  # 3 shards and 20 chunks of the reference; a shard takes a few seconds
    *("experiment=digits", "model=[digits_ldm]", "sampler=[dpmpp_2m]", "sampler.dpmpp_2m.num_inference_steps=8"),
    "model.digits_ldm.guidance_scale=4",
    *("metric=[fid_digits,kid_digits,precision_digits]", "num_samples=600", "device=cpu", "report=false"),
)
PATH = os.pathsep.join(str(ROOT / folder) for folder in ("", "tests/helpers", "tests/cluster"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
SERVER = f"""
import json, sys
from moto_s3 import serve_s3
begun = set()
with serve_s3(host="{ADDRESSES[0]}") as s3:
    def noting(environ, start, app=s3.app):
        if environ["REQUEST_METHOD"] == "PUT" and "/tries/" in environ["PATH_INFO"]:
            begun.add(environ["PATH_INFO"])
        return app(environ, start)
    s3.app = noting
    print(json.dumps(s3.environment), flush=True)
    for line in sys.stdin:
        print(len(begun), flush=True)
"""
READ = """
import sys
from pathlib import Path
from equal_everywhere import outcome
print(outcome("s3://bucket/run", Path(sys.argv[1])))
"""


def start(folder: Path, name: str, store: str, *words: str, **env: str) -> subprocess.Popen[str]:
    """A run; `words`: what stands before the command, up to "--", and what comes after it. Its log is `name`.log."""
    before, after = words[: words.index("--")], words[words.index("--") + 1 :]
    command = [*before, sys.executable, str(ROOT / "run_eval.py"), *RUN, f"store={store}", f"out={folder / 'out'}"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen([*command, *after], stdout=log, stderr=log, env=ENVIRONMENT | env, text=True, cwd=ROOT)


def until(ready: Callable[[], object], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("alone")
    assert start(folder, "alone", str(folder / "store"), "--").wait(300) == 0, (folder / "alone.log").read_text()
    return outcome(str(folder / "store"), folder / "out")


@pytest.fixture
def cable() -> Iterator[Link]:
    if not can_cut():
        pytest.skip("needs root, ip and network namespaces")
    with link() as cable:
        yield cable


@contextmanager
def cut(cable: Link) -> Iterator[float]:
    """Cuts the link for a minute, or for as long as what is within takes; gives when it began."""
    cable.cut()
    began = time.monotonic()
    yield began
    time.sleep(max(0.0, began + CUT - time.monotonic()))
    cable.mend()


def test_ray(cable: Link, tmp_path: Path, alone: Outcome) -> None:
    pytest.importorskip("ray", reason="uv run --group dev --group cluster pytest -n0 -m cluster")
    from ray_nodes import ray_nodes

    with ray_nodes((), OMP_NUM_THREADS="1") as nodes:
        nodes.address = f"{ADDRESSES[0]}:{nodes.address.rpartition(':')[2]}"
        for side in (0, 1):
            nodes.add(1, cable.within(side), ADDRESSES[side])
        words = ("engine=ray", f"engine.ray.address={nodes.address}", "engine.ray.num_cpus=1")
        store = tmp_path / "store"  # this folder is on both sides of the cut
        driver = start(tmp_path, "driver", str(store), *cable.within(0), "--", *words, RAY_AUTH_MODE="disabled")
        until(lambda: len(list(store.glob("samples/*/shards/.tmp-*"))) == 2)  # both are at work
        with cut(cable) as began:
            code = driver.wait(300)
            print(f"Ray: the run ended {time.monotonic() - began:.0f} s after the link was cut")
        said = (tmp_path / "driver.log").read_text()
        assert code == 0, said
        assert re.search(r"is lost with (samples|features|the scores)", said)
        assert outcome(str(store), tmp_path / "out") == alone
        until(lambda: not nodes.left(), 90)  # nobody works on beyond it


def test_stripes_whose_bucket_is_on_one_side(cable: Link, tmp_path: Path, alone: Outcome) -> None:
    with subprocess.Popen(
        [*cable.within(0), sys.executable, "-c", SERVER],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT},
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        s3 = json.loads(server.stdout.readline())
        first, second = (stripe(tmp_path, rank, cable, s3) for rank in range(2))
        try:
            until(lambda: asked(server) == 2)  # both have begun a shard
            with cut(cable) as began:
                code = first.wait(400)
                print(f"stripes: the first one ended {time.monotonic() - began:.0f} s after the link was cut")
                assert code == 0, (tmp_path / "rank0.log").read_text()
                assert second.poll() is None or second.returncode == 1
                assert made(tmp_path, cable, s3) == repr(alone)
            if second.wait(400):  # a store that is away for longer than a minute ends a process by one line
                assert "run again when it can" in (tmp_path / "rank1.log").read_text().splitlines()[-1]
                second = stripe(tmp_path, 1, cable, s3)
                assert second.wait(400) == 0, (tmp_path / "rank1.log").read_text()
        finally:
            first.kill()
            second.kill()
        assert made(tmp_path, cable, s3) == repr(alone)  # whatever it had begun, what is there stays
        server.stdin.close()


def stripe(folder: Path, rank: int, cable: Link, s3: dict[str, str]) -> subprocess.Popen[str]:
    before, after = cable.within(rank), ("engine=stripe", "engine.stripe.patience=10")
    ranks = {"RANK": str(rank), "WORLD_SIZE": "2"}
    return start(folder, f"rank{rank}", "s3://bucket/run", *before, "--", *after, **ranks, **s3)


def made(folder: Path, cable: Link, s3: dict[str, str]) -> str:
    """The outcome in the bucket, as `repr` gives it."""
    command = [*cable.within(0), sys.executable, "-c", READ, str(folder / "out")]
    done = subprocess.run(command, env=ENVIRONMENT | s3, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def asked(server: subprocess.Popen[str]) -> int:
    """How many units were begun so far."""
    assert server.stdin is not None
    assert server.stdout is not None
    print(file=server.stdin, flush=True)
    return int(server.stdout.readline())
