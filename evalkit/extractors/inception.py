"""The FID Inception network (TF 2015-12-05 graph): torch-fidelity's weights file and layers, and the peers' resizes.

Source: Heusel et al. 2017; torch-fidelity 0.4.0 `FeatureExtractorInceptionV3`. Equal to it on the same weights file to
float32 rounding (tests/extractors/test_inception.py); to pytorch-fid, clean-fid and torchmetrics under their presets as
well (tests/metrics/test_frechet_presets.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.extractors.base import (
    DECODER,
    PRECISIONS,
    BatchSize,
    NetworkExtractor,
    exact_float32,
    per_channel,
    resized,
)
from evalkit.utils.weights import TAG_LENGTH, Published, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images
    from evalkit.extractors.inception_net import InceptionNet

PUBLISHED = Published(
    "the FID Inception",
    # torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3, which costs an import of torch to read
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    other_names=("pt_inception-2015-12-05-6726825d.pth",),  # pytorch-fid's, of the same content
)
NETWORK = "inception"  # what labels begin with
PRESETS = {  # by `resize`: (its name in the protocol, the normalisation there, the tag in labels)
    "tf1": ("tf1-bilinear-299", "(x-128)/128", None),
    "torch": ("torch-bilinear-299", "2x/255-1", "pytorch-fid"),
    "clean": ("pil-bicubic-float-299", "(x-128)/128", "clean"),
    "antialias": ("torch-bilinear-antialias-299", "(x-128)/128", "torchmetrics"),
}


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
        precision: of the convolutions, float32, tf32, bfloat16 (bf16) or float16 (fp16). All but the first are faster
            where the device has units for them, and differ: bfloat16 by 5e-3 of the features.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    reentrant = True

    def __init__(
        self,
        weights: str | None = None,
        sha256: str | None = None,
        download: bool = True,
        batch_size: BatchSize = 32,
        name: str = "inception",
        resize: str = "tf1",
        precision: str = "float32",
        weights_key: str | None = None,
    ) -> None:
        super().__init__(name, batch_size, precision)
        self._choose("resize", resize, PRESETS)
        self.resize = resize
        self.weights = Weights(f"extractor.{name}", "weights", weights, PUBLISHED, sha256, download, key=weights_key)

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"pool3": 2048, "logits_unbiased": 1008, "logits": 1008, "mixed6_conv7": 2023}

    def identity(self) -> dict[str, Any]:
        resize, normalise, _ = PRESETS[self.resize]
        return {
            "network": "inception-v3 tf-2015-12-05 (torch-fidelity)",
            "weights": self.weights.digest(),
            "resize": resize,
            "normalise": normalise,
            "dtype": self.precision,
            "batch_norm": "folded",
            "blocks": "fused",
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        """Whether these are the published weights under TTUR's conventions."""
        return self.label() == NETWORK

    def label(self) -> str:
        """The network's name; with the preset, the precision and a digest of the weights where they are unusual."""
        digest = None if self.weights.is_published() else self.weights.digest()[:TAG_LENGTH]
        return ":".join(filter(None, (NETWORK, PRESETS[self.resize][2], PRECISIONS[self.precision], digest)))

    def _load(self) -> InceptionNet:
        import torch

        from evalkit.extractors.inception_net import load_network

        centre = 127.5 if self.resize == "torch" else 128.0
        dtype = torch.float32 if self.precision == "tf32" else getattr(torch, self.precision)
        return load_network(self.weights.find(), self.where, key=self.weights.key, centre=centre, dtype=dtype)

    def load(self, device: str) -> None:
        moved = self._device != device
        super().load(device)
        if moved:
            self.network.settle(cuda=device.startswith("cuda"), float32=self.precision == "float32")
            if device.startswith("cuda"):
                try:
                    with exact_float32(tf32=self.precision == "tf32"):
                        self.network(per_channel((0.0,) * 3, device).expand(2, 3, 299, 299), ["pool3"])
                except RuntimeError:  # a cuDNN without an engine for it
                    self.network.settle(cuda=False, float32=True)

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch

        from evalkit.extractors.inception_blocks import PART

        with exact_float32():
            if self._device == "cpu":
                parts = [
                    self.network(self._input(images[at : at + PART]), layers) for at in range(0, len(images), PART)
                ]
                return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}
            x = self._input(images)
        with exact_float32(tf32=self.precision == "tf32"):
            features: dict[str, Tensor] = self.network(x, layers)
        return {layer: features[layer] for layer in layers}

    def _input(self, images: Images) -> Tensor:
        """f32 [B,3,299,299], 0 to 255."""
        from evalkit.extractors.inception_net import INPUT_SIZE
        from evalkit.extractors.resizing import resize

        return resized(images, (INPUT_SIZE,) * 2, self._device, lambda same: resize(same, INPUT_SIZE, self.resize))
