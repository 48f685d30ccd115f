"""Models as .onnx files, run by ONNX Runtime: a generator, or the denoiser of a diffusion model in pixel space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from evalkit.errors import ConfigError, nearest
from evalkit.models.base import Conditioning, Generated, Model, ModelPart, Request, Sampler, Settings
from evalkit.models.device_images import rounded
from evalkit.models.diffusers.checkpoint import read_json
from evalkit.models.diffusers.noise import stacked
from evalkit.models.diffusers.sampling import denoise, noise_shape, sent_home, unit_noise
from evalkit.models.diffusers.schedulers import build_scheduler, scheduler_class
from evalkit.models.latent import GanModel
from evalkit.models.onnx.session import OnnxFile
from evalkit.utils.files import resolve_path, sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class OnnxModel(GanModel):
    """A generator as one .onnx file: latents, and class labels where there are classes, -> images [B,3,H,W] or grey.

    `python -m evalkit.models.onnx.export` makes one of a torch generator.

    Args:
        path, providers, threads, session, provider_options: see OnnxFile.
        inputs: names of the graph's inputs, {latent: z, classes: labels}; none: the first, and the second.
        output: name of the images' output; none: the first.
        latent_dim, latent, num_classes, class_input, output_range: see GanModel.

    The graph's first dimension is free, or 1. Call setting `truncation`: see TorchModuleModel.
    """

    weights_option = "path"
    remakes = ("again", "batch_size", "device")  # `threads` is an option of its own

    def __init__(
        self,
        path: str,
        providers: str | Sequence[str] = "cpu",
        threads: int | None = None,
        inputs: Mapping[str, str] | None = None,
        output: str | None = None,
        latent_dim: int | Sequence[int] = 128,
        latent: Literal["normal", "uniform"] = "normal",
        num_classes: int | None = None,
        class_input: Literal["index", "one_hot"] = "index",
        output_range: Sequence[float] = (-1, 1),
        session: Mapping[str, Any] | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(latent_dim, latent, num_classes, class_input, output_range)
        self.file = OnnxFile(path, providers, threads, session, provider_options)
        self.inputs, self.output = _roles(inputs, ("latent", "classes")), output

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where the package, the file or an execution provider is missing."""
        self.file.check()

    def identity(self) -> dict[str, Any]:
        """Digest of the file, and all that goes into a call."""
        named = {"inputs": self.inputs, "output": self.output}
        return {"kind": "onnx generator", **self.file.identity(), **named, **self._about_latents()}

    def load(self, device: str) -> None:
        """Opens the file; where it runs is said by `providers`, not by `device`."""
        self.file.load()

    def unload(self) -> None:
        self.file.unload()

    @property
    def _loaded(self) -> bool:
        return self.file.loaded

    def _output(self, latents: Tensor, labels: Tensor | None, *, space: str, settings: Settings) -> Any:
        feed = {self.file.name_of("latent", self.inputs.get("latent"), 0): latents}
        if labels is not None:
            feed[self.file.name_of("classes", self.inputs.get("classes"), 1)] = labels
        return self.file.run(feed, self.output)


class OnnxDenoiser(Model):
    """The denoiser of a diffusion model in pixel space as one .onnx file, under diffusers' schedulers.

    The graph takes a noisy image f32 [B,C,H,W], a timestep ([B], or one number) and, where there are classes, labels
    [B], and gives what the scheduler's `prediction_type` says: [B,C,H,W].

    Args:
        path, providers, threads, session, provider_options: see OnnxFile.
        scheduler: scheduler_config.json of the model, or its folder.
        sample_size: height and width of the images; none: as the graph declares them.
        channels: none: as the graph declares them.
        inputs: names of the graph's inputs, {sample: x, timestep: t, classes: y}; none: by position.
        output: name of the output; none: the first.
        num_classes: how many classes it knows.
        conditioning: "class": a sample's own class, or its index modulo num_classes; "none": a random one each.
    """

    takes_sampler = True
    takes_latents = True
    weights_option = "path"
    remakes = ("again", "batch_size", "device")  # `threads` is an option of its own
    call_settings = frozenset({"num_inference_steps", "eta"})

    def __init__(
        self,
        path: str,
        scheduler: str,
        providers: str | Sequence[str] = "cpu",
        threads: int | None = None,
        sample_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        inputs: Mapping[str, str] | None = None,
        output: str | None = None,
        num_classes: int | None = None,
        conditioning: Conditioning = "none",
        session: Mapping[str, Any] | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if conditioning not in ("class", "none") or (conditioning == "class" and not num_classes):
            raise ConfigError(f"conditioning={conditioning!r}: give class, with num_classes, or none")
        self.file = OnnxFile(path, providers, threads, session, provider_options)
        self.scheduler = resolve_path(scheduler)
        self.sample_size = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        self.channels, self.num_classes, self.conditioning = channels, num_classes, conditioning
        self.inputs, self.output = _roles(inputs, ("sample", "timestep", "classes")), output

    def _scheduler_config(self) -> dict[str, Any]:
        file = self.scheduler / "scheduler_config.json" if self.scheduler.is_dir() else self.scheduler
        if not file.is_file():
            raise ConfigError(f"{file} is missing: set scheduler to the model's scheduler_config.json or its folder")
        return read_json(file)

    def check(self, *, fetch: bool = True) -> None:
        """Raises ConfigError where the package, a file or an execution provider is missing."""
        self.file.check()
        self._scheduler_config()

    def identity(self) -> dict[str, Any]:
        """Digest of the files, and all that goes into a call."""
        call = {"inputs": self.inputs, "output": self.output, "scheduler": sha256_json(self._scheduler_config())}
        size = {"size": list(self.sample_size) if self.sample_size else None, "channels": self.channels}
        classes = {"num_classes": self.num_classes, "conditioning": self.conditioning}
        return {"kind": "onnx denoiser", **self.file.identity(), **call, **size, **classes}

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses a sampler or a setting that does not fit (ConfigError); imports diffusers."""
        super().check_call(sampler, settings)
        self._build_scheduler(sampler)

    def _build_scheduler(self, sampler: Sampler | None) -> Any:
        config = self._scheduler_config()
        own = scheduler_class(str(config.get("_class_name")))
        return build_scheduler(sampler, own, config, f"model '{self.file.path}'")

    def load(self, device: str) -> None:
        """Opens the file; see OnnxModel.load."""
        self.file.load()

    def timed_parts(self) -> list[ModelPart]:
        """The denoiser's evaluations."""
        return [ModelPart("denoiser", self.file, "run")]

    def unload(self) -> None:
        self.file.unload()

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """Makes one image per request, its noise from the request's own generator."""
        if not self.file.loaded:
            raise RuntimeError("load() comes before generate()")
        self.check_call(sampler, settings)
        scheduler = self._build_scheduler(sampler)
        steps = settings.get("num_inference_steps") or (sampler.num_inference_steps if sampler else None) or 50
        total = self.num_classes if self.conditioning == "class" else None
        classes = [request.class_among(total, str(self.file.path)) for request in requests] if total else None
        generators = [request.generator() for request in requests]
        unet = _Denoiser(self)
        latents = stacked(requests)
        images = denoise(
            unet,
            scheduler,
            steps=steps,
            generators=generators,
            classes=classes,
            eta=settings.get("eta"),
            latents=latents,
        )
        sent = sent_home(rounded(images), f"model '{self.file.path}'")
        return Generated(sent, float(unet.calls), [[] for _ in requests])

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """As `sample_size` and `channels` say, else as the graph declares it: then it is opened."""
        opened = self.file.loaded
        if self.sample_size and self.channels:
            return self.channels, *self.sample_size
        if not opened:
            self.file.load()
        try:
            return noise_shape(_Denoiser(self))
        finally:
            if not opened:
                self.file.unload()

    def check_shows_latents(self) -> None:
        """It does."""

    def draw_latents(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings
    ) -> list[NDArray[np.float32]]:
        """Unit noise f32 [C,H,W], as diffusers' loops of pixel space draw it."""
        classes = [0] * len(requests) if self.conditioning == "class" else None
        drawn, _ = unit_noise(_Denoiser(self), [request.generator() for request in requests], classes)
        return list(drawn.numpy())


class _Denoiser:
    """An OnnxDenoiser as `denoise` wants it: like a UNet2DModel."""

    def __init__(self, model: OnnxDenoiser) -> None:
        import torch

        self._file, self._inputs, self._output = model.file, model.inputs, model.output
        self.calls = 0
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._sample = self._file.name_of("sample", self._inputs.get("sample"), 0)
        shape = self._file.inputs()[self._sample][1]
        size: list[Any] = list(model.sample_size or shape[2:4])
        channels: Any = model.channels or (shape[1] if len(shape) == 4 else None)
        if len(shape) != 4 or not all(isinstance(value, int) for value in (channels, *size)):
            raise ConfigError(f"{self._file.path} declares its images as {shape}: give sample_size and channels")
        self.config = SimpleNamespace(sample_size=tuple(size), in_channels=channels, num_class_embeds=model.num_classes)

    def __call__(self, x: Tensor, t: Tensor, class_labels: Tensor | None) -> Any:
        import torch

        self.calls += 1
        step = self._file.name_of("timestep", self._inputs.get("timestep"), 1)
        whole = self._file.inputs()[step][1] != []
        t = torch.as_tensor(t)
        feed = {self._sample: x, step: t.expand(len(x)) if whole else t}
        if class_labels is not None:
            feed[self._file.name_of("classes", self._inputs.get("classes"), 2)] = class_labels
        return SimpleNamespace(sample=self._file.run(feed, self._output))


def _roles(inputs: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    given = {role: name for role, name in (inputs or {}).items() if name is not None}
    for role in given:
        if role not in known:
            raise ConfigError(f"inputs.{role}: there is no such input. {nearest(role, known)}")
    return given
