"""What the lint tells and what it costs: `python tests/bench/bench_lint.py [part ...]`, parts near, enlarged, speed.

CIFAR-10 is read from EVALKIT_SHARED_DATA (cifar10-test-jpeg.zip), else from ../shared/data beside the repo.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from pictures import Pixels, folder, jpeg, picture, resized

from evalkit.data.open import open_images
from evalkit.data.reference import DigitsReference
from evalkit.lint import Watch, lint
from evalkit.lint.pixels import contrasts, near_duplicates, thumbnails
from evalkit.lint.upscaling import UpscalingEvidence

KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}


def cifar() -> Pixels:
    """The 10,000 test images, u8 [N,32,32,3]."""
    shared = os.environ.get("EVALKIT_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    with zipfile.ZipFile(Path(shared) / "cifar10-test-jpeg.zip") as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names])


def photographs(side: int) -> list[Pixels]:
    """Overlapping crops of scikit-learn's two photographs; none where it is not installed."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        return []
    crops = []
    for name in ("china.jpg", "flower.jpg"):
        image = load_sample_image(name)
        for y in range(0, image.shape[0] - side + 1, side // 2):
            crops += [image[y : y + side, x : x + side] for x in range(0, image.shape[1] - side + 1, side // 2)]
    return crops


def blurred(pixels: Pixels, radius: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def distance(first: Pixels, second: Pixels) -> float:
    """r.m.s. difference of two thumbnails, in parts of the smaller contrast."""
    rms = np.sqrt(((first.astype(np.float32) - second) ** 2).mean())
    return float(rms / contrasts(np.stack([first, second])).min())


def closest(thumbs: Pixels) -> float:
    """The smallest distance of two images of a set."""
    contrast = contrasts(thumbs)
    rows = thumbs.reshape(len(thumbs), -1).astype(np.float32) - 128
    squares = (rows**2).sum(axis=1)
    best = np.inf
    for i in range(0, len(rows), 500):
        square = squares[i : i + 500, None] + squares - 2 * rows[i : i + 500] @ rows.T
        apart = np.sqrt(np.maximum(square, 0) / rows.shape[1]) / np.minimum(contrast[i : i + 500, None], contrast)
        apart[np.arange(len(apart)), i + np.arange(len(apart))] = np.inf
        best = min(best, float(apart.min()))
    return best


def bench_near() -> None:
    digits = DigitsReference().open().pixels
    for name, images in (("CIFAR-10", cifar()), ("the digits reference", digits)):
        pairs = len(near_duplicates(images))
        print(f"{name}: {len(images)} images, closest pair {closest(images):.3f} of the contrast, {pairs} called near")
    rng = np.random.default_rng(0)
    changes: dict[str, Callable[[Pixels], Pixels]] = {
        "JPEG, quality 75": lambda x: jpeg(x, 75),
        "JPEG, quality 50": lambda x: jpeg(x, 50),
        "made smaller by 3/4": lambda x: resized(x, 192),
        "noise of 3 levels": lambda x: np.clip(x + rng.normal(0, 3, x.shape), 0, 255).astype(np.uint8),
        "5 levels brighter": lambda x: np.clip(x.astype(int) + 5, 0, 255).astype(np.uint8),
    }
    sources = photographs(256) or [picture(i, 256) for i in range(30)]
    for name, change in changes.items():
        apart = [distance(*thumbnails(x[None]), *thumbnails(change(x)[None])) for x in sources]
        print(f"  256 pixels, {name}: at most {max(apart):.3f}")
    apart = [distance(x, jpeg(x, 75)) for x in digits[::50]]
    print(f"  the digits (32 pixels), JPEG, quality 75: median {np.median(apart):.3f}")


def told(images: list[Pixels]) -> tuple[int, int]:
    """Images called enlarged one by one, and with the set's help."""
    seen = UpscalingEvidence(*images[0].shape[:2])
    for start in range(0, len(images), 32):
        block = images[start : start + 32]
        seen.add(list(range(start, start + len(block))), np.stack(block))
    return len(seen.single), len(seen.found())


def bench_enlarged() -> None:
    images = list(cifar())
    digits = list(DigitsReference().open().pixels)
    print("false alarms (one by one, as a set):")
    clean = {"CIFAR-10": images, "the digits reference": digits}
    clean |= {f"CIFAR-10 blurred by {s}": [blurred(x, s) for x in images[::10]] for s in (0.5, 1, 1.5, 2)}
    clean |= {f"CIFAR-10 JPEG {q}": [jpeg(x, q) for x in images[::10]] for q in (90, 50, 20)}
    for side in (128, 256):
        crops = photographs(side)
        clean |= {f"photographs, {side} pixels": crops} if crops else {}
        clean |= (
            {f"  {side} pixels, blurred by {s}": [blurred(x, s) for x in crops] for s in (1, 2, 3, 4)} if crops else {}
        )
        clean |= {f"  {side} pixels, JPEG {q}": [jpeg(x, q) for x in crops] for q in (90, 75, 40, 15)} if crops else {}
    for name, source in clean.items():
        print(f"  {name}: {told(source)} of {len(source)}")
    print("CIFAR-10 enlarged, told of 100 (one by one, as a set):")
    for factor in (2, 3, 4, 8):
        for name, kernel in KERNELS.items():
            print(f"  {factor} x {name}: {told([resized(x, 32 * factor, kernel) for x in images[::100]])}")
    for quality in (95, 90, 80):
        for name, kernel in KERNELS.items():
            large = [jpeg(resized(x, 128, kernel), quality) for x in images[::100]]
            print(f"  4 x {name}, JPEG {quality}: {told(large)}")


def bench_speed(count: int = 1000, side: int = 256) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = folder(Path(temporary) / "set", [picture(i, side) for i in range(count)], compress_level=1)
        source = open_images(path)
        for what in ("reading alone", "lint", "lint again"):
            wall, cpu = time.perf_counter(), time.process_time()
            if what == "reading alone":
                for start in range(0, count, 32):
                    source.read(range(start, min(start + 32, count)))
            else:
                lint({"cell": source}, None, watch=Watch(Path(temporary) / "lint"))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            each = f"{count / wall:.0f} images/s, {cpu / count * 1e3:.2f} ms CPU each"
            print(f"{count} PNGs of {side}x{side}, {what}: {each}")


if __name__ == "__main__":
    for part in sys.argv[1:] or ("near", "enlarged", "speed"):
        {"near": bench_near, "enlarged": bench_enlarged, "speed": bench_speed}[part]()
