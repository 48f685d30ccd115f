"""Metrics and extractors as a run builds them: from their YAML, with a few values changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes import MemorySource
from omegaconf import OmegaConf

from evalkit.config.build import build
from evalkit.extractors.base import Extractor
from evalkit.metric import Batch, Score
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.scoring.protocol import OWN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def option(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """The YAML's values, some of them replaced."""
    found: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"))
    return dict(found[name]) | changes


def metric_of(name: str, **changes: Any) -> Any:
    return build(option("metric", name, **changes))


def extractor_of(name: str, **changes: Any) -> Extractor:
    """Loaded on the CPU, its weights never fetched."""
    values = option("extractor", name)
    changes |= {"download": False} if "download" in values else {}
    extractor: Extractor = build(values | changes)
    extractor.check()
    extractor.load("cpu")
    return extractor


def features_of(extractor: Extractor, images: Sequence[np.ndarray], *layers: str) -> dict[str, torch.Tensor]:
    """f32 [N,D] by layer, eight images at a time."""
    parts = [extractor(images[i : i + 8], [], layers) for i in range(0, len(images), 8)]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}


def score_of(
    name: str, generated: Any, changes: Mapping[str, Any] | None = None, text: str | None = "a text", **sides: Any
) -> Score:
    """The score of an option on features.

    Args:
        name: of the metric.
        generated: features [N,D] that stand at all addresses that it needs, or a dict of features by address.
        changes: of the YAML's values.
        text: what all samples were asked for: they are one cluster then; none: each is a cluster of its own.
        sides: `reference` and `training`, as `generated`.
    """
    metric = metric_of(name, **(changes or {}))
    states = {}
    for side, given in {"generated": generated, **sides}.items():
        given = given if isinstance(given, Mapping) else dict.fromkeys(metric.needs, given)
        features = {address: torch.as_tensor(x, dtype=torch.float32) for address, x in given.items()}
        n = len(next(iter(features.values())))
        states[side] = metric.observe(Batch(None, torch.arange(n), n, [text] * n, features))
    score: Score = metric.score(**states)
    return score


def pair_score(
    name: str, folder: Path, images: Sequence[np.ndarray], other: Sequence[np.ndarray] = (), *extractors: Extractor
) -> Score:
    """The score of a metric of pairs: of the images with `other`, which are the baseline or the prompts' own images, as
    the metric pairs; without `other` of two by two, one prompt each."""
    sources = {"cell": MemorySource(images, [f"prompt {i // 2}" for i in range(len(images))])}
    metric = metric_of(name)
    own = {"cell": {metric.pairs: MemorySource(other)}} if metric.pairs in OWN else {}
    if other and not own:
        sources["other"] = MemorySource(other, sources["cell"].prompts)
    found = score_sources(
        sources,
        metrics={name: (option("metric", name), metric)},
        extractors={extractor.name: extractor for extractor in extractors},
        against=Against(baseline=sources.get("other"), own=own),
        store=Store(folder),
        device="cpu",
        progress=lambda name, done, total: None,
    )
    return found["cell", name].score
