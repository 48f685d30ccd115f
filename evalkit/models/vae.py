"""The autoencoder of a latent diffusion model, alone: what is lost between an image and its reconstruction.

Rombach et al. 2022 (arXiv 2112.10752, table 8) compare first stages so: FID of the reconstructions with the images
themselves (rFID), and PSNR, SSIM and LPIPS of each with its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evalkit.data.open import PathOpener
from evalkit.data.records import ReadOptions
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Generated, Model, ModelPart, Request, Sampler, Settings
from evalkit.models.device_images import rounded
from evalkit.models.diffusers import compat
from evalkit.models.diffusers.networks import Network
from evalkit.models.diffusers.sampling import mark_infinities, sent_home
from evalkit.utils.files import resolve_path
from evalkit.utils.hub import WeightsLocation

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from evalkit.data.source import Source

DTYPES = ("float32", "float16", "bfloat16")
POSTERIORS = ("mode", "sample")
_CHANNELS = {  # the class in diffusers: its config's list with a number per resolution
    "AutoencoderKL": "block_out_channels",
    "AutoencoderKLFlux2": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
    "VQModel": "block_out_channels",
}


class VaeReconstruction(Model):
    """Sample i is image i, encoded and decoded.

    Args:
        path: a hub id ("owner/name"), a folder, or "pkg://package/folder": of a pipeline, or of the autoencoder itself.
        subfolder: where the autoencoder lies in it ("vae"); none: `path` is the autoencoder's.
        images: what is reconstructed: a folder, .zip, .tar, .parquet, .npy or .npz; or {_target_: ...} of a reference;
            none: the image that the sample's prompt names as its `source`.
        size: `images` are first brought to size x size: the shorter side resized (Lanczos), the middle cut out. None:
            they stay as they are, and must be of one size that the autoencoder takes.
        dtype: "float32", "float16" or "bfloat16".
        posterior: "mode": the latents' mean; "sample": drawn from the encoder's Gaussian by the sample's own generator.
        tiling: encodes and decodes large images in tiles: less memory, pixels change a little.
        revision: commit, tag or branch of a hub id.
        variant: "fp16", say: prefers weights named `*.fp16.safetensors`.
    """

    weights_option = "path"
    remakes = (*Model.remakes, "attention")

    def __init__(
        self,
        path: str,
        subfolder: str | None = None,
        images: str | Mapping[str, Any] | None = None,
        size: int | None = None,
        dtype: str = "float32",
        posterior: Literal["mode", "sample"] = "mode",
        tiling: bool = False,
        revision: str | None = None,
        variant: str | None = None,
    ) -> None:
        for name, value, known in (("dtype", dtype, DTYPES), ("posterior", posterior, POSTERIORS)):
            if value not in known:
                raise ConfigError(f"{name} '{value}' is not known. {nearest(value, known)}")
        if size is not None and images is None:
            raise ConfigError("size goes with images=PATH; images that prompts name stay as they are")
        self.network = Network("model", WeightsLocation(path, revision), subfolder, variant)
        self.images, self.size, self.dtype, self.posterior, self.tiling = images, size, dtype, posterior, tiling
        self.conditioning = "text" if images is None else "none"
        self.local = not self.network.location.on_hub
        self._vae: Any = None
        self._device = "cpu"

    def __str__(self) -> str:
        return str(self.network)

    # ---- the weights

    def check(self, *, fetch: bool = True) -> None:
        """Looks for the autoencoder's files, and at the images' size."""
        if self.local:
            self._config()
        self.network.check(fetch=fetch)
        if isinstance(self.images, str):
            self._opener().check()
        if self.local and self.images is not None:
            height, width = self._source.read(range(1))[0].shape[:2]
            self._check_size(height, width, self._source.name)

    def _config(self) -> dict[str, Any]:
        """The autoencoder's own, with its class, once its files are here."""
        config = self.network.config() if self._vae is None else dict(self._vae.config)
        kind = config.get("_class_name") if self._vae is None else type(self._vae).__name__
        if kind not in _CHANNELS:
            raise ConfigError(f"{self}: {kind} is no autoencoder of images that is known: {', '.join(_CHANNELS)}")
        return {**config, "_class_name": kind}

    def identity(self) -> dict[str, Any]:
        """Digest of the local files, or hub id and revision; digest of the images; all options that change pixels."""
        images = {} if self.images is None else {"images": self._source.digest}
        options = {"dtype": self.dtype, "posterior": self.posterior, "tiling": self.tiling}
        weights = {"weights": self.network.identity(), "variant": self.network.variant}
        return {"kind": "autoencoder", **weights, **images, **options}

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses tiling where the class knows none, before the weights are loaded (ConfigError). Imports diffusers."""
        if self.local:
            self._check_tiling(self.network.diffusers_class())

    def _check_tiling(self, cls: Any) -> None:
        if self.tiling and not compat.knows_tiling(cls):
            raise ConfigError(f"{self}: {cls.__name__} knows no tiling: set tiling: false")

    def load(self, device: str) -> None:
        """Loads the autoencoder in evaluation mode."""
        import torch

        vae = self.network.load({compat.dtype_argument(): getattr(torch, self.dtype)})
        self._check_tiling(type(vae))
        if self.tiling:
            vae.enable_tiling()
        self._vae, self._device = vae.to(device), device
        self._config()

    def timed_parts(self) -> list[ModelPart]:
        """Encoding and decoding."""
        return [ModelPart(name, self._vae, name, self.dtype) for name in ("encode", "decode")]

    def unload(self) -> None:
        self._vae = None

    # ---- the images

    def _opener(self) -> PathOpener:
        assert isinstance(self.images, str)
        return PathOpener(resolve_path(self.images), ReadOptions(prompts=None, mixed_sizes=self.size is not None))

    @functools.cached_property
    def _source(self) -> Any:
        """The images to reconstruct, as the autoencoder is given them."""
        from evalkit.config.build import build
        from evalkit.data.center_crop import CenterCropped
        from evalkit.data.reference import Reference

        assert self.images is not None
        images = self._opener() if isinstance(self.images, str) else build(self.images, "images", Reference)
        source: Any = images.open()
        if not hasattr(source, "head"):
            raise ConfigError(f"images: {self.images} holds no images")
        return source if self.size is None else CenterCropped(source, self.size)

    def num_available(self) -> int | None:
        """As many as there are images; with prompts as many as they ask for."""
        return None if self.images is None else len(self._source)

    def own_images(self, kind: str, num_samples: int, *, cache: Path | None = None) -> Source | None:
        """Each reconstruction's own image is its source and its target."""
        if self.images is None or kind not in ("target", "source"):
            return None
        source: Source = self._source.head(num_samples)
        return source

    def _check_size(self, height: int, width: int, name: str) -> None:
        config = self._config()
        factor = 2 ** (len(config[_CHANNELS[config["_class_name"]]]) - 1)
        if height % factor or width % factor:
            remedy = "size=PIXELS resizes them" if self.images is not None else "resize them"
            raise ConfigError(
                f"{name}: images of {width}x{height}, but {self} takes sides that are multiples of {factor}: {remedy}"
            )

    # ---- the work

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """Encodes and decodes one image per request; with posterior="sample" by the request's own generator."""
        import numpy as np
        import torch

        if self._vae is None:
            raise RuntimeError("load() comes before generate()")
        images = self._read(requests)
        sizes = sorted({image.shape[:2] for image in images})
        if len(sizes) > 1:
            shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
            raise DataError(f"{self}: images of different sizes ({shown}): resize them to one")
        self._check_size(images[0].shape[0], images[0].shape[1], "the images")
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self._device)  # NHWC -> NCHW, u8
        with torch.inference_mode():
            y = self._reconstruct((x.float() / 127.5 - 1).to(self._vae.dtype), requests)
            made = rounded((mark_infinities(y.float()) / 2 + 0.5).clamp(0, 1))
        return Generated(sent_home(made, str(self)), nfe=1.0)

    def _read(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        if self.images is not None:
            numbers = [request.index for request in requests]
            together = range(numbers[0], numbers[0] + len(numbers))
            parts = [together] if numbers == list(together) else [range(i, i + 1) for i in numbers]
            return list(itertools.chain.from_iterable(map(self._source.read, parts)))
        from evalkit.data.codec import decode

        images = []
        for request in requests:
            if request.source is None:
                raise DataError(
                    f"{self}: the prompt of sample {request.index} names no source image: give a prompt set that does "
                    "(prompts.table.source=COLUMN), or images=PATH"
                )
            images.append(decode(Path(request.source)))
        return images

    def _reconstruct(self, x: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
        """[B,3,H,W] in [-1,1] -> the same, about."""
        import torch

        encoded = self._vae.encode(x)
        if not hasattr(encoded, "latent_dist"):  # AutoencoderDC says latent; the others latents
            latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        elif self.posterior == "mode":
            latents = encoded.latent_dist.mode()
        else:
            mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
            noise = [torch.randn(mean.shape[1:], generator=request.generator()) for request in requests]
            latents = mean + std * torch.stack(noise).to(mean)
        decoded: torch.Tensor = self._vae.decode(latents).sample
        return decoded
