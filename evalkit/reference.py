"""What generated samples are compared with: a folder of images, the embedded digits, statistics, or nothing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evalkit.errors import ConfigError, nearest
from evalkit.paths import resolve_path

if TYPE_CHECKING:
    from evalkit.moments import Moments
    from evalkit.opening import Opening
    from evalkit.readers import ArrayImages, FolderImages, Source

ON_ERROR = ("refuse", "skip")


class Reference(ABC):
    """Where reference images come from. Building one is cheap; its YAML's keys are the constructor's arguments."""

    @abstractmethod
    def check(self) -> None:
        """Raises ConfigError, in one line, where the images are not there. Cheap; before any work."""

    @abstractmethod
    def open(self, *, cache: Path | None = None) -> Source | Moments | None:
        """The images; their statistics for `StatsReference`; none for `NoReference`.

        Raises:
            ConfigError: as `check`.
            DataError: an image, or the file of statistics, is broken.
        """


class FolderReference(Reference):
    """The images of a folder, a .zip, .tar or .parquet, or an .npy or .npz (`arr_0`, u8 [N,H,W,3]), read in place.

    Args:
        path: where they are; a cell's folder in a store counts as well.
        num_samples: the first images alone, by relative path; none: all.
        recursive: whether folders inside it count.
        on_error: what a broken image does: "refuse", or "skip" (left out and counted).
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count; none: the usual image files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_samples: int | None = None,
        recursive: bool = True,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] | None = None,
    ) -> None:
        if on_error not in ON_ERROR:
            raise ConfigError(f"reference.folder.on_error={on_error}: {nearest(str(on_error), ON_ERROR)}")
        self.path = resolve_path(path)
        self.num_samples = num_samples
        self.recursive = recursive
        self.on_error: Literal["refuse", "skip"] = on_error
        self.mixed_sizes = mixed_sizes
        self.extensions = extensions

    def check(self) -> None:
        kind = "file" if self._opening().kind else "folder"
        if not (self.path.is_file() if kind == "file" else self.path.is_dir()):
            raise ConfigError(f"there is no {kind} of reference images {self.path}: check reference.folder.path")

    def open(self, *, cache: Path | None = None) -> FolderImages | ArrayImages:
        self.check()
        return self._opening().open(cache=cache).head(self.num_samples)

    def _opening(self) -> Opening:
        from evalkit.folders import EXTENSIONS
        from evalkit.opening import Opening

        return Opening(
            self.path,
            self.recursive,
            None,  # what they show is not asked for by text
            self.on_error,
            self.mixed_sizes,
            self.extensions or EXTENSIONS,
        )


class DigitsReference(Reference):
    """The 5,000 held-out captioned digits that ship with the package, u8 [32,32,3], with their captions."""

    def check(self) -> None:
        from evalkit.digits import REFERENCE

        if not REFERENCE.is_file():
            raise ConfigError(f"the embedded reference {REFERENCE} is missing: install evalkit again")

    def open(self, *, cache: Path | None = None) -> ArrayImages:
        import numpy as np

        from evalkit.digits.data import reference_images
        from evalkit.readers import ArrayImages

        self.check()
        images, captions = reference_images()  # u8 [N,3,32,32]
        pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # NCHW -> NHWC
        return ArrayImages("the digits reference", pixels, tuple(caption.text for caption in captions))


class StatsReference(Reference):
    """Published statistics, mean and covariance, of the reference's features: for Frechet distances alone.

    Args:
        path: an .npz of pytorch-fid, clean-fid, EDM (`mu`, `sigma`), ADM (`mu_s`, `sigma_s` as well) or evalkit.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = resolve_path(path)

    def check(self) -> None:
        self.open()

    def open(self, *, cache: Path | None = None) -> Moments:
        from evalkit.moments import read_moments

        return read_moments(self.path)


class NoReference(Reference):
    """No reference images: only metrics of the generated samples alone apply."""

    def check(self) -> None:
        return

    def open(self, *, cache: Path | None = None) -> None:
        return None
