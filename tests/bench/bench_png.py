"""Which PNG encoder? `python tests/bench/bench_png.py` prints time and size of fpng and of Pillow, and the longest time
that another thread waits for the GIL meanwhile. Not a test: it takes half a minute and depends on the machine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from evalkit.data.codec import encode_png

U8 = NDArray[np.uint8]


def noise(side: int, seed: int) -> U8:
    """What no encoder can compress."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def photo_like(side: int, seed: int) -> U8:
    """Smooth shapes with a little sensor noise, as a photograph or a diffusion sample has."""
    rng = np.random.default_rng(seed)
    blurred = Image.fromarray(noise(side, seed)).filter(ImageFilter.GaussianBlur(side / 24))
    pixels = np.asarray(blurred).astype(np.float64)
    pixels = (pixels - pixels.mean()) * (60 / max(pixels.std(), 1e-9)) + 128 + rng.normal(0, 2.0, pixels.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def pillow(level: int) -> Callable[[U8], bytes]:
    def encode(pixels: U8) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
        return buffer.getvalue()

    return encode


def seconds_each(encode: Callable[[U8], bytes], images: list[U8]) -> float:
    """Median over the images, each the best of three."""
    times = []
    for pixels in images:
        best = min(_timed(encode, pixels) for _ in range(3))
        times.append(best)
    return float(np.median(times))


def _timed(encode: Callable[[U8], bytes], pixels: U8) -> float:
    began = time.perf_counter()
    encode(pixels)
    return time.perf_counter() - began


def longest_wait(encode: Callable[[U8], bytes], pixels: U8) -> float:
    """The longest pause of another Python thread while one large image is encoded."""
    pauses: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            now = time.perf_counter()
            pauses.append(now - last)
            last = now
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    time.sleep(0.05)
    pauses.clear()
    encode(pixels)
    stop.set()
    thread.join()
    return max(pauses)


def main() -> None:
    encoders = {"fpng": encode_png, "Pillow, level 1": pillow(1), "Pillow, default (6)": pillow(6)}
    print("| image | encoder | ms an image | images/s | bytes an image | of the pixels |")
    print("|---|---|---:|---:|---:|---:|")
    for kind, make in (("noise", noise), ("photo-like", photo_like)):
        for side in (32, 256):
            images = [make(side, seed) for seed in range(20)]
            for name, encode in encoders.items():
                for pixels in images:
                    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))), pixels)
                seconds = seconds_each(encode, images)
                size = float(np.mean([len(encode(pixels)) for pixels in images]))
                share = size / (side * side * 3)
                speed = f"{seconds * 1e3:.3f} | {1 / seconds:.0f}"
                print(f"| {kind} {side}x{side} | {name} | {speed} | {size:.0f} | {share:.0%} |")
    large = noise(2048, 0)
    for name, encode in encoders.items():
        total, wait = _timed(encode, large), longest_wait(encode, large)
        print(f"{name}: 2048x2048 noise takes {total * 1e3:.0f} ms; another thread waits at most {wait * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
