"""Images that are in memory, in an .npy or .npz, or on their way into files."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalkit.data.npz import Npz, conversion, failures
from evalkit.data.remote import Place, Remote
from evalkit.data.source import Headers, WithoutRecords, check_count, content_digest
from evalkit.errors import DataError
from evalkit.utils.files import check_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


log = logging.getLogger(__name__)

STATISTICS = ("mu", "sigma")  # of an .npz: the moments of a reference, of which its images are often a part only


@dataclass(frozen=True, eq=False)
class ArrayImages(WithoutRecords):
    """Images that are in memory.

    Attributes:
        name: what messages call it.
        pixels: u8 [N,H,W,3].
        prompts: one text per image, or none.
        warnings: counted, as in `Source`.
        classes: of each image as text, or none.
    """

    name: str
    pixels: NDArray[np.uint8]
    prompts: Sequence[str | None] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)
    classes: Sequence[str | None] = ()

    def __post_init__(self) -> None:
        shape, dtype = list(self.pixels.shape), str(self.pixels.dtype)
        if dtype != "uint8" or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise DataError(f"{self.name}: images must be uint8 [N,H,W,3] with N >= 1, not {dtype} {shape}")
        if self.prompts and len(self.prompts) != len(self.pixels):
            raise DataError(f"{self.name}: {len(self.prompts)} prompts for {len(self.pixels)} images")
        if not self.prompts:
            object.__setattr__(self, "prompts", (None,) * len(self.pixels))

    @classmethod
    def from_npz(cls, path: Place, array: str = "arr_0", *, alone: bool = True) -> ArrayImages:
        """Images of an .npz (ADM's sample batches), all of them in memory, with their classes; never unpickled.

        Args:
            path: the file.
            array: of the images.
            alone: whether statistics in the file are left out, which is said.

        Raises:
            DataError: the file is missing, broken or a bomb, or has no such array of images; where another array can
                be made images, the message says what to type.
        """
        npz = Npz(path)
        pixels = npz.read(array)
        _check_images(path, array, pixels)
        if alone and set(STATISTICS) <= npz.sizes.keys():
            log.warning(
                "%s: the %d images in it are read; its statistics (mu, sigma), which may be of more images, are not: "
                "reference=stats uses those, reference=adm both",
                path,
                len(pixels),
            )
        return cls(str(path), pixels, classes=npz.labels(len(pixels)))

    @classmethod
    def from_npy(cls, path: Place) -> ArrayImages:
        """Images of an .npy, u8 [N,H,W,3]; mapped (a remote one is read whole); never unpickled.

        Raises:
            DataError: the file is missing, broken or cut short, or holds anything else.
        """
        import numpy as np

        with failures(path, ".npy"):
            if isinstance(path, Remote):
                with path.open() as file:
                    pixels = np.load(file, allow_pickle=False)
            else:
                check_file(path)
                pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(pixels, np.ndarray):
            raise DataError(f"{path}: not an .npy but an .npz: call it so")
        _check_images(path, "", pixels)
        return cls(str(path), pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    @functools.cached_property
    def digest(self) -> str:
        return _pixel_digest(self.pixels)

    def chunk_digest(self, chunk: range) -> str:
        if chunk not in self._digests:  # asked for by each layer of features
            self._digests[chunk] = _pixel_digest(self.pixels[chunk.start : chunk.stop])
        return self._digests[chunk]

    @functools.cached_property
    def _digests(self) -> dict[range, str]:
        return {}

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        return [self.pixels[i] for i in indices]

    def location(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def head(self, num_samples: int | None) -> ArrayImages:
        """The first `num_samples` images (none: all); ConfigError where there are fewer."""
        if num_samples is None or num_samples == len(self):
            return self
        check_count(self.name, len(self), num_samples)
        return self._part(slice(num_samples))

    def take(self, indices: Sequence[int]) -> ArrayImages:
        """Some of the images, in this order."""
        return self._part(list(indices))

    def _part(self, chosen: slice | list[int]) -> ArrayImages:
        def of(values: Sequence[str | None]) -> Sequence[str | None]:
            return values[chosen] if isinstance(chosen, slice) else [values[i] for i in chosen if values]

        return replace(self, pixels=self.pixels[chosen], prompts=of(self.prompts), classes=of(self.classes))

    @property
    def categories(self) -> Sequence[str | None]:
        return self.classes or [None] * len(self)


@dataclass(frozen=True, eq=False)
class InHand(WithoutRecords):
    """Images of files that were just written: the same chunk as the files, without reading them back.

    Attributes:
        name: what messages call them.
        images: u8 [H,W,3] each.
        sha256s: of their files.
        prompts: one text per image, or none.
        warnings: counted, as in `Source`.
    """

    name: str
    images: Sequence[NDArray[np.uint8]]
    sha256s: Sequence[str]
    prompts: Sequence[str | None]
    warnings: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def digest(self) -> str:
        return content_digest(self.sha256s)

    @property
    def chunks(self) -> Sequence[range]:
        return [range(len(self))]

    def chunk_digest(self, chunk: range) -> str:
        return content_digest(self.sha256s[chunk.start : chunk.stop])

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        return [self.images[i] for i in indices]

    def location(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def headers(self) -> Headers:
        sizes = [(image.shape[1], image.shape[0]) for image in self.images]
        return Headers(sizes=sizes, sha256s=self.sha256s)


def _pixel_digest(pixels: NDArray[np.uint8]) -> str:
    import numpy as np

    state = hashlib.sha256(f"u8 {list(pixels.shape)}".encode())
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


def _check_images(path: Place, array: str, pixels: NDArray[Any]) -> None:
    if str(pixels.dtype) != "uint8" or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        what = f"{path}: images must be uint8 [N,H,W,3] with N >= 1, not {pixels.dtype} {list(pixels.shape)}"
        raise DataError(what + conversion(path, array, pixels))
