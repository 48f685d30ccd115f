"""LPIPS v0.1 (Zhang et al. 2018, arXiv:1801.03924) as features whose squared Euclidean distance is the LPIPS distance.

Equal to `lpips` 0.1.4 and torchmetrics 1.9 with the same weights to float32 rounding (tests/extractors/test_lpips.py).
The trunk is torchvision's AlexNet or VGG16 (BSD-3-Clause), the heads are those that torchmetrics ships (BSD-2-Clause).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.extractors.base import DECODER, NetworkExtractor, by_size, exact_float32, to_tensor
from evalkit.extractors.weights import Published
from evalkit.utils.files import resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.lpips_net import LpipsNet

_TORCHVISION = "https://download.pytorch.org/models"
TRUNKS = {  # torchvision's files carry the beginning of their sha256 in their names
    "alex": Published(
        "torchvision's AlexNet",
        f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
        "alexnet-owt-7be5be79.pth",
        "7be5be79",
    ),
    "vgg": Published("torchvision's VGG16", f"{_TORCHVISION}/vgg16-397923af.pth", "vgg16-397923af.pth", "397923af"),
}

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
    """

    def __init__(
        self,
        name: str,
        net: str = "alex",
        weights: str | None = None,
        heads: str | None = None,
        sha256: str | None = None,
        resize: int | None = None,
        download: bool = True,
        batch_size: int = 8,
    ) -> None:
        super().__init__(name, batch_size)
        if net not in TRUNKS:
            raise ConfigError(f"extractor.{name}.net={net}: there is no such trunk. {nearest(net, TRUNKS)}")
        if resize is not None and resize < 1:
            raise ConfigError(f"extractor.{name}.resize={resize}: must be a size in pixels, or null")
        self.net = net
        self.weights = weights
        self.heads = heads
        self.sha256 = sha256
        self.resize = resize
        self.download = download
        self._where = f"extractor '{name}'"

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"phi": None}

    def _file(self) -> Path:
        return TRUNKS[self.net].find(
            self._where, f"extractor.{self.name}.weights", self.weights, self.sha256, self.download
        )

    def _heads(self) -> Path:
        if self.heads is not None:
            file = resolve_path(self.heads)
        else:
            spec = importlib.util.find_spec("torchmetrics")
            if spec is None or not spec.submodule_search_locations:
                raise ConfigError(f"{self._where}: torchmetrics is not installed: pip install torchmetrics")
            folder = Path(next(iter(spec.submodule_search_locations)))
            file = folder / "functional" / "image" / "lpips_models" / f"{self.net}.pth"
        if not file.is_file():
            raise ConfigError(f"{self._where}: there is no file {file} of heads: give extractor.{self.name}.heads=FILE")
        return file

    def check(self, *, fetch: bool = True) -> None:
        self.download = self.download and fetch
        self._file()
        self._heads()

    def identity(self) -> dict[str, Any]:
        return {
            "network": f"LPIPS v0.1 {self.net}",
            "weights": sha256_file(self._file()),
            "heads": sha256_file(self._heads()),
            "resize": f"bilinear-antialias-{self.resize}" if self.resize else None,
            "normalise": "x/127.5-1, LPIPS's scaling layer",
            "dtype": "float32",
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        known = self.heads is None and self.resize is None
        return known and TRUNKS[self.net].is_file(self._file())

    def label(self) -> str:
        """The name; with a digest where the trunk is not torchvision's file (nor one whose sha256 was asked for)."""
        file = self._file()
        known = TRUNKS[self.net].is_file(file) or (self.weights is not None and self.sha256 is not None)
        tag = "" if known else f":{sha256_file(file)[:8]}"
        return f"{self.name}{tag}" if self.heads is None else f"{self.name}{tag}+{sha256_file(self._heads())[:8]}"

    def _load(self) -> LpipsNet:
        from evalkit.extractors.lpips_net import load_network

        return load_network(self.net, self._file(), self._heads(), self._where)

    def _input(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """f32 [B,3,H,W], 0 to 255, of one size."""
        import torch
        from torch.nn import functional

        groups = by_size(images)
        sizes = sorted(groups) if self.resize is None else [(self.resize, self.resize)]
        mend = f"give extractor.{self.name}.resize=SIZE"
        if len(sizes) > 1:
            raise DataError(f"{self._where} needs images of one size, not {sizes[:3]}: {mend}")
        self._check_size(sizes[0])
        x = torch.empty(len(images), 3, *sizes[0], device=self._device)
        for size, positions in groups.items():
            same = to_tensor([images[i] for i in positions]).to(self._device).float()  # f32 [b,3,H,W]
            if size != sizes[0]:
                same = functional.interpolate(same, sizes[0], mode="bilinear", antialias=True)
            x[positions] = same
        return x

    def embed(self, images: Tensor, layer: str) -> Tensor:
        from torch.nn import functional

        assert self._net is not None, "load() comes first"
        x = images.to(self._device).float()
        if self.resize is not None and tuple(x.shape[2:]) != (self.resize, self.resize):
            x = functional.interpolate(x, (self.resize, self.resize), mode="bilinear", antialias=True)
        self._check_size(tuple(x.shape[2:]))
        with exact_float32():
            return self._net(x).cpu()  # type: ignore[no-any-return]

    def _check_size(self, size: tuple[int, ...]) -> None:
        if min(size) < SMALLEST[self.net]:
            raise DataError(
                f"{self._where}: {self.net} needs images of {SMALLEST[self.net]} pixels or more, not "
                f"{size[0]}x{size[1]}: give extractor.{self.name}.resize=SIZE"
            )

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Features; see the base class.

        Raises:
            DataError: the images are too small for the trunk, or of several sizes and are not resized.
        """
        assert self._net is not None, "load() comes first"
        with exact_float32():
            return {"phi": self._net(self._input(images)).cpu()}
