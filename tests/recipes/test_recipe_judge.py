"""The digits world judged over HTTP and by the truth: killed in the middle, gone on with, as the classifier says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, environment, results, run_evalkit
from judge_server import JudgeService, judging
from png_folders import write_pngs

from evalkit.data.codec import decode
from evalkit.digits.data import PROMPTS, Caption, indices, reference_images
from evalkit.digits.judge import colours
from evalkit.digits.nets import load_classifier

N = 40
CLIENT = "{concurrency: 2, retries: 0, timeout: 20}"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeService]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with judging(JudgeService()) as running:
        yield running


def scores(folder: Path, metric: str) -> dict[str, Any]:
    return {row["cell"]: row for row in results(folder)["rows"] if row["metric"] == metric}


def shown(images: np.ndarray, captions: Sequence[Caption]) -> float:
    """What classifier and colour rule say of images u8 [B,32,32,3]: the mean probability of the digit asked for, 0
    where a colour is another."""
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    logits = load_classifier()(torch.from_numpy(pixels).float() / 127.5 - 1)["logits"]
    digits, inks, grounds = indices(captions)
    chance = logits.softmax(1).detach().numpy()[np.arange(len(images)), digits]
    ink, ground = colours(pixels)
    return float((chance * (ink == inks) * (ground == grounds)).mean())


def test_killed_and_gone_on_with(service: JudgeService, tmp_path: Path) -> None:
    images, captions = (part[:N] for part in reference_images())
    captions[::4] = PROMPTS[: N // 4]  # asked for otherwise
    folder = write_pngs(tmp_path / "digits", images.transpose(0, 2, 3, 1))
    for number, caption in enumerate(captions):
        (folder / f"{number:04d}.txt").write_text(caption.text)
    over_http = (
        *(str(folder), "store=store", "device=cpu", "report=false", "lint=false"),
        *(f"extractor.judge.asker.base_url={service.url}", f"extractor.judge.asker.client={CLIENT}"),
    )
    both = (*over_http, "metric=[vqa_judge,vqa_judge_digits]", "name=both")
    service.delay = 0.05
    command = [sys.executable, str(ROOT / "run_eval.py"), *both]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL) as process:
        while len(service.asked) < N // 2:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(2 * service.delay)
    service.delay, killed_at = 0, len(service.asked)
    stored = sum(file.read_bytes().count(b"\n") for file in (tmp_path / "store" / "answers").rglob("*.jsonl"))
    assert killed_at - 2 <= stored < N  # two were under way, whose answers came for nobody
    done = run_evalkit(*both, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(service.asked) == killed_at + N - stored
    told = f"{N} questions about {N} samples (at most {3 * N} calls, with those asked again); {N} answers are stored; "
    assert told in run_evalkit(*both, "dry_run=true", cwd=tmp_path).stdout

    service.alias = "truth-8b"  # whoever answers now is another judge
    other = run_evalkit(
        *(*over_http, "metric=[vqa_judge]", "extractor.judge.asker.revision=2", "name=other"), cwd=tmp_path
    )
    assert other.returncode == 0, other.stderr
    (judged,), (truth,) = (scores(tmp_path / "store/both", f"vqa_judge{of}").values() for of in ("", "_digits"))
    assert judged["value"] == pytest.approx(truth["value"], abs=1e-6)
    assert judged["value"] == pytest.approx(shown(images.transpose(0, 2, 3, 1), captions), abs=1e-5)
    assert 0.5 < judged["value"] < 0.76
    assert (judged["details"]["calls"], judged["details"]["unread"]) == (N, 0)
    (second,) = scores(tmp_path / "store/other", "vqa_judge").values()
    assert second["protocol_hash"] != judged["protocol_hash"]
    assert (judged["label"], second["label"]) == ("VQAScore [judge:truth-7b]", "VQAScore [judge:truth-8b@2]")
    assert (
        f"judge: {N} answers of the judge ({judged['details']['sent']:,.0f} tokens sent, {N} received)." in done.stdout
    )


@pytest.mark.slow
def test_the_recipe(tmp_path: Path) -> None:
    """Prompt-following falls with fewer steps and with less guidance, as classifier and colours say."""
    done = run_evalkit(
        *("experiment=judge_digits", "num_samples=64", "store=store", "device=cpu", "report=false"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    value: dict[tuple[float, float], float] = {}
    for cell, row in scores(tmp_path / "store" / "judge_digits", "vqa_judge_digits").items():
        (place,) = (tmp_path / "store" / "samples").glob(f"{cell}-*")
        images = [decode(file.read_bytes(), file.name) for file in sorted(place.glob("shards/*/*.png"))]
        assert row["value"] == pytest.approx(shown(np.stack(images), PROMPTS[:64]), abs=1e-5)
        settings = cell.removeprefix("digits_ldm-ddim-guidance_scale_").split("-num_inference_steps_")
        value[float(settings[0]), float(settings[1])] = row["value"]
    assert value[4, 3] < value[4, 4] - 0.1 < value[4, 8] - 0.2
    assert value[1, 8] < value[2, 8] - 0.1
