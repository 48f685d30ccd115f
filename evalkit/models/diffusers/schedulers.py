"""A model's own scheduler exchanged for another: what the model was trained on stays, or the exchange is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from evalkit.errors import ConfigError, nearest
from evalkit.models.base import Sampler
from evalkit.models.diffusers import compat
from evalkit.utils.text import one_line

# These draw noise from a generator of their own, one for the whole batch: an image would depend on its neighbours.
_GLOBAL_NOISE = {"DPMSolverSDEScheduler": "dpmpp_sde", "CosineDPMSolverMultistepScheduler": "dpmpp_2m"}
# What a model was trained on. `from_config` carries a key over only if the model's config file spells it out, and takes
# the new class's default otherwise. Those differ: HeunDiscreteScheduler has Stable Diffusion's betas, DDPM its paper's.
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
_TRAINED_ON = (*_BETAS, "num_train_timesteps", "prediction_type", "rescale_betas_zero_snr", "snr_shift_scale")
# Values of a key that a class without it lives by. `num_train_timesteps` is 1000 where a class does not ask.
_WITHOUT: dict[str, Any] = {
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "invert_sigmas": False,
}
# Where the noise levels of flow matching lie. Those of `_FLOW_SOLVERS` call the shift `flow_shift`.
_FLOW = ("num_train_timesteps", "shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal", "invert_sigmas")
# General solvers that come to the image of a perfect flow model (tests/models/test_schedulers.py); of diffusers' others
# with `use_flow_sigmas`, DEISMultistepScheduler and SASolverScheduler do not.
_FLOW_SOLVERS = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler")
# Their other spacings are made of the betas that a flow model does not have.
_OF_BETAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
# What they cannot be told a model predicts; they raise at the first step.
_NO_SAMPLE = ("EulerAncestral", "HeunDiscrete", "KDPM2", "PNDM")
# Their sample is the noise's size itself; `scale_model_input` brings it to what a network takes.
_SCALED = ("Euler", "Heun", "KDPM2", "LMS")
_NOISE_KINDS = {
    "beta": "a schedule of betas (DDPM, DDIM, DPM-Solver, Euler, ...)",
    "flow": "flow matching",
    "edm": "EDM's sigmas",
}


def scheduler_class(name: str) -> Any:
    """A scheduler class of diffusers by name.

    Raises:
        ConfigError: there is none (the nearest name is offered), or it cannot give each sample its own noise.
    """
    import diffusers

    names = [n for n in dir(diffusers) if n.endswith("Scheduler")]
    if name not in names:
        raise ConfigError(f"sampler: diffusers has no scheduler '{name}'. {nearest(name, names)}")
    if name in _GLOBAL_NOISE:
        raise ConfigError(
            f"sampler: {name} draws one noise for a whole batch, so a sample would depend on its batch; "
            f"use sampler={_GLOBAL_NOISE[name]}"
        )
    return getattr(diffusers, name)


def build_scheduler(sampler: Sampler | None, own_class: Any, own_config: Mapping[str, Any], who: str) -> Any:
    """A fresh scheduler: the model's own class, or that of `sampler`, on the model's ORIGINAL scheduler config.

    Of that config stay the betas, their rescaling to zero SNR, the prediction type, the flow's shift, and the timestep
    spacing where the config states it (`save_pretrained` states all); an option of the sampler wins over it.

    Raises:
        ConfigError: unknown class or option (the nearest name is offered), or it does not fit the model.
    """
    sampler = sampler or Sampler()
    cls = scheduler_class(sampler.scheduler) if sampler.scheduler else own_class
    known = _parameters(cls)
    options = dict(sampler.options or {})
    for option in options:
        if option not in known:
            raise ConfigError(f"sampler: {cls.__name__} has no option '{option}'. {nearest(option, known)}")
    own_kind = _noise_kind(own_class.__name__, own_config)
    keep = _kept(cls, own_class, own_config, own_kind, options)
    try:
        scheduler = cls.from_config(own_config, **{**keep, **options})
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise ConfigError(f"sampler: {cls.__name__} does not fit {who}: {one_line(error)}") from error
    if cls is not own_class:
        _check_fit(scheduler, own_kind, own_config, who)
        _check_kept(scheduler, own_class, own_config, own_kind, {*options, *keep}, who)
    if str(own_config.get("variance_type")).startswith("learned") and "variance_type" not in known:
        scheduler.register_to_config(variance_type="fixed_small")  # pipelines then cut the model's variance off
    if own_kind == "flow" and cls.__name__ in _FLOW_SOLVERS:
        _called_as_flow_match(scheduler)
    return scheduler


def check_pipeline(pipeline: Any, scheduler: Any, own: Any, settings: Mapping[str, Any], who: str) -> None:
    """ConfigError: a class of pipelines does not work with the scheduler that its own one, `own`, is exchanged for."""
    name = type(scheduler).__name__
    if pipeline.__name__.startswith("LatentConsistency") and name != "LCMScheduler":
        raise ConfigError(f"sampler: {pipeline.__name__} ({who}) works with LCMScheduler alone; use sampler=lcm")
    if type(scheduler) is type(own):
        return
    if name.startswith(_SCALED) and not compat.scales_its_input(pipeline):
        raise ConfigError(
            f"sampler: {name} wants its input scaled, which {pipeline.__name__} ({who}) does not do: "
            "use sampler=ddim, ddpm, dpmpp_2m or unipc"
        )
    for option in ("sigmas", "timesteps"):
        if option in settings and name in _FLOW_SOLVERS and scheduler.config.get("use_flow_sigmas"):
            raise ConfigError(f"{who}: {name} makes its own {option}: leave extra.{option} out, or use sampler=default")


def _parameters(cls: Any) -> list[str]:
    return [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "args", "kwargs")]


def _noise_kind(cls_name: str, config: Mapping[str, Any]) -> str:
    """The family of noise schedules that a scheduler works on; a model is trained on one of them."""
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or cls_name.startswith("FlowMatch"):
        return "flow"
    if "beta_schedule" in config or "trained_betas" in config:
        return "beta"
    return "edm" if "sigma_data" in config else cls_name


def _own(key: str, own_config: Mapping[str, Any]) -> Any:
    """A value of the model's config, or what a config without it means."""
    if key == "shift" and "shift" not in own_config:
        key = "flow_shift"
    value = own_config.get(key)
    return _WITHOUT.get(key) if value is None else value


def _kept(
    cls: Any, own_class: Any, own_config: Mapping[str, Any], own_kind: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the new scheduler is told of the model's config."""
    known = _parameters(cls)
    if own_kind != "flow" or cls is own_class:
        kept = {key: own_config[key] for key in _TRAINED_ON if key in own_config and key in known}
        if "snr_shift_scale" in known and cls is not own_class:  # CogVideoX's classes default to another one
            kept.setdefault("snr_shift_scale", 1.0)
        return kept
    flow = {key: _own(key, own_config) for key in _FLOW if key in known and key in _stated(own_config)}
    if cls.__name__ in _FLOW_SOLVERS and not any(options.get(name) for name in _OF_BETAS):
        flow |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": _own("shift", own_config)}
    return flow


def _stated(own_config: Mapping[str, Any]) -> set[str]:
    return set(own_config) | ({"shift"} if "flow_shift" in own_config else set())


def _check_fit(scheduler: Any, own_kind: str, own_config: Mapping[str, Any], who: str) -> None:
    """ConfigError: the scheduler is made for other noise than the model, or for other predictions."""
    name, new = type(scheduler).__name__, _noise_kind(type(scheduler).__name__, scheduler.config)
    if own_kind == "flow" and name in _FLOW_SOLVERS and any(scheduler.config.get(key) for key in _OF_BETAS):
        spaced = next(key for key in _OF_BETAS if scheduler.config.get(key))
        raise ConfigError(
            f"sampler: {name} with {spaced} does not fit {who}: its noise levels are made of betas, the model is made "
            f"for {_NOISE_KINDS['flow']}; leave {spaced} out (sampler=dpmpp_2m, unipc), or use sampler=default"
        )
    if own_kind != new:
        raise ConfigError(
            f"sampler: {name} does not fit {who}: the model is made for {_NOISE_KINDS.get(own_kind, own_kind)}, "
            f"the sampler for {_NOISE_KINDS.get(new, new)}; use sampler=default"
            + (", dpmpp_2m, dpmpp_sde or unipc" if own_kind == "flow" else "")
        )
    predicts = scheduler.config.get("prediction_type", own_config.get("prediction_type"))
    if predicts == "sample" and name.startswith(_NO_SAMPLE):
        raise ConfigError(
            f"sampler: {name} does not fit {who}: the model predicts the sample (prediction_type), which is not "
            "implemented there; use sampler=ddim, dpmpp_2m, euler or unipc"
        )


def _check_kept(
    scheduler: Any, own_class: Any, own_config: Mapping[str, Any], own_kind: str, given: set[str], who: str
) -> None:
    """ConfigError: the scheduler has no option for something that the model was trained on."""
    if own_kind not in ("beta", "flow"):
        return
    name, known = type(scheduler).__name__, _parameters(type(scheduler))
    for key in _FLOW if own_kind == "flow" else _TRAINED_ON:
        value = _own(key, own_config)
        missing = key not in known and not (key == "shift" and "flow_shift" in known)
        needless = value == _WITHOUT[key] if key in _WITHOUT else value is None
        if missing and not needless and key not in given:
            raise ConfigError(
                f"sampler: {name} does not fit {who}: the model has {key}={value}, for which it has no option; "
                "use sampler=default, or a scheduler that has it"
            )
    linear = own_kind == "flow" and _own("use_dynamic_shifting", own_config) and name.startswith("DPMSolver")
    if linear and _own("time_shift_type", own_config) != "exponential":
        raise ConfigError(
            f"sampler: {name} does not fit {who}: it cannot shift the flow by "
            f"time_shift_type={own_config['time_shift_type']}; use sampler=default or unipc"
        )
    spacing = own_config.get("timestep_spacing")
    if own_kind == "beta" and spacing == "trailing" and "timestep_spacing" not in known:
        raise ConfigError(
            f"sampler: {name} does not fit {who}: the model has timestep_spacing=trailing, for which it has no option; "
            "use sampler=default, or a scheduler that has it"
        )


def _called_as_flow_match(scheduler: Any) -> None:
    """Lets a general solver be told its steps as pipelines tell FlowMatchEulerDiscreteScheduler.

    Pipelines hand it evenly spaced `sigmas` or `timesteps`, which are those that the solver makes itself, and `mu`, by
    which the flow is shifted to the image's size, also where the model's config says not to.
    """
    own = scheduler.set_timesteps
    moves = scheduler.config.get("use_dynamic_shifting")

    def set_timesteps(
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        if num_inference_steps is None:
            num_inference_steps = len(timesteps if sigmas is None else sigmas)
        own(num_inference_steps, device=device, **({"mu": mu} if moves and mu is not None else {}))

    scheduler.set_timesteps = set_timesteps
