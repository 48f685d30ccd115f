"""The FID Inception network (TF 2015-12-05 graph): torch-fidelity's weights file and layers, and the peers' resizes.

Source: Heusel et al. 2017; torch-fidelity 0.4.0 `FeatureExtractorInceptionV3`. Equal to it on the same weights file to
float32 rounding (tests/extractors/test_inception.py); to pytorch-fid, clean-fid and torchmetrics under their presets as
well (tests/metrics/test_frechet_presets.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.extractors.base import DECODER, NetworkExtractor, by_size, check_sha256, exact_float32, to_tensor
from evalkit.extractors.weights import fetch, hub_folder
from evalkit.utils.files import resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.inception_net import InceptionNet

log = logging.getLogger(__name__)

CANONICAL_SHA256 = "6726825d"  # how the sha256 of the published file begins; it stands in the file's name
FILE_NAMES = (f"weights-inception-2015-12-05-{CANONICAL_SHA256}.pth", f"pt_inception-2015-12-05-{CANONICAL_SHA256}.pth")
# torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3, which costs an import of torch to read
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAMES[0]}"


NETWORK = "inception"  # what labels begin with
PRESETS = {  # by `resize`: (its name in the protocol, the normalisation there, the tag in labels)
    "tf1": ("tf1-bilinear-299", "(x-128)/128", None),
    "torch": ("torch-bilinear-299", "2x/255-1", "pytorch-fid"),
    "clean": ("pil-bicubic-float-299", "(x-128)/128", "clean"),
    "antialias": ("torch-bilinear-antialias-299", "(x-128)/128", "torchmetrics"),
}
PRECISIONS = {"float32": None, "bfloat16": "bf16"}  # and the tag in labels


class Inception(NetworkExtractor):
    """Layers pool3 (2048), logits_unbiased and logits (1008), and sFID's mixed6_conv7 (2023), in one pass.

    Args:
        weights: a .pth or .safetensors file; none: the published file in torch's hub cache.
        sha256: what the file's sha256 must begin with; none: anything, but scores of a file that is not the published
            one carry a part of its digest.
        download: whether a file that is not in the cache is fetched, once.
        batch_size: images in one forward pass.
        name: the option's name, for messages.
        resize: to 299 x 299, with the normalisation that goes with it. tf1: TTUR's, torch-fidelity's and stylegan3's;
            torch: pytorch-fid's; clean: clean-fid's; antialias: that of torchmetrics >= 1.8.
        precision: of the convolutions, float32 or bfloat16 (bf16). The latter is faster where the device has units
            for it, and differs: 5e-3 of the features.
    """

    def __init__(
        self,
        weights: str | None = None,
        sha256: str | None = None,
        download: bool = True,
        batch_size: int = 32,
        name: str = "inception",
        resize: str = "tf1",
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size)
        precision = {"bf16": "bfloat16"}.get(precision, precision)
        for key, value, choices in (("resize", resize, PRESETS), ("precision", precision, PRECISIONS)):
            if value not in choices:
                raise ConfigError(f"extractor.{name}.{key}={value}: {nearest(str(value), choices)}")
        self.resize = resize
        self.precision = precision
        self.weights = weights
        self.sha256 = sha256
        self.download = download

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"pool3": 2048, "logits_unbiased": 1008, "logits": 1008, "mixed6_conv7": 2023}

    def _file(self) -> Path:
        """The weights file, there and with the right digest; fetched where it may be."""
        where = f"extractor '{self.name}'"
        if self.weights is not None:
            file = resolve_path(self.weights)
            if not file.is_file():
                raise ConfigError(f"{where}: there is no weights file {file} (extractor.{self.name}.weights)")
            check_sha256(where, file, self.sha256, f"extractor.{self.name}.sha256")
            return file
        folder = hub_folder()
        for name in FILE_NAMES:
            if (folder / name).is_file():
                check_sha256(where, folder / name, self.sha256 or CANONICAL_SHA256, f"extractor.{self.name}.sha256")
                return folder / name
        target = folder / FILE_NAMES[0]
        reason = f"extractor.{self.name}.download=false"
        if self.download:
            try:
                fetch(URL, target, CANONICAL_SHA256)
                return target
            except OSError as error:
                reason = f"fetching it failed: {error}"
        raise ConfigError(
            f"{where}: the FID Inception weights are not here ({' '.join(reason.split())}): put {URL} "
            f"at {target}, or give extractor.{self.name}.weights=FILE"
        )

    def check(self, *, fetch: bool = True) -> None:
        self.download = self.download and fetch
        self._file()

    def identity(self) -> dict[str, Any]:
        resize, normalise, _ = PRESETS[self.resize]
        return {
            "network": "inception-v3 tf-2015-12-05 (torch-fidelity)",
            "weights": sha256_file(self._file()),
            "resize": resize,
            "normalise": normalise,
            "dtype": self.precision,
            "batch_norm": "folded",
            "blocks": "fused",
            "decoder": DECODER,
        }

    def _published(self) -> bool:
        return sha256_file(self._file()).startswith(CANONICAL_SHA256)

    def canonical(self) -> bool:
        """Whether these are the published weights under TTUR's conventions."""
        return self.label() == NETWORK

    def label(self) -> str:
        """The network's name; with the preset, the precision and a digest of the weights where they are unusual."""
        digest = None if self._published() else sha256_file(self._file())[:8]
        return ":".join(filter(None, (NETWORK, PRESETS[self.resize][2], PRECISIONS[self.precision], digest)))

    def _load(self) -> InceptionNet:
        import torch

        from evalkit.extractors.inception_net import load_network

        return load_network(
            self._file(),
            f"extractor '{self.name}'",
            centre=127.5 if self.resize == "torch" else 128.0,
            dtype=getattr(torch, self.precision),
        )

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import torch

        from evalkit.extractors.inception_blocks import on_own_cores

        assert self._net is not None, "load() comes first"
        with exact_float32():
            if self._device == "cpu":
                parts = on_own_cores(lambda part: self._features(part, layers), images)
            else:
                parts = [self._features(images, layers)]
        return {layer: torch.cat([part[layer] for part in parts]).cpu() for layer in layers}

    def _features(self, images: Sequence[NDArray[np.uint8]], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch

        from evalkit.extractors.inception_net import INPUT_SIZE
        from evalkit.extractors.resizing import resize

        x = torch.empty(len(images), 3, INPUT_SIZE, INPUT_SIZE, device=self._device)  # f32 [B,3,299,299]
        for positions in by_size(images).values():
            same = to_tensor([images[i] for i in positions]).to(self._device)  # u8 [b,3,H,W]
            x[positions] = resize(same, INPUT_SIZE, self.resize)
        found: dict[str, Tensor] = self._net(x, layers)
        return found
