"""Pipelines of diffusers that cannot stand in the grid, told by their class before anything is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from evalkit.errors import ConfigError

# What a pipeline makes, by its folder in diffusers.pipelines; those of `num_frames` make video wherever they lie.
_FOLDERS = {
    "video": (
        *("allegro", "animatediff", "anyflow", "chronoedit", "cogvideo", "consisid", "cosmos", "easyanimate", "helios"),
        *("hunyuan_video", "hunyuan_video1_5", "i2vgen_xl", "kandinsky6", "latte", "ltx", "ltx2", "lucy", "mochi"),
        *("motif_video", "pia", "sana_video", "sana_wm", "skyreels_v2", "stable_video_diffusion"),
        *("text_to_video_synthesis", "wan"),
    ),
    "audio": (
        *("ace_step", "audioldm", "audioldm2", "dance_diffusion", "longcat_audio_dit", "musicldm"),
        *("spectrogram_diffusion", "stable_audio", "stable_audio_3"),
    ),
    "text": ("diffusion_gemma", "llada2"),
    "depth, normals or materials of an image": ("marigold",),
    "proteins": ("rfd4_proteina",),
    "3D shapes": ("shap_e",),
}
_IMAGES_THERE = ("Cosmos2TextToImagePipeline",)  # next to pipelines of another kind
_EMBEDDINGS = {
    "FluxPriorReduxPipeline": None,
    "KandinskyPriorPipeline": "KandinskyCombinedPipeline",
    "KandinskyV22PriorPipeline": "KandinskyV22CombinedPipeline",
    "KandinskyV22PriorEmb2EmbPipeline": None,
    "StableCascadePriorPipeline": "StableCascadeCombinedPipeline",
    "WuerstchenPriorPipeline": "WuerstchenCombinedPipeline",
}
_COMBINED = {
    "KandinskyPipeline": "KandinskyCombinedPipeline",
    "KandinskyV22Pipeline": "KandinskyV22CombinedPipeline",
    "StableCascadeDecoderPipeline": "StableCascadeCombinedPipeline",
    "WuerstchenDecoderPipeline": "WuerstchenCombinedPipeline",
}
# Handed by DiffusersModel where a pipeline asks.
_HANDED = ("prompt", "image", "control_image", "mask_image", "control_mask", "class_labels", "args", "kwargs", "self")


def why_not(pipeline: Any) -> str | None:
    """Why a class of diffusers' pipelines cannot stand in the grid; none where nothing speaks against it."""
    name, module = pipeline.__name__, pipeline.__module__.split(".")
    if "dummy" in module[-1]:
        return f"needs packages that are not here: {', '.join(getattr(pipeline, '_backends', []))}"
    if "modular_pipelines" in module or name == "DiffusionPipeline":
        return "has no call of its own: name the pipeline itself"
    if "Onnx" in name:
        return "has ONNX networks: give its denoiser to model=[onnx_denoiser]"
    if name in _EMBEDDINGS:
        whole = _EMBEDDINGS[name]
        return "makes embeddings, no images" + (f": the whole is pipeline={whole}" if whole else "")
    folder = module[3] if module[2] == "deprecated" else module[2]
    takes = inspect.signature(pipeline.__call__).parameters
    kind = "video" if "num_frames" in takes else next((k for k, folders in _FOLDERS.items() if folder in folders), None)
    if kind is None and folder == "kandinsky5" and name not in ("Kandinsky5T2IPipeline", "Kandinsky5I2IPipeline"):
        kind = "video"
    if kind is not None and name not in _IMAGES_THERE:
        frames = ": frames that were saved are scored by model=[frames]" if kind == "video" else ""
        return f"makes {kind}, no images{frames}"
    return None


def missing_arguments(pipeline: Any, settings: Mapping[str, Any]) -> str | None:
    """What a pipeline's call needs that neither a prompt nor a setting gives; none where nothing is missing."""
    parameters = inspect.signature(pipeline.__call__).parameters.items()
    missing = [n for n, p in parameters if p.default is p.empty and n not in _HANDED and n not in settings]
    if not missing:
        return None
    whole = _COMBINED.get(pipeline.__name__)
    return f"needs {', '.join(missing)}, which no prompt holds" + (f": use pipeline={whole}" if whole else "")


def check_kind(pipeline: Any, who: str) -> None:
    """ConfigError: a class of diffusers' pipelines cannot stand in the grid."""
    reason = why_not(pipeline)
    if reason is not None:
        raise ConfigError(f"{who}: {pipeline.__name__} {reason}")


def check_layers(pipeline: Any, encoder: Mapping[str, Any], settings: Mapping[str, Any], who: str) -> None:
    """ConfigError: a pipeline (FLUX.2) reads layers of its text encoder, a chat model, that this one does not have.

    Args:
        pipeline: the class.
        encoder: the text encoder's config.json.
        settings: those of the call.
        who: the model, for messages.
    """
    option = "text_encoder_out_layers"
    parameter = inspect.signature(pipeline.__call__).parameters.get(option)
    layers = encoder.get("text_config", encoder).get("num_hidden_layers")
    asked = settings.get(option, parameter.default) if parameter is not None else ()
    if layers is not None and max(asked, default=0) > layers:
        raise ConfigError(
            f"{who}: {pipeline.__name__} reads the layers {list(asked)} of its text encoder, which has {layers}: "
            f"give extra.{option}, as many as before, each at most {layers}"
        )


def check_effect(pipe: Any, settings: Mapping[str, Any], who: str) -> None:
    """ConfigError: a setting would change nothing."""
    transformer = getattr(pipe, "transformer", None)
    distilled = getattr(getattr(transformer, "config", None), "guidance_embeds", None) is False
    if type(pipe).__name__ == "FluxPipeline" and distilled and settings.get("guidance_scale"):
        raise ConfigError(
            f"{who} was distilled without guidance: guidance_scale would change nothing; set it to 0 "
            "or null (true_cfg_scale guides it with a negative prompt)"
        )
