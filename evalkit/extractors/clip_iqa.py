"""CLIP-IQA (Wang et al. 2023, arXiv:2207.12396): whether an image is nearer to "Good photo." or to "Bad photo.".

Per attribute the first value of softmax(100 cos) over two anchor texts. As torchmetrics 1.9 has it, whose network is
that of `piq`: OpenAI's ResNet-50 without its positional embedding, so that images keep their size. Equal to both on the
same weights (tests/metrics/test_clip_iqa.py); it was not run here with the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError
from evalkit.extractors.base import Prepared
from evalkit.extractors.clip import Clip, normalised

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Images

SCALE = 100.0  # of the cosines, as published: OpenAI's logit scale
SMALLEST = 32  # pixels: a ResNet halves five times


class ClipIqa(Clip):
    """A layer of width 1 per attribute, 0 to 1: 1 is the first of its two texts.

    Args:
        name: how scores are labelled.
        model: see Clip, as are all further options.
        anchors: by attribute its two texts, the better one first; one layer each.
        as_they_are: whether images keep their size, and the network goes without its positional embedding, as
            published; only ResNets can. Else images are prepared as by any CLIP.
        clip: further options of Clip.
    """

    text_layers = frozenset[str]()

    def __init__(
        self, name: str, model: str, anchors: Mapping[str, Sequence[str]], as_they_are: bool = True, **clip: Any
    ) -> None:
        super().__init__(name, model, **clip)
        for attribute, texts in anchors.items():
            if isinstance(texts, str) or len(texts) != 2 or not all(isinstance(text, str) and text for text in texts):
                raise ConfigError(f"extractor.{name}.anchors.{attribute}={texts}: give two texts, the better one first")
        if not anchors:
            raise ConfigError(f"extractor.{name}.anchors: give an attribute and its two texts")
        self.anchors = {attribute: tuple(texts) for attribute, texts in anchors.items()}
        self.as_they_are = as_they_are
        self._anchored: Tensor | None = None  # f32 [2A,D] of length 1

    @property
    def layers(self) -> Mapping[str, int | None]:
        return dict.fromkeys(self.anchors, 1)

    def check(self, *, fetch: bool = True) -> None:
        super().check(fetch=fetch)
        if self.as_they_are and not isinstance(self._config()["vision_cfg"].get("layers"), list):
            fix = f"give a ResNet, or extractor.{self.name}.as_they_are=false"
            raise ConfigError(f"{self.where}: {self.model} does not take images of any size: {fix}")

    def identity(self) -> dict[str, Any]:
        published = {"resize": None, "positions": "none"} if self.as_they_are else {}
        return super().identity() | {"anchors": {k: list(v) for k, v in self.anchors.items()}} | published

    def load(self, device: str) -> None:
        import torch
        from torch.nn.functional import normalize

        super().load(device)
        if self._anchored is not None:
            self._anchored = self._anchored.to(device)
            return
        if self.as_they_are:
            pool = self.network.visual.attnpool  # its embedding is added: one row of zeros suits any size
            pool.positional_embedding = torch.nn.Parameter(torch.zeros_like(pool.positional_embedding[:1]), False)
        texts = [self.prefix + text for pair in self.anchors.values() for text in pair]
        with self.arithmetic():
            self._anchored = normalize(self.network.encode_text(self._tokenizer(texts).to(device)).float(), dim=1)

    def unload(self) -> None:
        super().unload()
        self._anchored = None

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        if not self.as_they_are:
            return super().prepare(image)
        if min(image.shape[:2]) < SMALLEST:
            raise DataError(f"{self.where} needs images of {SMALLEST} pixels or more, not {image.shape[:2]}")
        return Prepared(image)

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features; see the base class. Images of one size go through the network together."""
        import torch
        from torch.nn.functional import normalize

        assert self._anchored is not None, "load() comes first"
        prepared = self.prepared(images)
        cosines = torch.empty(len(prepared), len(self._anchored), device=self._device)
        places: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(prepared):
            places.setdefault(image.shape[:2], []).append(place)
        with self.arithmetic():
            for same in places.values():
                x = normalised([prepared[i] for i in same], self._norm, self._device)  # f32 [b,3,H,W]
                unit = normalize(self.network.encode_image(x).float(), dim=1)
                cosines[same] = unit @ self._anchored.T
            shares = (SCALE * cosines).view(len(prepared), -1, 2).softmax(2)[..., 0]  # [B,A]
        return {layer: shares[:, [list(self.anchors).index(layer)]] for layer in layers}
