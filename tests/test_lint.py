"""The lint: planted faults are found and named, clean sets left in peace, and a finished run decodes nothing."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, environment
from fake_models import make_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import Pixels, folder, jpeg, picture, pictures, resized, save
from PIL import Image, ImageFilter

from evalkit import generate, pipeline, results
from evalkit.config import compose, resolve
from evalkit.errors import DataError
from evalkit.generate import generate_cells
from evalkit.lint import Asked, Finding, asked_of, lines, lint
from evalkit.lint import look as looking
from evalkit.readers import ArrayImages, FolderImages
from evalkit.reference import DigitsReference
from evalkit.samples import SampleSet, Store

KERNELS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
COUNT = 20


def opened(path: Path, **options: Any) -> FolderImages:
    return FolderImages.open(path, **{"mixed_sizes": True, "on_error": "skip", **options})


def found(source: Any, tmp_path: Path, reference: Any = None, **options: Any) -> list[Finding]:
    return lint({"cell": source}, reference, cache=tmp_path / "lint", **options)


def kinds(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}


def arrays(images: list[Pixels], name: str = "arrays", **more: Any) -> ArrayImages:
    return ArrayImages(name, np.stack(images), **more)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return folder(tmp_path / "set", pictures(COUNT))


# Clean sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_clean_folders_are_left_in_peace(tmp_path: Path, suffix: str) -> None:
    own = folder(tmp_path / "a", pictures(COUNT), suffix)
    other = folder(tmp_path / "b", pictures(COUNT, seed=1), suffix)
    assert found(opened(own), tmp_path, opened(other)) == []


def test_real_photographs_are_left_in_peace(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "cifar10-test-jpeg.zip"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared data")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
        for part, start in (("a", 0), ("b", 1)):
            for i, name in enumerate(names[start::12]):
                target = tmp_path / part / f"{i:04d}.jpg"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(archive.read(name))
    assert found(opened(tmp_path / "a"), tmp_path, opened(tmp_path / "b")) == []


def test_the_digits_of_one_class_look_alike_and_are_left_in_peace(tmp_path: Path) -> None:
    assert lint({}, DigitsReference().open(), cache=tmp_path) == []


# Faults that are planted ------------------------------------------------------------------------------------------


def copied(path: Path) -> str:
    shutil.copy(path / "003.png", path / "copy.png")
    return "copy.png"


def encoded_again(path: Path) -> str:
    save(path / "again.png", picture(3), compress_level=0)
    return "again.png"


def noisier(path: Path) -> str:
    noise = np.random.default_rng(0).normal(2, 3, (48, 48, 3))
    save(path / "noisy.png", np.clip(picture(4) + noise, 0, 255).astype(np.uint8))
    return "noisy.png"


def recompressed(path: Path) -> str:
    save(path / "recompressed.png", jpeg(picture(5), 92, 0))
    return "recompressed.png"


def black(path: Path) -> str:
    save(path / "black.png", np.zeros((48, 48, 3), np.uint8))
    return "black.png"


def constant(path: Path) -> str:
    save(path / "beige.png", np.full((48, 48, 3), (200, 190, 170), np.uint8))
    return "beige.png"


def of_0_to_1(path: Path) -> str:
    save(path / "tiny.png", (picture(900) / 255).round().astype(np.uint8))
    return "tiny.png"


def grey(path: Path) -> str:
    Image.fromarray(picture(901)).convert("L").save(path / "grey.png")
    return "grey.png"


def palette(path: Path) -> str:
    Image.fromarray(picture(902)).convert("P").save(path / "palette.png")
    return "palette.png"


def transparent(path: Path) -> str:
    image = Image.fromarray(picture(903)).convert("RGBA")
    image.putpixel((5, 5), (0, 0, 0, 0))
    image.save(path / "alpha.png")
    return "alpha.png"


def sixteen_bits(path: Path) -> str:
    Image.fromarray(picture(904)[..., 0].astype(np.uint16) * 257).save(path / "deep.png")
    return "deep.png"


def cmyk(path: Path) -> str:
    Image.fromarray(picture(905)).convert("CMYK").save(path / "print.tif")
    return "print.tif"


def lossy(path: Path) -> str:
    save(path / "lossy.jpg", picture(906))
    return "lossy.jpg"


def other_size(path: Path) -> str:
    save(path / "large.png", picture(907, 60))
    return "large.png"


def enlarged(path: Path) -> str:
    save(path / "enlarged.png", resized(picture(908, 24), 48))
    return "enlarged.png"


def broken(path: Path) -> str:
    (path / "half.png").write_bytes((path / "000.png").read_bytes()[:900])
    return "half.png"


def wrong_checksum(path: Path) -> str:
    rows = [{"file_name": "000.png", "sha256": "0" * 64}]
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "000.png"


PLANTED: list[tuple[Callable[[Path], str], str, str]] = [
    (copied, "duplicates", "recall"),
    (encoded_again, "duplicates", "standard errors"),
    (noisier, "near_duplicates", "Vendi"),
    (recompressed, "near_duplicates", "KID"),
    (black, "black", "FID"),
    (constant, "constant", "precision"),
    (of_0_to_1, "range", "all metrics"),
    (grey, "grey", "CLIP score"),
    (palette, "palette", "FID"),
    (transparent, "alpha_dropped", "all metrics"),
    (sixteen_bits, "16bit", "no metric"),
    (cmyk, "cmyk", "FID"),
    (lossy, "format", "FID"),
    (other_size, "size", "FID"),
    (enlarged, "upscaled", "FID"),
    (broken, "skipped", "N is smaller"),
    (wrong_checksum, "checksum", "all metrics"),
]


@pytest.mark.parametrize(("plant", "kind", "effect"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_a_planted_fault_is_found_and_nothing_else(
    clean: Path, tmp_path: Path, plant: Callable[[Path], str], kind: str, effect: str
) -> None:
    name = plant(clean)
    findings = kinds(found(opened(clean), tmp_path))
    assert findings.keys() - {"grey"} == {kind} - {"grey"}  # the 16-bit file is grey as well
    assert str(clean / name) in findings[kind].files
    assert findings[kind].count == 1
    assert effect in findings[kind].effect
    assert "\n" not in findings[kind].message + findings[kind].effect


def test_all_faults_in_one_folder_are_found(clean: Path, tmp_path: Path) -> None:
    names = {plant.__name__: (plant(clean), kind) for plant, kind, _ in PLANTED}
    named: dict[str, set[str]] = {}
    for finding in found(opened(clean), tmp_path):
        named.setdefault(finding.kind, set()).update(Path(file).name for file in finding.files)
    for name, kind in names.values():
        assert name in named[kind], f"{name} is not named by {kind}: {named.get(kind)}"


def test_the_finding_counts_what_the_folder_holds(clean: Path, tmp_path: Path) -> None:
    for i in range(12):
        save(clean / f"black{i}.png", np.zeros((48, 48, 3), np.uint8))
    finding = kinds(found(opened(clean), tmp_path))["black"]
    assert (finding.count, finding.of, len(finding.files), finding.severity) == (12, 32, 5, "warning")
    assert finding.message == "12 of 32 images are black all over"
    for i in range(12):
        save(clean / f"more{i}.png", np.zeros((48, 48, 3), np.uint8))
    assert kinds(found(opened(clean), tmp_path))["black"].severity == "error"


# Enlarged images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 2.5, 3, 4])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name.lower())
def test_one_enlarged_image_among_others_is_found(tmp_path: Path, factor: float, kernel: Image.Resampling) -> None:
    if kernel == Image.Resampling.NEAREST and factor == 2.5:
        pytest.skip("told for whole factors alone: which pixel is the nearest is a matter of rounding")
    large = round(40 * factor)
    images = [*pictures(3, large), resized(picture(1, 40), large, kernel)]
    finding = kinds(found(arrays(images), tmp_path))["upscaled"]
    assert finding.files == ("arrays[3]",)
    assert f"(by {factor:.3g})" in finding.message


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    factor=st.sampled_from([2, 2.5, 3, 4]),
    side=st.integers(28, 60),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0),
)
def test_an_enlarged_set_is_found(factor: float, side: int, kernel: Image.Resampling, seed: int) -> None:
    side += side % 2  # 2.5 times an even side is whole
    factor = round(factor) if kernel == Image.Resampling.NEAREST else factor
    images = [resized(picture((seed + i) % 2**32, side), round(side * factor), kernel) for i in range(16)]
    measured, _ = looking.look(arrays(images), looking.Counter())
    assert len(measured.enlarged) >= 15
    assert sum(found == factor for _, found in measured.enlarged) >= 15


def test_a_set_that_was_enlarged_and_saved_as_jpeg_is_found(tmp_path: Path) -> None:
    images = [jpeg(resized(picture(i, 48), 96), 92) for i in range(24)]
    finding = kinds(found(arrays(images), tmp_path))["upscaled"]
    assert finding.count >= 20
    assert "(by 2)" in finding.message


def test_pictures_as_enlarged_by_torch_are_found(tmp_path: Path) -> None:
    import torch

    small = torch.from_numpy(np.stack(pictures(16, 40))).permute(0, 3, 1, 2).float()
    for mode in ("nearest", "bilinear", "bicubic"):
        large = torch.nn.functional.interpolate(small, scale_factor=3, mode=mode).round().clamp(0, 255)
        images = list(large.permute(0, 2, 3, 1).to(torch.uint8).numpy())
        assert kinds(found(arrays(images), tmp_path))["upscaled"].count >= 15, mode


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def rectangles(seed: int) -> Pixels:
    """A plain picture of a few boxes, whose edges may all lie at even places."""
    rng = np.random.default_rng(seed)
    image = np.full((64, 64, 3), 255, np.uint8)
    for _ in range(2):
        y, x, height, width = (*rng.integers(0, 24, 2) * 2, *rng.integers(2, 8, 2) * 2)
        image[y : y + height, x : x + width] = rng.integers(0, 200, 3)
    return image


@pytest.mark.parametrize(
    "change",
    [
        lambda i: blurred(picture(i, 96), 1.0),
        lambda i: blurred(picture(i, 96), 2.0),
        lambda i: jpeg(picture(i, 96), 40),
        lambda i: jpeg(blurred(picture(i, 96), 1.5), 60),
        lambda i: resized(picture(i, 96), 64, Image.Resampling.LANCZOS),
        rectangles,
    ],
    ids=["blurred", "out of focus", "compressed", "both", "made smaller", "boxes"],
)
def test_smooth_and_plain_pictures_are_not_called_enlarged(tmp_path: Path, change: Callable[[int], Pixels]) -> None:
    assert "upscaled" not in kinds(found(arrays([change(i) for i in range(24)]), tmp_path))


# Duplicates -------------------------------------------------------------------------------------------------------


def small_thing(place: int) -> Pixels:
    """The same plain backdrop, with another thing on it."""
    y, x = np.mgrid[:64, :64]
    image = np.repeat((120 + y)[..., None], 3, axis=2).astype(np.uint8)
    image[((y - 10 - 5 * (place // 8)) ** 2 + (x - 8 - 7 * (place % 8)) ** 2) < 12] = (190, 30, 40)
    return image


def test_a_shared_backdrop_is_no_near_duplicate(tmp_path: Path) -> None:
    assert found(arrays([small_thing(i) for i in range(40)]), tmp_path) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.one_of(st.floats(0.02, 0.13), st.floats(0.3, 0.6)), bias=st.floats(-1, 1))
def test_a_copy_that_differs_little_is_a_near_duplicate(seed: int, share: float, bias: float) -> None:
    first = picture(seed, 32)
    noise = np.random.default_rng(seed).normal(bias, 1, first.shape)
    noise *= share * looking.contrasts(first[None])[0] / np.sqrt((noise**2).mean())
    copy = np.clip(first + noise, 0, 255).astype(np.uint8)
    found = looking.near_duplicates(np.stack([picture(seed + 1, 32), first, picture(seed + 2, 32), copy]))
    assert found == ([(3, 1)] if share < looking.NEAR else [])


def test_a_collapsed_set_is_an_error_and_counted_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same = picture(1).astype(int)
    images = [np.clip(same + rng.integers(-3, 4, same.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    finding = kinds(found(arrays([*images, *pictures(4, seed=2)]), tmp_path))["near_duplicates"]
    assert (finding.count, finding.severity) == (29, "error")


def test_copies_are_counted_without_their_first(tmp_path: Path) -> None:
    images = pictures(COUNT)
    findings = kinds(found(arrays([*images, images[0], images[0], images[7]]), tmp_path))
    assert findings.keys() == {"duplicates"}  # an exact copy is not told again as a near one
    assert findings["duplicates"].count == 3
    assert findings["duplicates"].files == ("arrays[20]", "arrays[0]", "arrays[21]", "arrays[0]", "arrays[22]")


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(14)))
def test_the_order_of_the_images_changes_no_count(order: list[int]) -> None:
    base = pictures(8)
    near = [np.clip(base[i].astype(int) + 3 * j, 0, 255).astype(np.uint8) for j, i in ((1, 0), (2, 0), (1, 1))]
    images = [*base, *near, base[2], np.zeros_like(base[0]), resized(picture(50, 24), 48)]
    views = []
    for chosen in (range(14), order):
        measured, bad = looking.look(arrays([images[i] for i in chosen]), looking.Counter())
        assert bad == {}
        names = [list(chosen)[int(i)] for i, _ in measured.enlarged]
        views.append((len(measured.near), sorted(measured.pixels), len(measured.black), names, measured.zeros))
    assert views[0] == views[1]


# Beside the reference ---------------------------------------------------------------------------------------------


def test_sizes_that_differ_from_the_reference(clean: Path, tmp_path: Path) -> None:
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, 64, seed=1)))
    finding = kinds(found(opened(clean), tmp_path, reference))["size"]
    assert finding.message == "images are 48x48, those of the reference 64x64"
    assert finding.count == COUNT


def test_png_against_jpeg(clean: Path, tmp_path: Path) -> None:
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, seed=1), ".jpg"))
    findings = kinds(found(opened(clean), tmp_path, reference))
    assert findings.keys() == {"format"}
    assert findings["format"].message == "images are PNG, those of the reference JPEG"
    assert str(clean / "000.png") in findings["format"].files


def test_grey_against_colour(tmp_path: Path) -> None:
    greys = [np.repeat(image[..., :1], 3, axis=2) for image in pictures(COUNT, seed=1)]
    findings = kinds(found(arrays(greys), tmp_path, arrays(pictures(COUNT), "ref")))
    assert findings.keys() == {"grey"}
    assert "generated are grey" in findings["grey"].message
    assert "the reference are grey" in found(arrays(pictures(COUNT)), tmp_path, arrays(greys, "ref"))[0].message


def test_images_of_the_reference_among_the_samples(clean: Path, tmp_path: Path) -> None:
    save(clean / "leak.png", picture(10_004))
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, seed=1)))
    finding = kinds(found(opened(clean), tmp_path, reference))["in_reference"]
    assert (finding.files, finding.count, finding.severity) == ((str(clean / "leak.png"),), 1, "warning")
    assert kinds(found(reference, tmp_path, reference))["in_reference"].severity == "error"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x / 255 + 1) * 127.5, "saved as if of -1..1"),
        (lambda x: x / 2, "scaled by 127.5"),
        (lambda x: 16 + x * 219 / 255, "video's range"),
        (lambda x: np.clip(2.0 * x - 255, 0, 255), "-1..1 saved as if of 0..1"),
    ],
)
def test_values_in_a_part_of_their_range(tmp_path: Path, change: Any, words: str) -> None:
    def stretched(seed: int) -> list[Pixels]:  # every set reaches 0 and 255
        return [np.clip((x - 128.0) * 1.6 + 128, 0, 255).astype(np.uint8) for x in pictures(COUNT, seed=seed)]

    wrong = [change(image.astype(float)).round().astype(np.uint8) for image in stretched(1)]
    reference = arrays([np.clip(i, 1, 255) for i in stretched(2)], "ref")
    reference.pixels[0, 0, 0] = 0
    findings = kinds(found(arrays(wrong), tmp_path, reference))
    assert words in findings["range"].message
    assert found(arrays(stretched(3)), tmp_path, reference) == []
    assert kinds(found(arrays(wrong), tmp_path, arrays(wrong[:-1], "alike"))).keys() <= {"in_reference"}


def test_two_cells_of_the_same_images(clean: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(clean, twin)
    findings = lint({"a": opened(clean), "b": opened(twin)}, None, cache=tmp_path / "lint")
    assert [(f.kind, f.where) for f in findings] == [("same_images", "b")]
    assert "those of a" in findings[0].message


# Prompts ----------------------------------------------------------------------------------------------------------


def prompted(texts: list[str | None]) -> ArrayImages:
    return arrays(pictures(len(texts)), prompts=texts)


@pytest.mark.parametrize(
    ("texts", "asked", "message", "count", "severity"),
    [
        (["a", "b", None, "c"], Asked(), "1 of 4 images have no prompt", 1, "warning"),
        (
            ["a", "b", "c"],
            Asked(texts=("a", "b", "c", "a fox", "d")),
            "2 of 5 prompts of the set have no",
            2,
            "warning",
        ),
        (["a", "b", "c", "x"], Asked(texts=("a", "b", "c")), "1 images show prompts that are not in", 1, "warning"),
        (["a", "a", "b", "b", "c"], Asked(), "1 to 2 images a prompt: 1 of 3 prompts have not 2", 1, "warning"),
        ([None, None], Asked(count=5), "2 images for 5 prompts", 3, "note"),
    ],
)
def test_prompts(
    texts: list[str | None], asked: Asked, message: str, count: int, severity: str, tmp_path: Path
) -> None:
    (finding,) = found(prompted(texts), tmp_path, asked={"cell": asked})
    assert finding.kind == "prompts"
    assert message in finding.message
    assert (finding.count, finding.severity) == (count, severity)


def test_prompts_that_the_other_cells_show_are_missed(tmp_path: Path) -> None:
    whole, short = prompted(["a", "b", "c", "d"]), prompted(["a", "b", "d"])
    strange = prompted(["p", "q"])  # of another set
    findings = lint({"whole": whole, "short": short, "strange": strange}, None, cache=tmp_path)
    prompts = [finding for finding in findings if finding.kind == "prompts"]
    assert [(f.where, f.count) for f in prompts] == [("short", 1)]
    assert "'c'" in prompts[0].message


def test_even_prompts_are_left_in_peace(tmp_path: Path) -> None:
    asked = {"cell": Asked(texts=("a", "b"))}
    assert found(prompted(["a", "b", "a", "b"]), tmp_path, asked=asked) == []
    assert found(prompted([None] * 4), tmp_path, asked=asked) == []


# Sample sets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """A store with one cell of 12 samples, of which number 5 says that it was blanked."""
    store, cell = Store(tmp_path / "runs"), make_cell(12)
    generate_cells([cell], store, batch_size=4, device="cpu")
    yield store, cell, SampleSet.open(store, cell)
    generate.unload()


def test_warnings_of_the_making(made: Any, tmp_path: Path) -> None:
    samples = made[2]
    rows = tuple(
        {**row, "warnings": ["prompt_truncated"]} if i in (2, 7) else row for i, row in enumerate(samples.rows)
    )
    findings = kinds(found(replace(samples, rows=rows), tmp_path))
    assert findings["blanked"].files == (str(samples.files[5]),) or findings["blanked"].count == 1
    assert findings["prompt_truncated"].files == (str(samples.files[2]), str(samples.files[7]))
    assert "CLIP score" in findings["prompt_truncated"].effect


def test_a_size_that_was_not_asked_for(made: Any, tmp_path: Path) -> None:
    finding = kinds(found(made[2], tmp_path, asked={"cell": Asked(size=(16, 16))}))["size"]
    assert "are 8x8, not 16x16 as asked" in finding.message
    assert "size" not in kinds(found(made[2], tmp_path, asked={"cell": Asked(size=(8, 8))}))


@pytest.mark.parametrize("finished", [False, True])
def test_altered_files_are_named_all_of_them(
    made: Any, tmp_path: Path, finished: bool, caplog: pytest.LogCaptureFixture
) -> None:
    samples = made[2]
    if finished:  # all was measured, scored, and is never read again
        assert "checksum" not in kinds(found(samples, tmp_path))
    whole = samples.files[3].read_bytes()
    for i in (3, 9):
        save(samples.files[i], picture(i, 8))
        os.utime(samples.files[i], (1, 1))
    logger = logging.getLogger("evalkit")
    logger.addHandler(caplog.handler)
    finding = kinds(found(samples, tmp_path))["checksum"]
    logger.removeHandler(caplog.handler)
    assert finding.files == (str(samples.files[3]), str(samples.files[9]))
    assert finding.severity == "error"
    assert "2 of 12 files" in caplog.text
    with pytest.raises(DataError, match=r"000003\.png"):
        samples.read(range(12))
    samples.files[3].write_bytes(whole)
    assert kinds(found(samples, tmp_path))["checksum"].files == (str(samples.files[9]),)
    samples.files[9].unlink()
    missing = found(samples, tmp_path)[0]
    assert (missing.severity, missing.files) == ("error", (str(samples.files[9]),))


def test_a_touched_file_is_read_once_more_and_no_fault(made: Any, tmp_path: Path, monkeypatch: Any) -> None:
    samples = made[2]
    before = found(samples, tmp_path)
    os.utime(samples.files[3], (1, 1))
    assert found(samples, tmp_path) == before
    monkeypatch.setattr("evalkit.lint.headers.sha256_file", lambda path: pytest.fail(f"{path} is hashed again"))
    assert found(samples, tmp_path) == before


def test_damage_behind_the_header_is_named(clean: Path, tmp_path: Path) -> None:
    path = clean / "007.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    finding = kinds(found(opened(clean, on_error="refuse"), tmp_path))["damaged"]
    assert finding.files == (str(path),)
    assert "007.png: cannot be decoded" in finding.message
    assert not (tmp_path / "lint").exists()  # what is not whole is not kept


def test_what_a_cell_was_asked_for(made: Any, tmp_path: Path) -> None:
    _, cell, samples = made
    texts = {"_target_": "evalkit.prompts.InlinePrompts", "prompts": ["a", "b", "c"]}
    config = resolve(compose(["model=[digits_dcgan]", "sampler=[]", "prompts=[]", "exclude=[]", "metric=[]"]))
    config = replace(config, prompts={"inline": texts})
    elsewhere = replace(cell, name="folder", identity={**cell.identity, "prompts": None})
    asked = asked_of(config, [cell, elsewhere], {cell.name: samples, "folder": prompted(["a", "b"])})
    assert asked[cell.name] == Asked(count=3)
    assert asked["folder"] == Asked(texts=("a", "b", "c"))


# The cache --------------------------------------------------------------------------------------------------------


def test_a_second_look_decodes_nothing(clean: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for plant in (copied, noisier, enlarged, of_0_to_1, black):
        plant(clean)
    first = found(opened(clean), tmp_path, opened(clean))
    assert len(first) > 5
    monkeypatch.setattr(FolderImages, "read", lambda self, indices: pytest.fail("an image is decoded again"))
    assert found(opened(clean), tmp_path, opened(clean)) == first


def test_a_finished_look_imports_nothing_heavy(clean: Path, tmp_path: Path) -> None:
    copied(clean)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from evalkit.lint import lint\nfrom evalkit.readers import FolderImages\n"
        f"source = FolderImages.open(Path({str(clean)!r}), cache=Path({str(tmp_path / 'scan')!r}))\n"
        f"found = lint({{'cell': source}}, source, cache=Path({str(tmp_path / 'lint')!r}))\n"
        "print(sorted(finding.kind for finding in found), {'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    for path in clean.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))  # old enough for the scan's cache
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), cwd=ROOT
        ).stdout
        for _ in range(2)
    ]
    assert said[1].strip() == "['duplicates', 'duplicates', 'in_reference'] set()"
    assert said[0].startswith("['duplicates', 'duplicates', 'in_reference']")


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"lowest": ', '"lowest": 1'),
        lambda text: text.replace('"near"', '"far"'),
        lambda text: text.replace('"count"', '"other": 1, "count"'),
    ],
)
def test_a_broken_cache_is_made_anew(clean: Path, tmp_path: Path, harm: Callable[[str], str]) -> None:
    copied(clean)
    first = found(opened(clean), tmp_path)
    (path,) = (tmp_path / "lint").iterdir()
    whole = path.read_text()
    path.write_text(harm(whole))
    assert path.read_text() != whole
    assert found(opened(clean), tmp_path) == first
    assert path.read_text() == whole


def test_another_version_of_the_lint_measures_anew(clean: Path, tmp_path: Path, monkeypatch: Any) -> None:
    found(opened(clean), tmp_path)
    monkeypatch.setattr("evalkit.lint.measured.VERSION", 99)
    read: list[range] = []
    original = FolderImages.read
    monkeypatch.setattr(FolderImages, "read", lambda self, indices: read.append(indices) or original(self, indices))
    found(opened(clean), tmp_path)
    assert read


def test_a_store_that_cannot_be_written_is_no_matter(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "lint").write_text("a file where the folder should be")
    copied(clean)
    assert kinds(found(opened(clean), tmp_path)).keys() == {"duplicates"}


def test_of_a_large_set_a_part_is_decoded_and_all_files_are_compared(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(looking, "IMAGES", 64)
    base = pictures(10, 16)
    rng = np.random.default_rng(0)
    images = [np.clip(base[i % 10] + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8) for i in range(300)]
    images[299] = images[150]
    path = folder(tmp_path / "set", images)
    source = opened(path)
    finding = kinds(found(source, tmp_path))["duplicates"]
    assert (finding.count, finding.of) == (1, 300)
    assert finding.files == (str(path / "299.png"), str(path / "150.png"))
    measured, _ = looking.look(source, looking.Counter({(16, 16): 300}))
    assert measured.looked == 64
    seen = [i for i, key in enumerate(measured.pixels) if key]
    assert len(seen) == 64
    assert seen[0] < 64
    assert seen[-1] > 149  # spread over the set
    assert sum(b - a > 1 for a, b in itertools.pairwise(seen)) == 1  # two blocks of neighbours


# What people see --------------------------------------------------------------------------------------------------


def finding(**values: Any) -> dict[str, Any]:
    usual = Finding("black", "warning", "a", 2, ("/x/1.png", "/x/2.png", "/x/3.png"), "2 images are black", "FID", 9)
    return asdict(replace(usual, **values))


def test_lines_for_the_terminal() -> None:
    shown = lines(
        [
            finding(),
            finding(where="b"),
            finding(kind="size", severity="note"),
            finding(kind="blanked"),  # the table's notes say so already
            finding(kind="checksum", severity="error", message="1 file", files=()),
        ]
    )
    assert shown == [
        "lint: error: a: 1 file: FID",
        "lint: warning: 2 cells (a, ...): 2 images are black [1.png, 2.png]: FID",
    ]


def test_many_findings_are_counted() -> None:
    shown = lines([finding(message=f"{i}") for i in range(30)], limit=10)
    assert len(shown) == 10
    assert shown[-1] == "lint: 21 more findings: see the report or results.json"


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_a_run_keeps_its_findings_and_prints_them(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    copied(clean)
    black(clean)
    overrides = [
        "model=[folder]",
        f"model.folder.path={clean}",
        "sampler=[]",
        "prompts=[]",
        "exclude=[]",
        "reference=none",
        "metric=[]",
        f"store={tmp_path / 'runs'}",
        "name=t",
        f"lint={wanted}",
        "report=false",
    ]
    plan = pipeline.make_plan(resolve(compose(overrides)))
    table = pipeline.run(plan)
    results.print_results(plan, table)
    printed = capsys.readouterr().out
    kept: list[Mapping[str, Any]] = json.loads((tmp_path / "runs" / "t" / "results.json").read_text())["lint"]
    if wanted == "true":
        assert {(f["kind"], f["where"]) for f in kept} == {("duplicates", "folder"), ("black", "folder")}
        assert "lint: warning: folder: 1 of 22 images are black all over [black.png]" in printed
        assert "repeat another one exactly [copy.png, 003.png]" in printed
    else:
        assert kept == []
        assert "lint:" not in printed


def test_shuffled_folders_give_the_same_findings(tmp_path: Path) -> None:
    images = [*pictures(12), np.zeros((48, 48, 3), np.uint8), resized(picture(77, 24), 48), picture(3)]
    seen = []
    for seed in (1, 2):
        random.Random(seed).shuffle(images)
        path = folder(tmp_path / str(seed), images)
        seen.append(sorted((f.kind, f.severity, f.count, f.message) for f in found(opened(path), tmp_path)))
    assert seen[0] == seen[1]
    assert [kind for kind, *_ in seen[0]] == ["black", "duplicates", "upscaled"]
