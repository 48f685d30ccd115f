"""What extractors in a process of their own share: it is started with the first batch, and again where it was lost."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, UnsuitedError
from evalkit.extractors.base import BatchSize, Extractor
from evalkit.extractors.isolated.environment import Environment
from evalkit.extractors.isolated.process import Gone, Refused, ScorerProcess
from evalkit.utils.files import sha256_bytes
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from evalkit.extractors.base import Images

ATTEMPTS = 3  # at a batch that ends the process

log = logging.getLogger(__name__)


class IsolatedExtractor(Extractor):
    """An extractor whose network runs in another process, with the packages of an environment.

    A process that is lost is started again, and goes on at the batch that it was lost with; a batch that ends it three
    times is named. There is one process per process of ours, as long as the extractor is loaded.

    Args:
        name: how scores are labelled.
        batch_size: images handed over at a time.
        environment: where it runs.
        timeout: seconds that a batch may take; none: any time. Loading may always take any time.
    """

    def __init__(self, name: str, batch_size: BatchSize, environment: Environment, timeout: float | None) -> None:
        super().__init__(name, batch_size)
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"extractor.{name}.timeout={timeout}: give seconds > 0, or null")
        self.environment = environment
        self.timeout = timeout
        self._process: ScorerProcess | None = None
        self._device: str | None = None
        self._batches = 0

    @property
    @abstractmethod
    def scorer(self) -> Mapping[str, Any]:
        """What the worker is told to load (JSON): see `worker.Called` and `worker.Wrapped`."""

    def check(self, *, fetch: bool = True) -> None:
        self.environment.check(fetch=fetch)

    def load(self, device: str) -> None:
        if self._device == device and self._process is not None:
            return
        self.unload()
        self._device = device
        self._process = self._started()

    def unload(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = self._device = None

    def __getstate__(self) -> dict[str, Any]:
        """A process is not sent to another: that one starts its own."""
        return {**self.__dict__, "_process": None, "_device": None}

    def _started(self) -> ScorerProcess:
        """A process that has loaded the scorer. ConfigError: it cannot."""
        assert self._device is not None
        try:
            process = ScorerProcess(self.environment.interpreter, self._device, self.timeout)
            process.ask({"do": "load", "scorer": dict(self.scorer), "device": self._device}, limit=False)
        except Gone as error:
            raise ConfigError(f"{self.where}: it cannot be loaded: {error}") from error
        except Refused as error:
            process.close(wait=False)
            raise ConfigError(f"{self.where}: it cannot be loaded: {error}") from error
        return process

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch

        assert self._device is not None, "load() comes first"
        self._batches += 1
        header = {"do": "score", "prompts": list(prompts), "layers": list(layers)}
        lost: Gone | None = None
        for _ in range(ATTEMPTS):
            try:
                self._process = self._process or self._started()
                about, values = self._process.ask(header, images)
            except Gone as error:
                self._process, lost = None, error
                log.warning("%s: %s: it is started again", self.where, error)
            except ConfigError as error:  # it was lost, and cannot be loaded again: all else goes on
                raise UnsuitedError(str(error), self.name) from error
            except Refused as error:
                if error.memory:
                    raise MemoryError(str(error)) from error
                raise UnsuitedError(f"{self.where} failed: {error}", self.name) from error
            else:
                found = dict(zip(about.get("layers", ()), values, strict=False))
                count = len(images) or len(prompts)
                if any(layer not in found or found[layer].shape[:1] != (count,) for layer in layers):
                    shapes = {layer: list(each.shape) for layer, each in found.items()}
                    raise UnsuitedError(f"{self.where} gave {shapes} for {count} samples and {list(layers)}", self.name)
                return {layer: torch.from_numpy(found[layer]) for layer in layers}
        batch = self._described(images, prompts)
        raise UnsuitedError(f"{self.where}: {batch} ended it {ATTEMPTS} times: {lost}", self.name)

    def _described(self, images: Images, prompts: Sequence[str]) -> str:
        """A batch for people, who have to find its images."""
        first = f"the first has the prompt '{one_line(prompts[0], 60)}'" if prompts else ""
        if not first and len(images):
            height, width = images[0].shape[:2]
            first = f"the first of {width}x{height} pixels with sha256 {sha256_bytes(images[0].tobytes())[:12]}"
        return f"batch {self._batches} ({len(images) or len(prompts)} samples, {first})"
