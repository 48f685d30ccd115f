"""Walks between latents: their ends are samples, their middles lie between, the sheets are written once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_stylegan
import torch

from evalkit.config.compose import compose, resolve
from evalkit.config.schema import RunConfig
from evalkit.errors import ConfigError
from evalkit.models.base import Request
from evalkit.plan.grid import make_grid
from evalkit.plan.plan import make_plan
from evalkit.results.latent_walk import Walk, check_walk, make_walk, walk_line, write_walks
from evalkit.samples.cell_generator import CellGenerator
from evalkit.samples.model_pool import ModelPool

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))  # tiny_pipelines


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    with ModelPool() as pool:
        yield pool


def generators(pool: ModelPool, *overrides: str) -> list[CellGenerator]:
    config = resolve(compose(["prompts=[digits]", "sampler=[]", "num_samples=20", *overrides]))
    return [CellGenerator(cell, pool, "cpu") for cell in make_grid(config).cells]


def samples(generator: CellGenerator, indices: list[int], seed: int = 0) -> np.ndarray:
    """The cell's own samples, made together, under a seed."""
    requests = [replace(request, seed=seed) for request in generator.pool.requests(generator.cell, indices)]
    pixels: np.ndarray = generator._model().generate(requests, **generator._sampling()).images
    return pixels


def far(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


@pytest.fixture
def stylegan(tmp_path: Path) -> list[str]:
    tiny_stylegan.save(tmp_path / "g.safetensors", c_dim=10)
    return [
        *("model=[stylegan]", "model.stylegan.module=tiny_stylegan.Generator", "model.stylegan.z_dim=16"),
        *(f"model.stylegan.weights={tmp_path / 'g.safetensors'}", "model.stylegan.num_classes=10"),
        *("model.stylegan.module_args={c_dim: 10}", "model.stylegan.truncation_psi=0.7"),
    ]


GAN = ["experiment=digits", "model=[digits_dcgan]"]
DIFFUSION = ["experiment=digits", "model=[digits_ldm]", "sampler=[ddim]", "sampler.ddim.num_inference_steps=2"]
PIXELS = ["experiment=digits", "model=[digits_ddpm]", "sampler=[ddpm]", "sampler.ddpm.num_inference_steps=2"]


@pytest.mark.parametrize(
    ("overrides", "space"),
    [
        (GAN, "z"),
        ("stylegan", "z"),
        ("stylegan", "w"),
        (DIFFUSION, "noise"),
        (PIXELS, "noise"),
    ],
)
def test_a_line_begins_at_its_sample_and_ends_at_the_next_seeds(
    overrides: Any, space: str, request: pytest.FixtureRequest, pool: ModelPool
) -> None:
    """Also for a sampler that draws noise in each step (DDPM): the first image is the sample, to a level."""
    options = request.getfixturevalue(overrides) if isinstance(overrides, str) else overrides
    generator = generators(pool, *options)[0]
    assert space in generator.spaces
    line = walk_line(generator, 3, Walk(tiles=4, stops=2, through="seeds"), space)
    assert len(line) == 7
    assert far(line[0], samples(generator, [3])[0]) <= 1
    if overrides is not PIXELS:  # its later noise stays the first sample's
        for stop, seed in ((3, 1), (6, 2)):
            assert far(line[stop], samples(generator, [3], seed)[0]) <= 1
    assert len({image.tobytes() for image in line}) == 7
    alone = walk_line(generator, 3, Walk(tiles=4, stops=2, through="seeds"), space, batch_size=3)
    assert far(line, alone) <= 1
    through = walk_line(generator, 3, Walk(tiles=2), space)
    assert far(through[0], line[0]) <= 1
    assert far(through[1], line[3]) > 1, "sample 4's latent is not that of seed 1"


def test_through_samples_keeps_the_class(pool: ModelPool) -> None:
    """The end is sample 4's latent in sample 3's class: the digits of both are known."""
    generator = generators(pool, "experiment=digits", "model=[digits_dcgan]")[0]
    asked = pool.requests(generator.cell, [3, 4])
    line = walk_line(generator, 3, Walk(tiles=3), "z")
    mixed = Request(index=4, seed=0, class_id=asked[0].class_id)
    assert asked[0].class_id != asked[1].class_id
    assert far(line[-1], generator._model().generate([mixed], sampler=None, settings={}).images[0]) <= 1


def test_between_two_w_the_way_is_straight(stylegan: list[str], pool: ModelPool) -> None:
    generator = generators(pool, *stylegan)[0]
    a, b = (generator.latents([i], [0], "w") for i in (0, 1))
    line = walk_line(generator, 0, Walk(tiles=3, space="w"), "w")
    middle = generator.images((a + b) / 2, [0], "w")
    assert far(line[1], middle[0].permute(1, 2, 0).clamp(0, 255).round()) <= 1
    assert torch.is_tensor(a)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "flux", "dit"])
def test_other_pipelines(kind: str, tmp_path: Path) -> None:
    """Their own first noise, in their own shape; one that keeps it to itself says so."""
    import tiny_pipelines

    from evalkit.models.base import Sampler
    from evalkit.models.diffusers.model import DiffusersModel

    model = DiffusersModel(str(tiny_pipelines.save(kind, tmp_path / kind)))
    model.load("cpu")
    text = model.conditioning == "text"
    asked = [Request(i, 0, prompt="a cat" if text else None) for i in (0, 1)]
    size = {"height": 16, "width": 16} if kind == "flux" else {}
    how: Any = {"sampler": Sampler(num_inference_steps=2), "settings": size | ({"guidance_scale": 0.0} if size else {})}
    if kind == "dit":
        with pytest.raises(ConfigError, match="cannot be interpolated"):
            model.latents(asked, space="noise", **how)
        return
    latents = model.latents(asked, space="noise", **how)
    assert len(latents) == 2
    again = model.render(latents, asked, space="noise", **how).permute(0, 2, 3, 1)
    assert far(again, model.generate(asked, **how).images) <= 1
    turned = model.render(latents.flip(0), asked, space="noise", **how).permute(0, 2, 3, 1)
    assert far(turned, again.flip(0)) <= 1
    assert "prepare_latents" not in vars(model._pipe)
    assert model.swap is None
    with pytest.raises(ConfigError, match="begins with noise"):
        model.render(latents[:, :1], asked, space="noise", **how)


def test_sheets_are_written_once(tmp_path: Path, stylegan: list[str], pool: ModelPool) -> None:
    from PIL import Image

    found = [*generators(pool, "experiment=digits", "model=[digits_dcgan]"), *generators(pool, *stylegan)]
    how: Any = {"batch_size": 8}
    walk = Walk(lines=2, tiles=3)
    written = write_walks(walk, found, tmp_path, **how)
    assert [path.name for path in written] == [f"{generator.cell.name}-walk.png" for generator in found]
    with Image.open(written[0]) as sheet:
        assert sheet.size[1] == 30 + 2 * (64 + 4) + 4
    assert write_walks(walk, found, tmp_path, **how) == []
    assert write_walks(Walk(lines=2, tiles=4), found[:1], tmp_path, **how) == written[:1]
    assert write_walks(Walk(lines=2, space="w"), found, tmp_path / "w", **how) == [
        tmp_path / "w" / f"{found[1].cell.name}-walk.png"
    ]


def test_the_setting_and_its_refusals() -> None:
    assert make_walk(RunConfig().walk) == Walk(), "RunConfig repeats the defaults"
    config = resolve(compose(["experiment=digits", "model=[digits_dcgan]", "walk.lines=3", "walk.through=seeds"]))
    assert make_walk(config.walk) == Walk(lines=3, through="seeds")
    with pytest.raises(ConfigError, match=r"walk.line: no such key. Did you mean 'lines'"):
        compose(["walk.line=3"])
    for setting, message in (
        ({"line": 3}, r"walk.line: no such key. Did you mean 'lines'"),
        ({"lines": -1}, "whole number >= 0"),
        ({"tiles": 1}, "whole number >= 2"),
        ({"stops": 0}, "whole number >= 1"),
        ({"through": "seed"}, "Did you mean 'seeds'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_walk(setting)
    found = generators(ModelPool(), "experiment=digits", "model=[digits_dcgan]")
    check_walk(Walk(lines=0, space="w"), found)
    check_walk(Walk(lines=1), found)
    with pytest.raises(ConfigError, match=r"no chosen model shows latents w \(the chosen ones have z\)"):
        check_walk(Walk(lines=1, space="w"), found)
    with pytest.raises(ConfigError, match="no chosen model shows latents w"):
        make_plan(
            resolve(compose(["experiment=digits", "model=[digits_dcgan]", "metric=[]", "walk.lines=1", "walk.space=w"]))
        )
