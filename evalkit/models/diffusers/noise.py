"""The first noise of a diffusion pipeline as its latent: had, and put in its place, where the pipeline makes it.

Two forms of it: walks and path lengths move what the sampler starts from (scaled, in the pipeline's own shape); files
of latents hold what the pipeline takes as its argument `latents` (unit noise, before `init_noise_sigma`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler, Settings
from evalkit.models.diffusers.sampling import class_ids, denoisers, unit_noise
from evalkit.models.latent import LatentModel

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.models.diffusers.checkpoint import Checkpoint

    Swap = Callable[[torch.Tensor], torch.Tensor]  # the first noise as drawn -> the one to begin with


class FirstNoise(BaseException):
    """Leaves a call of a pipeline as soon as its first noise is there; see evalkit/models/diffusers/compat.py."""


class NoiseModel(LatentModel):
    """A pipeline whose `generate` begins with noise: a pipeline's `prepare_latents`, or `denoise`'s own.

    A latent is what the sampler starts from, in the pipeline's own shape (packed, for FLUX) and scale. All that is
    drawn later (ancestral samplers, the VAE) comes from the request's generator as ever, so that a request's own
    latent gives its own image.
    """

    spaces = ("noise",)
    takes_latents = True
    classes: int | None = None
    _pipe: Any = None
    _needs: tuple[Any, tuple[int, ...]] | None = None  # the shape of latents, and of which call
    swap: Swap | None = None  # what `denoise` and `prepare_latents` hand their noise to, while a call lasts

    def latents(
        self, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        """The first noise of each request. ConfigError: the pipeline keeps it to itself."""
        import torch

        taken: list[torch.Tensor] = []

        def take(noise: Tensor) -> Tensor:
            taken.append(noise.detach().float().cpu())
            raise FirstNoise

        for request in requests:
            with self._swapping(take):
                try:
                    self.generate([request], sampler=sampler, settings=settings)
                except FirstNoise:
                    continue
            raise ConfigError("the pipeline draws its first noise in no `prepare_latents`: it cannot be interpolated")
        return torch.cat(taken)

    def render(
        self, latents: Tensor, requests: Sequence[Request], *, space: str, sampler: Sampler | None, settings: Settings
    ) -> Tensor:
        """u8 values: the pipeline rounds nothing, but `generate` does."""
        import torch

        def give(noise: Tensor) -> Tensor:
            if noise.shape != latents.shape:
                raise ConfigError(f"the pipeline begins with noise {list(noise.shape)}, not {list(latents.shape)}")
            return latents.to(noise)

        with self._swapping(give):
            made = self.generate(requests, sampler=sampler, settings=settings)
        return torch.from_numpy(made.images).permute(0, 3, 1, 2)

    def settled(self, request: Request) -> Request:
        """With the class that `generate` gives it, where it names none."""
        if self.conditioning != "class" or request.class_id is not None:
            return request
        return replace(request, class_id=class_ids(self._pipe, [request], self.classes, "the model")[0])

    def draw_latents(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings
    ) -> list[NDArray[np.float32]]:
        """Unit noise, as the pipeline takes it as `latents` (packed, for FLUX), f32.

        Raises:
            ConfigError: the pipeline takes none, or does not begin with what it is given.
        """
        pipe = self._pipe
        if pipe is None:
            raise RuntimeError("load() comes before draw_latents()")
        self.check_shows_latents()
        if not hasattr(pipe, "prepare_latents"):
            classes = None
            if self.conditioning == "class":
                classes = class_ids(pipe, requests, self.classes, "the model")
            drawn, _ = unit_noise(pipe.unet, [request.generator() for request in requests], classes)
            return list(drawn.float().cpu().numpy())
        draw = _Draw(pipe.prepare_latents, self._arguments(requests[0], sampler, settings))
        return [draw(request).float().cpu().numpy() for request in requests]

    def _arguments(self, request: Request, sampler: Sampler | None, settings: Settings) -> dict[str, Any]:
        """What the pipeline calls `prepare_latents` with, for one request."""
        pipe, taken = self._pipe, list[dict[str, Any]]()
        prepare = pipe.prepare_latents

        def take(*args: Any, **kwargs: Any) -> Any:
            taken.append(dict(inspect.signature(prepare).bind(*args, **kwargs).arguments))
            raise FirstNoise

        pipe.prepare_latents = take
        try:
            self.generate([replace(request, latent=None)], sampler=sampler, settings=settings)
        except FirstNoise:
            return taken[0]
        finally:
            del pipe.prepare_latents
        raise ConfigError("the pipeline draws its first noise in no `prepare_latents`: it shows none")

    def check_takes_latents(self, pipeline: Any, *, looped: bool) -> None:
        """ConfigError: a class of pipelines takes no starting noise. One that is `looped` runs under `denoise`."""
        takes = inspect.signature(pipeline.__call__).parameters
        prepare = inspect.signature(getattr(pipeline, "prepare_latents", lambda: None)).parameters
        if looped or ("latents" in takes and "latents" in prepare):
            return
        raise ConfigError(f"latents: {pipeline.__name__} takes no starting noise: leave latents out")

    def check_given(self, requests: Sequence[Request], sampler: Sampler | None, settings: Settings) -> None:
        """ConfigError: the requests' latents are not of the shape that the loaded pipeline begins with."""
        if requests[0].latent is None:
            return
        about = (id(self._pipe), str(sampler), str(settings))
        if self._needs is None or self._needs[0] != about:
            own = self.draw_latents([replace(requests[0], latent=None)], sampler=sampler, settings=settings)
            self._needs = about, own[0].shape
        for request in requests:
            if request.latent is not None and request.latent.shape != self._needs[1]:
                given, need = list(request.latent.shape), list(self._needs[1])
                raise ConfigError(f"latents: {given} for sample {request.index}, but the pipeline begins with {need}")

    def begin_with(
        self, requests: Sequence[Request], generators: Sequence[torch.Generator], call: dict[str, Any]
    ) -> None:
        """Puts the requests' latents, where they have some, into a pipeline's call.

        The generators draw as much all the same: what is drawn later is then what it is without them, so that a cell's
        own latents make its own images with an ancestral sampler, too.
        """
        import torch

        given = stacked(requests)
        if given is None:
            return
        dtype = next((part.dtype for part in denoisers(self._pipe)), torch.float32)
        for request, generator in zip(requests, generators, strict=True):
            if request.source is not None:  # its VAE draws from it first
                continue
            torch.randn((1, *given.shape[1:]), generator=generator, dtype=dtype)
        call["latents"] = given.to(device=self._pipe._execution_device, dtype=dtype)

    @contextmanager
    def _swapping(self, swap: Swap) -> Iterator[None]:
        pipe = self._pipe
        if pipe is None:
            raise RuntimeError("load() comes before latents() and render()")
        prepare = getattr(pipe, "prepare_latents", None)
        self.swap = swap
        if prepare is not None:
            pipe.prepare_latents = lambda *args, **kwargs: _first(prepare(*args, **kwargs), swap)
        try:
            yield
        finally:
            self.swap = None
            if prepare is not None:
                del pipe.prepare_latents


def _first(prepared: Any, swap: Swap) -> Any:
    """What `prepare_latents` returned, its noise swapped: a tensor, or the first of several (FLUX: ids next to it)."""
    if isinstance(prepared, tuple):
        return (swap(prepared[0]), *prepared[1:])
    return swap(prepared)


def stacked(requests: Sequence[Request]) -> Tensor | None:
    """The latents of requests, f32 [B, ...]; none where they have none."""
    import numpy as np
    import torch

    given = [request.latent for request in requests if request.latent is not None]
    return torch.from_numpy(np.stack(given)) if given else None


class _Draw:
    """Draws a sample's own first noise by a pipeline's `prepare_latents`, in the form that it takes it in.

    That is what it draws (Stable Diffusion scales it, FLUX.2 packs it), or what it returns (FLUX takes packed ones):
    whichever it makes the same of when it is given.
    """

    def __init__(self, prepare: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self._prepare, self._arguments = prepare, dict(arguments)
        self._returned: bool | None = None  # whether it is what it returns

    def __call__(self, request: Request) -> Tensor:
        """[...] without a batch axis. ConfigError: the pipeline makes something else of either form."""
        import torch

        drawn: list[Tensor] = []
        with _watched(self._prepare, drawn):
            made = self._call(request, None)
        for returned, latent in ((False, drawn[0] if drawn else None), (True, made)):
            if latent is None or self._returned not in (None, returned):
                continue
            if self._returned is None:
                again = self._call(request, latent)
                if again.shape != made.shape or not torch.equal(again, made):
                    continue
                self._returned = returned
            return latent[0]
        raise ConfigError("the pipeline does not begin with the latents that it is given: it shows no starting noise")

    def _call(self, request: Request, latents: Tensor | None) -> Tensor:
        arguments = {**self._arguments, "generator": [request.generator()], "latents": latents}
        if "batch_size" in arguments:
            arguments["batch_size"] = 1
        made = self._prepare(**arguments)
        first: Tensor = made[0] if isinstance(made, tuple) else made
        return first


@contextmanager
def _watched(prepare: Callable[..., Any], drawn: list[Tensor]) -> Iterator[None]:
    """Collects what `randn_tensor` gives a pipeline's method, in whose module it is a global name."""
    scope: dict[str, Any] = getattr(inspect.unwrap(prepare), "__globals__", {})
    draw: Any = scope.get("randn_tensor")

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        noise: Tensor = draw(*args, **kwargs)
        drawn.append(noise)
        return noise

    if draw is not None:
        scope["randn_tensor"] = watched
    try:
        yield
    finally:
        if draw is not None:
            scope["randn_tensor"] = draw


_PLAIN = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "PixArt", "LatentCons")


def noise_shape_of(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """What a pipeline on disk begins with, by its parts' configs; none: not known before it is loaded."""
    kind = checkpoint.pipeline_class()
    if kind in ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline"):
        config = checkpoint.config_of("unet")
        size, channels = config.get("sample_size"), config.get("in_channels")
        if not size or not isinstance(channels, int):
            return None
        height, width = size if isinstance(size, list) else (size, size)
        return channels, int(height), int(width)
    binned = kind.startswith("PixArt") and settings.get("use_resolution_binning", True)
    packed = kind == "FluxPipeline"
    if binned or not (packed or kind.startswith(_PLAIN)):
        return None
    part = "unet" if "unet" in checkpoint.index() else "transformer"
    config, vae = checkpoint.config_of(part), checkpoint.config_of("vae")
    channels, blocks = config.get("in_channels"), vae.get("block_out_channels")
    size = 128 if packed else config.get("sample_size")  # FLUX's default
    if not isinstance(channels, int) or not isinstance(blocks, list) or not isinstance(size, int):
        return None
    factor = 2 ** (len(blocks) - 1)
    height, width = (int(settings.get(side) or size * factor) // factor for side in ("height", "width"))
    return ((height // 2) * (width // 2), channels) if packed else (channels, height, width)
