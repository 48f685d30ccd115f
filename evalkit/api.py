"""The main jobs from Python: `evalkit.evaluate(samples=..., ...)` scores images, `evalkit.run([...])` runs a grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit import pipeline
from evalkit.config.call import compose_call, compose_words
from evalkit.config.compose import resolve
from evalkit.data import memory
from evalkit.data.held import holding
from evalkit.engines.launch import find_gang
from evalkit.errors import ConfigError
from evalkit.plan.look import AUTO
from evalkit.plan.plan import make_plan
from evalkit.results.notebook import ResultTable

HELD_SAMPLES, HELD_REFERENCE = "evalkit.models.held.HeldImages", "evalkit.data.held.HeldReference"


def evaluate(
    samples: Any,
    reference: Any = None,
    metrics: Sequence[str] = ("fid", "is"),
    *,
    name: str = "evaluate",
    num_samples: int | None = None,
    value_range: memory.Range | None = None,
    store: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> ResultTable:
    """Scores images: folders, archives and URLs of them, or what is in memory.

    In memory are a tensor u8 [N,3,H,W], an array u8 [N,H,W,3], a list of PIL images, an iterable of batches, a torch or
    Hugging Face Dataset, or a function n -> batch (`evalkit.data.memory`). They are scored by this process, on one
    device, with the bits of the same images in files; nothing of them is written but what results show.

    Called by each of several processes (torchrun, accelerate, srun, mpirun), they share the work: the first one writes
    the results, and all return the same table. Called by one of them alone it would wait for the others: give
    `settings={"engine.local.workers": 1}` there.

    Args:
        samples: a folder of images or what is in memory; or several by name (each is a row of the table).
        reference: a folder of reference images, or an .npz of their statistics, or what is in memory; needed by metrics
            such as `fid`.
        metrics: names of the metrics' YAML files.
        name: the run's name; auto: of the folders.
        num_samples: the first images of each set of samples; none: all. A function needs it.
        value_range: (lowest, highest) of images in memory that are floats: (0, 1) or (-1, 1).
        store: folder of cached features and scores.
        out: folder of the results; none: `<store>/<name>`, with a number where another configuration's are.
        device: auto, cpu, cuda or mps.
        settings: further configuration by dotted key, such as {"extractor.inception.weights": "FILE"}; a key of another
            extractor ({"extractor.timm.model": "resnet18"}) chooses it.

    Returns:
        The result table; `.to_frame()` gives it as a pandas frame.

    Raises:
        ConfigError: a name, a folder or a file is wrong (what, where and how to fix it); images in memory are to be
            scored by other processes.
        DataError: images in memory have another shape, dtype or range (the message names the conversion).
    """
    sets = samples if isinstance(samples, Mapping) else {"folder" if memory.is_place(samples) else "samples": samples}
    if not sets:
        raise ConfigError("samples: give a folder of images, or several by name")
    values: dict[str, Any] = {"name": name, "num_samples": num_samples, "store": os.fspath(store), "device": device}
    values |= {"out": os.fspath(out) if out is not None else None}
    with holding() as hold:

        def place(given: Any, what: str, target: str, count: int | None = None) -> Any:
            if given is None or memory.is_place(given):
                return given
            images = memory.take(given, what, count, value_range=value_range)
            return {"_target_": target, "digest": hold(images)}

        folders = {key: place(given, str(key), HELD_SAMPLES, num_samples) for key, given in sets.items()}
        folders = {key: {**each, "name": key} if isinstance(each, dict) else each for key, each in folders.items()}
        against = place(reference, "reference", HELD_REFERENCE)
        in_memory = [key for key, each in {**folders, "reference": against}.items() if isinstance(each, Mapping)]
        alone = not any(key.startswith("engine") for key in settings or {}) and find_gang(os.environ) is None
        if in_memory and alone:  # by itself a machine of several GPUs takes a process for each
            values["engine.local.workers"] = 1
        plan = make_plan(resolve(compose_call(metrics, values, settings, folders=folders, reference=against)))
        if in_memory and not plan.engine.in_process:
            raise ConfigError(
                f"{in_memory[0]}: other processes do not see images in memory: leave the engine out, or write files"
            )
        return pipeline.run(plan, command="evalkit.evaluate(...)")


def run(
    words: Sequence[str], *, reference: str | None = None, config_dir: str | os.PathLike[str] | None = None
) -> ResultTable:
    """Runs a grid, with the words of the command line: `evalkit.run(["experiment=sampler_sweep", "num_samples=64"])`.

    What is in the store is not made again. Results are written as by the command line, and nothing is printed; where a
    gate was asked for, its verdict is the table's `gate`.

    Args:
        words: overrides, and folders of images, as `evalkit` takes them; no quotes, since no shell reads them.
        reference: that of `--reference`.
        config_dir: a folder with YAMLs of your own.

    Returns:
        The result table; a score that could not be computed is none, and its row's note says why.

    Raises:
        ConfigError: a word, an option or a file is wrong (what, where and how to fix it).
        DataError: images are not as they should be.
    """
    if isinstance(words, str):
        raise ConfigError(f"words={words!r}: give a list of words, [{words!r}]")
    folder = None if config_dir is None else str(Path(config_dir).resolve())
    composed, choose = compose_words(words, reference, folder)
    config = resolve(composed)
    for name, given in (("dry_run", config.dry_run), ("selfcheck", config.selfcheck)):
        if given:
            raise ConfigError(f"{name}=true prints, and has no table to return: give it to the command line")
    command = f"evalkit.run({list(words)})"
    if config.num_samples == AUTO:
        return pipeline.run_auto(config, choose=choose, command=command)[1]
    return pipeline.run(make_plan(config, choose=choose), command=command)
