"""What the tests of the lint share: sources, findings by kind, and faults to plant into a folder of pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pictures import Pixels, jpeg, picture, pictures, resized, save
from PIL import Image

from evalkit.data.arrays import ArrayImages
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.data.stored import StoredImages
from evalkit.lint import Finding, Watch, lint


def opened(path: Path, **options: Any) -> StoredImages:
    return open_images(path, ReadOptions(**{"mixed_sizes": True, "on_error": "skip", **options}))


def findings_of(source: Any, tmp_path: Path, reference: Any = None, **options: Any) -> list[Finding]:
    return lint({"cell": source}, reference, watch=Watch(tmp_path / "lint"), **options)


def kinds(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings}


def arrays(images: list[Pixels], name: str = "arrays", **more: Any) -> ArrayImages:
    return ArrayImages(name, np.stack(images), **more)


def prompted(texts: list[str | None]) -> ArrayImages:
    return arrays(pictures(len(texts)), prompts=texts)


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
