"""What an extractor is: a pinned network from u8 images (and texts) to f32 features. Building one imports no torch."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import ConfigError, nearest
from evalkit.numerics.precision import float32_arithmetic
from evalkit.utils.devices import DEVICES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.judges.place import AnswerPlace
    from evalkit.utils.weights import Weights

    Images = Sequence[NDArray[np.uint8]]  # each u8 [H,W,3], of any sizes

MAX_BATCH = 256  # images in a chunk, which no batch crosses
BatchSize = int | Mapping[str, int]
"""Images in a batch: a number, or one per kind of device, with one for "cpu", which others take that are not named."""

PRECISIONS = {"float32": None, "tf32": "tf32", "bfloat16": "bf16", "float16": "fp16"}  # and the tag in labels

DECODER = "uint8 RGB as decoded by the sample reader"


class Edit(str):
    """A prompt with the file of the picture that was to be edited by it."""

    original: Path

    @classmethod
    def of(cls, prompt: str, original: Path) -> Edit:
        made = cls(prompt)
        made.original = original
        return made


class Extractor(ABC):
    """A network of features.

    Layers in `text_layers` come from the prompts alone, those in `joint_layers` from each image with its prompt, all
    others from the images alone.

    `batch_size` is the extractor's own and constant: features never depend on the run's batch size, and a resumed
    pass forms the same batches as an uninterrupted one, so that it gives the same bits on the same kind of device.

    Attributes:
        name: how the extractor is called in labels ("inception").
        batch_size: images in one forward pass, 1 to 256; by kind of device where it is a mapping.
        text_layers: the layers that need prompts.
        joint_layers: the layers that need images and prompts, one prompt per image. They are asked for in calls of
            their own: `images` and `prompts` of equal length B. Their features belong to the images and the prompts
            both, so that they are found by the two digests together.
        originals: whether the joint layers also look at the picture that an image was edited from: the prompts of such
            images are `Edit`s, where it is known.
        sparse_layers: the layers in which NaN stands for a value that is not there.
        embeds: whether `embed` is there, for metrics of models.
        reentrant: whether several threads may call it at once: a call changes nothing of the extractor (a hook that
            keeps what a layer gave does). On a CPU each call is made by one thread, so that features do not depend on
            the number of threads; of one that is not reentrant, one call at a time, on a single core.
        isolated_by: the class that runs it in an environment of its own, where its option has `env`.
        asks: whether it asks questions that cost calls and tokens: a judge. `check_prompts` and `forecast` are there.
        calibrated: whether it is held against known answers (`calibrate`).
    """

    isolated_by: ClassVar[str] = "evalkit.extractors.isolated.wrapped.Wrapped"
    embeds: ClassVar[bool] = False
    reentrant: ClassVar[bool] = False
    asks: ClassVar[bool] = False
    calibrated: bool = False
    text_layers: frozenset[str] = frozenset()
    joint_layers: frozenset[str] = frozenset()
    sparse_layers: frozenset[str] = frozenset()
    originals: bool = False

    def __init__(self, name: str, batch_size: BatchSize) -> None:
        sizes = {"cpu": batch_size} if isinstance(batch_size, int) else dict(batch_size)
        if "cpu" not in sizes or not sizes.keys() <= set(DEVICES):
            known = f"cpu, and what differs on {', '.join(DEVICES[2:])}"
            raise ConfigError(f"extractor.{name}.batch_size={sizes}: give a number, or one per kind of device: {known}")
        for size in sizes.values():
            if not 1 <= size <= MAX_BATCH:
                raise ConfigError(f"extractor.{name}.batch_size={size}: must be 1 to {MAX_BATCH}")
        self.name = name
        self.batch_size: BatchSize = batch_size if isinstance(batch_size, int) else sizes

    def batch_on(self, device: str) -> int:
        """Images in one forward pass on a device."""
        size = self.batch_size
        return size if isinstance(size, int) else size.get(device.partition(":")[0], size["cpu"])

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything."""
        return type(self).prepare is not Extractor.prepare

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """What a call is given of an image u8 [H,W,3]; done ahead of it, in several threads, after `load`.

        For what a processor does per image: a resize by Pillow. A call takes images as they are, too.
        """
        return image

    def _choose(self, option: str, value: object, choices: Collection[str]) -> None:
        """Raises ConfigError where an option's value is none of the choices."""
        if value not in choices:
            raise ConfigError(f"extractor.{self.name}.{option}={value}: {nearest(str(value), choices)}")

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"extractor '{self.name}'"

    @property
    @abstractmethod
    def layers(self) -> Mapping[str, int | None]:
        """Width of each layer, by name; none where it is known only from weights that are not here yet."""

    def keep_in(self, answers: AnswerPlace) -> None:  # noqa: B027 (most have nothing to do)
        """Is told, before `check`, where a store holds judges' answers; other extractors have none."""

    @abstractmethod
    def check(self, *, fetch: bool = True) -> None:
        """Finds the weights. Cheap where they are there, and done before the first sample is made.

        Args:
            fetch: whether weights that are not on this machine are fetched; a dry run fetches nothing.

        Raises:
            ConfigError: weights are missing (which file, where to put it) or not those that were asked for.
        """

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Where it `asks`: ConfigError where it has nothing to ask about one of these prompts."""
        raise NotImplementedError

    def forecast(self, prompts: Sequence[str | None]) -> str:
        """Where it `asks`: what questions about samples of these prompts would cost, in one line."""
        raise NotImplementedError

    def calibrate(self, device: str) -> dict[str, Any]:
        """Where it is `calibrated`: how far it agrees with known answers (`evalkit.judges.calibration.Calibration`)."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Where its weights are looked for, for people."""
        return f"the weights of extractor.{self.name}"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that features depend on besides the images: weights digest, architecture, resize, dtype ... (JSON).

        It stands in the protocol of every score. No torch is imported for it, and the weights must be there (`check`).
        """

    @abstractmethod
    def label(self) -> str:
        """The name that scores are labelled with: `name`, and a digest where the weights are not the known ones."""

    def canonical(self) -> bool:
        """Whether these are the very network and weights that a metric's bare title stands for in the literature."""
        return False

    @abstractmethod
    def load(self, device: str) -> None:
        """Brings the network to `device` ("cpu", "cuda", "mps"); does nothing where it is there already."""

    @abstractmethod
    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of one batch, after `load`.

        Args:
            images: each u8 [H,W,3], of any sizes, or as `prepare` gives it; empty where only text layers are asked
                for.
            prompts: texts for the text layers; empty where only image layers are asked for. For joint layers the
                prompt of each image.
            layers: which layers.

        Returns:
            By layer, f32 [B,D], on the device (or on the CPU): B images, or B prompts for a text layer.
        """

    def embed(self, images: Tensor, layer: str) -> Tensor:
        """Features f32 [B,D] of a layer, of images [B,3,H,W] from 0 to 255 that are not rounded; after `load`.

        For metrics of models alone (`metric.ModelMetric`), where `embeds`.
        """
        raise NotImplementedError

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counted warnings about texts ("prompt_truncated"), after `load`."""
        return {}

    @abstractmethod
    def unload(self) -> None:
        """Frees the memory of `load`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as a processor made it, u8 [H,W,3]; the type tells it from one as it is."""

    pixels: NDArray[np.uint8]


class NetworkExtractor(Extractor):
    """An extractor whose network is one torch module: written once, how it is found, named, loaded, moved and freed.

    Attributes:
        weights: its weights file; one that stands in no file of its own overrides `check` and `label`.
        precision: of `PRECISIONS`: float32 is exact; tf32 and, by autocast, bfloat16 and float16 are faster where the
            device has units for them, and differ: scores carry their tag, under a protocol of their own.
    """

    weights: Weights
    precision: str = "float32"
    _net: Any = None
    _device: str | None = None
    _canonical = False  # whether the options say so

    def __init__(self, name: str, batch_size: BatchSize, precision: str = "float32") -> None:
        super().__init__(name, batch_size)
        precision = {"bf16": "bfloat16", "fp16": "float16"}.get(precision, precision)
        self._choose("precision", precision, PRECISIONS)
        self.precision = precision

    @property
    def dtype(self) -> str:
        """The arithmetic, for the identity."""
        return f"{self.precision} by autocast" if self.precision in ("bfloat16", "float16") else self.precision

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """In which the network is run, after `load`."""
        import torch

        with exact_float32(tf32=self.precision == "tf32"):
            if self.dtype == self.precision:
                yield
                return
            with torch.autocast(str(self._device).partition(":")[0], getattr(torch, self.precision)):
                yield

    def prepared(self, images: Sequence[Any]) -> Images:
        """The images of a call as `prepare` makes them, those too that come as they are."""
        return [each.pixels if isinstance(each, Prepared) else self.prepare(each).pixels for each in images]

    @property
    def network(self) -> Any:
        """The module, after `load`."""
        assert self._net is not None, "load() comes first"
        return self._net

    @property
    def place(self) -> str:
        return self.weights.place if hasattr(self, "weights") else super().place

    def check(self, *, fetch: bool = True) -> None:
        self.weights.find(fetch=fetch)

    def label(self) -> str:
        return ":".join(filter(None, (self.name, PRECISIONS[self.precision], self.weights.tag())))

    def canonical(self) -> bool:
        return self._canonical and self.label() == self.name

    @abstractmethod
    def _load(self) -> Any:
        """The module in eval mode, on the CPU. Raises ConfigError where the file does not hold its weights."""

    def load(self, device: str) -> None:
        if self.precision == "tf32" and not device.startswith("cuda"):
            fix = "give float32, or another device"
            raise ConfigError(f"extractor.{self.name}.precision=tf32: {device} has no units for it: {fix}")
        if self._net is None:
            self._net = self._load()
        if self._device != device:
            self._net.to(device)
            self._device = device

    def unload(self) -> None:
        self._net = None
        self._device = None


def to_tensor(images: Images) -> Tensor:
    """Images of one size, each u8 [H,W,3], as u8 [B,3,H,W] (a view with channels last in memory)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # NHWC -> NCHW


def to_device(images: Images, device: str | None) -> Tensor:
    """Images of one size, each u8 [H,W,3], as u8 [B,3,H,W] on `device`, channels last in memory.

    On a GPU they go by way of pinned memory and a stream of their own, while the device works on the batch before.
    """
    import numpy as np
    import torch

    if not (device or "").startswith("cuda"):
        return to_tensor(images).to(device)
    pinned = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(images, out=pinned.numpy())
    copying, working = _copy_stream(str(device)), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        x = pinned.to(device, non_blocking=True)
    working.wait_stream(copying)
    x.record_stream(working)  # its memory is not given to the next copy while the network reads it
    return x.permute(0, 3, 1, 2)


@functools.cache
def _copy_stream(device: str) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def resized(images: Images, size: tuple[int, ...], device: str | None, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """One batch f32 [B,3,*size] on `device`: `resize` is called once per size of the images, u8 [b,3,H,W]."""
    import torch

    positions: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        positions.setdefault(image.shape[:2], []).append(position)
    x = torch.empty(len(images), 3, *size, device=device)
    if len(positions) == 1:
        return x.copy_(resize(to_device(images, device)))
    for same in positions.values():
        x[same] = resize(to_device([images[i] for i in same], device))
    return x


@functools.lru_cache(64)
def per_channel(values: tuple[float, ...], device: str | None) -> Tensor:
    """Constants f32 [C,1,1], made once: a copy to a GPU would wait for all that it has to do."""
    import torch

    return torch.tensor(values, device=device).view(-1, 1, 1)


@contextmanager
def exact_float32(*, tf32: bool = False) -> Iterator[None]:
    """Full float32 convolutions and products, the same each time; the settings before are put back.

    cuDNN convolutions run in TF32 by default (10 bits of mantissa), and may choose another algorithm in each process.
    `tf32`: products and convolutions in TF32, still the same each time.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
    try:
        with float32_arithmetic(tf32=tf32), torch.inference_mode():
            yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
