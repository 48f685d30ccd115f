"""`selfcheck=true`: golden values on this machine and device, as a table of expected, got and tolerance.

Each value is computed the way a run computes it: metrics and extractors built from their YAML, images read, features
extracted on the device. The images are the embedded digits, so nothing is downloaded. Where a golden value is not a
published one, an independent implementation gave it (`tests/test_selfcheck.py` computes each anew by it). Where the run
has images of the user's (`model=[folder]`) and a reference, torch-fidelity and torchmetrics score them as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.config.schema import RunConfig
from evalkit.extractors.base import Extractor
from evalkit.metric import Batch, Metric, Score

if TYPE_CHECKING:
    from evalkit.data.arrays import ArrayImages

SAMPLES, OTHERS = slice(0, None, 5), slice(1, None, 5)  # of the 5,000 reference digits: 1,000 each


@dataclass(frozen=True)
class Golden:
    """An expected value.

    Attributes:
        metric: the option's name.
        expected, tolerance: absolute.
        source: who says so.
    """

    metric: str
    expected: float
    tolerance: float
    source: str


@dataclass(frozen=True)
class Checked:
    """What came of it; `right` is none where it could not be run, and `why` says for want of what."""

    what: str
    golden: Golden
    got: float | None
    why: str = ""

    @property
    def right(self) -> bool | None:
        return None if self.got is None else abs(self.got - self.golden.expected) <= self.golden.tolerance


# Every fifth held-out digit, blended with its mirror image, against the digits next to them.
DIGITS = (
    Golden("fid_digits", 47.69389, 0.02, "scipy.linalg.sqrtm on the same features"),
    Golden("kid_digits", 58.1332, 0.05, "torch-fidelity 0.4.0 on the same features"),
    Golden("is_digits", 5.300416, 0.005, "torch-fidelity 0.4.0 on the same logits"),
    Golden("clip_score_digits", 87.48624, 0.02, "torch's cosine similarity"),
    Golden("precision_digits", 0.994, 0.003, "whole distance matrices in float64"),
    Golden("recall_digits", 0.863, 0.005, "whole distance matrices in float64"),
    Golden("density_digits", 1.0894, 0.01, "whole distance matrices in float64"),
    Golden("coverage_digits", 0.983, 0.003, "whole distance matrices in float64"),
)

# 3,000 x 3,000 draws from N(0, I) of 1,000 dimensions, k = 5: the case of prdc's README, with fewer draws.
GAUSSIANS = (
    Golden("precision", 0.538667, 0.002, "whole distance matrices in float64"),
    Golden("recall", 0.557, 0.002, "whole distance matrices in float64"),
    Golden("density", 0.9302, 0.004, "whole distance matrices in float64"),
    Golden("coverage", 0.966, 0.002, "whole distance matrices in float64"),
)


def gaussians() -> tuple[Any, Any]:
    """Two sets of features f32 [3000,1000] from N(0, I)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(3000, 1000, generator=generator), torch.randn(3000, 1000, generator=generator)


def digit_sources() -> tuple[ArrayImages, ArrayImages]:
    """Samples (every fifth reference digit, blended with its mirror image) and references (the digits next to them)."""
    import numpy as np

    from evalkit.data.arrays import ArrayImages
    from evalkit.data.reference import DigitsReference

    images = DigitsReference().open()
    pixels = images.pixels[SAMPLES]  # u8 [1000,32,32,3]
    blended = (0.6 * pixels + 0.4 * pixels[:, :, ::-1]).round().astype(np.uint8)
    return (
        ArrayImages("blended digits", blended, images.prompts[SAMPLES]),
        ArrayImages("digits", images.pixels[OTHERS], images.prompts[OTHERS]),
    )


def selfcheck(device: str = "auto") -> Iterator[Checked]:
    """Computes all golden values, one after another."""
    names = [golden.metric for golden in (*DIGITS, *GAUSSIANS)]
    config = resolve(compose(["~experiment", f"metric=[{','.join(dict.fromkeys(names))}]"]))
    yield from _check_gaussians(config)
    yield from _check_digits(config, device)


def _check_gaussians(config: RunConfig) -> Iterator[Checked]:
    import torch

    generated, reference = gaussians()
    for golden in GAUSSIANS:
        metric = build({**config.metric[golden.metric], "k": 5}, f"metric.{golden.metric}", Metric)
        states = {
            side: metric.observe(
                Batch(None, torch.arange(len(x)), len(x), [None] * len(x), dict.fromkeys(metric.needs, x))
            )
            for side, x in (("generated", generated), ("reference", reference))
        }
        score: Score = metric.score(**states)
        yield Checked(f"{golden.metric} of N(0, I), 3000 x 1000, k = 5", golden, score.value)


def _check_digits(config: RunConfig, device: str) -> Iterator[Checked]:
    from evalkit.samples.store import Store
    from evalkit.scoring import Against, score_sources

    samples, reference = digit_sources()
    metrics = {name: build(config.metric[name], f"metric.{name}", Metric) for name in (g.metric for g in DIGITS)}
    needed = {address.partition("/")[0] for metric in metrics.values() for address in metric.needs}
    with tempfile.TemporaryDirectory(prefix="evalkit-selfcheck-") as folder:
        scored = score_sources(
            {"digits": samples},
            metrics={name: (config.metric[name], metric) for name, metric in metrics.items()},
            extractors={name: build(config.extractor[name], f"extractor.{name}", Extractor) for name in needed},
            against=Against(reference),
            store=Store(Path(folder)),
            device=device,
            progress=lambda name, done, total: None,
        )
    for golden in DIGITS:
        found = scored["digits", golden.metric]
        yield Checked(f"{found.label} of blended digits", golden, found.score.value, found.score.note or "")


def print_selfcheck(device: str) -> bool:
    """Prints the table; returns whether all that could be run is right."""
    from rich.console import Console
    from rich.table import Table

    from evalkit.utils.devices import pick_device

    device = pick_device(device)
    view = Table(title=f"selfcheck on {device}", title_justify="left")
    for head in ("what", "expected", "got", "tolerance", "", "source"):
        view.add_column(head, overflow="fold")
    wrong = 0
    for checked in selfcheck(device):
        wrong += checked.right is False
        mark: Mapping[bool | None, str] = {True: "[green]right", False: "[bold red]WRONG", None: "not run"}
        got = checked.why if checked.got is None else f"{checked.got:.6g}"
        figures = (f"{checked.golden.expected:.6g}", got, f"{checked.golden.tolerance:.2g}")
        view.add_row(checked.what.replace("[", r"\["), *figures, mark[checked.right], checked.golden.source)
    Console().print(view)
    return wrong == 0


def check_peers(config: RunConfig) -> bool:
    """Scores the run's existing images by evalkit and its peers; returns whether all agree (also where there are none).

    Raises:
        ConfigError, DataError: images or weights are missing or broken.
    """
    from evalkit.data.moments import Moments
    from evalkit.data.reference import Reference
    from evalkit.models.base import ExistingImages, Model
    from evalkit.results.peers import peer_check

    images = [build(option, f"model.{name}", Model) for name, option in config.model.items()]
    existing = [model for model in images if isinstance(model, ExistingImages)]
    references = [build(option, f"reference.{name}", Reference).open() for name, option in config.reference.items()]
    if not existing or not references or references[0] is None or isinstance(references[0], Moments):
        return True
    agree = True
    for model in existing:
        model.check()
        samples = model.open(config.num_samples)
        weights = config.extractor["inception"].get("weights")
        scores = peer_check(samples, references[0], weights=weights, device=config.device)
        agree &= all(score.agrees for score in scores)
    return agree
