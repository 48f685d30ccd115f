"""Existing images as several cells: by what their PNGs say of their making, or by the folder they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import image, write_tar, write_zip
from options import option
from pictures_with_texts import a1111, comfy

from evalkit.cell import Cell, find_baseline
from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.codec import encode_png
from evalkit.data.split import KEYS
from evalkit.errors import ConfigError
from evalkit.plan.grid import make_grid


def outputs() -> dict[str, bytes]:
    """Euler a at 20 steps (4) and at 5 (2), DPM++ 2M at 20 (3) of another checkpoint, two that do not say."""
    made = [
        *[("Euler a", 20, "sd15")] * 4,
        *[("Euler a", 5, "sd15")] * 2,
        *[("DPM++ 2M", 20, "xl")] * 3,
    ]
    files = {}
    for i, (sampler, steps, model) in enumerate(made):
        settings = {"Steps": steps, "Sampler": sampler, "CFG_scale": 7, "Seed": i, "Model": model}
        files[f"{i:05d}-{i}.png"] = a1111(image(i), f"prompt {i}", **settings)
    return files | {f"plain{i}.png": encode_png(image(100 + i)) for i in range(2)}


def write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return write_zip(path, files)
    if path.suffix == ".tar":
        return write_tar(path, files)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def cells(path: Path, num_samples: int | None = None, exclude: Sequence[Any] = (), **changes: Any) -> tuple[Cell, ...]:
    """As a run with 'model=[folder]' makes them; `changes` of the option's values."""
    model = {"folder": option("model", "folder", path=str(path), **changes)}
    store = str(path.parent / "runs")
    return make_grid(RunConfig(model=model, num_samples=num_samples, exclude=list(exclude), store=store)).cells


def images_of(cell: Cell) -> Any:
    return build(cell.options["model"] or {}).open(cell.num_samples)


@pytest.mark.parametrize("name", ["outputs", "outputs.zip", "outputs.tar"])
def test_a_cell_for_each_combination(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, outputs())
    found = cells(path, split_by=["sampler", "steps"])
    assert [(c.sampler, c.settings, c.num_samples) for c in found] == [
        ("none", {"num_inference_steps": None}, 2),
        ("DPM++ 2M", {"num_inference_steps": 20}, 3),
        ("Euler a", {"num_inference_steps": 5}, 2),
        ("Euler a", {"num_inference_steps": 20}, 4),
    ]
    assert [c.name for c in found] == [
        "folder-none",
        "folder-DPM++_2M-num_inference_steps_20",
        "folder-Euler_a-num_inference_steps_5",
        "folder-Euler_a-num_inference_steps_20",
    ]
    assert len({c.key for c in found}) == 4
    for cell, numbers in zip(found, ([100, 101], [6, 7, 8], [4, 5], [0, 1, 2, 3]), strict=True):
        source = images_of(cell)
        for number, pixels in zip(numbers, source.read(range(len(numbers))), strict=True):
            np.testing.assert_array_equal(pixels, image(number))
        assert source.prompts == tuple(f"prompt {n}" if n < 100 else None for n in numbers)
    if name != "outputs":
        assert images_of(found[1]).location(0) == f"{path}[6]"  # its place among all


def test_by_checkpoint_and_what_else_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "outputs", outputs())
    found = cells(path, split_by="model")
    assert [(c.settings, c.num_samples) for c in found] == [
        ({"checkpoint": None}, 2),
        ({"checkpoint": "sd15"}, 6),
        ({"checkpoint": "xl"}, 3),
    ]
    assert found[0].sampler is None
    assert found[1].name == "folder-checkpoint_sd15"
    found = cells(path, split_by=["seed"], where={"model": "xl"})
    assert [c.settings["noise_seed"] for c in found] == [6, 7, 8]


def test_by_lora(tmp_path: Path) -> None:
    """As prompts of AUTOMATIC1111 name them; the prompts that CLIP score reads are then the same."""
    tags = ["<lora:style:0.8>", "", "<lora:style:0.8>", "<lora:style:1><lora:add:0.5>"]
    files = {f"{i}.png": a1111(image(i), f"a (red:1.2) fox{tag}", Steps=4) for i, tag in enumerate(tags)}
    found = cells(write(tmp_path / "out", files), split_by="lora")
    assert [(c.settings["lora"], c.num_samples) for c in found] == [
        (None, 1),
        ("add:0.5, style:1", 1),
        ("style:0.8", 2),
    ]
    assert images_of(found[2]).prompts == ("a red fox",) * 2
    assert images_of(found[2]).records[0].parameters["prompt"] == "a (red:1.2) fox<lora:style:0.8>"


def test_comfyui_in_a_zip(tmp_path: Path) -> None:
    files = {}
    for i, (name, cfg) in enumerate([("euler", 1.5), ("euler", 8.0), ("heun", 8.0)]):
        about = {"seed": i, "steps": 4, "cfg": cfg, "sampler_name": name, "scheduler": "karras"}
        files[f"ComfyUI_{i:05d}_.png"] = comfy(image(i), "a cat", "flux.safetensors", **about)
    found = cells(write(tmp_path / "out.zip", files), split_by=["sampler", "cfg", "scheduler"])
    assert [(c.sampler, c.settings["guidance_scale"], c.settings["scheduler"]) for c in found] == [
        ("euler", 1.5, "karras"),
        ("euler", 8.0, "karras"),
        ("heun", 8.0, "karras"),
    ]


def test_by_folder(tmp_path: Path) -> None:
    files = {f"run{r}/{'deep/' * (r == 2)}{i}.png": encode_png(image(r * 10 + i)) for r in (2, 10) for i in range(3)}
    found = cells(write(tmp_path / "all", files), 2, split_by="folder")
    assert [(c.settings, c.num_samples) for c in found] == [({"folder": "run2"}, 2), ({"folder": "run10"}, 2)]
    np.testing.assert_array_equal(images_of(found[1]).read(range(1))[0], image(100))


def test_shards_are_split_as_one_set(tmp_path: Path) -> None:
    files = list(outputs().items())
    for part in range(2):
        write_tar(tmp_path / f"{part}.tar", dict(files[part::2]))
    found = cells(tmp_path / "{0..1}.tar", split_by=["sampler"])
    assert [(c.sampler, c.num_samples) for c in found] == [("none", 2), ("DPM++ 2M", 3), ("Euler a", 6)]
    assert images_of(found[1]).prompts == ("prompt 6", "prompt 8", "prompt 7")


def test_rules_find_the_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "outputs", outputs())
    found = cells(path, exclude=[{"sampler": "none"}, {"num_inference_steps": 5}], split_by=["sampler", "steps"])
    assert [c.sampler for c in found] == ["DPM++ 2M", "Euler a"]
    assert find_baseline(found, {"sampler": "Euler a"}) == "folder-Euler_a-num_inference_steps_20"


def test_where_alone_chooses(tmp_path: Path) -> None:
    path = write(tmp_path / "outputs", outputs())
    (cell,) = cells(path, where={"sampler": "Euler a", "steps": 5})
    assert (cell.num_samples, cell.sampler) == (2, None)
    (plain,) = cells(path)
    assert "where" not in plain.identity["model"]
    assert cell.key != plain.key
    with pytest.raises(ConfigError, match=r"none of its 11 images says \{'sampler': 'Heun'\}"):
        cells(path, where={"sampler": "Heun"})


def test_what_cannot_be_split(tmp_path: Path) -> None:
    path = write(tmp_path / "plain", {f"{i}.png": encode_png(image(i)) for i in range(3)})
    with pytest.raises(ConfigError, match="split_by=sampler: none of its 3 images says so"):
        cells(path, split_by="sampler")
    with pytest.raises(ConfigError, match=r"split_by: 'sampelr': Did you mean 'sampler'\?"):
        cells(path, split_by="sampelr")
    np.save(tmp_path / "a.npy", np.stack([image(0)]))
    with pytest.raises(ConfigError, match="an array's images say nothing of their making"):
        cells(tmp_path / "a.npy", split_by="sampler")


def test_the_keys_are_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for key in KEYS:
        assert f"`{key}`" in text, f"docs/formats.md does not tell of split_by={key}"
