"""The first noise of a diffusion pipeline as its latent: had, and put in its place, where the pipeline makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.models.base import Request, Sampler, Settings
from evalkit.models.diffusers.sampling import class_ids
from evalkit.models.latent import LatentModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

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
    classes: int | None = None
    _pipe: Any = None
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
