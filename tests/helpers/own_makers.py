"""Makers of images as people write them: functions and classes without any knowledge of evalkit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw(text: Any, seed: int, top: int = 255) -> np.ndarray:
    rng = np.random.default_rng([seed, *str(text).encode()])
    return rng.integers(0, top + 1, (8, 8, 3), dtype=np.uint8)


def as_list(prompts: list[str], seeds: list[int], top: int = 255) -> list[Image.Image]:
    return [Image.fromarray(draw(p, s, top)) for p, s in zip(prompts, seeds, strict=True)]


def as_array(prompts: list[str], seeds: list[int]) -> np.ndarray:
    return np.stack([draw(p, s) for p, s in zip(prompts, seeds, strict=True)])


def of_arrays(prompts: list[str], seeds: list[int]) -> list[np.ndarray]:
    return list(as_array(prompts, seeds))


def with_negatives(prompts: list[str], seeds: list[int], negative_prompts: list[str | None]) -> np.ndarray:
    return as_array([f"{p}/{n}" for p, n in zip(prompts, negative_prompts, strict=True)], seeds)


class Maker:
    """Built once, called often."""

    def __init__(self, top: int = 255, log: str | None = None, fails_at: int | None = None) -> None:
        self.top, self.log, self.fails_at, self.calls = top, log, fails_at, 0
        self.say("built")

    def say(self, line: str) -> None:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(line + "\n")

    def __call__(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the service is down")
        self.say(" ".join(str(s) for s in seeds))
        return as_list(prompts, seeds, self.top)


def wrong(prompts: list[str], seeds: list[int], kind: str) -> Any:
    images = as_array(prompts, seeds)
    return {
        "floats": images / 255,
        "few": images[:-1],
        "grey": images[..., 0],
        "sizes": [images[0], *(image[:4] for image in images[1:])],
        "nothing": None,
        "strings": ["a.png"] * len(prompts),
        "channels_first": list(images.transpose(0, 3, 1, 2)),
    }[kind]


NOT_CALLABLE = 3


class NoCall:
    pass


def no_seeds(prompts: list[str]) -> None:
    pass
