"""Samples as they come to a rank, whose features are taken chunk by chunk, and those of all ranks as one set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.loop.collected import Collected
from evalkit.loop.ranks import Ranks, check_alike
from evalkit.loop.spread import Part, bring_all_pixels, bring_together
from evalkit.loop.undisturbed import undisturbed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.features.feature_pass import FeaturePass

SHOWN = 64  # samples on a sheet


class Stream:
    """Samples of this rank.

    Args:
        name: what messages call them.
        ranks: among which they are spread.
        addresses: of the features to take.
        pixels: whether pixels are kept after that.

    Attributes:
        shown: the first images by index, u8 [H,W,3], for sheets.
    """

    def __init__(self, name: str, ranks: Ranks, addresses: Sequence[str], *, pixels: bool = False) -> None:
        self.name, self._ranks, self._addresses, self._pixels = name, ranks, addresses, pixels
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._samples = Collected(self.name)
        self._done: set[int] = set()  # chunks, by their first index, whose features are there
        self.shown: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def add(
        self,
        pixels: NDArray[np.uint8],
        features: FeaturePass,
        prompts: Sequence[str | None] | None = None,
        index: Sequence[int] | None = None,
    ) -> None:
        """Takes samples, u8 [B,H,W,3], as of `Evaluation.update`; `features` takes those of chunks that became whole.

        Raises:
            ConfigError: there are not as many prompts or indices.
            DataError: an index was there with another image.
        """
        count, ranks = len(pixels), self._ranks
        next_ones = [(len(self) + i) * ranks.size + ranks.rank for i in range(count)]
        places = next_ones if index is None else [int(i) for i in index]
        texts: Sequence[str | None] = [None] * count if prompts is None else list(prompts)
        for what, values in (("indices", places), ("prompts", texts)):
            if len(values) != count:
                raise ConfigError(f"{self.name}: {len(values)} {what} for {count} images")
        pixels = pixels.copy()  # the caller's memory may be written over
        for place, image, text in zip(places, pixels, texts, strict=True):
            self._samples.add(place, image, text)
            if place < SHOWN:
                self.shown[place] = image
        whole = dict.fromkeys(c for place in places if (c := self._samples.whole_chunk(place)) is not None)
        if not whole or not self._addresses:
            return
        with undisturbed():
            features.compute(self._samples, self._addresses, list(whole))
        self._done |= {chunk.start for chunk in whole}
        if not self._pixels:
            for chunk in whole:
                self._samples.let_go(chunk)

    def whole(self, features: FeaturePass, about: Mapping[str, Any]) -> Collected:
        """The samples of all ranks, whose features are on the first one; pixels that are held are shared with it.

        Args:
            features: of this rank.
            about: what must be the same on all ranks.

        Raises:
            ConfigError: it is not.
            DataError: an index is missing, or two ranks have other images of it.
        """

        def mine() -> Part:
            sha256s, prompts = self._samples.known()
            return Part(sha256s, prompts, frozenset(self._samples.held()), frozenset(self._done), about)

        ranks = self._ranks
        parts = ranks.together(mine)
        check_alike([part.about for part in parts])
        samples = self._samples.with_others([(part.sha256s, part.prompts) for part in parts])
        samples.check_whole()
        if ranks.size > 1:
            bring_together(ranks, samples, parts, features, self._addresses)
            if self._pixels:
                bring_all_pixels(ranks, samples, parts)
            for theirs in ranks.gather(0, self.shown):
                self.shown = self.shown | theirs
        return samples
