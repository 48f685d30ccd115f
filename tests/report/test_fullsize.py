"""Full-size files: embedded up to a budget, else linked; nothing from outside the run's surroundings."""

from __future__ import annotations

from pathlib import Path

import pytest
from big_runs import write_big_run

from evalkit.report import fullsize
from evalkit.report.fullsize import FullSize, full_size
from evalkit.report.gallery import make_gallery
from evalkit.report.run_folder import Run

AXES = {"model": ("net",), "sampler": ("ddim",), "guidance_scale": (1.0, 4.0), "num_inference_steps": (8,)}


def made(out: Path) -> FullSize:
    run = Run.open(out)
    return full_size(run, make_gallery(run))


def test_files_are_embedded_up_to_a_budget_and_then_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_big_run(tmp_path / "run", AXES, samples=2)
    whole = made(out)
    assert {key: sorted(by_card) for key, by_card in whole.embedded.items()} == {"A": [0, 1], "B": [0, 1]}
    assert whole.embedded["A"][0].startswith("data:image/png;base64,iVBOR")
    assert whole.linked == {}
    monkeypatch.setattr(fullsize, "BUDGET", 1)
    linked = made(out).linked["B"][1]
    assert linked == "../samples/net-ddim-guidance_scale_4-num_inference_steps_8/000001.png"
    assert (out / linked).is_file()


def test_files_from_elsewhere_and_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    out = write_big_run(tmp_path / "runs" / "run", AXES, samples=2)
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"x")
    (tmp_path / "runs" / "keys.txt").write_text("x")
    lines = (out / "samples.csv").read_text().splitlines()
    swapped = [line.replace(line.split(",")[2], str(outside)) for line in lines[1:3]]
    (out / "samples.csv").write_text("\n".join([lines[0], *swapped, *lines[3:]]) + "\n")
    assert 0 not in made(out).embedded.get("A", {})
    text = (out / "samples.csv").read_text()
    (out / "samples.csv").write_text(text.replace(str(outside), "../keys.txt"))
    assert "A" not in made(out).embedded
    assert "A" not in made(out).linked
