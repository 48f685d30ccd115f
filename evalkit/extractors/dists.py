"""The maps that DISTS compares (Ding et al. 2020, arXiv:2004.07728): VGG16's, with L2 pooling, and the image itself.

Source: dingkeyan93/DISTS (MIT) as torchmetrics 1.9 has it (`functional.image.dists`), equal to it with the same weights
(tests/metrics/test_dists.py). The trunk is torchvision's VGG16 (BSD-3-Clause), the same file as LPIPS's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError
from evalkit.extractors.base import DECODER, BatchSize, NetworkExtractor, resized
from evalkit.extractors.lpips import SMALLEST, TRUNKS
from evalkit.utils.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evalkit.extractors.base import Images


class Dists(NetworkExtractor):
    """Layer maps: height and width, the image in 0 to 1, and the maps after VGG16's five stages, as one row.

    Of 256x256 pixels that are 8 million values per image: `evalkit.metrics.dists` takes them apart.

    Args:
        name: how scores are labelled.
        weights: a .pth or .safetensors file of torchvision's VGG16; none: the published file in torch's hub cache.
        sha256: what the file's sha256 must begin with; none: of a given file anything.
        resize: height and width that images are brought to, bilinear with antialias; none: as they are. (The paper's
            own script brings the shorter side to 256.)
        download: whether the published file is fetched where it is not in the cache, once.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    reentrant = True

    def __init__(
        self,
        name: str = "dists",
        weights: str | None = None,
        sha256: str | None = None,
        resize: int | None = None,
        download: bool = True,
        batch_size: BatchSize = 8,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        if resize is not None and resize < SMALLEST["vgg"]:
            raise ConfigError(f"extractor.{name}.resize={resize}: must be {SMALLEST['vgg']} pixels or more, or null")
        owner = f"extractor.{name}"
        self.weights = Weights(owner, "weights", weights, TRUNKS["vgg"], sha256, download, key=weights_key)
        self.resize = None if resize is None else (resize, resize)
        self._canonical = resize is None and self.precision == "float32"

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"maps": None}

    def identity(self) -> dict[str, Any]:
        return {
            "network": "vgg16 (torchvision) with L2 pooling",
            "weights": self.weights.digest(),
            "resize": f"bilinear-antialias-{self.resize[0]}" if self.resize else None,
            "normalise": "imagenet",
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return self._canonical and self.weights.is_published()

    def _load(self) -> nn.Sequential:
        from evalkit.extractors.dists_net import load_trunk

        return load_trunk(self.weights)

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features; see the base class. DataError: images that are too small, or of several sizes and not resized."""
        from evalkit.extractors.dists_net import maps
        from evalkit.extractors.resizing import bilinear

        sizes = [self.resize] if self.resize else sorted({image.shape[:2] for image in images})
        remedy = f"give extractor.{self.name}.resize=SIZE"
        if len(sizes) > 1:
            raise DataError(f"{self.where} needs images of one size, not {sizes[:3]}: {remedy}")
        if min(sizes[0]) < SMALLEST["vgg"]:
            wanted = f"images of {SMALLEST['vgg']} pixels or more, not {sizes[0][0]}x{sizes[0][1]}"
            raise DataError(f"{self.where} needs {wanted}: {remedy}")
        with self.arithmetic():
            x = resized(images, sizes[0], self._device, lambda same: bilinear(same, sizes[0]))
            return {"maps": maps(self.network, x / 255)}  # left on the device: at 512 px 130 MB per image
