"""Objects in images, by any detector of transformers or torchvision, and their colours by CLIP; stored as features.

Colours are GenEval's (Ghosh et al. 2023, arXiv:2310.11513; its evaluate_images.py): an object's crop, its background
painted grey where there is a mask, against ten colours of its own class's name, three texts each. The published
weights of detectors were not run here: tests hold tiny networks of the same classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit.errors import ConfigError, DataError, whole_number
from evalkit.extractors.base import DECODER, BatchSize, Extractor, exact_float32
from evalkit.extractors.clip import Clip
from evalkit.extractors.detector_libraries import (
    BACKGROUND,
    FunctionDetector,
    Library,
    Seen,
    TorchvisionDetector,
    TransformersDetector,
)
from evalkit.extractors.pretrained import PretrainedNetwork
from evalkit.numerics.detections import FIELDS, HEAD, Detections, check_codes, class_code
from evalkit.numerics.geneval import COLOURS, TEMPLATES
from evalkit.utils.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Images

LIBRARIES = ("transformers", "torchvision", "function")
GREY = (153, 153, 153)  # the authors' #999
BACKGROUNDS = ("grey", "original")


class Detector(Extractor):
    """Layers objects (`evalkit.numerics.detections`) and, where colours are asked for, colours (ten per object).

    Args:
        name: how scores are labelled.
        model: with library=transformers a folder (config.json, *.safetensors, preprocessor_config.json), a hub id, or
            {path: owner/name, revision: main}; with torchvision a builder of torchvision.models.detection; with
            function package.module.name of one's own: `detect(image u8 [H,W,3]) -> [{"class": ..., "score": ...,
            "box": (x0, y0, x1, y1)}, ...]`.
        library: transformers, torchvision or function.
        weights: torchvision's: a file of its state dict.
        classes: by label id the classes' names; none: as the model's config says, or COCO's of torchvision.
        renamed: what some classes are called in the prompts, {mouse: computer mouse}.
        options: torchvision's: further arguments of the builder; of a class of one's own, its arguments.
        clip: options of the CLIP that tells colours (`evalkit.extractors.clip.Clip`); none: there is no layer colours,
            unless the function itself says a "colour".
        function_colours: whether the function says each object's "colour".
        background: around an object's mask, for its colour: grey, as published, or original.
        lowest: objects of a higher score are kept; the lowest threshold that can be scored.
        most: objects kept of an image, the surest.
        sha256: what the weights file's sha256 must begin with; none: anything.
        batch_size: images in one forward pass.
    """

    def __init__(
        self,
        name: str,
        model: str | Mapping[str, str] | None = None,
        library: str = "transformers",
        weights: str | None = None,
        classes: Sequence[str] | None = None,
        renamed: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        clip: Mapping[str, Any] | None = None,
        function_colours: bool = False,
        background: str = "grey",
        lowest: float = 0.3,
        most: int = 100,
        sha256: str | None = None,
        batch_size: BatchSize = 8,
    ) -> None:
        super().__init__(name, batch_size)
        self._choose("library", library, LIBRARIES)
        self._choose("background", background, BACKGROUNDS)
        whole_number(most, f"extractor.{name}.most")
        if not 0 <= lowest < 1:
            raise ConfigError(f"extractor.{name}.lowest={lowest}: give a score of 0 to 1")
        if function_colours and (clip or library != "function"):
            raise ConfigError(f"extractor.{name}.function_colours: for library=function without clip alone")
        self.model, self.renamed, self.background = model, dict(renamed or {}), background
        self.lowest, self.most, self._classes = lowest, most, classes
        self._library = self._made(library, weights, options, sha256, function_colours)
        self._clip = Clip(f"{name}.clip", **clip) if clip else None
        self._device = "cpu"
        self._texts: dict[str, Tensor] = {}  # by class f32 [10,D] of length 1

    def _made(
        self, library: str, weights: str | None, options: Mapping[str, Any] | None, sha256: str | None, colours: bool
    ) -> Library:
        owner = f"extractor.{self.name}"
        if library != "transformers" and self.model is None:
            raise ConfigError(f"{owner}.model is not set: with library={library} it must be given")
        if library == "function":
            return FunctionDetector(self.where, str(self.model), self._classes, colours, options or {})
        if library == "torchvision":
            if weights is None:
                raise ConfigError(f"{owner}.weights is not set: give a file of {self.model}'s state dict")
            file = Weights(owner, "weights", weights, sha256=sha256)
            return TorchvisionDetector(self.where, str(self.model), file, self._classes, options or {})
        return TransformersDetector(PretrainedNetwork.read(self.name, self.model), self._classes)

    @property
    def class_names(self) -> frozenset[str] | None:
        """The classes that it knows, as prompts call them; none where that is not known beforehand."""
        names = self._library.class_names()
        return None if names is None else frozenset(self._called(name) for name in names if name not in BACKGROUND)

    def _called(self, name: str) -> str:
        return self.renamed.get(name, name)

    @property
    def layers(self) -> Mapping[str, int | None]:
        objects = {"objects": HEAD + self.most * FIELDS}
        tells = self._clip is not None or self._library.tells_colours
        return objects | ({"colours": self.most * len(COLOURS)} if tells else {})

    def check(self, *, fetch: bool = True) -> None:
        self._library.check(fetch=fetch)
        names = self._library.class_names()
        if names is not None:
            try:
                check_codes(sorted(self.class_names or ()))
            except ValueError as error:
                raise ConfigError(f"{self.where}: {error}") from error
        if self._clip is not None:
            self._clip.check(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        colours: dict[str, Any] | str | None = "the function's" if self._library.tells_colours else None
        if self._clip is not None:
            colours = {"clip": self._clip.identity(), "texts": list(TEMPLATES), "background": self.background}
        return self._library.identity() | {
            "classes": list(self._classes) if self._classes is not None else "the model's",
            "renamed": self.renamed,
            "lowest": self.lowest,
            "most": self.most,
            "colours": colours,
            "dtype": "float32",
            "decoder": DECODER,
        }

    def label(self) -> str:
        return f"{self.name}:{self._library.tag()}"

    def load(self, device: str) -> None:
        self._library.load(device)
        if device != self._device:
            self._texts.clear()
            self._device = device
        if self._clip is not None:
            self._clip.load(device)

    def unload(self) -> None:
        self._library.unload()
        self._texts.clear()
        if self._clip is not None:
            self._clip.unload()

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features; see the base class. Images of one size go through the network together."""
        import torch

        places: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.shape[:2], []).append(place)
        rows = np.zeros((len(images), HEAD + self.most * FIELDS), np.float32)
        colours = np.zeros((len(images), self.most, len(COLOURS)), np.float32)
        for same in places.values():
            with exact_float32():
                seen = self._library.look([images[i] for i in same], self.lowest)
            for i, each in zip(same, seen, strict=True):
                rows[i], kept, names = self._row(each)
                if "colours" in layers and len(kept):
                    colours[i, : len(kept)] = self._colours(images[i], each, kept, names)
        found = {"objects": torch.from_numpy(rows), "colours": torch.from_numpy(colours).flatten(1)}
        return {layer: found[layer] for layer in layers}

    def _row(self, seen: Seen) -> tuple[NDArray[np.float32], list[int], list[str]]:
        """The features of what was seen, and of the objects that are kept their places and names."""
        if unknown := set(seen.names).difference(self._library.class_names() or seen.names):
            raise DataError(f"{self.where}: it saw a '{min(unknown)}', which is none of its classes")
        real = [i for i, name in enumerate(seen.names) if name not in BACKGROUND]
        names = [self._called(seen.names[i]) for i in real]
        codes = [class_code(name) for name in names]
        objects, kept = Detections.of(codes, seen.scores[real], seen.boxes[real], lowest=self.lowest, most=self.most)
        return objects.to_row(self.most), [real[i] for i in kept], [names[i] for i in kept]

    def _colours(
        self, image: NDArray[np.uint8], seen: Seen, kept: Sequence[int], names: Sequence[str]
    ) -> NDArray[np.float32]:
        """Of each object its likeness to each colour, f32 [n,10]: cosines, or 1 of what the function says."""
        import torch

        if self._clip is None:
            assert seen.colours is not None
            said = [seen.colours[i] for i in kept]
            if wrong := set(said).difference(COLOURS):
                raise DataError(f"{self.where}: the colour '{min(wrong)}' is none of {', '.join(COLOURS)}")
            return np.array([[float(colour == each) for each in COLOURS] for colour in said], np.float32)
        crops = [crop(image, seen.boxes[i], self._mask(seen, i)) for i in kept]
        size = self._clip.batch_on(self._device)
        parts = [self._clip(crops[i : i + size], [], ["image_unit"])["image_unit"] for i in range(0, len(crops), size)]
        texts = torch.stack([self._class_texts(name) for name in names])  # [n,10,D]
        cosines = torch.einsum("nd,ncd->nc", torch.cat(parts), texts)
        return np.asarray(cosines.cpu().numpy(), np.float32)

    def _mask(self, seen: Seen, place: int) -> NDArray[np.bool_] | None:
        return None if seen.masks is None or self.background == "original" else seen.masks[place]

    def _class_texts(self, name: str) -> Tensor:
        """Per colour the mean of its texts' embeddings of length 1, itself of length 1: f32 [10,D]."""
        from torch.nn.functional import normalize

        if name not in self._texts:
            assert self._clip is not None
            texts = [text.format(colour=colour, name=name) for colour in COLOURS for text in TEMPLATES]
            each = normalize(self._clip([], texts, ["text"])["text"], dim=1)
            self._texts[name] = normalize(each.view(len(COLOURS), len(TEMPLATES), -1).mean(1), dim=1)
        return self._texts[name]


def crop(image: NDArray[np.uint8], box: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """The part of an image u8 [H,W,3] in a box, rounded to pixels and at least one of them; grey outside a mask."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    x1, y1 = min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
    if mask is not None:
        image = np.where(mask[..., None], image, np.array(GREY, np.uint8))
    return np.ascontiguousarray(image[y0:y1, x0:x1])
