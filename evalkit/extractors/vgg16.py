"""torch-fidelity's VGG16 features: what its precision and recall stand on.

Source: torch-fidelity 0.4.0 `FeatureExtractorVGG16`: torchvision's network and weights, TF1's bilinear resize to 224,
ImageNet's mean and deviation. Equal to it on the same weights file (tests/extractors/test_vgg16.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import (
    DECODER,
    PRECISIONS,
    BatchSize,
    NetworkExtractor,
    exact_float32,
    per_channel,
    resized,
)
from evalkit.extractors.lpips import TRUNKS
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images
INPUT_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = TRUNKS["vgg"]


class Vgg16(NetworkExtractor):
    """Layers fc2_relu and fc2, of 4096 each.

    Args:
        name: how scores are labelled.
        weights: a .pth or .safetensors file of torchvision's network; none: the published file in torch's hub cache.
        sha256: what the file's sha256 must begin with; none: of a given file anything.
        download: whether the published file is fetched where it is not in the cache, once.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    reentrant = True

    def __init__(
        self,
        name: str = "vgg16",
        weights: str | None = None,
        sha256: str | None = None,
        download: bool = True,
        batch_size: BatchSize = 32,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        self.weights = Weights(f"extractor.{name}", "weights", weights, WEIGHTS, sha256, download, key=weights_key)

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"fc2_relu": 4096, "fc2": 4096}

    def identity(self) -> dict[str, Any]:
        return {
            "network": "vgg16 (torchvision)",
            "weights": self.weights.digest(),
            "resize": f"tf1-bilinear-{INPUT_SIZE}",
            "normalise": "imagenet",
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return self.label() == self.name

    def label(self) -> str:
        digest = None if self.weights.is_published() else self.weights.digest()[:TAG_LENGTH]
        return ":".join(filter(None, (self.name, PRECISIONS[self.precision], digest)))

    def _load(self) -> Any:
        import torch
        from torchvision.models import vgg16

        file = self.weights.find()
        with torch.device("meta"):  # 138 million random weights are not drawn only to be replaced
            net = vgg16(init_weights=False)
        try:
            net.load_state_dict(self.weights.read(), assign=True)
        except RuntimeError as error:
            raise ConfigError(f"{self.where}: {file} does not hold torchvision's VGG16: {one_line(error)}") from error
        net.classifier = net.classifier[:4]  # up to fc2; then come its ReLU, a dropout and the classes
        return net.eval().requires_grad_(False)

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        from evalkit.extractors.resizing import resize

        mean, std = (255 * per_channel(values, self._device) for values in (MEAN, STD))
        with exact_float32():  # products in the resize
            x = resized(images, (INPUT_SIZE,) * 2, self._device, lambda same: resize(same, INPUT_SIZE))
        with self.arithmetic():
            fc2 = self.network((x - mean) / std).float()  # [B,4096]
        features = {"fc2": fc2, "fc2_relu": fc2.relu()}
        return {layer: features[layer] for layer in layers}
