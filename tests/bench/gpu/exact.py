"""Whether the device's numbers are the CPU's: features, scores, whole runs, two processes, a killed one.

tests/gpu/ checks the same at toy sizes; here are the networks' own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu.bench import ROOT, Bench, pictures, relative

LAYERS = ["pool3", "logits_unbiased"]
COSTS = {"latency_p50", "latency_p95", "images_per_second", "peak_memory_mb"}
BOUNDS = {"pool3": 2e-6, "logits_unbiased": 5e-5}


def run(bench: Bench) -> None:
    runs = start_runs(bench)
    try:
        with bench.attempt("Inception's features") as go:
            if go:
                inception(bench)
        with bench.attempt("whole runs") as go:
            if go:
                whole_runs(bench, runs)
    finally:
        for process in runs.values():
            process.kill()


def loaded(bench: Bench, device: str, **options: Any) -> Any:
    from evalkit.extractors.inception import Inception

    extractor = Inception(weights=str(bench.inception_weights()), **options)
    extractor.check()
    extractor.load(device)
    return extractor


def inception(bench: Bench) -> None:
    from evalkit.extractors.base import PRECISIONS

    images = pictures(8 if bench.tiny else 64, 64 if bench.tiny else 256)
    expected = {k: v.cpu() for k, v in loaded(bench, "cpu")(images, [], LAYERS).items()}
    extractor = loaded(bench, bench.device)
    found = {k: v.cpu() for k, v in extractor(images, [], LAYERS).items()}
    for layer, bound in BOUNDS.items():
        bench.check(f"Inception {layer}, device to CPU", relative(found[layer], expected[layer]), bound)
    again = extractor(images, [], LAYERS)["pool3"].cpu()
    bench.check("the same batch twice: values that differ", float((again != found["pool3"]).sum()), 0)
    for size in (1, 7, 32):
        parts = [extractor(images[i : i + size], [], LAYERS)["pool3"].cpu() for i in range(0, len(images), size)]
        bench.check(f"batches of {size} to {len(images)}", relative(torch.cat(parts), found["pool3"]), 1e-6)
    for precision in PRECISIONS:
        if precision == "float32" or (precision in ("float16", "tf32") and not bench.cuda):
            continue
        with bench.attempt(f"precision {precision}") as go:
            if go:
                other = loaded(bench, bench.device, precision=precision)(images, [], LAYERS)
                error = [f"{relative(other[layer], expected[layer]):.1e}" for layer in LAYERS]
                bench.say(f"precision {precision} to float32, pool3 and logits", error)


# -- whole runs: on the CPU, twice on the device, with another batch size, killed and resumed


def start_runs(bench: Bench) -> dict[str, subprocess.Popen[str]]:
    """All at once; they go on while Inception is looked at."""
    ways = {"cpu": ("cpu", ()), "first": (bench.device, ()), "second": (bench.device, ())}
    ways |= {"batches of 17": (bench.device, ("batch_size=17",))}
    if bench.tiny:
        del ways["second"], ways["batches of 17"]
    return {name: start(bench, name, device, *more) for name, (device, more) in ways.items()}


def start(bench: Bench, name: str, device: str, *more: str) -> subprocess.Popen[str]:
    count = 20 if bench.tiny else 100
    overrides = ["experiment=digits", "model=[digits_dcgan,digits_ldm]", "sampler=[dpmpp_2m]"]
    overrides += ["sampler.dpmpp_2m.num_inference_steps=4", "model.digits_ldm.guidance_scale=4", "report=false"]
    overrides += [f"num_samples={count}", f"device={device}", f"store={bench.work / 'runs' / name}", *more]
    command = [sys.executable, str(ROOT / "run_eval.py"), *overrides]
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def whole_runs(bench: Bench, runs: dict[str, subprocess.Popen[str]]) -> None:
    began = time.perf_counter()
    for name, process in runs.items():
        error = process.communicate(timeout=200)[1]
        if process.returncode:
            raise RuntimeError(f"run '{name}': {error[-400:]}")
    bench.say("whole runs, all at once, s more", round(time.perf_counter() - began, 1))
    folder = bench.work / "runs"
    cpu, first = (rows(folder / name) for name in ("cpu", "first"))
    gaps = {key: (abs(first[key][0] - v), e or 0.01 * abs(v) or 1.0) for key, (v, e) in cpu.items()}
    worst = max(gaps, key=lambda key: gaps[key][0] / gaps[key][1])
    bench.check(f"a run on the device to the CPU's, standard errors ({worst[1]})", gaps[worst][0] / gaps[worst][1], 0.1)
    bench.say("its images: levels off the CPU's, at most", pixels_apart(folder / "cpu", folder / "first"))
    if "second" in runs:
        second = files(folder / "second")
        mine = files(folder / "first")
        differing = sum(mine.get(key) != data for key, data in second.items()) + abs(len(mine) - len(second))
        bench.check(f"two processes: differing files of {len(mine)}", differing, 0)
        other = rows(folder / "second")
        bench.check("two processes: differing scores", sum(other[key] != value for key, value in first.items()), 0)
    if "batches of 17" in runs:
        bench.say("batches of 17: levels off", pixels_apart(folder / "first", folder / "batches of 17"))
        other = rows(folder / "batches of 17")
        far = max(abs(other[key][0] - v) / (e or abs(v) or 1.0) for key, (v, e) in first.items())
        bench.check("batches of 17: scores, standard errors", far, 0.1)
    if bench.left() > 40 and not bench.tiny:
        resumed(bench)


def resumed(bench: Bench) -> None:
    process = start(bench, "killed", bench.device)
    time.sleep(9)
    process.kill()
    process.communicate()
    before = len(files(bench.work / "runs" / "killed"))
    again = start(bench, "killed", bench.device)
    error = again.communicate(timeout=120)[1]
    if again.returncode:
        raise RuntimeError(f"resumed run: {error[-400:]}")
    mine, whole = (files(bench.work / "runs" / name) for name in ("killed", "first"))
    differing = sum(mine.get(key) != data for key, data in whole.items())
    bench.check(f"killed with {before} of {len(whole)} files there: differing files", differing, 0)


def rows(store: Path) -> dict[tuple[str, str], tuple[float, float | None]]:
    """By cell and metric: value, standard error."""
    (file,) = store.glob("*/results.json")
    found = json.loads(file.read_text())["rows"]
    found = [r for r in found if r["value"] is not None and r["metric"] not in COSTS]
    return {(r["cell"], r["metric"]): (r["value"], r.get("stderr")) for r in found}


def files(store: Path) -> dict[str, bytes]:
    """Images and features by their place in the store."""
    kinds = ("samples/**/*.png", "features/**/*.safetensors")
    return {str(f.relative_to(store)): f.read_bytes() for kind in kinds for f in store.glob(kind)}


def pixels_apart(one: Path, other: Path) -> str:
    """The largest difference of any pixel, and of how many images it is above one level."""
    from evalkit.data.codec import decode

    first, second = ({k: v for k, v in files(store).items() if k.endswith(".png")} for store in (one, other))
    gaps = [int(np.abs(decode(v).astype(int) - decode(second[k]).astype(int)).max()) for k, v in first.items()]
    return f"{max(gaps)}, above 1 in {sum(gap > 1 for gap in gaps)} of {len(gaps)} images"
