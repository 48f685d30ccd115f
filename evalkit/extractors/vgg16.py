"""torch-fidelity's VGG16 features: what its precision and recall stand on.

Source: torch-fidelity 0.4.0 `FeatureExtractorVGG16`: torchvision's network and weights, TF1's bilinear resize to 224,
ImageNet's mean and deviation. Equal to it on the same weights file (tests/extractors/test_vgg16.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, NetworkExtractor, by_size, exact_float32, to_tensor
from evalkit.extractors.weights import Published, read_state
from evalkit.utils.files import sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

INPUT_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = Published(
    "torchvision's VGG16",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg16-397923af.pth",
    "397923af",
)


class Vgg16(NetworkExtractor):
    """Layers fc2_relu and fc2, of 4096 each.

    Args:
        name: how scores are labelled.
        weights: a .pth or .safetensors file of torchvision's network; none: the published file in torch's hub cache.
        sha256: what the file's sha256 must begin with; none: of a given file anything.
        download: whether the published file is fetched where it is not in the cache, once.
        batch_size: images in one forward pass.
    """

    def __init__(
        self,
        name: str = "vgg16",
        weights: str | None = None,
        sha256: str | None = None,
        download: bool = True,
        batch_size: int = 32,
    ) -> None:
        super().__init__(name, batch_size)
        self.weights = weights
        self.sha256 = sha256
        self.download = download

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"fc2_relu": 4096, "fc2": 4096}

    def _file(self) -> Path:
        key = f"extractor.{self.name}.weights"
        return WEIGHTS.find(f"extractor '{self.name}'", key, self.weights, self.sha256, self.download)

    def check(self, *, fetch: bool = True) -> None:
        self.download = self.download and fetch
        self._file()

    def identity(self) -> dict[str, Any]:
        return {
            "network": "vgg16 (torchvision)",
            "weights": sha256_file(self._file()),
            "resize": f"tf1-bilinear-{INPUT_SIZE}",
            "normalise": "imagenet",
            "dtype": "float32",
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return WEIGHTS.is_file(self._file())

    def label(self) -> str:
        return self.name if self.canonical() else f"{self.name}:{sha256_file(self._file())[:8]}"

    def _load(self) -> Any:
        import torch
        from torchvision.models import vgg16

        file = self._file()
        where = f"extractor '{self.name}'"
        with torch.device("meta"):  # 138 million random weights are not drawn only to be replaced
            net = vgg16(init_weights=False)
        try:
            net.load_state_dict(read_state(file, where), assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{where}: {file} does not hold torchvision's VGG16: {reason}") from error
        net.classifier = net.classifier[:4]  # up to fc2; then come its ReLU, a dropout and the classes
        return net.eval().requires_grad_(False)

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import torch

        from evalkit.extractors.resizing import resize

        assert self._net is not None, "load() comes first"
        mean, std = (255 * torch.tensor(v, device=self._device).view(3, 1, 1) for v in (MEAN, STD))
        with exact_float32():
            x = torch.empty(len(images), 3, INPUT_SIZE, INPUT_SIZE, device=self._device)  # f32 [B,3,224,224]
            for positions in by_size(images).values():
                same = to_tensor([images[i] for i in positions]).to(self._device)  # u8 [b,3,H,W]
                x[positions] = resize(same, INPUT_SIZE)
            fc2 = self._net((x - mean) / std)  # f32 [B,4096]
        features = {"fc2": fc2, "fc2_relu": fc2.relu()}
        return {layer: features[layer].cpu() for layer in layers}
