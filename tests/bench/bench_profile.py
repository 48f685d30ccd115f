"""Do the parts of a profile add up? `python tests/bench/bench_profile.py`: digits_ldm, and a larger SDXL.

Both are profiled by the ordinary command (`profile={batch_sizes: [...]}`), each in a process of its own. Told is the
sum of the timed parts against batches that nobody timed, by the median of pairs and its 95 % interval: by the clock,
and by CPU seconds where others use the cores.
The larger pipeline is a StableDiffusionXLPipeline with two CLIP text encoders, a UNet of 75 million parameters and a
VAE, at 256 px; its weights are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/helpers"))


def save_larger(folder: Path) -> None:
    """Random weights, in the layout of stable-diffusion-xl-base."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from tiny_pipelines import BETAS, clip_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    text = {"vocab_size": 54, "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    size = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = CLIPTextConfig(**text, **size, projection_dim=256)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(96, 192, 384),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(3, 6, 12),
        cross_attention_dim=512,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=6 * 64 + 256,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=256,
    )
    encoders = CLIPTextModel(config), CLIPTextModelWithProjection(config)
    tokenizers = {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer()}
    scheduler = EulerDiscreteScheduler(steps_offset=1, **BETAS)
    pipe = StableDiffusionXLPipeline(
        vae=vae, text_encoder=encoders[0], text_encoder_2=encoders[1], unet=unet, scheduler=scheduler, **tokenizers
    )
    pipe.save_pretrained(folder)
    millions = {name: sum(p.numel() for p in net.parameters()) / 1e6 for name, net in (("unet", unet), ("vae", vae))}
    print(", ".join(f"{name} {count:.1f} M parameters" for name, count in millions.items()), flush=True)


def profiled(name: str, words: list[str], folder: Path, device: str) -> list[dict[str, Any]]:
    """What profile.json says of each batch size of one run."""
    command = [sys.executable, str(ROOT / "run_eval.py"), *words, f"name={name}", f"store={folder}", f"device={device}"]
    command += ["metric=[]", "report=false", "lint=false", "contact_sheet=0"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    table = done.stdout.partition("where one image's time goes")
    print(table[1] + table[2], flush=True)
    profile = json.loads((folder / name / "profile.json").read_text())
    return [batch for cell in profile["cells"] for batch in cell["batches"]]


def told(batch: dict[str, Any], name: str) -> str:
    return f"{batch[name]:.3f} ({' to '.join(f'{end:.3f}' for end in batch[f'{name}_interval'])})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=None, help="pairs; none: as a run does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_larger(folder / "sdxl")
        repeats = "" if options.repeats is None else f", repeats: {options.repeats}"
        profile = f"profile={{batch_sizes: [1, 4]{repeats}}}"
        digits = ["model=[digits_ldm]", "sampler=[ddim]", "sampler.ddim.num_inference_steps=8", "prompts=[digits]"]
        larger = ["model=[diffusers]", f"model.diffusers.path={folder / 'sdxl'}", "sampler=[default]"]
        larger += ["prompts=[inline]", "prompts.inline.prompts=[a cat]", "model.diffusers.num_inference_steps=4"]
        larger += ["model.diffusers.height=256", "model.diffusers.width=256"]
        sums = {
            "digits_ldm": profiled("digits", [*digits, "num_samples=8", profile], folder, options.device),
            "SDXL": profiled("larger", [*larger, "num_samples=1", profile], folder, options.device),
        }
    for name, batches in sums.items():
        for batch in batches:
            cpu = "" if batch["parts_by_whole_cpu"] is None else f", {told(batch, 'parts_by_whole_cpu')} by CPU seconds"
            where = f"{name}, batch size {batch['batch_size']}, {batch['pairs']} pairs"
            print(f"{where}: the parts are {told(batch, 'parts_by_whole')} of the whole{cpu}")


if __name__ == "__main__":
    main()
