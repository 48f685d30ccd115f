"""Images that a pipeline is conditioned on: which it takes, how they are read, sized and prepared.

What a pipeline takes is told by its `__call__` and `__init__`: `control_image`, or the `image` of a pipeline that has a
ControlNet or an adapter, is the prompt's control image; any other `image` is its source image; `mask_image` its mask.

Sizes: with the settings height and width all images of a sample are resized to them, without them to the size of its
source image (else its control image), rounded down to a multiple of 8 (of the VAE's factor where that is larger), which
is the size of the sample. Resizing keeps no aspect; it is Pillow's Lanczos, and the nearest pixel for masks. Upscalers
and pipelines that do without an image (FLUX Kontext) get it as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data import codec
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Request, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from evalkit.prompts.sets import Prompt

CALL_SETTINGS = frozenset(
    {
        *("control_from", "controlnet_conditioning_scale", "adapter_conditioning_scale", "adapter_conditioning_factor"),
        *("control_guidance_start", "control_guidance_end", "guess_mode", "strength", "image_guidance_scale"),
        "noise_level",
    }
)
HANDED = frozenset({"image", "control_image", "mask_image", "control_mask"})  # from the prompts, never from settings
PREPARATIONS = ("canny",)
_CANNY = ("sigma", "low", "high")
# Pipelines whose list of images is one per sample, and whose generators are too; others are called once per sample.
_BATCHED = ("StableDiffusion", "LatentConsistency")
_MULTIPLE = 8
# These make do without a source image, and diffusers' table of text-to-image pipelines leaves them out.
_OPTIONAL = ("BriaFibo2Pipeline", "DreamLitePipeline", "DreamLiteMobilePipeline", "Flux2KleinKVPipeline")
# These make int(steps * strength) steps, and fail where that is none; others round up.
_CUT = ("StableDiffusionImg2Img", "StableDiffusionInpaint", "StableDiffusionXL", "StableDiffusionControlNet")


@dataclass(frozen=True)
class ImageInputs:
    """What a pipeline takes of a prompt's images: names of its `__call__`'s arguments, none where it takes none.

    Attributes:
        control, source, mask: the argument that each kind of image goes to.
        optional: whether it makes images without any, too.
        upscales: whether its output is larger than its source.
        batches: whether samples may share a call.
    """

    control: str | None = None
    source: str | None = None
    mask: str | None = None
    optional: bool = False
    upscales: bool = False
    batches: bool = True

    def __bool__(self) -> bool:
        return self.control is not None or self.source is not None

    @property
    def sizes(self) -> bool:
        """Whether images are resized to the sample's size."""
        return bool(self) and not (self.optional or self.upscales)

    def alone(self, settings: Settings) -> bool:
        """Whether no two samples may share a call."""
        return bool(self) and (not self.batches or settings.get("padding_mask_crop") is not None)

    def settings(self) -> set[str]:
        """Names of settings that are evalkit's, next to the pipeline's own."""
        return ({"control_from"} if self.control else set()) | ({"height", "width"} if self.sizes else set())


def image_inputs(pipeline: Any, several: bool = False) -> ImageInputs:
    """What a pipeline class of diffusers takes.

    Args:
        pipeline: the class.
        several: whether it has more than one ControlNet.
    """
    takes = inspect.signature(pipeline.__call__).parameters
    parts = inspect.signature(pipeline.__init__).parameters
    name = pipeline.__name__
    mask = "mask_image" if "mask_image" in takes else None
    control = source = None
    if "control_mask" in takes:  # Stable Diffusion 3's ControlNet for inpainting sees the source alone
        source, mask = "control_image", "control_mask"
    elif "control_image" in takes:
        control, source = "control_image", "image" if "image" in takes else None
    elif "image" in takes:
        conditioned = "controlnet" in parts or "adapter" in parts
        control, source = ("image", None) if conditioned else (None, "image")
    return ImageInputs(
        control=control,
        source=source,
        mask=mask,
        optional=control is None and mask is None and source is not None and _makes_do_without(pipeline),
        upscales="Upscale" in name or "SuperResolution" in name,
        batches=name.startswith(_BATCHED) and "Union" not in name and not several,
    )


def _makes_do_without(pipeline: Any) -> bool:
    """Whether a pipeline that takes a source image makes do without, by `_OPTIONAL` and diffusers' own table."""
    if pipeline.__name__ in _OPTIONAL:
        return True
    from diffusers.pipelines import auto_pipeline  # imports most pipelines: seconds

    return pipeline in auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()


def check_settings(pipeline: Any, inputs: ImageInputs, settings: dict[str, Any], who: str) -> None:
    """Refuses values that make no sense, and makes whole numbers floats where diffusers takes nothing else.

    Raises:
        ConfigError: one line.
    """
    for name in CALL_SETTINGS & settings.keys() - {"control_from", "guess_mode", "noise_level"}:
        value = settings[name]
        single = isinstance(value, int | float) and not isinstance(value, bool)
        settings[name] = float(value) if single else value
    own_steps = inspect.signature(pipeline.__call__).parameters.get("num_inference_steps")
    steps: Any = settings.get("num_inference_steps", own_steps.default if own_steps else 1)
    strength = settings.get("strength")
    if strength is not None and not (isinstance(strength, float) and 0 < strength <= 1):
        raise ConfigError(f"{who}: strength={strength!r}: give a number above 0 and at most 1")
    if strength is not None and pipeline.__name__.startswith(_CUT) and int(steps * strength) < 1:
        raise ConfigError(
            f"{who}: strength={strength} of num_inference_steps={steps} leaves no step: raise one of them"
        )
    for given in _preparations(settings.get("control_from"), 1):
        _canny_arguments(given, who)
    if inputs.sizes and ("height" in settings) != ("width" in settings):
        raise ConfigError(f"{who}: give both height and width, or none: then the prompts' images decide")


def check_prompts(inputs: ImageInputs, prompts: Sequence[Prompt], settings: Settings, who: str) -> None:
    """Looks at the images that prompts name, before the first sample: all are there, and of one size.

    Raises:
        DataError: a prompt lacks an image, an image cannot be read, sizes differ.
    """
    if not inputs:
        return
    sized: list[tuple[tuple[int, int], Path]] = []
    for number, prompt in enumerate(prompts):
        request = Request(number, 0, prompt.text, control=prompt.control, source=prompt.source, mask=prompt.mask)
        paths = _paths(inputs, request, settings, who)
        leading = paths.get("source") or paths.get("control")
        if leading is not None and not _asked_size(settings):
            header = codec.inspect(leading)
            sized.append(((header.width, header.height), leading))
    if not inputs.optional:
        _check_one_size(sized, inputs, who)


def call(inputs: ImageInputs, requests: Sequence[Request], settings: Settings, pipe: Any, who: str) -> dict[str, Any]:
    """The pipeline's arguments for some samples: the settings that it takes, the images, and the size they have now.

    Raises:
        DataError: a request lacks an image, an image cannot be read, sizes differ.
    """
    from PIL import Image

    takes = inspect.signature(type(pipe).__call__).parameters
    made = {name: value for name, value in settings.items() if name in takes or name not in inputs.settings()}
    nets = len(getattr(getattr(pipe, "controlnet", None), "nets", ())) or 1
    factor = max(_MULTIPLE, getattr(pipe, "vae_scale_factor", _MULTIPLE))
    rows: list[dict[str, Any]] = []
    sized: list[tuple[tuple[int, int], Path]] = []
    for request in requests:
        paths = _paths(inputs, request, settings, who)
        if not paths:
            return made  # none are needed; those that do without are called one by one
        images = {kind: Image.fromarray(codec.decode(path)) for kind, path in paths.items()}
        leading = "source" if "source" in images else "control"
        width, height = size = images[leading].size
        if inputs.sizes:  # a size that is asked for stays as it is, or is refused by the pipeline
            size = max(width // factor, 1) * factor, max(height // factor, 1) * factor
            size = _asked_size(settings) or size
            how = {"mask": Image.Resampling.NEAREST}
            images = {k: image.resize(size, how.get(k, Image.Resampling.LANCZOS)) for k, image in images.items()}
        sized.append((_asked_size(settings) or size, paths[leading]))
        rows.append(_row(inputs, images, settings, pipe, nets))
    _check_one_size(sized, inputs, who)
    if inputs.sizes and "height" in takes and "width" in takes:
        width, height = sized[0][0]
        made |= {"width": width, "height": height}
    alone = inputs.alone(settings)
    return made | {name: rows[0][name] if alone else [row[name] for row in rows] for name in rows[0]}


def _paths(inputs: ImageInputs, request: Request, settings: Settings, who: str) -> dict[str, Path]:
    """The files of a request's images by kind."""
    control = request.control or (None if settings.get("control_from") is None else request.source)
    named = {"source": request.source, "mask": request.mask, "control": control}
    taken = {kind: path for kind, path in named.items() if getattr(inputs, kind) is not None}
    for kind, path in taken.items():
        if path is None and not inputs.optional:
            asked = "" if request.prompt is None else f" ('{request.prompt[:40]}')"
            raise DataError(
                f"{who} wants a {kind} image of each prompt, and that of sample {request.index}{asked} names none: "
                f"give the prompt set a column of paths (prompts.table.{kind}=COLUMN)"
            )
    return {kind: Path(path) for kind, path in taken.items() if path is not None}


def _asked_size(settings: Settings) -> tuple[int, int] | None:
    """(width, height) of the settings, where both are given."""
    width, height = settings.get("width"), settings.get("height")
    return (width, height) if width and height else None


def _row(inputs: ImageInputs, images: Mapping[str, Image], settings: Settings, pipe: Any, nets: int) -> dict[str, Any]:
    """One sample's images by the name of the argument that takes them."""
    row: dict[str, Any] = {}
    if inputs.source and "source" in images:
        row[inputs.source] = images["source"]
    if inputs.mask and "mask" in images:
        row[inputs.mask] = images["mask"].convert("L")
    if inputs.control and "control" in images:
        made = [_prepared(images["control"], given) for given in _preparations(settings.get("control_from"), nets)]
        adapter = getattr(pipe, "adapter", None)
        if adapter is not None and getattr(adapter.config, "in_channels", 3) == 1:
            made = [image.convert("L") for image in made]
        row[inputs.control] = made if nets > 1 else made[0]
    return row


def _preparations(given: Any, nets: int) -> list[Any]:
    """How the control image is prepared for each ControlNet."""
    return list(given) if isinstance(given, list | tuple) else [given] * nets


def _prepared(image: Image, given: Any) -> Image:
    if given is None:
        return image
    import numpy as np
    from PIL import Image as Pillow

    from evalkit.numerics.canny import canny

    edges = canny(np.asarray(image)[None], **_canny_arguments(given, ""))[0]
    return Pillow.fromarray(edges * np.uint8(255)).convert("RGB")


def _canny_arguments(given: Any, who: str) -> dict[str, float]:
    """Of `canny`, or `{canny: {sigma: 1, low: 100, high: 200}}`."""
    if given is None or given == "canny":
        return {}
    name, arguments = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, {})
    if name not in PREPARATIONS:
        raise ConfigError(f"{who}: control_from={name!r} is not known. {nearest(str(name), PREPARATIONS)}")
    for key in arguments or {}:
        if key not in _CANNY:
            raise ConfigError(f"{who}: control_from: canny takes no '{key}'. {nearest(str(key), _CANNY)}")
    return dict(arguments or {})


def _check_one_size(sized: Sequence[tuple[tuple[int, int], Path]], inputs: ImageInputs, who: str) -> None:
    for size, path in sized:
        if size != sized[0][0]:
            remedy = "set height and width, or resize them" if inputs.sizes else "resize them"
            sizes = "{2} is {0}x{1}".format(*sized[0][0], sized[0][1]), "{2} is {0}x{1}".format(*size, path)
            raise DataError(f"{who}: {' and '.join(sizes)}: samples of one set have one size; {remedy}")
