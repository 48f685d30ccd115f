"""Any timm model: its pooled features before the classifier (`num_classes=0`).

Source: timm 1.0. DINOv2 by the conventions of Stein et al. 2023, arXiv:2306.04675 (dgm-eval): 224 x 224 squashed by
Pillow's bicubic, position embeddings interpolated as DINOv2's own code does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, BatchSize, NetworkExtractor, Prepared, resized, to_device
from evalkit.utils.text import one_line
from evalkit.utils.weights import HubFile, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from evalkit.extractors.base import Images
WEIGHTS_NAME = "model.safetensors"  # in timm's repositories
RESIZES = ("squash", "crop", "tensor")
POOLS = ("head", "mean")
INTERPOLATIONS = ("bicubic", "bilinear")
POSITIONS = ("timm", "dinov2")
DINOV2_OFFSET = 0.1  # dinov2/hub/backbones.py: interpolate_offset, with interpolate_antialias=False


@dataclass(frozen=True)
class Resize:
    """How images become the network's input, size x size. `Timm` says what each option means."""

    size: int
    method: str
    crop_pct: float
    interpolation: str

    def __str__(self) -> str:
        if self.method == "tensor":
            return f"torch {self.interpolation} antialias {self.size}, float32 of 0 to 1"
        crop = f" of {self.crop_pct}" if self.method == "crop" else ""
        return f"PIL {self.interpolation} {self.method} {self.size}{crop}"

    def __call__(self, image: Image.Image) -> Image.Image:
        """The input, by Pillow; crops lie as torchvision's Resize and CenterCrop place them."""
        from PIL import Image

        how = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[self.interpolation]
        if self.method == "squash":
            return image.resize((self.size, self.size), how)
        width, height = image.size
        short = math.floor(self.size / self.crop_pct)
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.resize((width, height), how).crop((left, top, left + self.size, top + self.size))


class Timm(NetworkExtractor):
    """Layer features.

    Args:
        name: how scores are labelled.
        model: an architecture that timm knows, with or without a tag ("resnet50.tv_in1k").
        weights: a weights file, `pkg://package/path` where a package ships it; none: from `repo`.
        repo: the Hugging Face repository that holds a model.safetensors; none: timm/`model`.
        revision: the repository's commit, tag or branch; none: its main branch.
        sha256: what the weights file's sha256 must begin with; none: anything.
        width: of the features, where it is to be known without the weights.
        size: height and width of the network's input.
        resize: "squash": both sides to `size`, by Pillow. "crop": the shorter side to `size / crop_pct`, then the
            centre. "tensor": both sides to `size` by torch with antialias, in float32 that is not rounded.
        crop_pct: of the side, with resize=crop.
        interpolation: bicubic or bilinear.
        mean: by channel, of images in 0 to 1; none: the model's own.
        std: likewise.
        model_args: further arguments of the architecture (`img_size: 224` of a vision transformer).
        pool: "head": as the model itself before its classifier. "mean": the mean over positions of its last feature
            map, without the head's norm (ConvNeXt's, in FD-loss).
        positions: how position embeddings are brought to the input's size: as timm does (with antialias), or as
            DINOv2's own code.
        by_order: the file's tensors are the network's in order, under other names (shapes are compared).
        canonical: whether these are the weights that a metric's bare title stands for in the literature.
        download: whether weights that are not in the cache are fetched, once.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    reentrant = True

    def __init__(
        self,
        name: str,
        model: str,
        weights: str | None = None,
        repo: str | None = None,
        revision: str | None = None,
        sha256: str | None = None,
        width: int | None = None,
        size: int = 224,
        resize: str = "squash",
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        model_args: Mapping[str, Any] | None = None,
        pool: str = "head",
        positions: str = "timm",
        by_order: bool = False,
        canonical: bool = False,
        download: bool = True,
        batch_size: BatchSize = 32,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        self._choose("resize", resize, RESIZES)
        self._choose("interpolation", interpolation, INTERPOLATIONS)
        self._choose("positions", positions, POSITIONS)
        self._choose("pool", pool, POOLS)
        source = HubFile(repo or f"timm/{model}", WEIGHTS_NAME, revision)
        self.weights = Weights(f"extractor.{name}", "weights", weights, source, sha256, download, key=weights_key)
        self.resize = Resize(size, resize, crop_pct, interpolation)
        self.model, self.model_args, self.width = model, dict(model_args or {}), width
        self.mean, self.std, self.positions, self.by_order = mean, std, positions, by_order
        self.pool = pool
        self._canonical = canonical

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"features": self.width}

    def identity(self) -> dict[str, Any]:
        default = "timm's for the model"
        return {
            "network": f"timm {version('timm').rpartition('.')[0]}",
            "model": self.model,
            "model_args": self.model_args,
            "positions": self.positions,
            "weights": self.weights.digest(),
            "by_order": self.by_order,
            "layer": "pooled, before the classifier" if self.pool == "head" else "mean of the last map, no norm",
            "resize": str(self.resize),
            "normalise": [list(self.mean) if self.mean else default, list(self.std) if self.std else default],
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    # -- the network

    def _load(self) -> Any:
        import torch

        state = self._state()
        # as weights of a network without classes: timm then asks for every tensor, and for no other
        overlay = {"state_dict": state, "num_classes": 0, "classifier": None, "custom_load": False}
        net = self._create(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
        if self.width not in (None, net.num_features):
            raise ConfigError(f"extractor.{self.name}.width={self.width}, but {self.model} has {net.num_features}")
        mean, std = self.mean or net.pretrained_cfg["mean"], self.std or net.pretrained_cfg["std"]
        self._norm = (torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1))  # f32
        return net.eval().requires_grad_(False)

    def _create(self, **options: Any) -> Any:
        import timm

        try:
            return timm.create_model(self.model, **options, **self.model_args)
        except (RuntimeError, KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:  # timm's
            raise self._refused(one_line(error)) from error

    def _refused(self, reason: str) -> ConfigError:
        file = self.weights.find()
        return ConfigError(f"{self.where}: model '{self.model}' cannot be loaded from {file}: {reason}")

    def _state(self) -> dict[str, Tensor]:
        """The network's tensors under timm's names, without the classifier's."""
        import timm
        import torch

        state = self.weights.read()
        if self.by_order:
            with torch.device("meta"):
                theirs = self._create().state_dict()
            if [tuple(v.shape) for v in theirs.values()] != [tuple(v.shape) for v in state.values()]:
                raise self._refused("its tensors have other shapes, or another order, than the network's")
            state = dict(zip(theirs, state.values(), strict=True))
        config = timm.get_pretrained_cfg(self.model)
        classifier: Any = (config.classifier if config else None) or ()
        heads = [classifier] if isinstance(classifier, str) else list(classifier)
        state = {k: v for k, v in state.items() if not any(k in (f"{n}.weight", f"{n}.bias") for n in heads)}
        if self.positions == "dinov2":
            missing = [name for name in ("patch_embed.proj.weight", "pos_embed") if name not in state]
            if missing:
                raise self._refused(f"it has no {missing[0]}")
            patch = state["patch_embed.proj.weight"].shape[-1]
            state["pos_embed"] = dinov2_positions(state["pos_embed"], self.resize.size // patch)
        return state

    def load(self, device: str) -> None:
        super().load(device)
        self._norm = (self._norm[0].to(device), self._norm[1].to(device))

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        import numpy as np
        from PIL import Image

        if self.resize.method == "tensor":
            return Prepared(image)
        return Prepared(np.asarray(self.resize(Image.fromarray(image))))

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        mean, std = self._norm
        with self.arithmetic():
            x = (self._input(self.prepared(images)) - mean) / std  # f32 [B,3,S,S]
            if self.pool == "head":
                return {"features": self.network(x).float()}  # [B,D]
            features = self.network.forward_features(x).float()  # [B,D,h,w], or [B,T,D] of tokens
            return {"features": features.mean((2, 3)) if features.ndim == 4 else features.mean(1)}

    def _input(self, images: Images) -> Tensor:
        """The images as f32 [B,3,S,S] of 0 to 1."""
        if self.resize.method != "tensor":
            return to_device(images, self._device).float() / 255
        from torch.nn.functional import interpolate

        size = (self.resize.size, self.resize.size)

        def resize(x: Tensor) -> Tensor:  # u8 [b,3,H,W] -> f32 [b,3,S,S]
            x = x.float() / 255
            if x.shape[-2:] == size:
                return x
            return interpolate(x, size=size, mode=self.resize.interpolation, align_corners=False, antialias=True)

        return resized(images, size, self._device, resize)


def dinov2_positions(embedding: Tensor, grid: int) -> Tensor:
    """Position embeddings f32 [1,1+M*M,D] for a grid of patches, f32 [1,1+grid*grid,D], by DINOv2's own code.

    facebookresearch/dinov2 `vision_transformer.py`, `interpolate_pos_encoding`: bicubic without antialias, by a scale
    factor that is 0.1 of a patch larger than the grid. timm's own resampling differs from it (antialias, no offset).
    """
    import torch

    side = math.isqrt(embedding.shape[1] - 1)
    if side == grid:
        return embedding
    patches = embedding[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)  # [1,D,M,M]
    factor = (grid + DINOV2_OFFSET) / side
    patches = torch.nn.functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic", antialias=False)
    return torch.cat([embedding[:, :1].float(), patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
