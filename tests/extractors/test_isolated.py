"""Scorers in processes of their own: what they are given, how their crashes are survived, how they end."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from options import option

from evalkit.config.build import build
from evalkit.errors import ConfigError, UnsuitedError
from evalkit.extractors.digits import Digits
from evalkit.extractors.isolated import environment
from evalkit.extractors.isolated.process import WORKER, ScorerProcess
from evalkit.extractors.isolated.scorer import Scorer

SCRIPT = """
import os, signal, sys, time

def score(images, prompts, marker=None):
    print("on standard output", len(images))          # must not get between the answers
    word = prompts[0].split()[0] if prompts else ""
    if word == "once" and not os.path.exists(marker):
        open(marker, "w").close()
        word = "always"
    if word == "always":
        print("CUDA error: an illegal memory access", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "raise":
        raise ValueError("no such word: raise")
    if word == "memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    if word == "few":
        return [1.0]
    if word == "sleep":
        time.sleep(60)
    return [float(image.mean()) + 1000 * image.shape[1] + len(prompt) for image, prompt in zip(images, prompts)]

class Wide:
    def __init__(self, device, scale):
        self.device, self.scale = device, scale

    def __call__(self, images, prompts):
        assert self.device == "cpu" and prompts == []
        return [[image.max() * self.scale, image.min()] for image in images]
"""
IMAGES = [np.full((4, 5 + i, 3), 10 * i, np.uint8) for i in range(3)]
VALUES = [5001.0, 6012.0, 7023.0]  # with the prompts a, bb, ccc


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "scorer.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def scorer(script: Path) -> Any:
    made = Scorer("mine", str(script), options={"marker": str(script.with_name("marker"))}, timeout=20)
    made.check()
    made.load("cpu")
    yield made
    made.unload()


def scored(extractor: Any, *prompts: str) -> list[float]:
    return extractor(IMAGES[: len(prompts)], prompts, ["score"])["score"][:, 0].tolist()  # type: ignore[no-any-return]


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process ends in time; one that is over and not yet asked for its exit code counts as ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_images_of_any_size_each_with_its_prompt(scorer: Scorer) -> None:
    assert scored(scorer, "a", "bb", "ccc") == VALUES
    assert scored(scorer, "a") == VALUES[:1]


def test_a_class_is_built_once_and_gives_several_numbers(script: Path) -> None:
    wide = Scorer("wide", str(script), call="Wide", options={"scale": 2}, prompts=False, width=2)
    wide.load("cpu")
    found = wide(IMAGES, [], ["score"])["score"]
    wide.unload()
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 0], [20, 10], [40, 20]]
    assert wide.layers == {"score": 2}
    assert not wide.joint_layers


def test_a_crash_is_survived_at_the_batch_that_failed(scorer: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    assert scorer._process is not None
    first = scorer._process.pid
    assert scored(scorer, "a") == VALUES[:1]
    with caplog.at_level(logging.WARNING):
        assert scored(scorer, "once", "bb", "ccc") == [5004.0, *VALUES[1:]]
    assert scorer._process.pid != first
    assert gone(first)
    assert [record.getMessage() for record in caplog.records] == [
        "extractor 'mine': its process was ended by SIGKILL: on standard output 1 | on standard output 3 | "
        "CUDA error: an illegal memory access: it is started again"
    ]


def test_a_batch_that_ends_it_three_times_is_named(scorer: Scorer) -> None:
    assert scored(scorer, "a") == VALUES[:1]
    named = (
        r"^extractor 'mine': batch 2 \(2 samples, the first has the prompt 'always here'\) ended it 3 times: its "
        r"process was ended by SIGKILL: .*CUDA error: an illegal memory access$"
    )
    with pytest.raises(UnsuitedError, match=named):
        scored(scorer, "always here", "b")
    assert scored(scorer, "a") == VALUES[:1]  # the next one is scored


def test_what_a_scorer_raises_is_one_line_and_it_goes_on(scorer: Scorer) -> None:
    with pytest.raises(UnsuitedError, match=r"^extractor 'mine' failed: ValueError: no such word: raise$"):
        scored(scorer, "raise")
    with pytest.raises(MemoryError):  # the pass makes of it: give a smaller batch_size
        scored(scorer, "memory")
    with pytest.raises(UnsuitedError, match=r"values of shape \[1, 1\] for 2 images"):
        scored(scorer, "few", "b")
    assert scorer._process is not None
    assert "no such word" in " ".join(scorer._process._lines)  # the traceback is there
    assert scored(scorer, "a") == VALUES[:1]


def test_a_batch_that_takes_too_long(script: Path) -> None:
    slow = Scorer("slow", str(script), timeout=0.3)
    slow.load("cpu")
    with pytest.raises(UnsuitedError, match=r"ended it 3 times: its process gave no answer in 0\.3 s"):
        slow(IMAGES[:1], ["sleep"], ["score"])
    slow.unload()


def test_what_cannot_be_loaded(script: Path, tmp_path: Path) -> None:
    script.write_text("import no_such_package_of_ours\n")
    broken = Scorer("broken", str(script))
    with pytest.raises(ConfigError, match=r"^extractor 'broken': it cannot be loaded: ModuleNotFoundError: No module"):
        broken.load("cpu")
    script.write_text("def other(): pass\n")
    with pytest.raises(ConfigError, match="has no 'score'"):
        broken.load("cpu")
    with pytest.raises(ConfigError, match=r"script=.*nothing\.py: there is no such file\. Scripts .*: hpsv3, image_"):
        Scorer("x", str(tmp_path / "nothing.py")).check()
    with pytest.raises(ConfigError, match=r"x\.script=image_rewards: .*Did you mean 'image_reward'"):
        Scorer("x", "image_rewards")
    with pytest.raises(ConfigError, match="give script=FILE, or call=MODULE:NAME"):
        Scorer("x", call="numpy.mean").check()


def test_it_ends_with_unload_and_is_not_sent_elsewhere(scorer: Scorer) -> None:
    assert scorer._process is not None
    pid = scorer._process.pid
    copy = pickle.loads(pickle.dumps(scorer))
    assert copy._process is None
    scorer.unload()
    assert gone(pid)


PARENT = """
import os, sys, threading, time
import numpy as np
from evalkit.extractors.isolated.process import ScorerProcess
process = ScorerProcess(sys.executable)
process.ask({"do": "load", "scorer": {"script": sys.argv[1], "call": "score"}, "device": "cpu"})
print(process.pid, flush=True)
if sys.argv[2] == "exit":
    sys.exit()
process.ask({"do": "score", "prompts": ["sleep"], "layers": ["score"]}, [np.zeros((2, 2, 3), np.uint8)])
"""


@pytest.mark.parametrize("end", ["exit", "SIGINT", "SIGKILL"])
def test_no_process_is_left_behind(script: Path, end: str) -> None:
    """However its parent ends, and in the middle of a batch."""
    command = [sys.executable, "-c", PARENT, str(script), end]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if end != "exit":
        time.sleep(0.1)  # the batch is under way
        os.killpg(parent.pid, signal.Signals[end])  # as Ctrl-C does: the whole group
    parent.wait(10)
    parent.stdout.close()
    assert gone(pid)


def test_the_protocol_by_hand(script: Path) -> None:
    """docs/scorers.md, byte by byte: a length, JSON, and arrays as they lie in memory."""
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    assert worker.stdout is not None

    def say(header: dict[str, Any], data: bytes = b"") -> None:
        text = json.dumps(header).encode()
        worker.stdin.write(struct.pack("<I", len(text)) + text + data)  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]

    def hear() -> dict[str, Any]:
        (length,) = struct.unpack("<I", worker.stdout.read(4))  # type: ignore[union-attr]
        return json.loads(worker.stdout.read(length))  # type: ignore[no-any-return, union-attr]

    assert hear() == {
        "protocol": 1,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "arrays": [],
    }
    say({"do": "load", "scorer": {"script": str(script), "options": {}}, "device": "cpu", "arrays": []})
    assert hear() == {"arrays": []}
    image = {"dtype": "uint8", "shape": [1, 2, 3]}
    say({"do": "score", "prompts": ["ab"], "layers": ["score"], "arrays": [image]}, bytes([1, 2, 3, 4, 5, 6]))
    assert hear() == {"layers": ["score"], "arrays": [{"dtype": "float32", "shape": [1, 1]}]}
    assert struct.unpack("<f", worker.stdout.read(4)) == (2005.5,)
    say({"do": "sing", "arrays": []})
    assert hear()["error"] == "ValueError: no such thing to do: sing"
    worker.stdin.close()
    assert worker.wait(5) == 0
    worker.stdout.close()


def test_an_extractor_of_ours_elsewhere_gives_the_same_features() -> None:
    values = option("extractor", "digits")
    here = build(values, "extractor.digits")
    there = build({**values, "env": {"python": sys.executable}}, "extractor.digits")
    assert isinstance(here, Digits)
    assert there.layers == here.layers
    there.check()
    identity = there.identity()
    assert {key: identity.pop(key) for key in here.identity()} == here.identity()
    assert identity["environment"]["python"] == sys.version.split()[0]
    assert f"numpy=={np.__version__}" in identity["environment"]["packages"]
    assert (there.label(), there.canonical()) == (here.label(), here.canonical())
    assert there.weights.digest() == here.weights.digest()
    assert pickle.loads(pickle.dumps(there)).name == "digits"
    images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8) for i in range(3)]
    for extractor in (here, there):
        extractor.load("cpu")
    layers = ["features", "logits"]
    ours, theirs = (extractor(images, [], layers) for extractor in (here, there))
    there.unload()
    for layer in layers:
        assert torch.equal(ours[layer], theirs[layer])


def test_what_the_protocol_says_of_a_scorer(script: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    options = {"marker": str(weights), "k": 3}
    made = Scorer("mine", str(script), options=options, about={"weights": "X at abc"})
    first = made.identity()
    assert first["options"] == {"k": 3}
    assert first["weights"] == "X at abc"
    assert first["environment"]["python"] == sys.version.split()[0]
    weights.write_bytes(b"two")
    assert made.identity()["files"] != first["files"]
    script.write_text(SCRIPT + "# edited\n")
    assert made.identity()["script"] != first["script"]


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"pyhton": "3.10"}, r"env\.pyhton: an environment has no 'pyhton'\. Did you mean 'python'"),
        ({"packages": "numpy"}, r"env\.packages=numpy: give a list of requirements"),
        ("3.10", r"env=3\.10: give \{python: '3\.10', packages"),
        ({"python": "/no/such/python"}, r"env\.python=/no/such/python: there is no such interpreter"),
        ({"packages": ["numpy"], "exclude_newer": "June"}, r"exclude_newer=June: give a date"),
    ],
)
def test_environments_that_are_none(env: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        build({**option("extractor", "digits"), "env": env}, "extractor.digits").check()


def test_an_environment_needs_uv_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run makes none; without uv a line says so; one that is there needs neither uv nor a network."""
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path))
    env = environment.Environment.of({"python": "3.11", "packages": ["numpy==1.26.4"]}, "extractor.x.env")
    with pytest.raises(ConfigError, match=r"^extractor\.x\.env: its environment is not there yet: a run makes it, in"):
        env.check(fetch=False)
    assert not list(tmp_path.rglob("*"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(ConfigError, match=r"uv, which makes environments, is not installed: pip install uv, or give"):
        env.check()
    Path(env.interpreter).parent.mkdir(parents=True)
    Path(env.interpreter).symlink_to(sys.executable)
    with pytest.raises(ConfigError, match="is not installed"):  # one that was cut off is made anew
        env.check()
    record = {"request": env.request, "version": "3.11.4", "resolved": ["numpy==1.26.4"]}
    Path(env.interpreter).parent.mkdir(parents=True, exist_ok=True)
    Path(env.interpreter).unlink(missing_ok=True)
    Path(env.interpreter).symlink_to(sys.executable)
    (env.folder / environment.RECORD).write_text(json.dumps(record))
    env.check()
    assert env.identity() == {"python": "3.11.4", "packages": ["numpy==1.26.4"]}


def test_two_requests_are_two_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path))
    asked = [
        {"python": "3.10", "packages": ["a"]},
        {"python": "3.11", "packages": ["a"]},
        {"python": "3.11", "packages": ["a", "b"]},
        {"python": "3.11", "packages": ["a"], "overrides": ["b"]},
        {"python": "3.11", "packages": ["a"], "exclude_newer": "2024-01-01"},
    ]
    assert len({environment.Environment.of(each, "x").folder for each in asked}) == len(asked)


@pytest.mark.network
def test_a_conflicting_pin_for_real(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy 1.26.4, which is not ours, from the registry; and pins that contradict one another."""
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        made = Scorer("old", str(script), env={"python": python, "packages": ["numpy==1.26.4"]})
        made.check()
    except ConfigError as error:
        pytest.skip(f"no registry, or no uv: {error}")
    assert made.identity()["environment"]["packages"] == ["numpy==1.26.4"]
    process = ScorerProcess(made.environment.interpreter)
    assert process.hello["numpy"] == "1.26.4" != np.__version__
    process.close()
    with pytest.raises(ConfigError, match=r"^extractor\.y\.env: uv cannot make its environment: No solution found"):
        Scorer("y", str(script), env={"python": python, "packages": ["numpy==1.26.4", "numpy<1.25"]}).check()


MMDET = """
from types import SimpleNamespace
import torch

class Instances(dict):
    __getattr__ = dict.__getitem__

def init_detector(config, checkpoint, device):
    return SimpleNamespace(dataset_meta={"classes": ("person", "mouse")}, files=(config, checkpoint, device))

def inference_detector(model, image):
    blue = image[..., 0] > 128  # BGR
    rows, columns = blue.nonzero()
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    found = Instances(
        labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.2]), bboxes=torch.tensor([box, box]).float(),
        masks=torch.from_numpy(blue)[None].repeat(2, 1, 1),
    )
    return SimpleNamespace(pred_instances=found)
"""


def test_a_detector_of_mmdet_by_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API alone: what it is given and gives; BGR; a low score is left out; the files' digests in the protocol."""
    (tmp_path / "mmdet").mkdir()
    (tmp_path / "mmdet" / "__init__.py").touch()
    (tmp_path / "mmdet" / "apis.py").write_text(MMDET)
    for name in ("config.py", "weights.pth"):
        (tmp_path / name).write_text(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {"config": str(tmp_path / "config.py"), "checkpoint": str(tmp_path / "weights.pth")}
    made = build(option("extractor", "mmdet_detector", options=files, clip=None, most=2), "extractor.mmdet_detector")
    made.check()
    assert len(made.identity()["options"]["checkpoint"]) == 64
    made.load("cpu")
    image = np.zeros((10, 12, 3), np.uint8)
    image[2:5, 3:7, 2] = 255
    seen = made._library.look([image], 0.3)[0]
    assert (list(seen.names), seen.scores.tolist()) == (["mouse"], pytest.approx([0.9]))
    assert seen.boxes.tolist() == [[3, 2, 7, 5]]
    assert seen.masks.sum() == 12
    assert made([image], [], ["objects"])["objects"].shape == (1, made.layers["objects"])
