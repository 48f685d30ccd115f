"""Any diffusers pipeline that makes images: from text, from a class, or from noise alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.models.base import Conditioning, Generated, ModelPart, Request, Sampler, Settings
from evalkit.models.device_images import Rounded, joined, rounded
from evalkit.models.diffusers import compat, condition_images
from evalkit.models.diffusers.adapters import SCALE, Loras
from evalkit.models.diffusers.checkpoint import Checkpoint
from evalkit.models.diffusers.concepts import Concepts
from evalkit.models.diffusers.controlnet import Networks
from evalkit.models.diffusers.kinds import check_effect, check_kind, check_layers, missing_arguments
from evalkit.models.diffusers.networks import loading
from evalkit.models.diffusers.noise import NoiseModel, noise_shape_of, stacked
from evalkit.models.diffusers.optimize import Efficiency
from evalkit.models.diffusers.origin import Origin
from evalkit.models.diffusers.parts import parts_of
from evalkit.models.diffusers.prompt_cache import PromptCache, check_prompt_cache
from evalkit.models.diffusers.sampling import (
    DENOISERS,
    Evaluations,
    add_prompts,
    alike,
    class_ids,
    denoise,
    denoisers,
    give_own_noise,
    quiet,
    round_on_device,
    sent_home,
    to_rounded,
)
from evalkit.models.diffusers.schedulers import build_scheduler, check_pipeline
from evalkit.models.diffusers.slices import decode_in_slices
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    from evalkit.prompts.sets import Prompt

DTYPES = ("float32", "float16", "bfloat16", "auto")
# Their own loops fit one scheduler alone; ours fits all, and equals theirs where they work.
_LOOPED = {"DDPMPipeline": 1000, "DDIMPipeline": 50, "PNDMPipeline": 50}  # and their default steps
# What this class hands to the pipeline itself; settings must not name them.
_OURS = frozenset({"self", "args", "kwargs", "prompt", "class_labels", "batch_size", "generator", "output_type"})
_OURS_TOO = frozenset({"return_dict", "num_images_per_prompt", "latents", "callback", "callback_on_step_end"})


class DiffusersModel(NoiseModel):
    """A pipeline of the diffusers library, from the Hugging Face hub or a local folder; only safetensors are loaded.

    Args:
        path: a hub id ("owner/name"), a folder, "pkg://package/folder", or a .safetensors file of its makers' layout.
        config: of such a file the folder with its parts' configuration; original_config: its makers' YAML as well.
        ema: of such a file, or of a trainer's checkpoint (`denoiser`), the EMA weights where both are there.
        prediction_type: "epsilon", "v_prediction" or "sample", in place of what the scheduler's configuration says.
        denoiser: weights for the pipeline's UNet or transformer: a trainer's checkpoint, a folder, file or hub id.
        revision: commit, tag or branch of a hub id; pin a commit so that a cell's key means one set of weights.
        variant: "fp16", say: prefers weights named `*.fp16.safetensors`.
        dtype: "float32", "float16", "bfloat16", or "auto": the one that the denoiser's weights are stored in.
        compile: torch.compile the denoiser; true, a mode ("max-autotune"), a backend ("openvino", "tensorrt") where its
            package is installed, or a mapping: {backend: openvino, options: {...}, dynamic: false}.
        channels_last: the denoiser's and the VAE's convolutions in that order of memory: for half precision on CUDA.
        attention_slicing, vae_tiling, vae_slicing: less memory, more time; they change pixels a little.
        quantize: the denoiser's linear layers by torchao ("int8_weight_only", "int8_dynamic", "fp8_weight_only",
            "nvfp4_weight_only", "int4_weight_only", "int2_weight_only"; where the GPU multiplies so: "fp8_dynamic",
            "nvfp4_dynamic") or, on CUDA, bitsandbytes ("bnb_int8", "bnb_nf4").
        attention: a backend of diffusers ("_native_math", "flash", "xformers", ...).
        cache: "pyramid_attention_broadcast", "faster_cache", "first_block_cache" or "taylorseer", or a mapping of its
            `name` and options, for transformers that diffusers can cache.
        lora: a .safetensors file, folder or hub id, a mapping as `adapters.Adapter` (path, weight_name, scale, ...), or
            a list of those.
        lora_fused: adds the adapters to the weights; then `lora_scale` is fixed.
        textual_inversion: {"<word>": FILE, ...}, or files that name their word; `concepts.py`.
        ip_adapter: {path: FILE, image_encoder: FOLDER, image: FILE, scale: 1}; image: source shows the prompt's own.
        vae: a folder, file or hub id of an autoencoder to use instead of the pipeline's own.
        controlnet, t2i_adapter: a folder or hub id, a mapping of its `path` and `revision`, or a list of ControlNets;
            the pipeline's class is then that of the same family with it.
        conditioning: "text", "class" or "none" (a UNet2DModel with classes then draws one per sample); none given: told
            from a local folder's model_index.json, else "text".
        pipeline: a pipeline class of diffusers to use instead of the one that model_index.json names.
        cache_prompts: runs the text encoders once per prompt, each alone, where prompts come again (`prompt_cache.py`).
        safety_checker: false leaves the model's safety checker out; otherwise the images that it blanks are flagged.
        classes: number of classes to go through where the samples name none; none: all that the model knows.

    Call settings: those in `call_settings`, and any other argument of the pipeline's `__call__` under `extra`. One that
    the pipeline does not take is refused. `num_inference_steps` wins over the sampler's. `lora_scale` (a number, or a
    list, one per adapter) multiplies the adapters' scales; at 0 the model is exactly the one without them.
    Source, mask and control images come from the prompts: `condition_images.py` says which and in which size;
    `control_from: canny` makes the control image's edge map first.
    """

    takes_sampler = True
    weights_option = "path"
    remakes = (*NoiseModel.remakes, "attention")
    call_settings = condition_images.CALL_SETTINGS.union(
        ("guidance_scale", "guidance_rescale", "true_cfg_scale", "negative_prompt", "height", "width", "eta"),
        ("num_inference_steps", "clip_skip", "max_sequence_length", "use_resolution_binning", "clean_caption"),
        ("lora_scale", "extra"),
    )

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        compile: bool | str | Mapping[str, Any] = False,
        attention_slicing: bool = False,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        conditioning: Conditioning | None = None,
        pipeline: str | None = None,
        safety_checker: bool = True,
        classes: int | None = None,
        quantize: str | None = None,
        attention: str | None = None,
        cache: str | Mapping[str, Any] | None = None,
        lora: Any = None,
        lora_fused: bool = False,
        vae: str | Mapping[str, str] | None = None,
        controlnet: Any = None,
        t2i_adapter: Any = None,
        channels_last: bool = False,
        cache_prompts: bool = False,
        config: str | None = None,
        original_config: str | None = None,
        ema: bool = False,
        prediction_type: str | None = None,
        denoiser: Any = None,
        textual_inversion: Any = None,
        ip_adapter: Any = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}' is not known. {nearest(dtype, DTYPES)}")
        if conditioning not in (*get_args(Conditioning), None):
            near = nearest(str(conditioning), get_args(Conditioning))
            raise ConfigError(f"conditioning '{conditioning}' is not known. {near}")
        of_file = ema and denoiser is None
        self.origin = Origin(path, revision, variant, safety_checker, config, original_config, of_file, prediction_type)
        self.local, self.variant, self.dtype = self.origin.local, variant, dtype
        self.who = f"model '{path}'"  # in messages
        self.efficiency = Efficiency(
            compile, attention_slicing, vae_tiling, vae_slicing, quantize, attention, cache, channels_last
        )
        self.loras, self.concepts = Loras(lora, lora_fused, self.who), Concepts(textual_inversion, ip_adapter, self.who)
        self.safety_checker, self.networks = safety_checker, Networks.of(controlnet, t2i_adapter, vae, denoiser, ema)
        self.pipeline, self.classes = pipeline, classes
        self.conditioning = conditioning or "text"
        if conditioning is None and self.origin.has_index():
            self.conditioning = self._checkpoint().conditioning()
        self.cache_prompts = cache_prompts
        self._pipe: Any = None
        self._own_scheduler: Any = None
        self._prompts: PromptCache | None = None

    def _checkpoint(self) -> Checkpoint:
        return self.origin.checkpoint()

    def check(self, *, fetch: bool = True) -> None:
        """Looks for every file of a local folder; of a hub id offline or without `fetch` for its copy in the cache."""
        self.origin.check(self.who, fetch=fetch)
        base = self._checkpoint() if self.local else None
        self.efficiency.check(len(self.loras.adapters), self.loras.fused)
        if self.networks.denoiser is not None:
            self.efficiency.check_denoiser()
        renamed = self.origin.is_file or self.networks.denoiser is not None  # its layers have other names
        self.loras.check(None if renamed else base, fetch=fetch)
        self.networks.check(base, self.who, fetch=fetch)
        self.concepts.check(base)

    def identity(self) -> dict[str, Any]:
        """Digest of the local files that are loaded, or hub id and revision, with all options that change pixels."""
        options = {"variant": self.variant, "dtype": self.dtype, "pipeline": self.pipeline, "classes": self.classes}
        options |= {"safety_checker": self.safety_checker, **self.efficiency.identity(), **self.loras.identity()}
        options |= (
            self.networks.identity()
            | self.concepts.identity()
            | ({"cache_prompts": True} if self.cache_prompts else {})
        )
        return {"kind": "diffusers", **self.origin.identity(), "conditioning": self.conditioning, **options}

    def load(self, device: str) -> None:
        """Loads the pipeline in evaluation mode."""
        checkpoint = self.origin.fetched()
        checkpoint.check()
        cls = self._pipeline_class(checkpoint)
        with loading(self.who):
            pipe = checkpoint.load(cls, self._loading(checkpoint))
        with quiet():
            self.loras.load(pipe)
            self.concepts.load(pipe)
            pipe.to(device)
            pipe.set_progress_bar_config(disable=True)
            self.efficiency.apply(pipe, device, self.who)
        round_on_device(pipe)
        decode_in_slices(getattr(pipe, "vae", None))
        self._prompts = PromptCache(pipe, self.who) if self.cache_prompts else None
        self._pipe, self._own_scheduler = pipe, pipe.scheduler

    def _pipeline_class(self, checkpoint: Checkpoint) -> Any:
        import diffusers

        name = self.pipeline or checkpoint.pipeline_class()
        names = [n for n in dir(diffusers) if n.endswith("Pipeline")]
        if not hasattr(diffusers, name):
            raise ConfigError(f"{self.who}: diffusers has no pipeline '{name}'. {nearest(name, names)}")
        check_kind(getattr(diffusers, name), self.who)
        return self.networks.pipeline_class(getattr(diffusers, name), self.who)

    def _loading(self, checkpoint: Checkpoint) -> dict[str, Any]:
        import torch

        denoiser = self.networks.denoiser
        stored = (denoiser.stored_dtype() if denoiser is not None else None) or checkpoint.stored_dtype()
        dtype = getattr(torch, stored if self.dtype == "auto" else self.dtype)
        in_dtype = {compat.dtype_argument(): dtype}
        kwargs = {**in_dtype, "use_safetensors": True, "local_files_only": True, "variant": self.variant}
        if not self.safety_checker and "safety_checker" in checkpoint.index():
            kwargs |= {"safety_checker": None, "requires_safety_checker": False}
        compat.restore_moved(part.class_name for part in checkpoint.components())
        kwargs |= self.networks.load(in_dtype, checkpoint, self.who)
        return kwargs | self.efficiency.loading(list(checkpoint.index()), dtype)

    def timed_parts(self) -> list[ModelPart]:
        """The pipeline's networks: text encoders, denoisers, VAE, safety checker ..."""
        return parts_of(self._pipe)

    def unload(self) -> None:
        self._pipe = self._own_scheduler = self._prompts = None

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses a sampler or a setting that the pipeline does not take, before the weights are loaded.

        Imports diffusers; a hub id is looked at once it is loaded.
        """
        import diffusers

        pipeline = self._pipeline_class(self._checkpoint()) if self.local else None
        settings = self.loras.check_call(settings, pipeline)
        if pipeline is not None:
            self.concepts.check_call(pipeline)
        if self.cache_prompts and pipeline is not None:
            check_prompt_cache(pipeline, self.who)
        self.efficiency.check_call(self._denoiser_classes(), self.who)
        if self._pipe is not None:
            self._plan(type(self._pipe), self._own_scheduler, sampler, settings)
        elif self.local:
            config = self._checkpoint().config_of("scheduler")
            own = getattr(diffusers, str(config.get("_class_name")), None)
            if own is not None:
                own = build_scheduler(None, own, config, self.who)
                _, flat = self._plan(pipeline, own, sampler, settings)
                check_layers(pipeline, self._checkpoint().config_of("text_encoder"), flat, self.who)

    def check_prompts(self, prompts: Sequence[Prompt], settings: Settings) -> None:
        """Looks at the images of the prompts; those of a pipeline from the hub, once it is loaded."""
        self.concepts.check_prompts(prompts)
        if self.local or self._pipe is not None:
            pipeline = type(self._pipe) if self._pipe is not None else self._pipeline_class(self._checkpoint())
            condition_images.check_prompts(self._inputs(pipeline), prompts, _flat(settings), self.who)

    def _inputs(self, pipeline: Any) -> condition_images.ImageInputs:
        return condition_images.image_inputs(pipeline, self.networks.several)

    def _denoiser_classes(self) -> list[Any]:
        import diffusers

        parts = self._checkpoint().components() if self.local else []
        return [c for p in parts if p.name in DENOISERS and (c := getattr(diffusers, p.class_name, None))]

    def _plan(self, pipeline: Any, own: Any, sampler: Sampler | None, settings: Settings) -> tuple[Any, dict[str, Any]]:
        """The scheduler, and the settings that will be handed to the pipeline."""
        scheduler = build_scheduler(sampler, type(own), own.config, self.who)
        flat = _flat(settings)
        if pipeline.__name__ not in _LOOPED:
            check_pipeline(pipeline, scheduler, own, flat, self.who)
        if sampler is not None and sampler.num_inference_steps is not None:
            flat.setdefault("num_inference_steps", sampler.num_inference_steps)
        parameters = inspect.signature(pipeline.__call__).parameters
        inputs = self._inputs(pipeline)
        known = (set(parameters) - _OURS - _OURS_TOO - condition_images.HANDED) | inputs.settings()
        if pipeline.__name__ in _LOOPED:
            known = {"num_inference_steps", "eta"}
        for name in flat:
            if name not in known:
                raise ConfigError(f"{self.who}: {pipeline.__name__} takes no setting '{name}'. {nearest(name, known)}")
        missing = missing_arguments(pipeline, flat)
        if missing is not None:
            raise ConfigError(f"{self.who}: {pipeline.__name__} {missing}")
        if flat.get("eta") and "eta" not in inspect.signature(scheduler.step).parameters:
            raise ConfigError(
                f"{self.who}: eta is DDIM's; {type(scheduler).__name__} takes none. Use sampler=ddim, or no eta."
            )
        whole_number(flat.get("num_inference_steps", 1), f"{self.who}: num_inference_steps")
        condition_images.check_settings(pipeline, inputs, flat, self.who)
        return scheduler, flat

    def latent_shape(self, sampler: Sampler | None, settings: Settings) -> tuple[int, ...] | None:
        """As of `Model`; of a pipeline from the hub, or of a kind that is not known here, none."""
        self.check_shows_latents()
        known = self.local and self.networks.vae is None  # another VAE may have another factor
        return noise_shape_of(self._checkpoint(), _flat(settings)) if known else None

    def check_shows_latents(self) -> None:
        """ConfigError: the pipeline takes no starting noise; one from the hub is looked at once it is loaded."""
        if self.local or self._pipe is not None:
            pipeline = type(self._pipe) if self._pipe is not None else self._pipeline_class(self._checkpoint())
            self.check_takes_latents(pipeline, looped=pipeline.__name__ in _LOOPED)

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """Makes one image per request; its noise comes from the request's own generator, on the CPU."""
        import torch

        if self._pipe is None:
            raise RuntimeError("load() comes before generate()")
        self.check_given(requests, sampler, settings)
        if self._prompts is not None:
            self._prompts.state = str(settings.get(SCALE))
        told = self.loras.warnings(settings)
        settings = self.loras.set(self._pipe, settings)
        scheduler_class = type(self._own_scheduler)
        counter = Evaluations(denoisers(self._pipe))
        parts: list[Rounded] = []
        order: list[int] = []
        warned: dict[int, list[str]] = {}
        try:
            with quiet(), torch.no_grad():
                pipeline = type(self._pipe)
                alone = self.efficiency.alone or self.concepts.alone or compat.one_by_one(pipeline)
                alone = alone or self._inputs(pipeline).alone(_flat(settings))
                for indices in [[i] for i in range(len(requests))] if alone else alike(requests, settings):
                    scheduler, flat = self._plan(type(self._pipe), self._own_scheduler, sampler, settings)
                    check_effect(self._pipe, flat, self.who)
                    part, warnings = self._run([requests[i] for i in indices], scheduler, flat)
                    parts.append(part)
                    order += indices
                    warned |= zip(indices, warnings, strict=True)
        except (ValueError, NotImplementedError, TypeError, IndexError, AssertionError) as error:
            by = sampler.scheduler if sampler and sampler.scheduler else scheduler_class.__name__
            raise ConfigError(f"{self.who} with {by}: {one_line(error)}") from error
        finally:
            counter.close()
            compat.put_scheduler(self._pipe, self._own_scheduler)
        images = sent_home(joined(parts, order), self.who)
        return Generated(images, counter.samples / len(requests), [warned[i] + told for i in range(len(requests))])

    def _run(
        self, requests: Sequence[Request], scheduler: Any, flat: dict[str, Any]
    ) -> tuple[Rounded, list[list[str]]]:
        """Images and warnings of requests that are alike in having a negative prompt or none."""
        pipe = self._pipe
        generators = [request.generator() for request in requests]
        classes = class_ids(pipe, requests, self.classes, self.who) if self.conditioning == "class" else None
        if type(pipe).__name__ in _LOOPED:
            steps = flat.get("num_inference_steps", _LOOPED[type(pipe).__name__])
            eta = flat.get("eta")
            asked: Any = {"classes": classes, "eta": eta, "swap": self.swap, "latents": stacked(requests)}
            images = denoise(pipe.unet, scheduler, steps=steps, generators=generators, **asked)
            return rounded(images), [[] for _ in requests]
        give_own_noise(scheduler, generators)
        compat.put_scheduler(pipe, scheduler)
        takes = inspect.signature(type(pipe).__call__).parameters
        call = condition_images.call(self._inputs(type(pipe)), requests, flat, pipe, self.who)
        call |= {"generator": generators, "output_type": "np", **self.concepts.call(requests)}
        warned: list[list[str]] = [[] for _ in requests]
        if self.conditioning == "text":
            warned = add_prompts(pipe, requests, call, self.who)
            if compat.one_text(type(pipe)):
                call |= {key: call[key][0] for key in ("prompt", "negative_prompt") if isinstance(call.get(key), list)}
        elif self.conditioning == "class":
            call["class_labels"] = classes
        if "prompt" not in call and "batch_size" in takes:
            call["batch_size"] = len(requests)
        self.begin_with(requests, generators, call)
        output = pipe(**call)
        pixels = getattr(output, "images", getattr(output, "image", None))  # the latter is Kandinsky 5's
        if pixels is None:
            raise ConfigError(f"{self.who}: {type(pipe).__name__} makes no images")
        made = tuple(pixels.shape[1:3])  # [B,H,W,3]
        asked = tuple(flat.get(side, own) for side, own in zip(("height", "width"), made, strict=True))
        if made != asked:  # FLUX rounds sizes, Stable Diffusion drops a height without a width; neither says so
            raise ConfigError(
                f"{self.who}: height and width {asked} were asked for, {made} were made: give both, as multiples"
            )
        for names, blanked in zip(warned, getattr(output, "nsfw_content_detected", None) or [], strict=False):
            names += ["blanked"] if blanked else []
        return to_rounded(pixels, self.who), warned


def _flat(settings: Settings) -> dict[str, Any]:
    """The settings and those under `extra`, without those that are none."""
    flat = {key: value for key, value in settings.items() if value is not None and key != "extra"}
    return flat | {key: value for key, value in (settings.get("extra") or {}).items() if value is not None}
