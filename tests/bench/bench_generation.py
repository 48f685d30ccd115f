"""What generation costs over a bare loop around the same pipeline: `python tests/bench/bench_generation.py`.

digits_ldm, DDIM, 8 steps, batches of 64: 512 images a side, in turns of one shard (256 images), twice over. The bare
loop makes and drops the images; evalkit draws them from per-sample generators, verifies, writes and syncs the shards.
Both have the model loaded; turns alternate in who goes first. The median of the ratios counts, of seconds by the clock
and of CPU seconds of the whole process: machines are noisy, and shared ones tell the truth in the latter alone.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from evalkit.cell import Cell
from evalkit.config.compose import compose, resolve
from evalkit.digits import check, data
from evalkit.plan.grid import make_grid
from evalkit.samples.cells import SHARD_SAMPLES
from evalkit.samples.generate import ShardSpec, run_shard
from evalkit.samples.store import Store


def bare(pipeline: object, prompts: list[str], batch: int) -> None:
    """One shard's prompts."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, len(prompts), batch):
        pipeline(  # type: ignore[operator]
            prompts[first : first + batch],
            num_inference_steps=8,
            guidance_scale=4.0,
            generator=generator,
            output_type="np",
        )


def ours(cell: Cell, shard: int, batch: int, store: Store) -> None:
    """One shard, written."""
    first = shard * SHARD_SAMPLES
    run_shard(ShardSpec(cell, first, first + SHARD_SAMPLES, batch, "cpu"), store)


def timed(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds of all threads."""
    start, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - used


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
    ratios: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        loop = functools.partial(bare, pipeline, prompts, options.batch)
        loop()  # both warm up; the first shard also loads the model
        ours(cell, 0, options.batch, store)
        for turn in range(1, options.turns + 1):
            first = timed(loop) if turn % 2 else None
            whole = timed(functools.partial(ours, cell, turn, options.batch, store))
            plain = first or timed(loop)
            ratios.append((whole[0] / plain[0], whole[1] / plain[1]))
            clock, cpu = (f"{a:.2f} against {b:.2f} s" for a, b in zip(whole, plain, strict=True))
            print(f"evalkit {clock}, CPU {cpu}: {', '.join(f'{100 * (r - 1):+.1f} %' for r in ratios[-1])}", flush=True)
    by_clock, by_cpu = (100 * (statistics.median(each) - 1) for each in zip(*ratios, strict=True))
    print(f"median of {len(ratios)} turns: {by_clock:+.1f} % by the clock, {by_cpu:+.1f} % of CPU seconds")


if __name__ == "__main__":
    main()
