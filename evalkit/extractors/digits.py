"""The small classifier of the embedded captioned digits: 64 features and 10 logits of a 32x32 image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, NetworkExtractor, by_size, exact_float32, to_tensor
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.digits.nets import DigitClassifier

SIZE = 32
SHIPPED = "pkg://evalkit.digits/weights/classifier.safetensors"


class Digits(NetworkExtractor):
    """Layers features (64, non-negative) and logits (10, the digit).

    Args:
        weights: a safetensors file of `evalkit.digits.nets.DigitClassifier`.
        sha256: what the file's sha256 must begin with; none: anything.
        batch_size: images in one forward pass.
        name: how scores are labelled.
    """

    embeds = True

    def __init__(
        self,
        weights: str = SHIPPED,
        sha256: str | None = None,
        batch_size: int = 64,
        name: str = "digits",
    ) -> None:
        super().__init__(name, batch_size)
        self.weights = Weights(f"extractor.{name}", "weights", weights, sha256=sha256)

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"features": 64, "logits": 10}

    def identity(self) -> dict[str, Any]:
        return {
            "network": "evalkit.digits.nets.DigitClassifier",
            "weights": self.weights.digest(),
            "resize": f"{SIZE}x{SIZE}, bilinear with antialias where the image has another size",
            "normalise": "x/127.5-1",
            "dtype": "float32",
            "decoder": DECODER,
        }

    def label(self) -> str:
        return self.name if self.weights.file == SHIPPED else f"{self.name}:{self.weights.digest()[:TAG_LENGTH]}"

    def _load(self) -> DigitClassifier:
        from evalkit.digits.nets import load_classifier

        file = self.weights.find()
        try:
            return load_classifier(file)
        except Exception as error:  # safetensors and torch raise many kinds for a wrong file
            raise ConfigError(f"{self.where}: {file} is not the digit classifier: {one_line(error)}") from error

    def embed(self, images: Tensor, layer: str) -> Tensor:
        from torch.nn import functional

        assert self._net is not None, "load() comes first"
        x = images.to(self._device).float()
        if tuple(x.shape[2:]) != (SIZE, SIZE):
            x = functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        with exact_float32():
            return self._net(x / 127.5 - 1)[layer].float().cpu()  # type: ignore[no-any-return]

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import torch
        from torch.nn import functional

        assert self._net is not None, "load() comes first"
        with exact_float32():
            x = torch.empty(len(images), 3, SIZE, SIZE, device=self._device)
            for size, positions in by_size(images).items():
                same = to_tensor([images[i] for i in positions]).to(self._device).float()  # f32 [b,3,H,W], 0 to 255
                if size != (SIZE, SIZE):
                    same = functional.interpolate(same, (SIZE, SIZE), mode="bilinear", antialias=True)
                x[positions] = same / 127.5 - 1
            features = self._net(x)
        return {layer: features[layer].float().cpu() for layer in layers}
