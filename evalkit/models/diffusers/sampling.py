"""What stands between a diffusers pipeline and honest samples: per-sample noise, counting, plain loops."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request, Settings
from evalkit.models.device_images import DeviceImages, Rounded, rounded

if TYPE_CHECKING:
    import torch

DENOISERS = ("unet", "transformer", "transformer_2", "unconditional_transformer", "prior", "prior_prior", "decoder")


def denoisers(pipe: Any) -> list[Any]:
    """The networks that a pipeline evaluates once a step."""
    import torch

    parts = (getattr(pipe, name, None) for name in DENOISERS)
    return [part for part in parts if isinstance(part, torch.nn.Module)]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps diffusers and transformers from printing warnings and progress bars; what was set before is set again."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = [of_diffusers, of_transformers]
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


def give_own_noise(scheduler: Any, generators: Sequence[torch.Generator]) -> None:
    """Lets `scheduler.step` draw from the samples' generators where a pipeline (DiT, SD 3, FLUX) passes none.

    A batch doubled for guidance gets each generator once per half.
    """
    step = scheduler.step
    if "generator" not in inspect.signature(step).parameters:
        return

    @functools.wraps(step)
    def seeded(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("generator") is None:
            kwargs["generator"] = list(generators) * (len(sample) // len(generators))
        return step(model_output, timestep, sample, *args, **kwargs)

    scheduler.step = seeded


class Evaluations:
    """Counts how often a denoiser is evaluated, in samples: guidance's two halves and Heun's second step all count."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.samples = 0
        self._handles = [m.register_forward_pre_hook(self._count, with_kwargs=True) for m in modules]

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        for value in (*args, *kwargs.values()):
            if (isinstance(value, torch.Tensor) and value.ndim > 1) or (isinstance(value, list) and value):
                self.samples += len(value)
                return
        self.samples += 1

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def denoise(
    unet: Any,
    scheduler: Any,
    *,
    steps: int,
    generators: Sequence[torch.Generator],
    classes: Sequence[int] | None = None,
    eta: float | None = None,
    latents: torch.Tensor | None = None,
    swap: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The sampling loop of a `UNet2DModel` in pixel space, for every scheduler.

    Bit-equal to diffusers' DDPMPipeline with DDPMScheduler and to its DDIMPipeline with DDIMScheduler; those two work
    with no other scheduler, as they neither scale the first noise nor the model's input.

    Args:
        unet: takes [B,C,H,W], a timestep and, where trained so, class labels i64 [B].
        scheduler: any that `build_scheduler` gives.
        steps: denoising steps.
        generators: one CPU generator a sample.
        classes: class labels; none: a random one per sample, where the UNet knows classes.
        eta: DDIM's share of fresh noise, or none.
        latents: unit noise [B,C,H,W] to begin with; none: the generators' own. They draw it all the same, so that what
            is drawn later does not depend on it.
        swap: takes the first noise [B,C,H,W] and gives the one to begin with (evalkit/models/diffusers/noise.py).

    Returns:
        [B,C,H,W] in [0,1], where the UNet is and in its dtype; NaN for what was infinite.
    """
    import torch

    takes = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": list(generators)} if "generator" in takes else {}
    extra |= {"eta": eta} if eta is not None else {}
    drawn, classes = unit_noise(unet, generators, classes)
    labels = None if classes is None else torch.tensor(classes, device=unet.device)
    scheduler.set_timesteps(steps, device=unet.device)
    x = (drawn if latents is None else latents.to(drawn)) * scheduler.init_noise_sigma
    x = x if swap is None else swap(x)
    for t in scheduler.timesteps:
        guess = unet(scheduler.scale_model_input(x, t), t, class_labels=labels).sample
        if guess.shape[1] == 2 * x.shape[1] and "DDPM" not in type(scheduler).__name__:
            guess = guess[:, : x.shape[1]]  # the other half is a learned variance, which DDPM alone uses
        x = scheduler.step(guess, t, x, **extra).prev_sample
    return (mark_infinities(x) / 2 + 0.5).clamp(0, 1)


def noise_shape(unet: Any) -> tuple[int, int, int]:
    """Channels, height and width of what `denoise` makes."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


def unit_noise(
    unet: Any, generators: Sequence[torch.Generator], classes: Sequence[int] | None
) -> tuple[torch.Tensor, Sequence[int] | None]:
    """What `denoise` begins with, [B,C,H,W], before it is scaled; and the classes."""
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    if classes is None and (total := getattr(unet.config, "num_class_embeds", None)):
        # Asked for no class: a random one each, from the sample's own generator.
        classes = [int(torch.randint(total, (1,), generator=generator)) for generator in generators]
    shape = (len(generators), *noise_shape(unet))
    return randn_tensor(shape, generator=list(generators), device=unet.device, dtype=unet.dtype), classes


def mark_infinities(x: torch.Tensor) -> torch.Tensor:
    """NaN in the place of infinite values: clamping would turn them into a plain white or black."""
    import torch

    return x.where(x.isfinite(), torch.nan)


def round_on_device(pipe: Any) -> None:
    """Lets a pipeline that is asked for "np" round its images where they are, and hand them out as `Rounded`.

    The infinite values of what its VAE gives are marked before its image processor clamps them. A processor of another
    kind than diffusers' usual one hands out NumPy arrays as ever (`to_rounded` takes both).
    """
    import torch
    from diffusers.image_processor import VaeImageProcessor

    processor: Any = getattr(pipe, "image_processor", None)
    postprocess = getattr(processor, "postprocess", None)
    if postprocess is None:
        return
    usual = type(processor).postprocess is VaeImageProcessor.postprocess

    def marked(image: Any, output_type: str = "pil", *args: Any, **kwargs: Any) -> Any:
        if not isinstance(image, torch.Tensor):
            return postprocess(image, output_type, *args, **kwargs)
        image = mark_infinities(image)
        if usual and output_type == "np" and image.ndim == 4 and image.shape[1] in (1, 3):
            return rounded(postprocess(image, "pt", *args, **kwargs))
        return postprocess(image, output_type, *args, **kwargs)

    processor.postprocess = marked


def to_rounded(images: Any, who: str) -> Rounded:
    """What a pipeline gave for "np" as u8: `Rounded` as it is, or pixels [B,H,W,C] in [0,1].

    Raises:
        DataError: another shape.
    """
    import numpy as np
    import torch

    if isinstance(images, Rounded):
        return images
    array = np.asarray(images, dtype=np.float32)
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise DataError(f"{who}: the pipeline's output has the shape {array.shape}; [B,H,W,3] is needed")
    return rounded(torch.from_numpy(array).permute(0, 3, 1, 2))


def sent_home(images: Rounded, who: str) -> DeviceImages:
    """The batch on its way to the host. DataError: a value is NaN or infinite (see DeviceImages)."""
    return DeviceImages(
        images,
        lambda bad, total: (
            f"{who}: {bad} of {total} images hold NaN or infinite values; "
            "float16 overflows in some models: try dtype: bfloat16 or float32"
        ),
    )


def cut_prompts(pipeline: Any, prompts: Sequence[str], max_sequence_length: int | None) -> list[str | None]:
    """For each prompt: "prompt_truncated" where all text encoders lose its end, "prompt_truncated_partly" where some.

    Pipelines cut prompts at the encoder's context and keep the end token; this only tells where.
    """
    lost: list[list[bool]] = [[] for _ in prompts]
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "prior_tokenizer"):
        tokenizer: Any = getattr(pipeline, name, None)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, which reads images too
        if (
            not hasattr(tokenizer, "model_max_length")
            or getattr(pipeline, name.replace("tokenizer", "text_encoder"), None) is None
        ):
            continue
        limit = tokenizer.model_max_length
        if max_sequence_length is not None and "CLIP" not in type(tokenizer).__name__:
            limit = max_sequence_length
        for flags, ids in zip(lost, tokenizer(list(prompts), verbose=False).input_ids, strict=True):
            flags.append(len(ids) > limit)
    names = ["prompt_truncated_partly", "prompt_truncated"]
    return [names[all(flags)] if any(flags) else None for flags in lost]


def add_prompts(pipe: Any, requests: Sequence[Request], call: dict[str, Any], who: str) -> list[list[str]]:
    """Puts the prompts into a pipeline's call; what is lost of them is told, sample by sample.

    Raises:
        DataError: a request has no prompt.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    for request in requests:
        if request.prompt is None:
            raise DataError(f"{who} makes images from text, and sample {request.index} has no prompt")
    if "prompt" not in takes:  # it goes by the prompts' images alone
        return [[] for _ in requests]
    call["prompt"] = [request.prompt for request in requests]
    limit = call.get("max_sequence_length")
    if limit is None and "max_sequence_length" in takes:
        limit = takes["max_sequence_length"].default
    warned = [[name] if name else [] for name in cut_prompts(pipe, [r.prompt or "" for r in requests], limit)]
    negative = [r.negative_prompt if r.negative_prompt is not None else call.get("negative_prompt") for r in requests]
    if any(text is not None for text in negative):
        strength = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
        scale = call.get(strength, takes[strength].default if strength in takes else None)
        if "negative_prompt" in takes:
            call["negative_prompt"] = negative
        if "negative_prompt" not in takes or (isinstance(scale, int | float) and scale <= 1):
            for names in warned:
                names.append("negative_prompt_ignored")
    return warned


def class_ids(pipe: Any, requests: Sequence[Request], classes: int | None, who: str) -> list[int]:
    """The requests' classes; those that name none go through all that the model knows, or `classes` of them.

    Raises:
        ConfigError: the model knows no classes.
        DataError: it does not know one of them.
    """
    config: Mapping[str, Any] = next((m.config for m in denoisers(pipe)), {})
    known = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
    if not known and not classes:
        raise ConfigError(f"{who} knows no classes: set conditioning: none")
    return [request.class_among(classes or known, who) for request in requests]


def alike(requests: Sequence[Request], settings: Settings) -> Iterator[list[int]]:
    """Indices of requests with a negative prompt, and without: pipelines (SDXL) treat "" otherwise than none at all."""
    default = settings.get("negative_prompt") is not None
    for wanted in (True, False):
        group = [i for i, r in enumerate(requests) if (default or r.negative_prompt is not None) is wanted]
        if group:
            yield group
