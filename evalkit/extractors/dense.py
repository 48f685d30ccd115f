"""Maps of images by any transformers model from a folder or the hub: each pixel's class, or its depth.

Maps have one size for all images, so that they are features like others: an image that is not square is squeezed. The
published weights of such models were not run here: tests hold tiny networks of the same classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import ConfigError, whole_number
from evalkit.extractors.base import DECODER, BatchSize, Extractor, exact_float32
from evalkit.extractors.pretrained import PretrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images


class DenseExtractor(Extractor):
    """What the two share.

    Args:
        name: how scores are labelled.
        model: a folder (config.json, *.safetensors, preprocessor_config.json), a hub id, or {path: owner/name,
            revision: main}.
        size: of the maps, in pixels along each side.
        batch_size: images in one forward pass.
    """

    layer: ClassVar[str]
    kinds: ClassVar[Mapping[str, str]]  # by the end of a class's name the class of transformers that loads it

    def __init__(
        self, name: str, model: str | Mapping[str, str] | None = None, size: int = 256, batch_size: BatchSize = 4
    ) -> None:
        super().__init__(name, batch_size)
        self.size = whole_number(size, f"extractor.{name}.size", 8)
        self.network = PretrainedNetwork.read(name, model)
        self._net: Any = None
        self._processor: Any = None
        self._device: str | None = None

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {self.layer: self.size**2}

    def check(self, *, fetch: bool = True) -> None:
        self.network.check(fetch=fetch)
        self._kind()

    def _kind(self) -> str:
        architecture = self.network.architecture
        for end, kind in self.kinds.items():
            if architecture.endswith(end):
                return kind
        wanted = f"give a model whose class ends in {', '.join(self.kinds)}"
        raise ConfigError(f"{self.where}: {self.network.files.location.path} is a '{architecture}': {wanted}")

    def identity(self) -> dict[str, Any]:
        resized = f"{self.size}x{self.size}, {self.resized}"
        return {**self.network.identity(), "map": resized, "dtype": "float32", "decoder": DECODER}

    resized: ClassVar[str]  # how a map comes to its size

    def label(self) -> str:
        return f"{self.name}:{self.network.tag()}"

    def load(self, device: str) -> None:
        if self._net is None:
            self._net, self._processor = self.network.load(self._kind()), self.network.processor()
        if self._device != device:
            self._net.to(device)
            self._device = device

    def unload(self) -> None:
        self._net = self._processor = self._device = None

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features; see the base class. Images of one size go through the network together."""
        import torch

        places: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.shape[:2], []).append(place)
        found = torch.zeros(len(images), self.size**2)
        for same in places.values():
            with exact_float32():
                inputs = self._processor(images=[images[i] for i in same], return_tensors="pt").to(self._device)
                found[same] = self._maps(self._net(**inputs), len(same)).float().flatten(1).cpu()
        return {self.layer: found}

    @abstractmethod
    def _maps(self, outputs: Any, count: int) -> Tensor:
        """The maps [B,size,size] of a network's outputs."""


class Segmentation(DenseExtractor):
    """Layer labels (size x size): each pixel's class, as a number of the model's id2label. See `DenseExtractor`."""

    layer = "labels"
    kinds: ClassVar[Mapping[str, str]] = {
        "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
        "ForUniversalSegmentation": "AutoModelForUniversalSegmentation",
        "ForInstanceSegmentation": "AutoModelForInstanceSegmentation",
    }
    resized = "logits bilinear, then the greatest"

    def _maps(self, outputs: Any, count: int) -> Tensor:
        import torch

        sizes = [(self.size, self.size)] * count
        return torch.stack(list(self._processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)))


class Depth(DenseExtractor):
    """Layer depth (size x size): as the model gives it: of DPT, MiDaS and Depth Anything near is large, without a unit.

    Args: see `DenseExtractor`.
    """

    layer = "depth"
    kinds: ClassVar[Mapping[str, str]] = {"ForDepthEstimation": "AutoModelForDepthEstimation"}
    resized = "bicubic"

    def _maps(self, outputs: Any, count: int) -> Tensor:
        from torch.nn.functional import interpolate

        depth: Tensor = outputs.predicted_depth[:, None]  # [B,1,h,w]
        size = (self.size, self.size)
        return interpolate(depth, size=size, mode="bicubic", align_corners=False)[:, 0]
