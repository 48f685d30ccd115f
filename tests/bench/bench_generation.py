"""What generation costs over a bare loop around the same pipeline: `python tests/bench/bench_generation.py`.

448 images of digits_ldm, DDIM, 8 steps, batches of 64, interleaved: the bare loop makes and drops the images; evalkit
draws them from per-sample generators, writes and syncs the shards.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from evalkit.config import compose, resolve
from evalkit.digits import check, data
from evalkit.generate import generate_cells
from evalkit.grid import make_cells
from evalkit.samples import Store


def bare(pipeline: object, prompts: list[str], batch: int) -> float:
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


def ours(images: int, batch: int) -> float:
    """Seconds of `images` samples: a cell of one batch more, less a cell of one batch (which also loads the model)."""
    overrides = ["model=[digits_ldm]", "sampler=[ddim]", "sampler.ddim.num_inference_steps=8", "exclude=[]"]
    seconds = []
    for count in (batch, images + batch):
        config = resolve(compose([*overrides, "model.digits_ldm.guidance_scale=4.0", f"num_samples={count}"]))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            generate_cells(make_cells(config), Store(Path(folder)), batch_size=batch, device="cpu", engine=None)
            seconds.append(time.perf_counter() - start)
    return seconds[1] - seconds[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=448)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    from diffusers import DDIMScheduler

    pipeline = check._quiet_pipeline("StableDiffusionPipeline", "ldm", "cpu")
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    prompts = [prompt.text for prompt in data.PROMPTS][: options.images]
    bare(pipeline, prompts[: options.batch], options.batch)  # warms up
    for _ in range(options.repeats):
        loop, whole = bare(pipeline, prompts, options.batch), ours(options.images, options.batch)
        print(f"bare loop {loop:.2f} s, evalkit {whole:.2f} s: {100 * (whole / loop - 1):+.1f} %", flush=True)


if __name__ == "__main__":
    main()
