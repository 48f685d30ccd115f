"""The main job from Python: `evalkit.evaluate(samples=..., reference=..., metrics=[...])`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit import pipeline
from evalkit.config.call import compose_call
from evalkit.config.compose import resolve
from evalkit.errors import ConfigError
from evalkit.plan.plan import make_plan
from evalkit.results.table import ResultTable


def evaluate(
    samples: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    reference: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] = ("fid", "is"),
    *,
    name: str = "evaluate",
    num_samples: int | None = None,
    store: str | os.PathLike[str] = "runs",
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> ResultTable:
    """Scores folders of images.

    Called by each of several processes (torchrun, accelerate, srun, mpirun), they share the work: the first one writes
    the results, and all return the same table. Called by one of them alone it would wait for the others: give
    `settings={"engine.local.workers": 1}` there.

    Args:
        samples: a folder of images, or several by name (each is a row of the table).
        reference: a folder of reference images, or an .npz of their statistics; needed by metrics such as `fid`.
        metrics: names of the metrics' YAML files.
        name: the run's name; auto: of the folders.
        num_samples: the first images of each folder; none: all.
        store: folder of cached features and scores.
        out: folder of the results; none: `<store>/<name>`, with a number where another configuration's are.
        device: auto, cpu, cuda or mps.
        settings: further configuration by dotted key, such as {"extractor.inception.weights": "FILE"}; a key of another
            extractor ({"extractor.timm.model": "resnet18"}) chooses it.

    Returns:
        The result table; `.to_frame()` gives it as a pandas frame.

    Raises:
        ConfigError: a name, a folder or a file is wrong (what, where and how to fix it).
    """
    folders = samples if isinstance(samples, Mapping) else {"folder": samples}
    if not folders:
        raise ConfigError("samples: give a folder of images, or several by name")
    values: dict[str, Any] = {"name": name, "num_samples": num_samples, "store": os.fspath(store), "device": device}
    values |= {"out": os.fspath(out) if out is not None else None}
    config = compose_call(metrics, values, settings, folders=folders, reference=reference)
    return pipeline.run(make_plan(resolve(config)), command="evalkit.evaluate(...)")
