"""`floor`: which images are held out, what the cells are compared with then, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from options import metric_of
from png_folders import write_pngs

from evalkit.config.build import build
from evalkit.config.schema import RunConfig
from evalkit.data.arrays import ArrayImages
from evalkit.data.center_crop import CenterCropped
from evalkit.data.moments import Moments
from evalkit.data.reference import Reference
from evalkit.errors import ConfigError
from evalkit.plan.floors import is_distance, make_floors, open_floor
from evalkit.plan.grid import Missing, make_grid
from evalkit.results.real_text import REAL, real_lines

MODEL = {"_target_": "fake_models.Uneven", "shift": "nothing"}
PROMPTS = {"digits": {"_target_": "grid_models.Prompts"}}


def reference(count: int = 40, seed: int = 0) -> ArrayImages:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ArrayImages("the reference", pixels)


def opened(floor: Any, given: Any, n: Any = 10, **fields: Any) -> tuple[Any, Any, Any]:
    config = RunConfig(model={"m": MODEL}, prompts=PROMPTS, num_samples=n, floor=floor, **fields)
    cells = make_grid(RunConfig(model={"m": MODEL}, prompts=PROMPTS, num_samples=10)).cells
    rest, found = open_floor(config, given, cells, Missing(), None)
    return rest, found, cells


def bytes_of(source: Any) -> set[bytes]:
    return {image.tobytes() for image in source.read(range(len(source)))}


def test_a_split_holds_out_as_many_images_as_a_cell_has_and_leaves_the_others() -> None:
    whole = reference()
    rest, floor, cells = opened("split", whole)
    assert (len(rest), len(floor.images)) == (30, 10)
    assert not bytes_of(rest) & bytes_of(floor.images)
    assert bytes_of(rest) | bytes_of(floor.images) == bytes_of(whole)
    again = opened("split", reference())
    assert (again[0].digest, again[1].images.digest) == (rest.digest, floor.images.digest)
    cropped, held, _ = opened("split", CenterCropped(whole, 4))
    assert (len(cropped), held.images.read(range(1))[0].shape) == (30, (4, 4, 3))
    ((cell, built),) = make_floors(floor, cells, {"fid": metric_of("fid")})
    assert (cell.name, cell.model, cell.num_samples) == (REAL, REAL, 10)
    assert built.model.open(10).digest == floor.images.digest


def test_a_folder_leaves_the_reference_as_it_is_and_is_read_as_that_is(tmp_path: Path) -> None:
    write_pngs(tmp_path / "real", reference(12, 0).pixels)
    held = write_pngs(tmp_path / "held", reference(12, 1).pixels)
    write_pngs(held, reference(1, 0).pixels, start=12)  # a file of the reference
    folder = {"_target_": "evalkit.data.reference.FolderReference", "path": str(tmp_path / "real")}
    given = build(folder, "reference.folder", Reference).open()
    rest, floor, _ = opened(str(held), given, reference={"folder": folder | {"size": 4}})
    assert rest is given
    assert floor.images.read(range(1))[0].shape == (4, 4, 3)  # as the reference's option asks
    _, plain, _ = opened(str(held), given)
    assert plain.about == {"kind": "folder", "of": str(held), "images": 13, "shared": 1}
    assert plain.linted
    assert "1 of the 13 images" in real_lines({"floor": {**plain.about, "n": [10]}})[1]


def test_cells_of_several_sizes_have_a_floor_each() -> None:
    _, floor, cells = opened("split", reference())
    two = [cells[0], replace(cells[0], num_samples=6)]
    made = make_floors(floor, two, {"fid": metric_of("fid")})
    assert [(cell.name, cell.num_samples) for cell, _ in made] == [(f"{REAL}, N = 6", 6), (f"{REAL}, N = 10", 10)]
    assert all(len(built.model.open(cell.num_samples)) == cell.num_samples for cell, built in made)


def test_distances_are_what_is_lower_the_nearer_the_reference() -> None:
    names = ("fid", "kid", "cmmd", "fid_infinity", "precision", "recall", "nearest_training", "c_t", "psnr", "is")
    assert [name for name in names if is_distance(metric_of(name))] == ["fid", "kid", "cmmd", "fid_infinity"]


@pytest.mark.parametrize(
    ("floor", "given", "n", "words"),
    [
        (3, reference(), 10, "floor=3: give split, or a folder"),
        ("split", None, 10, "floor: there is no reference"),
        ("split", Moments("in.npz", np.zeros(2), np.eye(2), 9, None, "d"), 10, "in.npz holds statistics"),
        ("split", reference(19), 10, "more than half of the 19 of the reference: num_samples=9 at most"),
        ("split", reference(), "auto", "each look would have another reference"),
        ("nowhere", reference(), 10, "floor=nowhere: give split, or real images: there is no"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(floor: Any, given: Any, n: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        opened(floor, given, n)
    assert "\n" not in str(error.value)


def test_a_floor_that_measures_nothing_and_one_of_too_few_images_are_refused(tmp_path: Path) -> None:
    _, floor, cells = opened("split", reference())
    with pytest.raises(ConfigError, match="no metric of the run is a distance"):
        make_floors(floor, cells, {"precision": metric_of("precision")})
    write_pngs(tmp_path, reference(4).pixels)
    with pytest.raises(ConfigError, match=r"holds 4 images, and the cells have up to 10 samples.*num_samples=4"):
        opened(str(tmp_path), reference())


def test_no_cells_identity_knows_of_it() -> None:
    fields: dict[str, Any] = {"model": {"m": MODEL}, "prompts": PROMPTS, "num_samples": 10}
    assert make_grid(RunConfig(**fields)).cells == make_grid(RunConfig(**fields, floor="split")).cells
