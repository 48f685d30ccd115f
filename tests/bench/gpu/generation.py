"""What generation costs over a bare loop around the same pipeline that also ends with 8-bit images on the host.

Networks of the sizes of Stable Diffusion 1.5 and SDXL with random weights in bf16, made on the device. The loop has
what a careful person would write; evalkit also checks for NaN, encodes, syncs and commits. Both make the same images:
one pipeline, the same generators, the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from gpu.bench import ROOT, Bench

SD15 = {
    "sample_size": 64,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
}
# Without SDXL's added conditions: 2.57 G parameters, 6.76 TFLOP per forward pass of 128 x 128 latents.
SDXL = {
    "sample_size": 128,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
}
TINY = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TINY_VAE = {
    "block_out_channels": (16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
SEED = 5
LIMIT = 3.0  # per cent over the bare loop


@dataclass(frozen=True)
class Case:
    """What is timed: at most so many shards of one batch each."""

    name: str
    unet: Mapping[str, Any]
    batch: int
    steps: int
    shards: int


CASES = (
    Case("SD 1.5 size, 512 px, 1 step", SD15, 64, 1, 16),
    Case("SDXL size, 1024 px, 8 steps", SDXL, 16, 8, 6),
    Case("SD 1.5 size, 512 px, 20 steps", SD15, 64, 20, 6),
)


def run(bench: Bench) -> None:
    cases = [Case("tiny, 2 steps", TINY, 256, 2, 2)] if bench.tiny else list(CASES)
    pipes: dict[int, Any] = {}
    for i, case in enumerate(cases):
        with bench.attempt(f"generation, {case.name}", 15) as go:
            if not go:
                continue
            share = (bench.left() - 4) / (len(cases) - i)
            if bench.cuda:
                torch.cuda.empty_cache()
            if id(case.unet) not in pipes:
                pipes[id(case.unet)] = pipeline(bench, case.unet)
            compare(bench, case, pipes[id(case.unet)], share)
    pipes.clear()
    with bench.attempt("ends of GANs", 5) as go:
        if go:
            ends_of_gans(bench)
    with bench.attempt("encoding", 5) as go:
        if go:
            encoding(bench)


def pipeline(bench: Bench, unet: Mapping[str, Any]) -> Any:
    """A StableDiffusionPipeline of the size on the device."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "evalkit" / "digits" / "weights" / "ldm" / "tokenizer"))
    width = 32 if bench.tiny else 768
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer) + 8,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2 if bench.tiny else 12,
        num_attention_heads=4 if bench.tiny else 12,
        max_position_embeddings=77,
        **ids,
    )
    dtype = torch.bfloat16 if bench.cuda else torch.float32
    torch.manual_seed(0)
    with torch.device(bench.device):
        parts = {
            "unet": UNet2DConditionModel(in_channels=4, out_channels=4, cross_attention_dim=width, **unet),
            "vae": AutoencoderKL(latent_channels=4, **(TINY_VAE if bench.tiny else VAE)),
            "text_encoder": CLIPTextModel(text),
        }
    parts = {name: part.to(dtype).eval().requires_grad_(False) for name, part in parts.items()}
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def compare(bench: Bench, case: Case, pipe: Any, share: float) -> None:
    """Bare loop, evalkit, bare loop; as many shards as `share` seconds hold."""
    prompts = [f"one {k % 10}" for k in range(case.batch)]
    began = time.perf_counter()
    bare(replace(case, steps=1), pipe, prompts, range(1))  # warms up
    each = bench.seconds(lambda: bare(case, pipe, prompts, range(1)))
    made(bench, replace(case, steps=1), pipe, prompts, 1)
    room = share - (time.perf_counter() - began)
    shards = 2 * max(1, min(case.shards // 2, int(room / each / 4)))
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
    count, half = shards * case.batch, shards // 2
    before = bench.seconds(lambda: bare(case, pipe, prompts, range(half)))
    ours, samples = made(bench, case, pipe, prompts, shards)
    last: list[np.ndarray] = []
    after = bench.seconds(lambda: last.append(bare(case, pipe, prompts, range(half, shards))))
    loop = before + after
    bench.say(
        f"bare loop, {case.name}, images/s",
        round(count / loop, 2),
        f"{shards} batches of {case.batch}: {before:.2f} + {after:.2f} s, {bench.peak()}",
    )
    device = sum(row["latency_s"] for row in samples.rows)
    note = f"{ours:.2f} s, of these {device:.2f} by the device's events"
    bench.say(f"evalkit, {case.name}, images/s", round(count / ours, 2), note)
    overhead = 100 * (ours / loop - 1)
    if bench.tiny:
        bench.say(f"overhead, {case.name}, %", round(overhead, 1), "says nothing at this size")
    else:
        bench.check(f"overhead, {case.name}, %", round(overhead, 2), LIMIT)
    images = np.stack(samples.read(range(count - case.batch, count))).astype(np.int16)
    bench.check(f"levels between evalkit and the bare loop, {case.name}", int(np.abs(images - last[0]).max()), 1)


def bare(case: Case, pipe: Any, prompts: Sequence[str], shards: range) -> np.ndarray:
    """Images u8 [B,H,W,3] of the last batch."""
    from evalkit.models.base import Request

    for shard in shards:
        first = shard * case.batch
        images = pipe(
            list(prompts),
            num_inference_steps=case.steps,
            guidance_scale=1.0,
            generator=[Request(first + k, SEED).generator() for k in range(case.batch)],
            output_type="pt",
        ).images
        pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def made(bench: Bench, case: Case, pipe: Any, prompts: Sequence[str], shards: int) -> tuple[float, Any]:
    """Seconds until the last of the shards is in the store, and what was made of them.

    A run then ends the processes that encode and frees the model, about 0.4 s of collecting garbage, once: the loop
    keeps its pipeline.
    """
    from evalkit.models.base import Sampler
    from evalkit.prompts.sets import InlinePrompts
    from evalkit.samples import behind
    from evalkit.samples.batches import Batch
    from evalkit.samples.generate import generate_cells
    from evalkit.samples.model_pool import BuiltCell, ModelPool
    from evalkit.samples.store import SampleSet, Store
    from evalkit.samples.writer import FolderTarget, ShardWriter

    cell = replace(_cell(case), num_samples=shards * case.batch)
    sampler = Sampler(num_inference_steps=case.steps)
    ended: list[float] = []
    calls: list[float] = []  # by the clock, when the pipeline was called and when that call was over
    done: list[float] = []  # when a shard's images were on the host, encoded, and stored

    class Behind(behind.Behind):
        def close(self, error: BaseException | None = None) -> None:
            super().close(error)
            ended.append(time.perf_counter())

    class Pool(ModelPool):
        def __enter__(self) -> Pool:
            self.behind = Behind()
            return self

    model = _model(pipe, bench.device)
    model.generate = _clocked(calls, model.generate, before=True)
    pool = Pool({cell.key: BuiltCell(model, sampler, InlinePrompts(list(prompts)))})
    pool.load(cell, bench.device)
    store = Store(bench.work / f"made-{time.time_ns()}")
    bench.sync()
    start = time.perf_counter()
    with (
        mock.patch.object(Batch, "fetch", _clocked(done, Batch.fetch)),
        mock.patch.object(ShardWriter, "finish", _clocked(done, ShardWriter.finish)),
        mock.patch.object(FolderTarget, "commit", _clocked(done, FolderTarget.commit)),
    ):
        generate_cells([cell], store, batch_size=case.batch, device=bench.device, pool=pool)
    steps = [calls[0] - start, ended[-1] - calls[-1], *(end - calls[-1] for end in done[-3:])]
    bench.say(
        f"of {case.name}, {shards} shards, ms",
        [round(1000 * step) for step in steps],
        "until the first call; after the last one: to the end, to its images on the host, encoded, stored",
    )
    return ended[-1] - start, SampleSet.open(store, cell)


def _clocked(times: list[float], call: Callable[..., Any], *, before: bool = False) -> Callable[..., Any]:
    """The call, whose end (and beginning, too) is noted."""

    def timed(*args: Any, **options: Any) -> Any:
        if before:
            times.append(time.perf_counter())
        try:
            return call(*args, **options)
        finally:
            times.append(time.perf_counter())

    return timed


def _cell(case: Case) -> Any:
    from evalkit.cell import Cell

    side = case.unet["sample_size"] * (2 if case.unet is TINY else 8)
    settings = {"guidance_scale": 1.0, "height": side, "width": side}
    options = {"model": {"_target_": "bench"}, "sampler": None, "prompts": None}
    key = f"{abs(hash((case.name, side))):064x}"
    named = {"model": "bench", "sampler": "ddim", "prompts": "inline", "name": "bench", "key": key}
    identity = {"model": case.name, "seed": SEED}
    return Cell(
        **named,
        settings=settings,
        seed=SEED,
        num_samples=case.batch,
        options=options,
        call_settings=settings,
        identity=identity,
    )


def _model(pipe: Any, device: str) -> Any:
    """A DiffusersModel around a pipeline that is on the device: as if it had been loaded from a folder."""
    from evalkit.models.diffusers.model import DiffusersModel
    from evalkit.models.diffusers.sampling import round_on_device

    class InMemory(DiffusersModel):
        def load(self, device: str) -> None:
            self._pipe, self._own_scheduler = pipe, pipe.scheduler
            if "postprocess" not in vars(pipe.image_processor):
                round_on_device(pipe)

        def unload(self) -> None:
            self._pipe = self._own_scheduler = None

    return InMemory("bench/pipeline")


def ends_of_gans(bench: Bench) -> None:
    """From a generator's output to u8, on the device and on the CPU."""
    from evalkit.models.latent import to_pixels

    output = torch.randn(2 if bench.tiny else 16, 3, *[64 if bench.tiny else 1024] * 2, device=bench.device) * 100 + 128
    rate = bench.rate(lambda: to_pixels(output), len(output), 0.5)
    bench.say("a GAN's output to u8 in f64, 1024 px, ms per image", round(1000 / rate, 3), "on the CPU 149, one thread")
    same = bool((to_pixels(output) == to_pixels(output.cpu())).all())
    bench.check("images whose u8 differs from the CPU's", 0 if same else 1, 0)


def encoding(bench: Bench) -> None:
    """PNGs, here (the GIL held) and in a process (the GIL free)."""
    from evalkit.data.codec import encode_png
    from evalkit.data.encoders import Encoders
    from gpu.bench import pictures

    size = 64 if bench.tiny else 1024
    image = pictures(1, size)[0]
    with Encoders() as encoders:
        encoders.encode(image)  # starts the process
        here, there = (bench.rate(lambda call=call: call(image), 1, 0.3) for call in (encode_png, encoders.encode))
        equal = encoders.encode(image) == encode_png(image)
    bench.say(f"PNG of {size} px, ms, here and in a process", f"{1000 / here:.2f}, {1000 / there:.2f}")
    bench.check("PNGs whose bytes differ", 0 if equal else 1, 0)
