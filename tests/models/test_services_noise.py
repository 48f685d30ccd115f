"""A local model and the same one behind HTTP, on exported starting noise: the same images; without it, others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from queue_server import digits_ldm, queueing
from service_calls import reach_the_loopback

import evalkit

CALM = (
    "lint=false",
    "report=false",
    "contact_sheet=0",
    "device=cpu",
    "reference=none",
    "num_samples=4",
    "sampler=[ddim]",
)
LOCAL = ("model.digits_ldm.guidance_scale=4", "sampler.ddim.num_inference_steps=8", "prompts=[digits]")


def run(folder: Path, name: str, *words: str) -> dict[str, Any]:
    evalkit.run([*words, *CALM, *LOCAL, f"store={folder / 'store'}", f"out={folder / name}"])
    results: dict[str, Any] = json.loads((folder / name / "results.json").read_text())
    return results


@pytest.mark.slow
def test_pairs_of_two_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reach_the_loopback(monkeypatch)
    run(tmp_path, "first", "model=[digits_ldm]", "metric=[feature_diversity_digits]", "export=[latents]")
    (file,) = (tmp_path / "first" / "export").glob("*.safetensors")
    with queueing(seconds=0.0, draw=digits_ldm()) as server:
        service = [
            *("model=[digits_ldm,openai_images]", "metric=[psnr]", "baseline={model: digits_ldm}"),
            *(f"model.openai_images.base_url={server.url}/v1", "model.openai_images.model=digits_ldm"),
            *("model.openai_images.api_key_env=null", "model.openai_images.seed_field=seed"),
            *("model.openai_images.height=32", "model.openai_images.width=32", "model.openai_images.fields=[latents]"),
            "model.openai_images.latents={sweep: [null, " + str(file) + "]}",
        ]
        made = run(tmp_path, "second", *service)
    rows = [row for row in made["rows"] if row["metric"] == "psnr" and row["model"] == "openai_images"]
    value = {row["settings"].get("latents") is not None: row["value"] for row in rows}
    assert value[True] > 60  # of 100, which stands for equal images: kernels may round otherwise
    assert value[False] < 25
