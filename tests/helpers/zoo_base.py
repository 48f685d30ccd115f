"""The classes that configs/model names, from tiny_pipelines.py, in the register."""

from __future__ import annotations

import tiny_pipelines as base
from model_calls import SETTINGS
from zoo import tiny

tiny("StableDiffusionPipeline", swap="dpmpp_2m")(base.sd)
tiny("StableDiffusionXLPipeline", swap="dpmpp_2m")(base.sdxl)
tiny("StableDiffusion3Pipeline", swap="unipc")(base.sd3)
tiny(
    "FluxPipeline",
    settings=SETTINGS["flux"],
    swap="unipc",
    note="`guidance_scale` of the distilled one (dev); `true_cfg_scale` with a negative prompt",
)(base.flux)
tiny("PixArtSigmaPipeline", settings=SETTINGS["pixart"], swap="ddim")(base.pixart)
tiny("DiTPipeline", swap="dpmpp_2m", latents=False)(base.dit)
tiny("LatentConsistencyModelPipeline", note="LCM alone")(base.lcm)
tiny("DDPMPipeline", guidance=None, swap="ddim", note="sampled by evalkit's own loop, bit for bit diffusers'")(
    base.ddpm
)
tiny("DDIMPipeline", guidance=None, swap="euler", note="sampled by evalkit's own loop, bit for bit diffusers'")(
    base.MAKERS["ddim"]
)
