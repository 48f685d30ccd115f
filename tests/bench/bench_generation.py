"""What generation costs over a bare loop around the same pipeline: `python tests/bench/bench_generation.py`.

digits_ldm, DDIM, 8 steps, batches of 64: 512 images a side, in turns of one shard (256 images), twice over. The bare
loop makes and drops the images; evalkit draws them from per-sample generators, verifies, writes and syncs the shards.
Both have the model loaded; turns alternate in who goes first. The median of the ratios counts: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from evalkit.cell import Cell
from evalkit.config.compose import compose, resolve
from evalkit.digits import check, data
from evalkit.plan.grid import make_grid
from evalkit.samples.generate import ShardSpec, run_shard
from evalkit.samples.store import SHARD_SAMPLES, Store


def bare(pipeline: object, prompts: list[str], batch: int) -> float:
    """Seconds of one shard's prompts."""
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for first in range(0, len(prompts), batch):
        pipeline(  # type: ignore[operator]
            prompts[first : first + batch],
            num_inference_steps=8,
            guidance_scale=4.0,
            generator=generator,
            output_type="np",
        )
    return time.perf_counter() - start


def ours(cell: Cell, shard: int, batch: int, store: Store) -> float:
    """Seconds of one shard, written."""
    first = shard * SHARD_SAMPLES
    return run_shard(ShardSpec(cell, first, first + SHARD_SAMPLES, batch, "cpu"), store).seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4, help="shards of 256 images a side")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    from diffusers import DDIMScheduler

    pipeline = check._quiet_pipeline("StableDiffusionPipeline", "ldm", "cpu")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    prompts = [prompt.text for prompt in data.PROMPTS][:SHARD_SAMPLES]
    overrides = [
        "experiment=digits",
        "model=[digits_ldm]",
        "sampler=[ddim]",
        "sampler.ddim.num_inference_steps=8",
        "exclude=[]",
    ]
    overrides += ["model.digits_ldm.guidance_scale=4.0", f"num_samples={SHARD_SAMPLES * (options.turns + 1)}"]
    cell = make_grid(resolve(compose(overrides))).cells[0]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        bare(pipeline, prompts, options.batch)  # both warm up; the first shard also loads the model
        ours(cell, 0, options.batch, store)
        for turn in range(1, options.turns + 1):
            loop = bare(pipeline, prompts, options.batch) if turn % 2 else None
            whole = ours(cell, turn, options.batch, store)
            loop = loop if loop is not None else bare(pipeline, prompts, options.batch)
            ratios.append(whole / loop)
            print(f"bare loop {loop:.2f} s, evalkit {whole:.2f} s: {100 * (ratios[-1] - 1):+.1f} %", flush=True)
    print(f"median of {len(ratios)} turns: {100 * (statistics.median(ratios) - 1):+.1f} %")


if __name__ == "__main__":
    main()
