"""The recipes `lora_style`, `ab_quantised` and `same_model` from the command line, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command import results, run_evalkit

from evalkit.errors import EXIT_GATE_INCONCLUSIVE

FEW = ("num_samples=32", "batch_size=32", "device=cpu", "report=false")


def by_cell(folder: Path, metric: str) -> dict[str, Any]:
    return {row["cell"]: row for row in results(folder)["rows"] if row["metric"] == metric}


@pytest.mark.slow
def test_lora_style(tmp_path: Path) -> None:
    done = run_evalkit("experiment=lora_style", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "lora_style"
    none, half, full = (
        f"digits_ldm-ddim-lora_scale_{s}-guidance_scale_4-num_inference_steps_8" for s in ("0", "0.5", "1")
    )
    fused = "digits_ldm_fused-ddim-guidance_scale_4-num_inference_steps_8"
    fid = {cell: row["value"] for cell, row in by_cell(run, "fid_digits").items()}
    assert set(fid) == {none, half, full, fused}
    assert fid[full] < fid[half] < fid[none], "to the style's own images"
    assert abs(fid[fused] - fid[full]) < 0.02 * fid[full]
    psnr = {cell: row["value"] for cell, row in by_cell(run, "psnr").items()}
    assert psnr[none] is None, "it is the baseline"
    assert psnr[full] < psnr[half]
    assert abs(psnr[fused] - psnr[full]) < 0.1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ab_quantised(tmp_path: Path) -> None:
    few = "model.digits_ldm.quantize={sweep: [null, int8_weight_only, int4_weight_only]}"
    done = run_evalkit("experiment=ab_quantised", few, *FEW, cwd=tmp_path)
    assert done.returncode == EXIT_GATE_INCONCLUSIVE, done.stderr  # 32 samples are too few to tell
    assert "Traceback" not in done.stderr
    run = tmp_path / "runs" / "ab_quantised"
    psnr = {cell: row["value"] for cell, row in by_cell(run, "psnr").items()}
    assert len(psnr) == 4
    (base,) = [cell for cell, value in psnr.items() if value is None]
    assert "float32" in base
    assert all(value > 20 for value in psnr.values() if value is not None), "near float32's images"
    assert all(value < 99 for value in psnr.values() if value is not None), "but not equal to them"
    assert "ab_quantised" in (run / "gate.md").read_text()


@pytest.mark.slow
def test_same_model(tmp_path: Path) -> None:
    """Without the compiled cell, which takes a C++ compiler a minute."""
    few = [word for word in FEW if not word.startswith(("num_samples", "report"))]
    done = run_evalkit("experiment=same_model", "num_samples=8", "exclude=[{model: compiled}]", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = tmp_path / "runs" / "same_model"
    floor = results(run)["run"]["noise_floor"]
    assert [remake["name"] for remake in floor["remakes"]] == ["again", "batch_size 1", "attention math"]
    psnr = floor["metrics"]["psnr"]
    assert psnr["remakes"]["again"]["identical"] == 8
    models = {row["cell"]: row["model"] for row in results(run)["rows"]}
    said = {models[cell]: verdict for cell, verdict in floor["cells"]["psnr"].items()}
    assert {said[name] for name in ("int8", "fp8", "bf16")} == {"beyond the noise floor"}
    assert said["cached"] in ("identical", "within the noise floor", "beyond the noise floor")
    assert 'id="parity-h"' in (run / "report.html").read_text(encoding="utf-8")
