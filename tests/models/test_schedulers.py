"""A model's scheduler exchanged for each sampler of configs/sampler: what the model was trained on stays.

The strongest witness is a model that knows the one image there is, x0. From noise eps, every deterministic sampler then
walks the straight line of noise levels exactly: at each of its times its sample is alpha(t) x0 + sigma(t) eps, with
alpha and sigma by the MODEL's schedule, and at the end it is x0. A wrong schedule, prediction type, shift or scale of
the input leaves that line at once.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
from model_calls import ROOT, sampler_config

from evalkit.errors import ConfigError
from evalkit.models.base import Sampler
from evalkit.models.diffusers.schedulers import build_scheduler

SAMPLERS = sorted(f.stem for f in (ROOT / "configs" / "sampler").glob("*.yaml"))
STOCHASTIC = {"ddpm", "dpmpp_sde", "euler_a", "lcm"}
NO_SAMPLE = {"euler_a", "heun", "pndm"}  # refuse models that predict the image
NO_ZERO_SNR = {"heun", "pndm"}
OF_FLOW = {"default", "dpmpp_2m", "dpmpp_sde", "unipc"}
# How far from the line: times rounded to whole numbers; PLMS extrapolates v, which is no constant (1 / steps).
LOOSE = {("dpmpp_2m_karras", kind): 0.01 for kind in ("epsilon", "v_prediction", "sample")}
LOOSE[("pndm", "v_prediction")] = 0.15
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KEPT = ("num_train_timesteps", *BETAS, "trained_betas", "prediction_type", "rescale_betas_zero_snr", "timestep_spacing")


def beta_model(prediction: str, zero_snr: bool = False, **kwargs: Any) -> Any:
    """The scheduler of a model as a file has it, with nothing at its class's default."""
    from diffusers import DDIMScheduler

    options = {"timestep_spacing": "trailing", "steps_offset": 1, "clip_sample": False, **BETAS, **kwargs}
    own = DDIMScheduler(prediction_type=prediction, rescale_betas_zero_snr=zero_snr, **options)
    return DDIMScheduler.from_config(dict(own.config))


def level(own: Any, t: float) -> tuple[float, float]:
    """(alpha, sigma) of the model's own noise at a time, which may lie between two."""
    if "Flow" in type(own).__name__ or own.config.get("use_flow_sigmas"):
        return 1 - t / 1000, t / 1000
    low, high = math.floor(t), math.ceil(t)
    sigmas = [math.sqrt((1 - a) / a) if a > 0 else math.inf for a in own.alphas_cumprod[[low, high]].tolist()]
    sigma = sigmas[0] if low == high else sigmas[0] + (t - low) * (sigmas[1] - sigmas[0])
    alpha = 1 / math.sqrt(1 + sigma**2)
    return alpha, sigma * alpha if sigma < math.inf else 1.0


def walk(scheduler: Any, own: Any, prediction: str, steps: int = 10) -> tuple[float, float, float]:
    """The largest distance from the line and of the noise's deviation from 1 on the way, and the distance from x0."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x0 = torch.linspace(-0.8, 0.8, 4096).reshape(1, 1, 64, 64)
    eps = torch.randn(x0.shape, generator=generator)
    scheduler.set_timesteps(steps)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    x, off, spread = None, 0.0, 0.0
    for t in scheduler.timesteps:
        alpha, sigma = level(own, float(t))
        line = alpha * x0 + sigma * eps
        if x is None:
            x = line / scale(torch.ones(1), t)
        seen = scale(x, t)
        noise = (seen - alpha * x0) / sigma
        off, spread = max(off, float((seen - line).abs().max())), max(spread, abs(float(noise.std()) - 1))
        says = {"epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0, "flow": noise - x0}
        x = scheduler.step(says[prediction], t, x, **extra).prev_sample
    return off, spread, float((x - x0).abs().max())


def swapped(name: str, own: Any, **options: Any) -> Any:
    sampler = sampler_config(name)
    return build_scheduler(Sampler(sampler.scheduler, {**sampler.options, **options}), type(own), own.config, "a test")


def check_walk(name: str, scheduler: Any, own: Any, prediction: str, tolerance: float = 0.002) -> None:
    off, spread, end = walk(scheduler, own, prediction)
    # the spread of 4,096 values about 1 has a standard error of 0.011
    assert (spread if name in STOCHASTIC else off) < (0.05 if name in STOCHASTIC else tolerance), (off, spread)
    assert end < tolerance


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_what_the_model_was_trained_on(name: str, prediction: str) -> None:
    own = beta_model(prediction)
    if prediction == "sample" and name in NO_SAMPLE:
        with pytest.raises(ConfigError, match=r"does not fit a test: the model predicts the sample") as caught:
            swapped(name, own)
        assert "\n" not in str(caught.value)
        return
    scheduler = swapped(name, own)
    for key in KEPT:
        if key in inspect.signature(type(scheduler).__init__).parameters:
            assert scheduler.config[key] == own.config[key], key
    if name == "pndm":  # its last step goes to the noise of time 0, as Stable Diffusion's does
        scheduler = swapped(name, own, set_alpha_to_one=True)
    check_walk(name, scheduler, own, prediction, LOOSE.get((name, prediction), 0.002))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_the_spacing(name: str, spacing: str) -> None:
    own = beta_model("v_prediction", timestep_spacing=spacing)
    scheduler = swapped(name, own)
    assert scheduler.config.timestep_spacing == spacing
    scheduler.set_timesteps(10)
    if name not in ("lcm", "dpmpp_2m_karras"):  # their times are their own
        first = {"leading": (901, 910), "linspace": (999, 999), "trailing": (999, 999)}[spacing]
        assert first[0] <= float(scheduler.timesteps[0]) <= first[1] or name.startswith(("dpm", "unipc"))


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_is_kept_or_refused(name: str, prediction: str) -> None:
    """Lin et al. 2024: the last time is pure noise; a sampler that begins a little below it makes greyer images."""
    own = beta_model(prediction, zero_snr=True)
    if name in NO_ZERO_SNR or (prediction == "sample" and name in NO_SAMPLE):
        with pytest.raises(ConfigError, match=r"does not fit a test: .*(rescale_betas_zero_snr=True|sample)"):
            swapped(name, own)
        return
    scheduler = swapped(name, own)
    assert scheduler.config.rescale_betas_zero_snr
    # Sigma schedulers put 2**-24 in the place of the zero; its steps in float32 are coarse.
    check_walk(name, scheduler, own, prediction, tolerance=0.02)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_flow_models_take_the_solvers_that_know_flow(name: str, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = FlowMatchEulerDiscreteScheduler(shift=shift)
    if name not in OF_FLOW:
        with pytest.raises(ConfigError, match=r"does not fit a test: .*flow matching.*use sampler=default") as caught:
            swapped(name, own)
        assert "\n" not in str(caught.value)
        return
    scheduler = swapped(name, own)
    if name != "default":
        assert scheduler.config.flow_shift == shift
        assert scheduler.config.prediction_type == "flow_prediction"
    check_walk(name, scheduler, own, "flow", tolerance=0.01)  # their times are whole numbers: 1 in 1,000


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_the_flows_shift_by_size_is_kept(name: str) -> None:
    """What pipelines tell as `mu` moves the noise levels as it does those of the model's own scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    levels = []
    for scheduler in (own, swapped(name, own)):
        scheduler.set_timesteps(20, mu=1.15)
        levels.append(scheduler.sigmas[10].item())
    assert levels[1] == pytest.approx(levels[0], abs=0.02)
    fixed = swapped(name, FlowMatchEulerDiscreteScheduler(shift=3.0))
    fixed.set_timesteps(20, mu=1.15)  # FLUX tells it always
    same = swapped(name, FlowMatchEulerDiscreteScheduler(shift=3.0))
    same.set_timesteps(20)
    assert fixed.sigmas.tolist() == same.sigmas.tolist()


def test_a_flow_solver_of_the_models_own_gives_its_shift_to_others() -> None:
    """Sana's own scheduler is DPM-Solver++ with a flow shift of 3."""
    from diffusers import DPMSolverMultistepScheduler

    own = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    euler = build_scheduler(Sampler("FlowMatchEulerDiscreteScheduler"), type(own), own.config, "a test")
    assert euler.config.shift == 3.0
    assert swapped("unipc", own).config.flow_shift == 3.0
    check_walk("euler", euler, own, "flow")


@pytest.mark.parametrize(
    ("own", "options", "sampler", "message"),
    [
        (
            "FlowMatchEulerDiscreteScheduler",
            {"shift_terminal": 0.1},
            "DPMSolverMultistepScheduler",
            "shift_terminal=0.1",
        ),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True, "time_shift_type": "linear"},
            "DPMSolverMultistepScheduler",
            "time_shift_type=linear",
        ),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"use_dynamic_shifting": True},
            "FlowMatchHeunDiscreteScheduler",
            "use_dynamic_shifting=True",
        ),
        ("CogVideoXDDIMScheduler", {"snr_shift_scale": 4.0}, "DDIMScheduler", "snr_shift_scale=4.0"),
        ("DDIMScheduler", {}, "IPNDMScheduler", "beta_start=0.0001"),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, "DPMSolverSinglestepScheduler", "trailing"),
        ("FlowMatchEulerDiscreteScheduler", {}, "DEISMultistepScheduler", "use sampler=default, dpmpp_2m"),
    ],
)
def test_what_a_scheduler_cannot_keep_is_refused(own: str, options: dict[str, Any], sampler: str, message: str) -> None:
    import diffusers

    scheduler = getattr(diffusers, own)(**options)
    with pytest.raises(ConfigError, match=message) as caught:
        build_scheduler(Sampler(sampler), type(scheduler), scheduler.config, "a test")
    assert "\n" not in str(caught.value)


def test_an_option_of_the_sampler_wins() -> None:
    own = beta_model("epsilon")
    assert swapped("euler", own, timestep_spacing="leading").config.timestep_spacing == "leading"
    assert swapped("ddim", own, prediction_type="v_prediction").config.prediction_type == "v_prediction"
