"""What cells' samples are made with: each object built once, and one model loaded at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from evalkit.config.build import build
from evalkit.data.codec import encode_png
from evalkit.data.encoders import Encoders
from evalkit.errors import ConfigError
from evalkit.models.base import Model, Request, Sampler
from evalkit.models.starting_noise import StartingNoise, open_noise
from evalkit.prompts.sets import PromptSet
from evalkit.samples.behind import Behind
from evalkit.samples.writer import workers_for
from evalkit.utils import devices
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.cell import Cell


@dataclass(frozen=True)
class BuiltCell:
    """The objects that a cell's options describe. Cells of one option share its object."""

    model: Model
    sampler: Sampler | None
    prompts: PromptSet | None
    noise: StartingNoise | None = None

    def request(self, index: int, seed: int, *, noise: bool = True) -> Request:
        """What sample `index` is made from; `noise`: with its starting noise. DataError: there is none for it."""
        latent = None if self.noise is None or not noise else self.noise[index]
        if self.prompts is None:
            return Request(index=index, seed=seed, latent=latent)
        prompt = self.prompts[index]
        # A model that is asked by class alone never sees the text: its samples carry none, and have no CLIP score.
        texts = (prompt.text, prompt.negative) if self.model.conditioning == "text" else (None, None)
        images = (prompt.control, prompt.source, prompt.mask)
        own = self.prompts.seed_of(index), self.own_settings(index)
        return Request(index, seed, *texts, prompt.class_id, *images, latent, *own)

    def own_settings(self, index: int) -> dict[str, Any]:
        """What sample `index`'s prompt sets for it alone, of the settings that the model takes."""
        if self.prompts is None or not self.prompts.own_columns:
            return {}
        return {k: v for k, v in self.prompts[index].settings.items() if k in self.model.call_settings}


@dataclass
class LoadedModel:
    """A model on its device."""

    model: Model
    device: str
    fresh: bool = True  # has made nothing yet: its first batch is slower
    remake: Mapping[str, Any] = field(default_factory=dict)  # of a baseline made again (`Cell.remake`): loaded anew
    largest_batch: int | None = None  # what memory allows, once it ran out
    make_room: Callable[[], bool] = lambda: False  # frees what else lies on the device; false: there is nothing


class ModelPool:
    """Cells' built objects, and the one model among them that is loaded.

    As a context it lets a shard be written while the next one is made (`behind`); leaving it waits for the last one,
    raises what went wrong there, and frees the model.

    Args:
        built: a plan's objects by cell key. A cell that is not among them (a worker process is sent cells without their
            objects) is built from its options, once.
    """

    def __init__(self, built: Mapping[str, BuiltCell] | None = None) -> None:
        self.lock = threading.RLock()  # one shard at a time: a model is not to be called from two threads
        self._cells = dict(built or {})
        self._objects: dict[str, Any] = {}  # built here, by option and identity
        self.make_room: Callable[[], bool] = lambda: False  # see `LoadedModel`
        self.others_mb = 0.0  # of this process's memory that is not a model's, though it came after the first shard
        self._loaded: LoadedModel | None = None
        self.behind: Behind | None = None
        self._encoders = Encoders()

    def __enter__(self) -> Self:
        self.behind = Behind()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        behind, self.behind = self.behind, None
        try:
            if behind is not None:
                behind.close(error)
        finally:
            self._encoders.close()
            self.unload()

    def finish(self) -> None:
        """Waits for the shard that is still being written; raises what went wrong there."""
        if self.behind is not None:
            self.behind.wait()

    def encoder(self, device: str) -> Callable[[NDArray[np.uint8]], bytes]:
        """What turns images u8 [H,W,3] that `device` made into PNGs: in processes, so that no accelerator waits."""
        if not devices.is_accelerator(device):
            return encode_png
        self._encoders.start(workers_for(device))  # they import while the first images are made
        return self._encoders.encode

    def built(self, cell: Cell) -> BuiltCell:
        """A cell's objects.

        Raises:
            ConfigError: weights, options or prompts are not those that the cell was planned with.
        """
        if cell.key not in self._cells:
            option = cell.options["sampler"]
            sampler = build(option, f"sampler.{cell.sampler}", Sampler) if option else None
            model, prompts = self._build(cell, "model"), self._build(cell, "prompts")
            self._cells[cell.key] = BuiltCell(model, sampler, prompts, self._noise(cell))
        return self._cells[cell.key]

    def _noise(self, cell: Cell) -> StartingNoise | None:
        """A cell's starting noise, where it comes from a file."""
        option = cell.options.get("latents")
        if option is None:
            return None
        noise = open_noise(str(option["path"]), f"model.{cell.model}.latents")
        if noise.identity() != cell.identity["latents"]:
            raise ConfigError(f"{noise.where}: {noise.path} changed since the run began: start the run again")
        return noise

    def _build(self, cell: Cell, kind: Literal["model", "prompts"]) -> Any:
        """A model or a prompt set from its option: the only place outside of the plan that does so."""
        option = cell.options[kind]
        if option is None:
            return None
        key = sha256_json([option, cell.identity[kind]])
        if key not in self._objects:
            made = build(option, f"{kind}.{getattr(cell, kind)}", Model if kind == "model" else PromptSet)
            if isinstance(made, Model):
                made.check()
            if sha256_json(made.identity()) != sha256_json(cell.identity[kind]):
                what = "weights or options" if kind == "model" else "prompts"
                raise ConfigError(
                    f"{kind}.{getattr(cell, kind)}: its {what} changed since the run began: start the run again"
                )
            self._objects[key] = made
        return self._objects[key]

    def load(self, cell: Cell, device: str) -> LoadedModel:
        """The cell's model, loaded; another one that is loaded is freed first.

        Args:
            cell: whose model.
            device: "cpu", "cuda" or "mps" (not "auto").
        """
        with self.lock:
            model, there = self.built(cell).model, self._loaded
            if there is None or there.model is not model or there.device != device or there.remake != cell.remake:
                self.unload()
                model.load(device)
                there = LoadedModel(model, device, remake=cell.remake, make_room=lambda: self.make_room())
                self._loaded = there
            return there

    def unload(self) -> None:
        """Frees the loaded model."""
        with self.lock:
            if self._loaded is not None:
                self._loaded.model.unload()
                self._loaded = None
                devices.free_memory()

    def requests(self, cell: Cell, indices: Sequence[int]) -> list[Request]:
        """What some samples of a cell are made from."""
        built = self.built(cell)
        return [built.request(index, cell.seed) for index in indices]
