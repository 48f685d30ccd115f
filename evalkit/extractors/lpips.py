"""LPIPS v0.1 (Zhang et al. 2018, arXiv:1801.03924) as features whose squared Euclidean distance is the LPIPS distance.

Equal to `lpips` 0.1.4 and torchmetrics 1.9 with the same weights to float32 rounding (tests/extractors/test_lpips.py).
The trunk is torchvision's AlexNet or VGG16 (BSD-3-Clause), the heads are those that torchmetrics ships (BSD-2-Clause).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.extractors.base import DECODER, BatchSize, NetworkExtractor, resized
from evalkit.utils.weights import TAG_LENGTH, Published, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images
    from evalkit.extractors.lpips_net import LpipsNet

TRUNKS = {  # torchvision's files carry the beginning of their sha256 in their names
    net: Published(f"torchvision's {what}", f"https://download.pytorch.org/models/{file}", file, file[-12:-4])
    for net, what, file in (("alex", "AlexNet", "alexnet-owt-7be5be79.pth"), ("vgg", "VGG16", "vgg16-397923af.pth"))
}
HEADS = "pkg://torchmetrics/functional/image/lpips_models/{}.pth"  # by trunk
SMALLEST = {"alex": 31, "vgg": 16}  # pixels: smaller images leave nothing for the last layers


class Lpips(NetworkExtractor):
    """Layer phi; its width depends on the images' size (AlexNet at 256 px: 640 thousand values, VGG16: 8 million).

    Args:
        name: how scores are labelled.
        net: "alex" or "vgg", the trunk.
        weights: a .pth or .safetensors file of torchvision's network; none: the published file in torch's hub cache.
        heads: a file of `lin0.model.1.weight` to `lin4...`; none: LPIPS v0.1's, as they come with torchmetrics.
        sha256: what the trunk file's sha256 must begin with; none: of a given file anything.
        resize: height and width that images are brought to, bilinear with antialias; none: as they are.
        download: whether the published file is fetched where it is not in the cache, once.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    embeds = reentrant = True

    def __init__(
        self,
        name: str,
        net: str = "alex",
        weights: str | None = None,
        heads: str | None = None,
        sha256: str | None = None,
        resize: int | None = None,
        download: bool = True,
        batch_size: BatchSize = 8,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        if net not in TRUNKS:
            raise ConfigError(f"extractor.{name}.net={net}: there is no such trunk. {nearest(net, TRUNKS)}")
        if resize is not None and resize < 1:
            raise ConfigError(f"extractor.{name}.resize={resize}: must be a size in pixels, or null")
        self.net = net
        self.weights = Weights(f"extractor.{name}", "weights", weights, TRUNKS[net], sha256, download, key=weights_key)
        self.heads = Weights(f"extractor.{name}", "heads", heads or HEADS.format(net))
        self.resize = None if resize is None else (resize, resize)
        self._canonical = heads is None and resize is None and self.precision == "float32"

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"phi": None}

    def check(self, *, fetch: bool = True) -> None:
        self.weights.find(fetch=fetch)
        self.heads.find()

    def identity(self) -> dict[str, Any]:
        return {
            "network": f"LPIPS v0.1 {self.net}",
            "weights": self.weights.digest(),
            "heads": self.heads.digest(),
            "resize": f"bilinear-antialias-{self.resize[0]}" if self.resize else None,
            "normalise": "x/127.5-1, LPIPS's scaling layer",
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return self._canonical and self.weights.is_published()

    def label(self) -> str:
        """The name; with a digest where the trunk is not torchvision's file (nor one whose sha256 was asked for)."""
        label = super().label()
        return label if self.heads.file == HEADS.format(self.net) else f"{label}+{self.heads.digest()[:TAG_LENGTH]}"

    def _load(self) -> LpipsNet:
        from evalkit.extractors.lpips_net import load_network

        return load_network(self.net, self.weights, self.heads)

    def _input(self, images: Images) -> Tensor:
        """f32 [B,3,H,W], 0 to 255, of one size."""
        from evalkit.extractors.resizing import bilinear

        sizes = [self.resize] if self.resize else sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            remedy = f"give extractor.{self.name}.resize=SIZE"
            raise DataError(f"{self.where} needs images of one size, not {sizes[:3]}: {remedy}")
        self._check_size(sizes[0])
        return resized(images, sizes[0], self._device, lambda same: bilinear(same, sizes[0]))

    def embed(self, images: Tensor, layer: str) -> Tensor:
        from evalkit.extractors.resizing import bilinear

        x = images.to(self._device).float()
        if self.resize is not None:
            x = bilinear(x, self.resize)
        self._check_size(tuple(x.shape[2:]))
        with self.arithmetic():
            return self.network(x).float()  # type: ignore[no-any-return]

    def _check_size(self, size: tuple[int, ...]) -> None:
        if min(size) < SMALLEST[self.net]:
            raise DataError(
                f"{self.where}: {self.net} needs images of {SMALLEST[self.net]} pixels or more, not "
                f"{size[0]}x{size[1]}: give extractor.{self.name}.resize=SIZE"
            )

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features; see the base class.

        Raises:
            DataError: the images are too small for the trunk, or of several sizes and are not resized.
        """
        with self.arithmetic():
            return {"phi": self.network(self._input(images)).float()}  # left on the device: at 512 px 128 MB per image
