"""How images at a place are read, and what a scan finds of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.data.concat import natural_key
from evalkit.data.profiles import CHOICES
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.utils.files import Stamp

EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
ON_ERROR = ("refuse", "skip")
Reader = Callable[[str], bytes]  # a file's bytes by its name in the container


@dataclass(frozen=True, slots=True)  # slots: there may be a million
class FileRecord:
    """What a scan found of one file; valid as long as its stamp is the same.

    Attributes:
        stamp: what tells whether the file changed; of a local file its size, times and inode.
        width, height: 0 where there is an error.
        notes, format, mode: see `evalkit.data.codec`.
        error: why it cannot be read, naming the file; none: it can.
        decoded: whether all of it was decoded, or its header alone.
        parameters: what the file says that it was made with (`evalkit.data.png_parameters`), or none.
        profile: what its colour profile is called, where it has one that is not sRGB's.
        quality: of a JPEG, about, as its quantisation tables tell.
    """

    stamp: Stamp
    sha256: str
    width: int
    height: int
    notes: tuple[str, ...]
    format: str
    mode: str
    error: str | None
    decoded: bool
    parameters: Mapping[str, Any] | None
    profile: str | None = None
    quality: int | None = None


def folder_of(name: str) -> str:
    """The folder that a relative posix path lies in; "." at the top."""
    return name.rpartition("/")[0] or "."


@dataclass(frozen=True)
class ReadOptions:
    """How images at a place are read.

    Attributes:
        recursive: whether folders inside it count.
        prompts: where the images' texts are: "auto", none, "sidecar" or a metadata file
            (`evalkit.data.sidecars.find_prompts`); of a table "auto", none, or a column's name.
        on_error: what a broken image does. "skip" decodes every file once, leaves broken ones out and counts them
            ("skipped"); "refuse" finds a broken header at once and damage behind it when the image is read.
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count, in any case.
        by_folder: whether an image's class is the folder that it lies in.
        every: the images are video frames, each folder of them is a clip, and each k-th frame is read, the first
            included; none: they are no frames, and all are read.
        frames: at most so many of these per clip, from its start; none: all.
        profiles: "srgb": colours are converted to sRGB by the files' profiles; "ignore": the files' numbers are scored.

    Raises:
        ConfigError: an option has a value that it cannot have.
    """

    recursive: bool = True
    prompts: str | None = "auto"
    on_error: Literal["refuse", "skip"] = "refuse"
    mixed_sizes: bool = False
    extensions: Sequence[str] = EXTENSIONS
    by_folder: bool = False
    every: int | None = None
    frames: int | None = None
    profiles: Literal["ignore", "srgb"] = "ignore"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ConfigError(f"on_error={self.on_error!r}: {nearest(str(self.on_error), ON_ERROR)}")
        if self.profiles not in CHOICES:
            raise ConfigError(f"profiles={self.profiles!r}: {nearest(str(self.profiles), CHOICES)}")
        for name, value in (("every", self.every), ("frames", self.frames)):
            if value is not None:
                whole_number(value, name)

    def choose(self, names: list[str]) -> list[str]:
        """Of all names those that are read; clips and frames in natural order ("frame2" before "frame10")."""
        if self.every is None:
            return names
        clips: dict[str, list[str]] = {}
        for name in names:
            clips.setdefault(folder_of(name), []).append(name)
        ordered = (sorted(clips[clip], key=natural_key) for clip in sorted(clips, key=natural_key))
        return [name for frames in ordered for name in frames[:: self.every][: self.frames]]
