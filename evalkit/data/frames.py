"""Video frames as images: each folder of a set is one clip, its files are numbered frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.data.concat import natural_key
from evalkit.data.scan import folder_of
from evalkit.errors import ConfigError


@dataclass(frozen=True)
class Frames:
    """Which frames of each clip count.

    Attributes:
        every: each k-th frame, the first included, >= 1.
        count: at most so many of these a clip, from its start, >= 1; none: all.
    """

    every: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("frames", self.count)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value!r}: give a whole number >= 1")

    def choose(self, names: Sequence[str]) -> list[str]:
        """Of all frames, clips and frames in natural order ("frame2" before "frame10")."""
        clips: dict[str, list[str]] = {}
        for name in names:
            clips.setdefault(folder_of(name), []).append(name)
        chosen: list[str] = []
        for clip in sorted(clips, key=natural_key):
            chosen += sorted(clips[clip], key=natural_key)[:: self.every][: self.count]
        return chosen
