"""The small classifier of the embedded captioned digits: 64 features and 10 logits of a 32x32 image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, NetworkExtractor, by_size, check_sha256, exact_float32, to_tensor
from evalkit.utils.files import resolve_path, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

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

    def __init__(
        self,
        weights: str = SHIPPED,
        sha256: str | None = None,
        batch_size: int = 64,
        name: str = "digits",
    ) -> None:
        super().__init__(name, batch_size)
        self.weights = weights
        self.sha256 = sha256

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"features": 64, "logits": 10}

    def _file(self) -> Path:
        file = resolve_path(self.weights)
        where = f"extractor '{self.name}'"
        if not file.is_file():
            raise ConfigError(f"{where}: there is no weights file {file} (extractor.{self.name}.weights)")
        check_sha256(where, file, self.sha256, f"extractor.{self.name}.sha256")
        return file

    def check(self, *, fetch: bool = True) -> None:
        self._file()

    def identity(self) -> dict[str, Any]:
        return {
            "network": "evalkit.digits.nets.DigitClassifier",
            "weights": sha256_file(self._file()),
            "resize": f"{SIZE}x{SIZE}, bilinear with antialias where the image has another size",
            "normalise": "x/127.5-1",
            "dtype": "float32",
            "decoder": DECODER,
        }

    def label(self) -> str:
        return self.name if self.weights == SHIPPED else f"{self.name}:{sha256_file(self._file())[:8]}"

    def _load(self) -> DigitClassifier:
        from evalkit.digits.nets import load_classifier

        file = self._file()
        try:
            return load_classifier(file)
        except Exception as error:  # safetensors and torch raise many kinds for a wrong file
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"extractor '{self.name}': {file} is not the digit classifier: {reason}") from error

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
