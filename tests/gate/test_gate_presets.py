"""The shipped gates on a good and a broken candidate; what each asks for stands in its YAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command import ROOT, results, run_evalkit
from gate_fakes import DAY, cell, row
from lpips_weights import seeded_trunk
from PIL import Image

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.digits.data import reference_images
from evalkit.gate import Verdict, judge, make_gates
from evalkit.metric import Metric
from evalkit.results.table import ResultTable

N = 200
NAMES = ("psnr", "ssim", "lpips", "clip_score", "fid_pytorch_fid")


def preset(name: str) -> dict[str, Any]:
    option: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "gate" / f"{name}.yaml").read_text("utf-8"))
    return option


def metrics() -> dict[str, Any]:
    config = resolve(compose(["~experiment", f"metric=[{','.join(NAMES)}]"]))
    return {name: build(config.metric[name], f"metric.{name}", Metric) for name in NAMES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """200 digits; the same, values a level up or down; those again, one image of them black."""
    rng = np.random.default_rng(0)
    images, captions = reference_images()
    digits = images[:N].transpose(0, 2, 3, 1).astype(int)
    good = (digits + rng.integers(-1, 2, digits.shape)).clip(0, 255)
    broken = good.copy()
    broken[137] = 0
    for name, each in {"base": digits, "good": good, "broken": broken}.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(each):
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / name / f"{i:03}.png", compress_level=1)
            (tmp_path / name / f"{i:03}.txt").write_text(captions[i].text)
    torch.save(seeded_trunk("alex"), tmp_path / "alex.pth")
    return tmp_path


def test_one_bad_image_in_200_fails_parity_and_cache_dit_and_no_mean_sees_it(folder: Path) -> None:
    done = run_evalkit(
        *("base", "good", "broken", "reference=none", "baseline=base", "gate=[parity,cache_dit]", "name=presets"),
        *("metric=[psnr,ssim,lpips,clip_score]", f"extractor.lpips_alex.weights={folder / 'alex.pth'}"),
        *("metric.clip_score.image=digits_clip/image", "metric.clip_score.text=digits_clip/text"),
        *("report=false", "contact_sheet=0", "map.method=null", "device=cpu"),
        cwd=folder,
    )
    assert done.returncode == 3, done.stderr
    by = {(r["cell"], r["gate"], r["rule"]): r for r in results(folder / "runs" / "presets")["gate"]["results"]}
    assert {r["status"] for (name, _, _), r in by.items() if name in ("base", "good")} == {"pass"}
    statuses = {(gate, rule): r["status"] for (name, gate, rule), r in by.items() if name == "broken"}
    assert [key for key, status in statuses.items() if status == "fail"] == [
        *(("parity", "smallest psnr min 20"), ("parity", "black max 0")),
        *(("cache_dit", "smallest psnr min 25"), ("cache_dit", "smallest ssim min 0.9")),
    ]
    means = ("psnr min 28", "ssim min 0.94", "lpips max 0.05")
    assert [statuses["parity", rule] for rule in means] == ["pass"] * 3
    assert by["broken", "parity", "psnr min 28"]["value"] == pytest.approx(50.2, abs=0.1)  # as docs/gate.md says
    worst = by["broken", "parity", "smallest psnr min 20"]
    assert "that of sample 137; 1 of 200 are beyond the limit" in worst["reason"]
    assert "fail smallest psnr min 20, broken: " in " ".join(done.stdout.split())


def contract(clip: float, fid: float, n: int = 5000) -> Verdict:
    """MLPerf's verdict on scores of so many images."""
    candidate = cell("a", n)
    gates = make_gates(preset("mlperf_sdxl"), [candidate], metrics())
    rows = [row("a", "clip_score", clip, 0.05, n, "higher"), row("a", "fid_pytorch_fid", fid, 0.15, n, "lower")]
    return judge(ResultTable({"name": "t"}, rows), gates, influences={}, pairing={}, today=DAY)


@pytest.mark.parametrize(
    ("clip", "fid", "status"),
    [
        (31.74981837, 23.48046692, "pass"),  # the reference
        (31.68631873, 23.95007626, "pass"),  # the limits themselves
        (31.81331801, 23.01085758, "pass"),
        (31.68631872, 23.48, "fail"),
        (31.74, 23.95007627, "fail"),
        (31.9, 23.48, "fail"),  # better than allowed
        (31.74, 22.9, "fail"),
    ],
)
def test_mlperf_fails_what_is_worse_and_what_is_better_than_allowed(clip: float, fid: float, status: str) -> None:
    verdict = contract(clip, fid)
    assert (verdict.status, len(verdict.results)) == (status, 4)
    assert all("judged by its value as the rule asks (± 0." in result.reason for result in verdict.results)
    assert all(result.limit is None or math.isfinite(result.limit) for result in verdict.results)


def test_mlperf_says_nothing_of_fewer_images() -> None:
    verdict = contract(31.74981837, 23.48046692, 20)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)
    assert {result.reason for result in verdict.results} == {
        "of 20 samples, where 5,000 are asked for: that says nothing"
    }


@pytest.mark.parametrize("name", ["parity", "cache_dit"])
def test_the_runs_baseline_is_what_presets_compare_with(name: str) -> None:
    gates = make_gates(preset(name), [cell("a"), cell("b")], metrics(), baseline="a")
    compared = [rule for rule in gates[name].rules if rule.metric in NAMES]
    assert {rule.cells for rule in compared} == {("b",)}
