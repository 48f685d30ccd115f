"""The recipe `experiment=api_endpoint` from the command line, against a server on the loopback that draws digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import results, run_evalkit
from fake_services import KEY, FakeService, serving
from omegaconf import OmegaConf
from service_calls import all_text

from evalkit.digits.data import PROMPTS, colourise, reference_digits

DIGITS = reference_digits()
CAPTIONS = {caption.text: caption for caption in PROMPTS}


def draw(prompt: str, seed: int, size: tuple[int, int]) -> np.ndarray:
    """A real digit as the caption says: u8 [32,32,3]."""
    grey, labels = DIGITS
    caption = CAPTIONS[prompt]
    choices = np.flatnonzero(labels == caption.digit)
    chosen = grey[choices[seed % len(choices)]][None]
    image = colourise(chosen, np.array([caption.ink_index]), np.array([caption.background_index]))[0]
    assert size == image.shape[1:]
    return image.transpose(1, 2, 0)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


def test_the_recipe(tmp_path: Path) -> None:
    """A run that fails half-way, and the same command again: the table, nothing asked for twice, the key nowhere."""
    with serving(FakeService(draw)) as service:
        overrides = [
            *("experiment=api_endpoint", "model=[openai_images]", "num_samples=40", "batch_size=8", "device=cpu"),
            *(f"model.openai_images.base_url={service.url}/v1", "report=false"),
            *("model.openai_images.client={concurrency: 3, retries: 1, backoff: 0.01, timeout: 10}",),
        ]
        service.faults = {4: "429", 20: "echo", 21: "echo", 22: "echo", 23: "echo", 24: "echo", 25: "echo"}
        failed = run_evalkit(*overrides, cwd=tmp_path, IMAGES_API_KEY=KEY)
        assert failed.returncode == 1
        assert failed.stderr.strip().splitlines()[-1].startswith(f"evalkit: {service.url}/v1, sample ")
        assert "you sent Bearer ***), 2 times. What was fetched is kept" in failed.stderr
        assert "Traceback" not in failed.stderr
        service.faults = {}
        done = run_evalkit(*overrides, cwd=tmp_path, IMAGES_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        assert sorted(service.delivered.values()) == [1] * 40
    document = results(tmp_path / "runs" / "api_endpoint")
    rows = {row["metric"]: row for row in document["rows"]}
    assert rows["clip_score_digits"]["value"] > 80  # real digits, as the captions say
    assert document["protocols"][rows["latency_p50"]["protocol_hash"]] == {
        "metric": "latency_p50",
        "device": "service",
        "batch_size": 3,
    }
    assert rows["latency_p95"]["value"] > 0
    assert rows["nfe"]["note"] == "the model does not tell"
    assert "images had from the service only after a failed request" in done.stdout
    config = OmegaConf.load(tmp_path / "runs" / "api_endpoint" / "config.yaml")
    assert config.model.openai_images.api_key_env == "IMAGES_API_KEY"
    shown = all_text(tmp_path) + "".join(d.stdout + d.stderr for d in (failed, done)).encode()
    assert b"very-secret" not in shown
