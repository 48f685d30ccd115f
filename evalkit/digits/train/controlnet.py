"""Train a ControlNet for the text-to-image model: it draws the digit whose outline it is given."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from evalkit.digits import weights_path
from evalkit.digits.train.common import Budget, Options, half_copy, replace_folder, smoothed
from evalkit.digits.train.ldm import adam, fit, load, make_pool
from evalkit.numerics.canny import canny

RATE = 1e-3
POOL = 20_000
DROPOUT = 0.3  # of captions, so that the outline counts where no words say which digit it is
EMBEDDING = (8, 16, 32)  # channels on the way from the outline's 32 pixels to the latents' 8


def train(options: Options) -> None:
    """Write ``controlnet``, made for the ``ldm`` that lies in the output folder, else for the one that ships."""
    device, folder = options.device, options.out / "controlnet"
    made = options.out / "ldm"
    ldm = made if made.is_dir() else weights_path("ldm")
    pool = make_pool(options, ldm, POOL)
    parts = [torch.from_numpy(canny(part[..., None].numpy())) for part in torch.split(pool.grey, 256)]
    edges = torch.cat(parts).to(device)  # bool [N,32,32]
    text_encoder = load(CLIPTextModel, ldm / "text_encoder", device)
    unet = load(UNet2DConditionModel, ldm / "unet", device)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
    if options.resume:
        net = load(ControlNetModel, folder, device)
    net = net.to(device).requires_grad_(True).train()
    ema = smoothed(net)

    def guess(noisy: Tensor, times: Tensor, states: Tensor, index: Tensor) -> Tensor:
        outline = edges[index][:, None].float().expand(-1, 3, -1, -1)  # [B,3,32,32] in [0,1]
        down, middle = net(noisy, times, states, outline, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        out: Tensor = unet(noisy, times, states, **residuals).sample
        return out

    budget = Budget(options, "controlnet", lambda: replace_folder(folder, half_copy(ema.module).save_pretrained))
    fit(budget, adam(net.parameters(), RATE, options), pool, text_encoder, guess, [(ema, net)], DROPOUT)
