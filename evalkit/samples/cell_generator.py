"""A cell's generator, for metrics of models (`metric.Generator`) and for walks between its latents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalkit.models.latent import LatentModel
from evalkit.utils import devices

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from evalkit.cell import Cell
    from evalkit.extractors.base import Extractor
    from evalkit.models.base import Request
    from evalkit.samples.model_pool import ModelPool


_NOISES = 64  # latents that are drawn at a time


@dataclass(frozen=True, eq=False)
class CellGenerator:
    """A cell's model, loaded when it is first asked for a latent or an image.

    Attributes:
        cell: whose model, sampler, settings, prompts and seed.
        pool: holds the model, and frees it.
        device: auto, cpu, cuda or mps.
        extractors: by name, for `features`.
        show: called with what `progress` is told.
    """

    cell: Cell
    pool: ModelPool
    device: str
    extractors: Mapping[str, Extractor] = field(default_factory=dict)
    show: Callable[[int, int], None] | None = None

    @property
    def key(self) -> str:
        return self.cell.key

    @property
    def spaces(self) -> tuple[str, ...]:
        """The kinds of latents that the model has; none for one that shows no latents. Nothing is loaded."""
        model = self.pool.built(self.cell).model
        return model.spaces if isinstance(model, LatentModel) else ()

    def latents(self, indices: Sequence[int], like: Sequence[int], space: str, seed: int | None = None) -> torch.Tensor:
        """The latents of samples `indices`, in w with the classes of samples `like`; see `metric.Generator`.

        Args:
            seed: instead of the cell's.
        """
        noise = self.pool.built(self.cell).noise if seed is None else None  # from a file, that of sample i
        seed = self.cell.seed if seed is None else seed
        requests = [
            replace(r, index=i, seed=seed, latent=None if noise is None else noise[i])
            for i, r in zip(indices, self._requests(like), strict=True)
        ]
        return self._model().latents(requests, space=space, **self._sampling())

    def starting_noise(self, indices: Sequence[int]) -> list[NDArray[np.float32]]:
        """What samples begin with (`Request.latent`), from the cell's file, or as the model draws it.

        Raises:
            ConfigError: the model shows none.
        """
        built = self.pool.built(self.cell)
        if built.noise is not None:
            return [built.noise[i] for i in indices]
        model = self.pool.load(self.cell, devices.pick_device(self.device)).model
        drawn: list[NDArray[np.float32]] = []
        for _, alike in itertools.groupby(self.pool.requests(self.cell, indices), key=lambda r: dict(r.settings)):
            requests = list(alike)
            settings = {**self.cell.call_settings, **requests[0].settings}
            drawn += model.draw_latents(requests, sampler=built.sampler, settings=settings)
        return drawn

    def all_noise(self, count: int) -> Iterator[NDArray[np.float32]]:
        """`starting_noise` of the first samples, some at a time."""
        for start in range(0, count, _NOISES):
            yield from self.starting_noise(range(start, min(start + _NOISES, count)))

    def images(self, latents: torch.Tensor, like: Sequence[int], space: str) -> torch.Tensor:
        """The images of latents, with the prompts and classes of samples `like`: see `metric.Generator`."""
        return self._model().render(latents, self._requests(like), space=space, **self._sampling())

    def features(self, images: torch.Tensor, address: str) -> torch.Tensor:
        """Features of images that are not rounded: see `metric.Generator`."""
        name, _, layer = address.partition("/")
        extractor = self.extractors[name]
        extractor.load(devices.pick_device(self.device))
        return extractor.embed(images, layer)

    def showing(self, show: Callable[[int, int], None] | None) -> CellGenerator:
        """The same generator, whose `progress` calls `show`."""
        return replace(self, show=show)

    def progress(self, done: int, total: int) -> None:
        """Shows how far a measurement is, where `show` is set."""
        if self.show is not None:
            self.show(done, total)

    def caption(self, index: int) -> str:
        """What a sample was asked for by, for people."""
        request = self._requests([index])[0]
        asked = request.prompt or (None if request.class_id is None else f"class {request.class_id}")
        return f"{index}: {asked}" if asked else f"sample {index}"

    def _model(self) -> LatentModel:
        model = self.pool.load(self.cell, devices.pick_device(self.device)).model
        assert isinstance(model, LatentModel), f"{type(model)} shows no latents"
        return model

    def _requests(self, indices: Sequence[int]) -> list[Request]:
        model = self._model()
        return [model.settled(request) for request in self.pool.requests(self.cell, indices)]

    def _sampling(self) -> dict[str, Any]:
        return {"sampler": self.pool.built(self.cell).sampler, "settings": self.cell.call_settings}
