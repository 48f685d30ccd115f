"""Train a LoRA that teaches the text-to-image model an ink style, in the UNet's attention and convolutions."""

from __future__ import annotations

from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import CLIPTextModel

from evalkit.digits import weights_path
from evalkit.digits.train.common import Budget, Options, replace_folder
from evalkit.digits.train.ldm import adam, fit, load, make_pool

RATE = 2e-3
POOL = 20_000
RANK = 8
STYLE = "striped"
# Names of the UNet's layers, by their ends: all of attention and feed-forward, and the blocks' convolutions.
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]


def save(unet: UNet2DConditionModel, folder: Path) -> None:
    """Writes the adapter in diffusers' LoRA format, half precision."""
    state = {key: value.detach().half().cpu() for key, value in get_peft_model_state_dict(unet).items()}
    replace_folder(folder, lambda target: StableDiffusionPipeline.save_lora_weights(target, unet_lora_layers=state))


def train(options: Options) -> None:
    """Write ``lora_striped``: an adapter to the shipped text-to-image model, whose own weights stay as they are.

    Its digits are MNIST's t10k half, as for the model itself; the style's reference is made of the others.
    """
    ldm, device, folder = weights_path("ldm"), options.device, options.out / f"lora_{STYLE}"
    pool = make_pool(options, ldm, POOL, STYLE)
    text_encoder = load(CLIPTextModel, ldm / "text_encoder", device)
    unet = load(UNet2DConditionModel, ldm / "unet", device).train()
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    if options.resume:
        state = load_file(folder / "pytorch_lora_weights.safetensors")
        set_peft_model_state_dict(unet, {key.removeprefix("unet."): value.float() for key, value in state.items()})
    optimiser = adam([p for p in unet.parameters() if p.requires_grad], RATE, options, decay=0.0)
    budget = Budget(options, "lora", lambda: save(unet, folder))
    fit(budget, optimiser, pool, text_encoder, lambda x, t, states, _: unet(x, t, states).sample)
