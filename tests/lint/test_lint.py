"""The lint: planted faults are found and named, and clean sets are left in peace."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc import rgb_profile
from lint_faults import (
    arrays,
    black,
    broken,
    cmyk,
    constant,
    copied,
    encoded_again,
    enlarged,
    findings_of,
    grey,
    kinds,
    lossy,
    noisier,
    of_0_to_1,
    opened,
    other_size,
    palette,
    prompted,
    recompressed,
    sixteen_bits,
    transparent,
    wrong_checksum,
)
from pictures import Pixels, folder, picture, pictures, resized, save
from PIL import Image

from evalkit.data.reference import DigitsReference
from evalkit.lint import Asked, Watch, lint
from evalkit.prompts.images import PromptImages

COUNT = 20


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return folder(tmp_path / "set", pictures(COUNT))


# Clean sets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_clean_folders_are_left_in_peace(tmp_path: Path, suffix: str) -> None:
    own = folder(tmp_path / "a", pictures(COUNT), suffix)
    other = folder(tmp_path / "b", pictures(COUNT, seed=1), suffix)
    assert findings_of(opened(own), tmp_path, opened(other)) == []


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
    assert findings_of(opened(tmp_path / "a"), tmp_path, opened(tmp_path / "b")) == []


def test_the_digits_of_one_class_look_alike_and_are_left_in_peace(tmp_path: Path) -> None:
    assert lint({}, DigitsReference().open(), watch=Watch(tmp_path)) == []


# Faults that are planted ---------------------------------------------------------------------------------------------


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
    findings = kinds(findings_of(opened(clean), tmp_path))
    assert findings.keys() - {"grey"} == {kind} - {"grey"}  # the 16-bit file is grey as well
    assert str(clean / name) in findings[kind].files
    assert findings[kind].count == 1
    assert effect in findings[kind].effect
    assert "\n" not in findings[kind].message + findings[kind].effect


def test_all_faults_in_one_folder_are_found(clean: Path, tmp_path: Path) -> None:
    names = {plant.__name__: (plant(clean), kind) for plant, kind, _ in PLANTED}
    named: dict[str, set[str]] = {}
    for finding in findings_of(opened(clean), tmp_path):
        named.setdefault(finding.kind, set()).update(Path(file).name for file in finding.files)
    for name, kind in names.values():
        assert name in named[kind], f"{name} is not named by {kind}: {named.get(kind)}"


def test_the_finding_counts_what_the_folder_holds(clean: Path, tmp_path: Path) -> None:
    for i in range(12):
        save(clean / f"black{i}.png", np.zeros((48, 48, 3), np.uint8))
    finding = kinds(findings_of(opened(clean), tmp_path))["black"]
    assert (finding.count, finding.of, len(finding.files), finding.severity) == (12, 32, 5, "warning")
    assert finding.message == "12 of 32 images are black all over"
    for i in range(12):
        save(clean / f"more{i}.png", np.zeros((48, 48, 3), np.uint8))
    assert kinds(findings_of(opened(clean), tmp_path))["black"].severity == "error"


# Beside the reference ------------------------------------------------------------------------------------------------


def test_sizes_that_differ_from_the_reference(clean: Path, tmp_path: Path) -> None:
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, 64, seed=1)))
    finding = kinds(findings_of(opened(clean), tmp_path, reference))["size"]
    assert finding.message == "images are 48x48, those of the reference 64x64"
    assert finding.count == COUNT


def test_png_against_jpeg(clean: Path, tmp_path: Path) -> None:
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, seed=1), ".jpg"))
    findings = kinds(findings_of(opened(clean), tmp_path, reference))
    assert findings.keys() == {"format"}
    assert findings["format"].message == "images are PNG, those of the reference JPEG"
    assert str(clean / "000.png") in findings["format"].files


def test_jpegs_of_other_qualities(clean: Path, tmp_path: Path) -> None:
    def side(name: str, quality: int) -> Any:
        (tmp_path / name).mkdir()
        for i, pixels in enumerate(pictures(COUNT, seed=quality)):
            Image.fromarray(pixels).save(tmp_path / name / f"{i:03d}.jpg", quality=quality)
        return opened(tmp_path / name)

    at_95 = side("b", 95)
    finding = kinds(findings_of(side("a", 75), tmp_path, at_95))["format"]
    assert finding.message == "JPEGs of quality 75 or so (the median), those of the reference of 95"
    assert (finding.severity, finding.count) == ("warning", COUNT)
    assert "format" not in kinds(findings_of(side("c", 92), tmp_path, at_95))


def test_every_image_twice(clean: Path, tmp_path: Path) -> None:
    """Two workers with one seed: N counts each image twice, so that standard errors are sqrt(2) times too small."""
    for path in list(clean.iterdir()):
        shutil.copy(path, clean / f"again-{path.name}")
    finding = kinds(findings_of(opened(clean), tmp_path))["duplicates"]
    assert finding.message.startswith("every image occurs 2 times (workers that share a seed?): 40 images, of which 20")
    assert finding.effect.startswith("standard errors are 1.41 times too small: N is 20")
    assert (finding.severity, finding.count) == ("error", COUNT)
    save(clean / "one more.png", picture(50))
    assert kinds(findings_of(opened(clean), tmp_path))["duplicates"].message.startswith("20 of 41 images repeat")


def test_pictures_that_are_no_samples(clean: Path, tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic", "000.mask.png"):
        shutil.copy(clean / "000.png", clean / name)
    finding = kinds(findings_of(opened(clean), tmp_path))["left_out"]
    assert finding.message == "3 pictures in it are no samples: 2 .heic (a.heic), 1 masks next to images (000.mask.png)"
    assert (finding.severity, finding.count, finding.of) == ("warning", 3, COUNT)
    for name in ("a.heic", "b.heic"):
        (clean / name).unlink()
    assert kinds(findings_of(opened(clean), tmp_path))["left_out"].severity == "note"


def test_colour_profiles(clean: Path, tmp_path: Path) -> None:
    for i in (3, 4):
        Image.fromarray(picture(i)).save(clean / f"{i:03d}.png", icc_profile=rgb_profile("Wide"))
    Image.fromarray(picture(5)).save(clean / "005.png", icc_profile=rgb_profile("Other", gamma=1.8))
    finding = kinds(findings_of(opened(clean), tmp_path))["profile"]
    words = f"3 of {COUNT} images have a colour profile that is not sRGB (2 Wide, 1 Other), which is not applied"
    assert (finding.message, finding.severity) == (words, "warning")
    assert "profiles=srgb" in finding.effect
    converted = kinds(findings_of(opened(clean, profiles="srgb"), tmp_path))["profile"]
    assert (converted.severity, "were converted" in converted.message) == ("note", True)


def test_samples_that_are_their_own_source(clean: Path, tmp_path: Path) -> None:
    """Copied, copied at another size, nearly kept, and really edited."""
    sources = [*pictures(6, seed=7), picture(99, 96)]
    near = np.clip(sources[2] + np.random.default_rng(0).normal(2, 5, (48, 48, 3)), 0, 255).astype(np.uint8)
    samples = arrays([sources[0], picture(60), near, *pictures(3, seed=8), resized(sources[6], 48)])
    paths = [tmp_path / f"source{i}.png" for i in range(7)]
    for path, pixels in zip(paths, sources, strict=True):
        save(path, pixels)
    own = PromptImages("the source images", tuple(paths), [None] * 7)

    def found() -> list[Any]:
        all_of_them = findings_of(samples, tmp_path, made_from={"cell": {"source": own}})
        return [finding for finding in all_of_them if finding.kind == "source_copied"]

    same, nearly = found()
    assert (same.message, same.severity) == ("2 of 7 samples are their own source image", "warning")
    assert same.files == ("arrays[0]", "arrays[6]")
    assert (nearly.message, nearly.severity) == ("1 of 7 samples show nearly their own source image", "note")
    for path in paths:
        path.write_bytes(b"gone")  # a finished run decodes nothing
    assert found() == [same, nearly]


def test_grey_against_colour(tmp_path: Path) -> None:
    greys = [np.repeat(image[..., :1], 3, axis=2) for image in pictures(COUNT, seed=1)]
    findings = kinds(findings_of(arrays(greys), tmp_path, arrays(pictures(COUNT), "ref")))
    assert findings.keys() == {"grey"}
    assert "generated are grey" in findings["grey"].message
    assert "the reference are grey" in findings_of(arrays(pictures(COUNT)), tmp_path, arrays(greys, "ref"))[0].message


def test_images_of_the_reference_among_the_samples(clean: Path, tmp_path: Path) -> None:
    save(clean / "leak.png", picture(10_004))
    reference = opened(folder(tmp_path / "ref", pictures(COUNT, seed=1)))
    finding = kinds(findings_of(opened(clean), tmp_path, reference))["in_reference"]
    assert (finding.files, finding.count, finding.severity) == ((str(clean / "leak.png"),), 1, "warning")
    assert kinds(findings_of(reference, tmp_path, reference))["in_reference"].severity == "error"


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
    findings = kinds(findings_of(arrays(wrong), tmp_path, reference))
    assert words in findings["range"].message
    assert findings_of(arrays(stretched(3)), tmp_path, reference) == []
    assert kinds(findings_of(arrays(wrong), tmp_path, arrays(wrong[:-1], "alike"))).keys() <= {"in_reference"}


def test_two_cells_of_the_same_images(clean: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(clean, twin)
    findings = lint({"a": opened(clean), "b": opened(twin)}, None, watch=Watch(tmp_path / "lint"))
    assert [(f.kind, f.where) for f in findings] == [("same_images", "b")]
    assert "those of a" in findings[0].message


# Prompts -------------------------------------------------------------------------------------------------------------


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
        (
            ["a red fox"],
            Asked(texts=("a (red:1.2) fox<lora:b:1>", "c")),
            "1 of 2 prompts of the set have no",
            1,
            "warning",
        ),
        (["a", "a", "b", "b", "c"], Asked(), "1 to 2 images per prompt: 1 of 3 prompts have not 2", 1, "warning"),
        ([None, None], Asked(count=5), "2 images for 5 prompts", 3, "note"),
    ],
)
def test_prompts(
    texts: list[str | None], asked: Asked, message: str, count: int, severity: str, tmp_path: Path
) -> None:
    (finding,) = findings_of(prompted(texts), tmp_path, asked={"cell": asked})
    assert finding.kind == "prompts"
    assert message in finding.message
    assert (finding.count, finding.severity) == (count, severity)


def test_prompts_that_the_other_cells_show_are_missed(tmp_path: Path) -> None:
    whole, short = prompted(["a", "b", "c", "d"]), prompted(["a", "b", "d"])
    strange = prompted(["p", "q"])  # of another set
    findings = lint({"whole": whole, "short": short, "strange": strange}, None, watch=Watch(tmp_path))
    prompts = [finding for finding in findings if finding.kind == "prompts"]
    assert [(f.where, f.count) for f in prompts] == [("short", 1)]
    assert "'c'" in prompts[0].message


def test_even_prompts_are_left_in_peace(tmp_path: Path) -> None:
    asked = {"cell": Asked(texts=("a", "b"))}
    assert findings_of(prompted(["a", "b", "a", "b"]), tmp_path, asked=asked) == []
    assert findings_of(prompted([None] * 4), tmp_path, asked=asked) == []
