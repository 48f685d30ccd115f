"""Samples as they come, one index each, in the chunks that a set of files has: the same chunks give the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evalkit.data.source import CHUNK, WithoutRecords, content_digest
from evalkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(eq=False)
class Collected(WithoutRecords):
    """A `Source` that grows. Images of a chunk may be let go once its features are there.

    Attributes:
        name: what messages call it.
        warnings: none.
    """

    name: str
    warnings: Mapping[str, int] = field(default_factory=dict)
    _images: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False)
    _sha256s: dict[int, str] = field(default_factory=dict, init=False)
    _prompts: dict[int, str | None] = field(default_factory=dict, init=False)

    def add(self, index: int, image: NDArray[np.uint8], prompt: str | None) -> None:
        """One sample, u8 [H,W,3]; the memory of the image becomes this set's.

        Raises:
            DataError: a negative index, or one that is there with another image.
        """
        state = hashlib.sha256(f"u8 {list(image.shape)}".encode())
        state.update(image.data if image.flags.c_contiguous else image.tobytes())
        sha256 = state.hexdigest()
        if index < 0:
            raise DataError(f"{self.name}: index {index}: samples are numbered from 0")
        if self._sha256s.get(index, sha256) != sha256:
            raise DataError(f"{self.name}: there are two images of index {index}: reset() begins anew")
        self._sha256s[index], self._prompts[index] = sha256, prompt
        self._images[index] = image

    def __len__(self) -> int:
        return len(self._sha256s)

    def check_whole(self) -> None:
        """DataError where indices are missing."""
        if self._sha256s and max(self._sha256s) != len(self) - 1:
            gaps = [i for i in range(max(self._sha256s)) if i not in self._sha256s]
            shown = ", ".join(map(str, gaps[:3])) + (f" and {len(gaps) - 3} more" if len(gaps) > 3 else "")
            raise DataError(f"{self.name}: no image of index {shown}: give each index from 0 once")

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of the images that are held, each once."""
        return sorted({(image.shape[1], image.shape[0]) for image in self._images.values()})

    @property
    def digest(self) -> str:
        return content_digest(self._sha256s[i] for i in range(len(self)))

    def chunk_digest(self, chunk: range) -> str:
        return content_digest(self._sha256s[i] for i in chunk)

    @property
    def prompts(self) -> Sequence[str | None]:
        return [self._prompts.get(i) for i in range(max(self._prompts, default=-1) + 1)]  # indices come in any order

    def known(self) -> tuple[dict[int, str], dict[int, str | None]]:
        """By index the sha256s and the prompts of the samples."""
        return dict(self._sha256s), dict(self._prompts)

    def with_others(self, others: Sequence[tuple[Mapping[int, str], Mapping[int, str | None]]]) -> Collected:
        """These samples and those of others, each `known`; the pixels that are held are shared with this set.

        Raises:
            DataError: two have other images of one index.
        """
        whole = Collected(self.name)
        whole._images = self._images
        for number, (sha256s, prompts) in enumerate(others):
            for index, sha256 in sha256s.items():
                if whole._sha256s.setdefault(index, sha256) != sha256:
                    raise DataError(
                        f"{self.name}: rank {number} has another image of index {index}: give each index once"
                    )
            whole._prompts |= prompts
        return whole

    def hold(self, images: Mapping[int, NDArray[np.uint8]]) -> None:
        """Takes the pixels of samples that are known."""
        self._images |= images

    def whole_chunk(self, index: int) -> range | None:
        """The chunk of a sample, where all its images are held; else none."""
        start = index // CHUNK * CHUNK
        chunk = range(start, start + CHUNK)
        return chunk if all(i in self._images for i in chunk) else None

    def let_go(self, chunk: range) -> None:
        """Forgets a chunk's pixels."""
        for index in chunk:
            self._images.pop(index, None)

    def held(self) -> list[int]:
        """The samples whose pixels are held, in order."""
        return sorted(self._images)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        try:
            return [self._images[i] for i in indices]
        except KeyError as error:
            raise DataError(f"{self.name}: the pixels of sample {error} were let go: give keep_images=True") from None

    def location(self, index: int) -> str:
        return f"{self.name}[{index}]"
