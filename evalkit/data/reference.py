"""What generated samples are compared with: a folder of images, the embedded digits, statistics, or nothing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evalkit.data.arrays import ArrayImages
from evalkit.data.attributes import pick_part
from evalkit.data.center_crop import CenterCropped
from evalkit.data.concat import expand
from evalkit.data.containers.hf_dataset import DatasetOpener
from evalkit.data.containers.torchvision_dataset import TorchvisionOpener
from evalkit.data.open import Opener, PathOpener, kind_of
from evalkit.data.records import EXTENSIONS, ReadOptions
from evalkit.data.remote import find_place
from evalkit.errors import ConfigError, nearest

if TYPE_CHECKING:
    from evalkit.data.moments import Moments
    from evalkit.data.source import Source


class Reference(ABC):
    """Where reference images come from. Building one is cheap; its YAML's keys are the constructor's arguments."""

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError, in one line, where the images are not there; by default it opens them.

        Args:
            fetch: whether what is missing may be downloaded; if not, a missing download is an error (a dry run).
        """
        self.open()

    @abstractmethod
    def open(self, *, cache: Path | None = None) -> Source | Moments | None:
        """The images; their statistics for `StatsReference`; none for `NoReference`.

        Raises:
            ConfigError: as `check`.
            DataError: an image, or the file of statistics, is broken.
        """


@dataclass(eq=False)
class OpenedReference(Reference):
    """Images that an opener opens, once; of these the first `num_samples` alone (none: all)."""

    opener: Opener
    num_samples: int | None = None

    def check(self, *, fetch: bool = True) -> None:
        self.opener.check(fetch=fetch)

    def open(self, *, cache: Path | None = None) -> Source:
        return self.opener.open(cache=cache).head(self.num_samples)


class FolderReference(OpenedReference):
    """The images of a folder, a .zip, .tar or .parquet, or an .npy or .npz (`arr_0`, u8 [N,H,W,3]), read in place.

    Args:
        path: where they are; a cell's folder in a store counts as well. An fsspec URL, or a pattern of several.
        num_samples: the first images alone, by relative path; none: all.
        recursive: whether folders inside it count.
        on_error: what a broken image does: "refuse", or "skip" (left out and counted).
        mixed_sizes: whether images of different sizes are accepted.
        extensions: of the files that count; none: the usual image files.
        size: every image is resized (its shorter side, Lanczos) and its middle cut out, size x size; none: as they are.
        profiles: "srgb": colours are converted by the files' profiles; "ignore": they are not, which the lint tells.
        categories: of the images: "auto" (what the files next to them say), or "folder" (the folder that each lies in).
        partition: a file that says which part each image is of (CelebA's list_eval_partition.txt); none: all count.
        part: of the partition: train, valid or test, or what else it says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_samples: int | None = None,
        recursive: bool = True,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] | None = None,
        size: int | None = None,
        profiles: Literal["ignore", "srgb"] = "ignore",
        categories: Literal["auto", "folder"] = "auto",
        partition: str | None = None,
        part: str | int | None = None,
    ) -> None:
        if (partition is None) != (part is None):
            raise ConfigError(f"reference: partition={partition}, part={part}: give both, or neither")
        if categories not in ("auto", "folder"):
            raise ConfigError(f"reference.folder.categories={categories}: give auto or folder")
        mixed_sizes, by_folder = mixed_sizes or size is not None, categories == "folder"
        kinds = extensions or EXTENSIONS
        options = ReadOptions(recursive, None, on_error, mixed_sizes, kinds, by_folder=by_folder, profiles=profiles)
        super().__init__(PathOpener(path, options), num_samples)
        self.path = find_place(path)
        self.size = size
        self.partition, self.part = partition, part

    def check(self, *, fetch: bool = True) -> None:
        self._check_there()
        super().check(fetch=fetch)

    def _check_there(self) -> None:
        if isinstance(self.path, Path) and not self.path.exists() and expand(self.path) is None:
            kind = "file" if kind_of(self.path) else "folder"
            raise ConfigError(f"there is no {kind} of reference images {self.path}: check reference.folder.path")

    def open(self, *, cache: Path | None = None) -> Source:
        self._check_there()
        images = self.opener.open(cache=cache)
        if self.partition is not None and self.part is not None:
            images = pick_part(images, self.partition, self.part)
        source = images.head(self.num_samples)
        return source if self.size is None else CenterCropped(source, self.size)


class FramesReference(OpenedReference):
    """Video frames: each sub-folder is a clip, its files are numbered frames, read in natural order.

    Args:
        path: a folder of clips, or a .zip or .tar of such folders; an fsspec URL, or a pattern of several.
        every: each k-th frame of a clip.
        frames: at most so many of these per clip; none: all.
        num_samples, on_error, mixed_sizes, extensions: as of `FolderReference`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        frames: int | None = None,
        num_samples: int | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
        extensions: Sequence[str] | None = None,
    ) -> None:
        options = ReadOptions(True, None, on_error, mixed_sizes, extensions or EXTENSIONS, True, every, frames)
        super().__init__(PathOpener(path, options), num_samples)


class DatasetReference(OpenedReference):
    """Images of a Hugging Face dataset (`pip install 'evalkit[datasets]'`): arguments as of `DatasetOpener` and
    `ReadOptions`, and `num_samples`: the first images alone."""

    def __init__(
        self,
        name: str,
        split: str = "train",
        image: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        num_samples: int | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
    ) -> None:
        options = ReadOptions(prompts=None, on_error=on_error, mixed_sizes=mixed_sizes)
        super().__init__(DatasetOpener(name, split, image, "auto", config, revision, options), num_samples)


class VisionReference(OpenedReference):
    """Images of a torchvision dataset: arguments as of `TorchvisionOpener` and `ReadOptions`, and `num_samples`: the
    first images alone."""

    def __init__(
        self,
        name: str,
        root: str | None = None,
        split: str | None = None,
        download: bool = False,
        options: Mapping[str, Any] | None = None,
        num_samples: int | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        mixed_sizes: bool = False,
    ) -> None:
        reading = ReadOptions(prompts=None, on_error=on_error, mixed_sizes=mixed_sizes)
        super().__init__(TorchvisionOpener(name, root, split, download, dict(options or {}), reading), num_samples)


@dataclass(eq=False)
class DigitsReference(Reference):
    """The 5,000 held-out captioned digits that ship with the package, u8 [32,32,3], with their captions and classes.

    Args:
        style: the same digits in an ink style (evalkit/digits/data.py); none: plain.
    """

    style: str | None = None

    def check(self, *, fetch: bool = True) -> None:
        from evalkit.digits import REFERENCE
        from evalkit.digits.data import STYLES

        if self.style not in (None, *STYLES):
            raise ConfigError(f"reference: the digits have no style '{self.style}'. {nearest(str(self.style), STYLES)}")
        if not REFERENCE.is_file():
            raise ConfigError(f"the embedded reference {REFERENCE} is missing: install evalkit again")

    def open(self, *, cache: Path | None = None) -> ArrayImages:
        import numpy as np

        from evalkit.digits.data import DIGIT_WORDS, reference_images

        self.check()
        images, captions = reference_images(style=self.style)  # u8 [N,3,32,32]
        pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # NCHW -> NHWC
        name = "the digits reference" + (f" ({self.style})" if self.style else "")
        classes = tuple(DIGIT_WORDS[caption.digit] for caption in captions)
        return ArrayImages(name, pixels, tuple(caption.text for caption in captions), classes=classes)


class StatsReference(Reference):
    """Published statistics, mean and covariance, of the reference's features: for Frechet distances alone.

    Args:
        path: an .npz of pytorch-fid, clean-fid, EDM (`mu`, `sigma`), ADM (`mu_s`, `sigma_s` as well) or evalkit;
            an fsspec URL counts as well.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = find_place(path)

    def open(self, *, cache: Path | None = None) -> Moments:
        from evalkit.data.moments import read_moments

        return read_moments(self.path)


@dataclass(frozen=True, eq=False)
class ImagesAndMoments(ArrayImages):
    """Images, and the moments of a set that they are a part of: two references in one.

    Attributes:
        moments: for metrics that take the moments of their layers; others are given the images.
        labelled: how the samples' classes were chosen belongs to the protocol.
    """

    moments: Moments | None = None
    labelled: ClassVar[bool] = True


class AdmReference(Reference):
    """A reference batch of ADM's evaluator: `mu`, `sigma`, `mu_s` and `sigma_s` of a whole data set, and images of it.

    FID and sFID go by the moments, precision, recall and all else by the images (`arr_0`, u8 [N,H,W,3]), as
    openai/guided-diffusion's `evaluations/evaluator.py` does. Nothing says which network the moments are of: they are
    those of Inception's pool3 and mixed_6/conv (7 channels).

    Args:
        path: such as VIRTUAL_imagenet256_labeled.npz; an fsspec URL counts as well.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = find_place(path)

    def check(self, *, fetch: bool = True) -> None:
        if not self.path.is_file():
            raise ConfigError(f"there is no reference batch {self.path}: check reference.adm.path")

    def open(self, *, cache: Path | None = None) -> ImagesAndMoments:
        from evalkit.data.moments import read_moments

        self.check()
        moments = replace(read_moments(self.path, quiet=True), features="inception/pool3")
        images = ArrayImages.from_npz(self.path, alone=False)
        return ImagesAndMoments(images.name, images.pixels, classes=images.classes, moments=moments)


class NoReference(Reference):
    """No reference images: only metrics of the generated samples alone apply."""

    def open(self, *, cache: Path | None = None) -> None:
        return None
