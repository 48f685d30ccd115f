"""Prompts that set a seed, a size, guidance or steps for their own samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.starting_noise import StartingNoise
from evalkit.prompts import InlinePrompts, TablePrompts

I2P = """prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height
a red four,hate,1234567890123,7.5,512,768
a blue two,violence,7,8,512,512
a white one,violence,8,,512.0,
"""


def i2p(tmp_path: Path, text: str = I2P, **columns: Any) -> TablePrompts:
    (tmp_path / "i2p.csv").write_text(text)
    named = {"seed": "sd_seed", "guidance_scale": "sd_guidance_scale", "width": "sd_image_width"}
    named |= {"height": "sd_image_height", "category": "categories"}
    return TablePrompts(str(tmp_path / "i2p.csv"), **(named | columns))


def test_the_columns_of_i2p(tmp_path: Path) -> None:
    prompts = i2p(tmp_path)
    assert [p.settings for p in prompts] == [
        {"width": 512, "height": 768, "guidance_scale": 7.5},
        {"width": 512, "height": 512, "guidance_scale": 8.0},
        {"width": 512},
    ]
    assert [prompts.seed_of(i) for i in (0, 1, 2, 3, 5)] == [1234567890123, 7, 8, 1234567890124, 9]
    assert prompts.own_columns == {"seed", "width", "height", "guidance_scale"}


def test_they_are_part_of_the_identity_and_leave_that_of_others_alone(tmp_path: Path) -> None:
    plain = TablePrompts(str((tmp_path / "i2p.csv").absolute()), category="categories") if i2p(tmp_path) else None
    assert plain is not None
    assert plain.identity() == InlinePrompts(["a red four", "a blue two", "a white one"]).identity()
    assert plain.own_columns == frozenset()
    seen = {str(plain.identity())}
    for name in ("seed", "width", "height", "guidance_scale", "num_inference_steps"):
        one = InlinePrompts([{"text": "a red four", name: 8}, "a blue two", "a white one"])
        seen.add(str(one.identity()))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("sd_seed", "-1", "seed is a whole number of 0 to 9223372036854775807"),
        ("sd_seed", "9223372036854775808", "seed is a whole number of 0"),
        ("sd_seed", "1.5", "seed is a whole number"),
        ("sd_image_width", "0", "width is a whole number of 1 to"),
        ("sd_image_width", "wide", "width is a number"),
        ("sd_guidance_scale", "nan", "guidance_scale is a number"),
    ],
)
def test_values_that_make_no_sense_name_the_row(column: str, value: str, words: str, tmp_path: Path) -> None:
    head, row, *rest = I2P.splitlines()
    cells = row.split(",")
    cells[head.split(",").index(column)] = value
    with pytest.raises(DataError, match=rf"i2p.csv:2: column '{column}': {words}"):
        i2p(tmp_path, "\n".join([head, ",".join(cells), *rest]))


def test_a_seed_is_the_one_of_manual_seed() -> None:
    request = Request(3, 0, own_seed=2**33 + 5)
    own, theirs = torch.randn(4, generator=request.generator()), torch.Generator().manual_seed(2**33 + 5)
    assert torch.equal(own, torch.randn(4, generator=theirs))
    assert request.seed32() == 5
    assert Request(3, 0).seed32() != Request(4, 0).seed32()


COLUMNS = ("prompt", "seed", "width", "height", "guidance_scale", "num_inference_steps")
DIGITS = [
    ("a red four", 5, 40, 32, None, None),
    ("a blue two", 6, None, None, 1.0, None),
    ("a white one", None, None, None, None, 3),
    ("a red four", 5, 40, 32, None, None),
    ("a green six", None, None, None, None, None),
]


def plan_of(tmp_path: Path, *words: str, rows: Any = DIGITS, columns: tuple[str, ...] = COLUMNS) -> Any:
    from evalkit.config.compose import compose, resolve
    from evalkit.plan.plan import make_plan

    tmp_path.mkdir(exist_ok=True)
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    calm = ["model=[digits_ldm]", "sampler=[ddim]", "sampler.ddim.num_inference_steps=2", "metric=[]", "reference=none"]
    calm += ["prompts=[table]", "device=cpu", "lint=false", "report=false", f"store={tmp_path / 'store'}"]
    calm += [f"prompts.table.path={tmp_path / 'prompts.jsonl'}", *(f"prompts.table.{c}={c}" for c in columns[1:])]
    return make_plan(resolve(compose([*calm, *words])))


def made(tmp_path: Path, *words: str) -> list[np.ndarray]:
    from evalkit import pipeline

    plan = plan_of(tmp_path, *words)
    source = pipeline.fill(plan).worker.source(plan.cells[0].name)
    images: list[np.ndarray] = source.read(range(len(source)))
    return images


def test_samples_share_batches_by_their_settings_and_come_in_their_order(tmp_path: Path) -> None:
    images = made(tmp_path, "batch_size=4")
    assert [image.shape[:2] for image in images] == [(32, 40), (32, 32), (32, 32), (32, 40), (32, 32)]
    np.testing.assert_array_equal(images[0], images[3])
    for one, other in zip(images, made(tmp_path / "alone", "batch_size=1"), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    # What a prompt sets is what the run's setting would make, and its seed is diffusers' own.
    plan = plan_of(tmp_path, "batch_size=4")
    (cell,) = plan.cells
    own = ("width", "height", "guidance_scale", "num_inference_steps")
    assert {name: cell.settings[name] for name in own} == dict.fromkeys(own, "per_prompt")
    built = plan.built[cell.key]
    built.model.load("cpu")
    settings = {"guidance_scale": 4.0, "width": 40, "height": 32}
    request = Request(0, 99, prompt="a red four", own_seed=5)
    (direct,) = built.model.generate([request], sampler=built.sampler, settings=settings).images
    assert np.abs(direct.astype(int) - images[0]).max() <= 1


def test_what_no_model_takes_and_what_the_run_sweeps_is_refused(tmp_path: Path) -> None:
    from evalkit import pipeline

    guided = [("a red four", None, None, None, 2.0, None)]
    with pytest.raises(ConfigError, match=r"prompts\.table\.guidance_scale: .* which no model of this run takes"):
        plan_of(tmp_path, "model=[callable]", "model.callable.function=os.path.join", rows=guided)
    with pytest.raises(ConfigError, match=r"guidance_scale, which digits_ldm sweeps as well \(1, 4\)"):
        plan_of(tmp_path, "model.digits_ldm.guidance_scale={sweep: [1, 4]}")
    with pytest.raises(ConfigError, match=r"num_inference_steps, which digits_ldm sweeps as well \(2, 3\)"):
        plan_of(tmp_path, "sampler.ddim.num_inference_steps={sweep: [2, 3]}")
    with pytest.raises(ConfigError, match=r"seed=\{sweep: \[0, 1\]\} would make the same images again"):
        plan_of(tmp_path, "seed={sweep: [0, 1]}")
    with pytest.raises(ConfigError, match=r"walk: the prompts of digits_ldm-.* give width, height"):
        plan_of(tmp_path, "walk.lines=1")
    narrow = [("a red four", None, 33, 32, None, None)]
    with pytest.raises(ConfigError, match="33"):
        pipeline.fill(plan_of(tmp_path, rows=narrow))


def test_pairs_of_several_sizes_are_compared_size_by_size(tmp_path: Path) -> None:
    from evalkit import pipeline

    words = ["sampler=[ddim,euler]", "sampler.euler.num_inference_steps=2", "metric=[psnr]", "baseline={sampler: ddim}"]
    plan = plan_of(tmp_path, *words, f"out={tmp_path / 'out'}", "export=[latents]")
    table = pipeline.run(plan)
    (row,) = [row for row in table.rows if row.metric == "psnr" and row.value is not None]
    sources = [pipeline.fill(plan).worker.source(cell.name) for cell in plan.cells]
    pairs = zip(*(source.read(range(len(source))) for source in sources), strict=True)
    errors = [float(np.mean((one.astype(float) - other) ** 2)) for one, other in pairs]
    assert row.value == pytest.approx(np.mean([min(10 * np.log10(255**2 / e), 100) if e else 100 for e in errors]))
    written = [StartingNoise(str(tmp_path / f"out/export/{cell.name}.latents.safetensors"), "") for cell in plan.cells]
    assert [written[0].shape(i) for i in range(5)] == [(4, 8, 10), (4, 8, 8), (4, 8, 8), (4, 8, 10), (4, 8, 8)]
    assert written[0].sha256 == written[1].sha256, "a sampler changes no unit noise"
    plan = plan_of(tmp_path, f"model.digits_ldm.latents={written[0].path}")
    again = pipeline.fill(plan).worker.source(plan.cells[0].name)
    for one, other in zip(again.read(range(5)), sources[0].read(range(5)), strict=True):
        np.testing.assert_array_equal(one, other)
