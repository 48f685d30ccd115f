"""Any diffusers pipeline that makes images: from text, from a class, or from noise alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models import hub
from evalkit.models.base import Conditioning, Generated, Model, Request, Sampler
from evalkit.models.checkpoint import INDEX, Checkpoint
from evalkit.paths import PKG_SCHEME, resolve_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = ("float32", "float16", "bfloat16", "auto")
CONDITIONINGS = ("text", "class", "none")
# Their own loops fit one scheduler alone; ours fits all, and equals theirs where they work.
_LOOPED = {"DDPMPipeline": 1000, "DDIMPipeline": 50, "PNDMPipeline": 50}  # and their default steps
_DENOISERS = ("unet", "transformer", "transformer_2", "prior", "decoder")
# What this class hands to the pipeline itself; settings must not name them.
_OURS = frozenset({"self", "args", "kwargs", "prompt", "class_labels", "batch_size", "generator", "output_type"})
_OURS_TOO = frozenset({"return_dict", "num_images_per_prompt", "latents", "callback", "callback_on_step_end"})


class DiffusersModel(Model):
    """A pipeline of the diffusers library, from the Hugging Face hub or a local folder; only safetensors are loaded.

    Args:
        path: a hub id ("owner/name"), a folder, or "pkg://package/folder".
        revision: commit, tag or branch of a hub id; pin a commit so that a cell's key means one set of weights.
        variant: "fp16", say: prefers weights named `*.fp16.safetensors`.
        dtype: "float32", "float16", "bfloat16", or "auto": the one that the denoiser's weights are stored in.
        compile: torch.compile the denoiser.
        attention_slicing, vae_tiling, vae_slicing: less memory, more time; they change pixels a little.
        conditioning: "text", "class" or "none" (a UNet2DModel with classes then draws one a sample); none given: told
            from a local folder's model_index.json, else "text".
        pipeline: a pipeline class of diffusers to use instead of the one that model_index.json names.
        safety_checker: false leaves the model's safety checker out; otherwise the images that it blanks are flagged.
        classes: number of classes to go through where the samples name none; none: all that the model knows.

    Call settings: those in `call_settings`, and any other argument of the pipeline's `__call__` under `extra`. One that
    the pipeline does not take is refused. `num_inference_steps` wins over the sampler's.
    """

    takes_sampler = True
    call_settings = frozenset(
        {
            "guidance_scale",
            "negative_prompt",
            "height",
            "width",
            "eta",
            "num_inference_steps",
            "guidance_rescale",
            "true_cfg_scale",
            "clip_skip",
            "max_sequence_length",
            "use_resolution_binning",
            "clean_caption",
            "extra",
        }
    )

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: str = "float32",
        compile: bool = False,
        attention_slicing: bool = False,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        conditioning: Conditioning | None = None,
        pipeline: str | None = None,
        safety_checker: bool = True,
        classes: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}' is not known. {nearest(dtype, DTYPES)}")
        if conditioning not in (*CONDITIONINGS, None):
            raise ConfigError(
                f"conditioning '{conditioning}' is not known. {nearest(str(conditioning), CONDITIONINGS)}"
            )
        self.path, self.revision, self.variant, self.dtype = path, revision, variant, dtype
        self.options = {
            "compile": compile,
            "attention_slicing": attention_slicing,
            "vae_tiling": vae_tiling,
            "vae_slicing": vae_slicing,
            "safety_checker": safety_checker,
        }
        self.pipeline, self.classes = pipeline, classes
        self.local = path.startswith(PKG_SCHEME) or Path(path).expanduser().is_dir() or not hub.is_hub_id(path)
        self.conditioning = conditioning or "text"
        if conditioning is None and self.local and (self._checkpoint().folder / INDEX).is_file():
            self.conditioning = self._checkpoint().conditioning()
        self._pipe: Any = None
        self._own_scheduler: Any = None

    def _checkpoint(self, folder: Path | None = None) -> Checkpoint:
        leave_out = frozenset() if self.options["safety_checker"] else frozenset({"safety_checker"})
        return Checkpoint(folder or resolve_path(self.path), self.variant, leave_out)

    def check(self) -> None:
        """Looks for every file of a local folder; of a hub id, offline, for its copy in the cache.

        Raises:
            ConfigError, DataError: a file is missing or broken (named).
        """
        if self.local:
            folder = resolve_path(self.path)
            if not folder.is_dir():
                raise ConfigError(
                    f"model '{self.path}': there is no such folder; give a hub id (owner/name), or a folder made by "
                    "`hf download OWNER/NAME --local-dir FOLDER` or save_pretrained"
                )
            self._checkpoint().check()
        else:
            hub.check(self.path, self.revision)

    def identity(self) -> dict[str, Any]:
        """Digest of the local files that are loaded, or hub id and revision, with all options that change pixels."""
        weights: Any = {"hub": self.path, "revision": self.revision or "main"}
        if self.local:
            weights = self._checkpoint().digest()
        told = {"variant": self.variant, "dtype": self.dtype, "pipeline": self.pipeline, "classes": self.classes}
        return {"kind": "diffusers", "weights": weights, "conditioning": self.conditioning, **told, **self.options}

    def load(self, device: str) -> None:
        """Loads the pipeline in evaluation mode.

        Raises:
            ConfigError: it cannot be had (offline, gated, no such repository, revision or file).
            DataError: its files do not fit together.
        """
        from evalkit.models.denoise import one_line, quiet

        folder = resolve_path(self.path) if self.local else hub.download(self.path, self.revision, self.variant)
        checkpoint = self._checkpoint(folder)
        checkpoint.check()
        cls = self._pipeline_class(checkpoint)
        with quiet():
            try:
                pipe = cls.from_pretrained(str(folder), **self._loading(checkpoint))
            except (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
                raise DataError(f"model '{self.path}' cannot be loaded: {one_line(error)}") from error
            except RuntimeError as error:
                if "out of memory" in str(error):
                    raise
                raise DataError(f"model '{self.path}' cannot be loaded: {one_line(error)}") from error
            pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        self._apply_options(pipe)
        self._pipe, self._own_scheduler = pipe, pipe.scheduler

    def _pipeline_class(self, checkpoint: Checkpoint) -> Any:
        import diffusers

        name = self.pipeline or checkpoint.pipeline_class()
        names = [n for n in dir(diffusers) if n.endswith("Pipeline")]
        if not hasattr(diffusers, name):
            raise ConfigError(f"model '{self.path}': diffusers has no pipeline '{name}'. {nearest(name, names)}")
        return getattr(diffusers, name)

    def _loading(self, checkpoint: Checkpoint) -> dict[str, Any]:
        import torch
        from diffusers.utils import deprecation_utils

        dtype = getattr(torch, checkpoint.stored_dtype() if self.dtype == "auto" else self.dtype)
        # Renamed in diffusers 0.36 or so; the old name warns, and the new one is ignored before.
        name = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
        kwargs: dict[str, Any] = {name: dtype, "use_safetensors": True, "local_files_only": True}
        if self.variant:
            kwargs["variant"] = self.variant
        if not self.options["safety_checker"] and "safety_checker" in checkpoint.index():
            kwargs |= {"safety_checker": None, "requires_safety_checker": False}
        return kwargs

    def _apply_options(self, pipe: Any) -> None:
        vae = getattr(pipe, "vae", None)
        if self.options["attention_slicing"]:
            pipe.enable_attention_slicing()
        for option, method in (("vae_tiling", "enable_tiling"), ("vae_slicing", "enable_slicing")):
            if self.options[option]:
                if not hasattr(vae, method):
                    raise ConfigError(f"model '{self.path}' has no VAE that takes {option}: set {option}: false")
                getattr(vae, method)()
        if self.options["compile"]:
            import torch

            for module in _denoisers(pipe):
                # The forward alone: the module keeps its hooks, which count evaluations outside of the compiled code.
                module.forward = torch.compile(module.forward)

    def unload(self) -> None:
        """Frees the memory of `load`."""
        import gc

        import torch

        self._pipe = self._own_scheduler = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def check_call(self, sampler: Sampler | None, settings: Mapping[str, Any]) -> None:
        """Refuses a sampler or a setting that the pipeline does not take, before the weights are loaded.

        Imports diffusers; a hub id is looked at once it is loaded.

        Raises:
            ConfigError: it does not fit (the nearest name is offered).
        """
        import diffusers

        from evalkit.models.denoise import build_scheduler

        if self._pipe is not None:
            self._plan(type(self._pipe), self._own_scheduler, sampler, settings)
        elif self.local:
            config = self._checkpoint().config_of("scheduler")
            own = getattr(diffusers, str(config.get("_class_name")), None)
            if own is not None:
                own = build_scheduler(None, own, config, f"model '{self.path}'")
                self._plan(self._pipeline_class(self._checkpoint()), own, sampler, settings)

    def _plan(
        self, pipeline: Any, own: Any, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The scheduler, and the settings that will be handed to the pipeline."""
        from evalkit.models.denoise import build_scheduler

        who = f"model '{self.path}'"
        scheduler = build_scheduler(sampler, type(own), own.config, who)
        if pipeline.__name__.startswith("LatentConsistency") and type(scheduler).__name__ != "LCMScheduler":
            raise ConfigError(f"sampler: {pipeline.__name__} ({who}) works with LCMScheduler alone; use sampler=lcm")
        wanted = {k: v for k, v in settings.items() if v is not None and k != "extra"}
        wanted |= {k: v for k, v in (settings.get("extra") or {}).items() if v is not None}
        if sampler is not None and sampler.num_inference_steps is not None:
            wanted.setdefault("num_inference_steps", sampler.num_inference_steps)
        parameters = inspect.signature(pipeline.__call__).parameters
        known = set(parameters) - _OURS - _OURS_TOO
        if pipeline.__name__ in _LOOPED:
            known = {"num_inference_steps", "eta"}
        for name in wanted:
            if name not in known:
                raise ConfigError(f"{who}: {pipeline.__name__} takes no setting '{name}'. {nearest(name, known)}")
        if wanted.get("eta") and "eta" not in inspect.signature(scheduler.step).parameters:
            raise ConfigError(
                f"{who}: eta is DDIM's; {type(scheduler).__name__} takes none. Use sampler=ddim, or no eta."
            )
        steps = wanted.get("num_inference_steps", 1)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"{who}: num_inference_steps={steps!r}: give a whole number >= 1")
        return scheduler, wanted

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        """Makes one image a request; its noise comes from the request's own generator, on the CPU.

        Raises:
            ConfigError: the sampler or a setting does not fit the pipeline.
            DataError: the output holds NaN, or a request lacks its prompt.
        """
        import numpy as np
        import torch

        from evalkit.models.denoise import Evaluations, one_line, quiet

        if self._pipe is None:
            raise RuntimeError("load() comes before generate()")
        scheduler_class = type(self._own_scheduler)
        counter = Evaluations(_denoisers(self._pipe))
        images: list[NDArray[np.uint8] | None] = [None] * len(requests)
        warned: list[list[str]] = [[] for _ in requests]
        try:
            with quiet(), torch.no_grad():
                for indices in _alike(requests, settings):
                    scheduler, wanted = self._plan(type(self._pipe), self._own_scheduler, sampler, settings)
                    self._refuse_without_effect(wanted)
                    made, told = self._run([requests[i] for i in indices], scheduler, wanted)
                    for i, image, names in zip(indices, made, told, strict=True):
                        images[i], warned[i] = image, names
        except (ValueError, NotImplementedError, TypeError) as error:
            by = sampler.scheduler if sampler and sampler.scheduler else scheduler_class.__name__
            raise ConfigError(f"model '{self.path}' with {by}: {one_line(error)}") from error
        finally:
            counter.close()
            self._pipe.scheduler = self._own_scheduler
        return Generated(np.stack([i for i in images if i is not None]), counter.samples / len(requests), warned)

    def _refuse_without_effect(self, wanted: Mapping[str, Any]) -> None:
        transformer = getattr(self._pipe, "transformer", None)
        distilled = getattr(getattr(transformer, "config", None), "guidance_embeds", None) is False
        if type(self._pipe).__name__ == "FluxPipeline" and distilled and wanted.get("guidance_scale"):
            raise ConfigError(
                f"model '{self.path}' was distilled without guidance: guidance_scale would change nothing; set it to 0 "
                "or null (true_cfg_scale guides it with a negative prompt)"
            )

    def _run(
        self, requests: Sequence[Request], scheduler: Any, wanted: dict[str, Any]
    ) -> tuple[NDArray[np.uint8], list[list[str]]]:
        """Images u8 [B,H,W,3] and warnings of requests that are alike in having a negative prompt or none."""
        from evalkit.models.denoise import denoise, give_own_noise, to_uint8

        pipe, who = self._pipe, f"model '{self.path}'"
        generators = [request.generator() for request in requests]
        classes = self._class_ids(requests) if self.conditioning == "class" else None
        if type(pipe).__name__ in _LOOPED:
            steps = wanted.get("num_inference_steps", _LOOPED[type(pipe).__name__])
            eta = wanted.get("eta")
            array = denoise(pipe.unet, scheduler, steps=steps, generators=generators, classes=classes, eta=eta)
            return to_uint8(array, who), [[] for _ in requests]
        give_own_noise(scheduler, generators)
        pipe.scheduler = scheduler
        takes = inspect.signature(type(pipe).__call__).parameters
        call = {**wanted, "generator": generators, "output_type": "np"}
        warned: list[list[str]] = [[] for _ in requests]
        if self.conditioning == "text":
            warned = self._add_prompts(requests, call, takes)
        elif self.conditioning == "class":
            call["class_labels"] = classes
        if "prompt" not in call and "class_labels" not in call and "batch_size" in takes:
            call["batch_size"] = len(requests)
        output = pipe(**call)
        if not hasattr(output, "images"):
            raise ConfigError(f"{who}: {type(pipe).__name__} makes no images")
        made = tuple(output.images.shape[1:3])
        asked = tuple(wanted.get(side, own) for side, own in zip(("height", "width"), made, strict=True))
        if made != asked:  # FLUX rounds sizes, Stable Diffusion drops a height without a width; neither says so
            raise ConfigError(
                f"{who}: height and width {asked} were asked for, {made} were made: give both, as multiples"
            )
        for names, blanked in zip(warned, getattr(output, "nsfw_content_detected", None) or [], strict=False):
            names += ["blanked"] if blanked else []
        return to_uint8(output.images, who), warned

    def _add_prompts(
        self, requests: Sequence[Request], call: dict[str, Any], takes: Mapping[str, inspect.Parameter]
    ) -> list[list[str]]:
        """Puts the prompts into the call; what is lost of them is told, sample by sample."""
        from evalkit.models.denoise import cut_prompts

        prompts = [request.prompt for request in requests]
        for request in requests:
            if request.prompt is None:
                raise DataError(f"model '{self.path}' makes images from text, and sample {request.index} has no prompt")
        call["prompt"] = prompts
        limit = call.get("max_sequence_length")
        if limit is None and "max_sequence_length" in takes:
            limit = takes["max_sequence_length"].default
        warned = [[name] if name else [] for name in cut_prompts(self._pipe, [p or "" for p in prompts], limit)]
        negative = [
            r.negative_prompt if r.negative_prompt is not None else call.get("negative_prompt") for r in requests
        ]
        if any(text is not None for text in negative):
            strength = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
            scale = call.get(strength, takes[strength].default if strength in takes else None)
            if "negative_prompt" in takes:
                call["negative_prompt"] = negative
            if "negative_prompt" not in takes or (isinstance(scale, int | float) and scale <= 1):
                for names in warned:
                    names.append("negative_prompt_ignored")
        return warned

    def _class_ids(self, requests: Sequence[Request]) -> list[int]:
        config: Mapping[str, Any] = next((m.config for m in _denoisers(self._pipe)), {})
        known = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
        if not known and not self.classes:
            raise ConfigError(f"model '{self.path}' knows no classes: set conditioning: none")
        total = self.classes or known
        ids = [r.class_id if r.class_id is not None else r.index % total for r in requests]
        for request, number in zip(requests, ids, strict=True):
            if not 0 <= number < total:
                raise DataError(f"sample {request.index} asks for class {number}; model '{self.path}' has {total}")
        return ids


def _denoisers(pipe: Any) -> list[Any]:
    import torch

    parts = (getattr(pipe, name, None) for name in _DENOISERS)
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _alike(requests: Sequence[Request], settings: Mapping[str, Any]) -> Iterator[list[int]]:
    """Indices of requests with a negative prompt, and without: pipelines (SDXL) treat "" otherwise than none at all."""
    default = settings.get("negative_prompt") is not None
    for wanted in (True, False):
        group = [i for i, r in enumerate(requests) if (default or r.negative_prompt is not None) is wanted]
        if group:
            yield group
