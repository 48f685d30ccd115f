"""What the generation stage asks of a model. Building one is cheap (no torch); `load` is where the weights come in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evalkit.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.data.split import Part
    from evalkit.models.device_images import DeviceImages
    from evalkit.models.services.cache import FetchedImages
    from evalkit.prompts.sets import Prompt

Conditioning = Literal["text", "class", "none"]
Settings = Mapping[str, Any]  # what may change from call to call, by name: see `Model.call_settings`


@dataclass(frozen=True)
class Request:
    """One sample to make: all that it may depend on, besides the cell."""

    index: int
    seed: int  # the cell's seed
    prompt: str | None = None
    negative_prompt: str | None = None
    class_id: int | None = None
    control: str | None = None  # paths of the prompt's images
    source: str | None = None
    mask: str | None = None
    latent: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """Its starting noise, f32 without a batch axis, where the cell's comes from a file: see `Model.takes_latents`."""
    own_seed: int | None = None  # its prompt's, used as it is in place of (seed, index)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)  # its prompt's own, which win over the cell's

    def generator(self) -> torch.Generator:
        """The sample's own CPU generator, from SeedSequence((seed, index)): independent of batch, order and device."""
        import numpy as np
        import torch

        if self.own_seed is not None:
            return torch.Generator("cpu").manual_seed(self.own_seed)
        state = np.random.SeedSequence((self.seed, self.index)).generate_state(1, np.uint64)
        return torch.Generator("cpu").manual_seed(int(state[0] >> np.uint64(1)))

    def seed32(self) -> int:
        """The sample's own seed for makers that take a number: unsigned, 32 bit, from SeedSequence((seed, index))."""
        import numpy as np

        if self.own_seed is not None:
            return self.own_seed % 2**32
        return int(np.random.SeedSequence((self.seed, self.index)).generate_state(1, np.uint32)[0])

    def class_among(self, total: int, who: str) -> int:
        """Its class, or where it names none its index modulo `total`. DataError: it is none of `total` (`who` has)."""
        number = self.index % total if self.class_id is None else self.class_id
        if not 0 <= number < total:
            raise DataError(f"sample {self.index} asks for class {number}; {who} has {total}")
        return number


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler and its options, swapped in by `from_config`; no torch is imported to build one.

    Attributes:
        scheduler: a class name in `diffusers` ("DDIMScheduler"), or none: the model's own.
        options: overrides of the model's scheduler config.
        num_inference_steps: denoising steps; none: the model's own default.
    """

    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    num_inference_steps: int | None = None


@dataclass(frozen=True)
class SideBySide:
    """How samples that were asked for one by one, several at a time, took their time.

    Attributes:
        latencies: seconds of each sample's own call.
        kept: whether a sample was made in an earlier call, which failed at another one.
        together: calls at a time.
        records: of each sample what else its line of metadata holds (the times of a request under load).
    """

    latencies: Sequence[float]
    kept: Sequence[bool]
    together: int
    records: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class ModelPart:
    """A part of a loaded model whose share of the time can be told: a method that `generate` calls, directly or not.

    Attributes:
        name: for people: the component's in its pipeline ("unet", "text_encoder_2", "vae.decode").
        owner: the object that has the method.
        method: its name.
        dtype: what it computes in, by torch's name ("float32"); none: not known, or nothing of torch's.
    """

    name: str
    owner: Any
    method: str = "forward"
    dtype: str | None = None


class Generated:
    """What a model made of some requests, in their order.

    Args:
        images: u8 [B,H,W,3]; or those of a device that may still be at work on them.
        nfe: network evaluations per sample (guidance counts twice), or none where there is no network.
        warnings: one list per sample: "blanked" (a safety checker's black image), "prompt_truncated", ...
        timing: of samples that were not made as one batch; none: a sample's latency is the batch's by its samples.
    """

    def __init__(
        self,
        images: NDArray[np.uint8] | DeviceImages,
        nfe: float | None,
        warnings: Sequence[Sequence[str]] = (),
        timing: SideBySide | None = None,
    ) -> None:
        self._images, self.nfe, self.warnings, self.timing = images, nfe, warnings, timing

    @property
    def images(self) -> NDArray[np.uint8]:
        """u8 [B,H,W,3] on the host; waits for the device. DataError: a value was NaN or infinite."""
        return self._images.fetch() if hasattr(self._images, "fetch") else self._images

    @property
    def pending(self) -> torch.cuda.Event | None:
        """What is recorded once the images are on the host, of a CUDA device; none: they are there."""
        return getattr(self._images, "done", None)


class Model(ABC):
    """A maker of images. Constructor arguments come from its YAML; `settings` are what may change from call to call."""

    conditioning: Conditioning = "none"
    takes_sampler: ClassVar[bool] = False
    remote: ClassVar[bool] = False  # made elsewhere: this machine's device and memory tell nothing of it
    takes_latents: ClassVar[bool] = False  # whether it begins with `Request.latent` where there is one
    weights_option: ClassVar[str | None] = None  # the key of its YAML that a series of `checkpoints` goes to
    call_settings: ClassVar[frozenset[str]] = frozenset()  # names in the YAML that go to `generate`, not to __init__
    # Changes that should not matter, under which a baseline can be made again (`noise_floor`); "attention": of models
    # that call torch's scaled dot product.
    remakes: ClassVar[tuple[str, ...]] = ("again", "batch_size", "threads", "device")

    @abstractmethod
    def check(self, *, fetch: bool = True) -> None:
        """Looks for what the model needs. Cheap, and done before any work.

        Args:
            fetch: whether what is missing may be downloaded; if not, a missing download is an error (a dry run).

        Raises:
            ConfigError: a file or a package is missing (named, with what to do), or two options exclude each other.
            DataError: a file is broken, or not what it is said to be.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All of it that can change a pixel: digests of local weights, or hub id and revision, dtype ... (JSON)."""

    def num_available(self) -> int | None:
        """How many samples there can be, where that is limited: a run without `num_samples` makes them all."""
        return None

    def own_images(self, kind: str, num_samples: int, *, cache: Path | None = None) -> Source | None:
        """What metrics of pairs compare the first samples with, sample by sample, where the model itself knows it.

        Args:
            kind: "target", "control" or "source".
            num_samples: how many.
            cache: a folder that keeps a scan for the next process.

        Returns:
            As many images; none: the samples go by the images that their prompts name.
        """
        return None

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """ConfigError for a sampler or a setting that the model does not take. May import torch; before any sample."""
        for name in settings:
            if name not in self.call_settings:
                near = nearest(name, self.call_settings)
                raise ConfigError(f"{type(self).__name__} takes no setting '{name}'. {near}")

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """The shape of one sample's starting noise (`Request.latent`, without a batch axis), of a model that takes it.

        Returns:
            None where it is not known before the model is loaded, or is the maker's own matter.

        Raises:
            ConfigError: the model takes none, or not with these settings. May import torch; before any sample.
        """
        raise ConfigError(f"{type(self).__name__} takes no starting noise")

    def draw_latents(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings
    ) -> list[NDArray[np.float32]]:
        """The starting noise that `generate` draws for each request, as it would take it, after `load`.

        Returns:
            f32 without a batch axis: given as `Request.latent` it makes the very same image.

        Raises:
            ConfigError: the model shows none.
        """
        self.check_shows_latents()
        raise NotImplementedError

    def check_shows_latents(self) -> None:
        """ConfigError: `draw_latents` would be refused. May import torch; before any sample."""
        raise ConfigError(f"{type(self).__name__} shows no starting noise")

    def check_prompts(self, prompts: Sequence[Prompt], settings: Settings) -> None:  # noqa: B027
        """DataError for a prompt that lacks an image that the model needs, before any sample. May import torch."""

    @abstractmethod
    def load(self, device: str) -> None:
        """Brings the weights to `device` ("cpu", "cuda", "mps").

        Raises:
            ConfigError: they, or what they need, cannot be had or built.
            DataError: they are broken, or do not fit.
        """

    @abstractmethod
    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """Makes one image per request. Each depends on its own request, the sampler and the settings alone.

        Raises:
            ConfigError: the sampler or a setting does not fit, or the model cannot take what it is given.
            DataError: a request lacks its prompt, class or image, or the output is no image, or holds NaN.
            ServiceError: the service that makes them failed, after all retries.
        """

    def timed_parts(self) -> Sequence[ModelPart]:
        """After `load`: what its time can be told apart by (`profile=true`)."""
        return ()

    def unload(self) -> None:  # noqa: B027 (a model that holds nothing need not say so)
        """Lets go of what `load` loaded; who asks for it then gives the memory back to the device."""

    def keep_in(self, fetched: FetchedImages) -> None:  # noqa: B027
        """Told before each shard: where a model may keep images that are dear until their shard is written."""

    def ahead(self, requests: Sequence[Request], settings: Settings) -> None:  # noqa: B027
        """Told before each shard, after `keep_in`, all that it will be asked for, batch by batch.

        Raises:
            As `generate`.
        """

    def shown_settings(self, settings: Settings) -> Settings:
        """Call settings by the names that cells, tables and rules (`where`) have for them."""
        return settings


class ExistingImages(Model):
    """A model whose images were made elsewhere (a folder of samples): nothing is generated, nothing is copied."""

    @abstractmethod
    def num_available(self) -> int:
        """How many images there are."""

    def parts(self, cache: Path | None = None) -> Sequence[Part]:
        """Where the images are to stand as several cells: what tells them apart; `cache` keeps the scan."""
        return ()

    @abstractmethod
    def open(self, num_samples: int | None = None, *, cache: Path | None = None) -> Any:
        """The first `num_samples` images (none: all), a `data.source.Source`; `cache` keeps the scan for the next."""

    def load(self, device: str) -> None:
        raise NotImplementedError("images that exist are opened, not generated")

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        raise NotImplementedError("images that exist are opened, not generated")
