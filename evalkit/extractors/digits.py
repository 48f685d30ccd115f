"""The small classifier of the embedded captioned digits: 64 features and 10 logits of a 32x32 image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, PRECISIONS, BatchSize, NetworkExtractor, resized
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.digits.nets import DigitClassifier
    from evalkit.extractors.base import Images

SIZE = (32, 32)
SHIPPED = "pkg://evalkit.digits/weights/classifier.safetensors"


class Digits(NetworkExtractor):
    """Layers features (64, non-negative) and logits (10, the digit).

    Args:
        weights: a safetensors file of `evalkit.digits.nets.DigitClassifier`.
        sha256: what the file's sha256 must begin with; none: anything.
        batch_size: images in one forward pass.
        name: how scores are labelled.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
    """

    embeds = reentrant = True

    def __init__(
        self,
        weights: str = SHIPPED,
        sha256: str | None = None,
        batch_size: BatchSize = 64,
        name: str = "digits",
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        self.weights = Weights(f"extractor.{name}", "weights", weights, sha256=sha256)

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"features": 64, "logits": 10}

    def identity(self) -> dict[str, Any]:
        return {
            "network": "evalkit.digits.nets.DigitClassifier",
            "weights": self.weights.digest(),
            "resize": f"{SIZE[0]}x{SIZE[1]}, bilinear with antialias where the image has another size",
            "normalise": "x/127.5-1",
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    def label(self) -> str:
        digest = None if self.weights.file == SHIPPED else self.weights.digest()[:TAG_LENGTH]
        return ":".join(filter(None, (self.name, PRECISIONS[self.precision], digest)))

    def _load(self) -> DigitClassifier:
        from evalkit.digits.nets import load_classifier

        file = self.weights.find()
        try:
            return load_classifier(file)
        except Exception as error:  # safetensors and torch raise many kinds for a wrong file
            raise ConfigError(f"{self.where}: {file} is not the digit classifier: {one_line(error)}") from error

    def embed(self, images: Tensor, layer: str) -> Tensor:
        from evalkit.extractors.resizing import bilinear

        with self.arithmetic():
            features: Tensor = self.network(bilinear(images.to(self._device), SIZE) / 127.5 - 1)[layer]
            return features.float().cpu()

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        from evalkit.extractors.resizing import bilinear

        with self.arithmetic():
            x = resized(images, SIZE, self._device, lambda same: bilinear(same, SIZE))  # f32 [B,3,32,32], 0 to 255
            features = self.network(x / 127.5 - 1)
        return {layer: features[layer].float() for layer in layers}
