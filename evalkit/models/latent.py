"""Models whose images come from latents that can be had, moved and rendered: GANs, and the first noise of diffusion."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Generated, Model, ModelPart, Request, Sampler, Settings
from evalkit.models.device_images import DeviceImages, Rounded
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


def cannot_take(given: Sequence[Tensor], error: Exception) -> ConfigError:
    """The error of a generator that failed on its inputs: their shapes come from its options."""
    shapes = ", ".join(str(list(x.shape)) for x in given)
    return ConfigError(f"the generator cannot take {shapes} (latent_dim, num_classes): {one_line(error)}")


class LatentModel(Model):
    """A model that gives a sample's latent and makes images of any latent: what walks and path lengths need.

    For each of its spaces, `render(latents(requests))` are the images of `generate(requests)`, before rounding.
    """

    spaces: ClassVar[tuple[str, ...]] = ()  # "z", "w", "noise"; latents of the first are interpolated on a sphere

    @abstractmethod
    def latents(
        self, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        """Each request's own latent, f32 [B, ...] on the CPU, after `load`."""

    @abstractmethod
    def render(
        self, latents: Tensor, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        """The images of given latents, with the class, prompt and later noise of their requests.

        Returns:
            [B,3,H,W], 0 to 255, on whichever device; not rounded, and not clamped, where the model does not do so
            itself.
        """

    def settled(self, request: Request) -> Request:
        """The request, with what the model would read off its index (a class) made explicit."""
        return request


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """What `render` gives as u8 [B,H,W,3]: halves are rounded up, what lies beyond is clamped."""
    pixels: NDArray[np.uint8] = _whole(images).cpu().numpy()
    return pixels


def _whole(images: Tensor) -> Tensor:
    """[B,3,H,W], 0 to 255 -> u8 [B,H,W,3], where the images are."""
    import torch

    whole = (in_double(images) + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
    return whole.permute(0, 2, 3, 1).contiguous()


def in_double(x: Tensor) -> Tensor:
    """In float64, where the tensor is; Metal has none, so it is brought to the CPU from there."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


class GanModel(LatentModel):
    """What all generators share that make an image of a latent in one evaluation; a subclass writes `_output`.

    Args:
        latent_dim: z is f32 [B, latent_dim], or [B, *latent_dim].
        latent: "normal", or "uniform" in [-1, 1].
        num_classes: gives the generator class labels: a sample's own, or its index modulo this.
        class_input: "index": i64 [B]; "one_hot": f32 [B, num_classes].
        output_range: what the generator's darkest and lightest value are; beyond it is clamped, halves are rounded up.
    """

    call_settings = frozenset({"truncation"})
    takes_latents = True
    spaces: ClassVar[tuple[str, ...]] = ("z",)

    def __init__(
        self,
        latent_dim: int | Sequence[int] = 128,
        latent: Literal["normal", "uniform"] = "normal",
        num_classes: int | None = None,
        class_input: Literal["index", "one_hot"] = "index",
        output_range: Sequence[float] = (-1, 1),
    ) -> None:
        for name, value, known in (
            ("latent", latent, ("normal", "uniform")),
            ("class_input", class_input, ("index", "one_hot")),
        ):
            if value not in known:
                raise ConfigError(f"{name} '{value}' is not known. {nearest(value, known)}")
        if len(output_range) != 2 or not output_range[0] < output_range[1]:
            raise ConfigError(f"output_range {list(output_range)}: give the darkest and the lightest value, as [-1, 1]")
        if num_classes is not None and num_classes < 1:
            raise ConfigError(f"num_classes={num_classes}: give a number >= 1, or null")
        self.z_shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
        self.latent, self.num_classes, self.class_input = latent, num_classes, class_input
        self.output_range = (float(output_range[0]), float(output_range[1]))
        self.conditioning = "none" if num_classes is None else "class"

    def _about_latents(self) -> dict[str, Any]:
        """What of the above belongs to the identity."""
        classes = [self.num_classes, self.class_input]
        return {"latent": [self.latent, *self.z_shape], "classes": classes, "output_range": [*self.output_range]}

    @property
    @abstractmethod
    def _loaded(self) -> bool: ...

    @abstractmethod
    def _output(self, latents: Tensor, labels: Tensor | None, *, space: str, settings: Settings) -> Any:
        """The generator's own output for latents f32 [B, ...] of a space, and labels i64 [B] or f32 [B, classes]."""

    def timed_parts(self) -> list[ModelPart]:
        """The generator's evaluation, with the latents' way to the device."""
        return [ModelPart("generator", self, "_output", getattr(self, "dtype", None))]

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses settings that the model does not take, and a truncation that makes no sense."""
        super().check_call(sampler, settings)
        limit = settings.get("truncation")
        if limit is None:
            return
        if self.latent != "normal":
            raise ConfigError("truncation is for normal latents: set truncation: null, or latent: normal")
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0.01 <= limit < math.inf:
            raise ConfigError(f"truncation={limit!r}: give a number of at least 0.01, or null")

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """Makes one image per request from a latent of the request's own generator, in one network evaluation."""
        if not self._loaded:
            raise RuntimeError("load() comes before generate()")
        self.check_call(sampler, settings)
        space = self.spaces[0]
        latents = self.latents(requests, space=space, sampler=sampler, settings=settings)
        output = self._output(latents, self._labels(requests), space=space, settings=settings)
        images, bad = self._scaled(output, len(requests))
        return Generated(DeviceImages(Rounded(_whole(images), bad), _complaint), 1.0, [[] for _ in requests])

    def latents(
        self, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        import torch

        limit = settings.get("truncation")
        given = [None if r.latent is None else torch.from_numpy(r.latent) for r in requests]
        drawn = [self._draw(r.generator(), limit) if z is None else z for r, z in zip(requests, given, strict=True)]
        return torch.stack(drawn)

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """z's. ConfigError: with `truncation`, which draws again what was given."""
        if settings.get("truncation") is not None:
            raise ConfigError("latents: truncation draws latents again: give them within it, and set truncation: null")
        return self.z_shape

    def check_shows_latents(self) -> None:
        """Each generator shows its z."""

    def draw_latents(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings
    ) -> list[NDArray[np.float32]]:
        """z, after truncation."""
        return [z.numpy() for z in self.latents(requests, space="z", sampler=sampler, settings=settings)]

    def render(
        self, latents: Tensor, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        output = self._output(latents, self._labels(requests), space=space, settings=settings)
        images, bad = self._scaled(output, len(requests))
        if bad.any():
            raise DataError(_complaint(int(bad.sum()), len(bad)))
        return images

    def settled(self, request: Request) -> Request:
        if self.num_classes is None or request.class_id is not None:
            return request
        return replace(request, class_id=request.class_among(self.num_classes, "the generator"))

    def _draw(self, generator: torch.Generator, limit: float | None) -> Tensor:
        import torch

        if self.latent == "uniform":
            return torch.rand(self.z_shape, generator=generator) * 2 - 1
        z = torch.randn(self.z_shape, generator=generator)
        while limit is not None and (beyond := z.abs() > limit).any():
            z[beyond] = torch.randn(int(beyond.sum()), generator=generator)
        return z

    def _labels(self, requests: Sequence[Request]) -> Tensor | None:
        import torch

        total = self.num_classes
        if total is None:
            return None
        labels = torch.tensor([request.class_among(total, "the generator") for request in requests])
        return torch.nn.functional.one_hot(labels, total).float() if self.class_input == "one_hot" else labels

    def _scaled(self, output: Any, count: int) -> tuple[Tensor, Tensor]:
        """The generator's [B,C,H,W] as f64 [B,3,H,W], 0 to 255, where it is; bool [B]: not all values are finite."""
        import torch

        if not isinstance(output, torch.Tensor):
            raise DataError(f"the generator gave a {type(output).__name__}, not a tensor [B,3,H,W]")
        if output.ndim != 4 or output.shape[0] != count or output.shape[1] not in (1, 3):
            raise DataError(f"the generator gave {list(output.shape)} for {count} latents, not [{count},3,H,W]")
        x = in_double(output.detach())
        bad = ~x.isfinite().flatten(1).all(1)
        low, high = self.output_range
        span = x.new_full((1,), high - low)  # of a plain number, CUDA takes the reciprocal: another last bit
        return ((x - low) / span * 255).expand(-1, 3, -1, -1), bad


def _complaint(bad: int, count: int) -> str:
    return f"the generator's output holds NaN or infinite values in {bad} of {count} images"
