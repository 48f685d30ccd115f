"""The main job from Python: `evalkit.evaluate(samples=..., reference=..., metrics=[...])`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
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

    Args:
        samples: a folder of images, or several by name (each is a row of the table).
        reference: a folder of reference images; needed by metrics such as `fid`.
        metrics: names of the metrics' YAML files.
        name: the run's name.
        num_samples: the first images of each folder; none: all.
        store: folder of cached features and scores.
        out: folder of the results; none: `<store>/<name>`.
        device: auto, cpu, cuda or mps.
        settings: further configuration by dotted key, such as {"extractor.inception.weights": "FILE"}.

    Returns:
        The result table; `.to_frame()` gives it as a pandas frame.

    Raises:
        ConfigError: a name, a folder or a file is wrong (what, where and how to fix it).
    """
    overrides = [f"metric=[{','.join(metrics)}]", "model=[folder]", "sampler=[]", "prompts=[]"]
    overrides.append("reference=folder" if reference is not None else "reference=none")
    config = compose(overrides)
    folders = samples if isinstance(samples, Mapping) else {"folder": samples}
    if not folders:
        raise ConfigError("samples: give a folder of images, or several by name")
    template = OmegaConf.to_container(config.model.folder)
    config.model = {key: {**template, "path": os.fspath(path)} for key, path in folders.items()}  # type: ignore[dict-item]
    if reference is not None:
        config.reference.folder.path = os.fspath(reference)
    values: dict[str, Any] = {"name": name, "num_samples": num_samples, "store": os.fspath(store), "device": device}
    values |= {"out": os.fspath(out) if out is not None else None, "exclude": []}
    for key, value in {**values, **(settings or {})}.items():
        if OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
            raise ConfigError(f"settings: there is no '{key}' in the configuration")
        OmegaConf.update(config, key, value)
    return pipeline.run(make_plan(resolve(config)), command="evalkit.evaluate(...)")


_ABSENT = object()
