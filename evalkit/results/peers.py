"""A second opinion on the user's images: torch-fidelity and torchmetrics score the very same pixels.

All programs get the images as evalkit decodes them and one weights file, so that a difference is one of the metric's
code (what decoding does to grey, 16-bit or rotated images: docs/formats.md). torchmetrics' IS and KID draw without a
seed, and are therefore not compared.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.data.reference import FolderReference
from evalkit.data.source import Source
from evalkit.errors import ConfigError
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric

if TYPE_CHECKING:
    import torch

BATCH = 32  # images that a peer is given at a time
KID_SUBSET = 1000  # smaller sets are compared on subsets of half their size
# Relative. Below 2,048 images torch-fidelity's eigenvalues of a singular product bring 1e-4 of noise into its FID.
TOLERANCES = {"fid": 1e-3, "is": 1e-4, "kid": 1e-4, "fid_torchmetrics": 1e-3}
_FID, _IS, _KID = "frechet_inception_distance", "inception_score_mean", "kernel_inception_distance_mean"
_NAMES = {"fid": _FID, "is": _IS, "kid": _KID}  # torch-fidelity's


@dataclass(frozen=True)
class PeerScore:
    """One metric by two programs.

    Attributes:
        metric: evalkit's option.
        peer: the other program and its version.
        ours, theirs: the two values.
        tolerance: how far they may be apart, relative to the peer's value.
    """

    metric: str
    peer: str
    ours: float
    theirs: float
    tolerance: float

    @property
    def difference(self) -> float:
        return self.ours - self.theirs

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= self.tolerance * max(abs(self.theirs), 1e-3)


def peer_check(
    samples: str | os.PathLike[str] | Source,
    reference: str | os.PathLike[str] | Source,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    show: bool = True,
) -> list[PeerScore]:
    """Scores images by evalkit, by torch-fidelity and (FID) by torchmetrics, side by side.

    Args:
        samples: a folder, archive, table, array or URL of images, all of one size.
        reference: likewise.
        weights: the FID Inception network's file; none: the published one in torch's hub cache.
        device: auto, cpu, cuda or mps.
        show: whether the table is printed.

    Returns:
        FID, IS and KID by torch-fidelity's conventions, and FID by torchmetrics', with both programs' values.

    Raises:
        ConfigError: the weights or the images are missing, or there are fewer than 10 images on a side.
        DataError: an image cannot be read, or sizes differ.
    """
    generated, others = _open(samples), _open(reference)
    smallest = min(len(generated), len(others))
    if smallest < 10:
        raise ConfigError(f"peer_check: IS has 10 splits: give at least 10 images on each side, not {smallest}")
    subset = min(KID_SUBSET, smallest if smallest >= KID_SUBSET else smallest // 2)
    ours, file = _by_evalkit(generated, others, weights, subset, device)
    theirs = _by_torch_fidelity(generated, others, file, subset, device)
    theirs["fid_torchmetrics"] = _by_torchmetrics(generated, others, file, device)
    scores = []
    for name, value in ours.items():
        peer = "torchmetrics" if name == "fid_torchmetrics" else "torch-fidelity"
        scores.append(PeerScore(name, f"{peer} {version(peer)}", value, theirs[name], TOLERANCES[name]))
    if show:
        print_peer_scores(scores, f"{generated.name} against {others.name}")
    return scores


def _open(place: str | os.PathLike[str] | Source) -> Source:
    if not isinstance(place, (str, os.PathLike)):
        return place
    images = FolderReference(place)
    images.check()
    return images.open()


def _by_evalkit(
    samples: Source, reference: Source, weights: str | os.PathLike[str] | None, subset: int, device: str
) -> tuple[dict[str, float], Path]:
    """The value of each metric, and the weights file."""
    from evalkit.samples.store import Store
    from evalkit.scoring.protocol import Against
    from evalkit.scoring.sources import score_sources

    config = resolve(compose(["~experiment", f"metric=[{','.join(TOLERANCES)}]"]))
    options = {name: dict(config.metric[name]) for name in TOLERANCES}
    options["kid"]["subset_size"] = subset
    extractors = {}
    for name in ("inception", "inception_torchmetrics"):
        option = dict(config.extractor[name])
        if weights is not None:
            option["weights"] = os.fspath(weights)
        extractors[name] = build(option, f"extractor.{name}", Extractor)
        extractors[name].check()
    with tempfile.TemporaryDirectory(prefix="evalkit-peers-") as folder:
        scored = score_sources(
            {"samples": samples},
            metrics={name: (option, build(option, f"metric.{name}", Metric)) for name, option in options.items()},
            extractors=extractors,
            against=Against(reference),
            store=Store(Path(folder)),
            device=device,
        )
    values: dict[str, float] = {}
    for name in TOLERANCES:
        score = scored["samples", name].score
        if score.value is None:
            raise ConfigError(f"peer_check: evalkit has no {name} of these images: {score.note}")
        values[name] = score.value
    return values, extractors["inception"].weights.find()


def _by_torch_fidelity(samples: Source, reference: Source, weights: Path, subset: int, device: str) -> dict[str, float]:
    import torch_fidelity

    from evalkit.utils.devices import pick_device

    with _quiet():
        scores = torch_fidelity.calculate_metrics(
            input1=_dataset(samples),
            input2=_dataset(reference),
            cuda=pick_device(device).startswith("cuda"),
            fid=True,
            isc=True,
            kid=True,
            kid_subset_size=subset,
            batch_size=BATCH,
            feature_extractor_weights_path=str(weights),
            save_cpu_ram=True,  # reads in this process
            cache=False,
            verbose=False,
        )
    return {name: float(scores[key]) for name, key in _NAMES.items()}


def _by_torchmetrics(samples: Source, reference: Source, weights: Path, device: str) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    from evalkit.utils.devices import pick_device

    with _quiet():
        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
        metric.set_dtype(torch.float64).to(pick_device(device))
        for source, real in ((samples, False), (reference, True)):
            for start in range(0, len(source), BATCH):
                images = _batch(source, range(start, min(start + BATCH, len(source))))
                metric.update(images.to(metric.device), real=real)
        return float(metric.compute())


def _batch(source: Source, indices: range) -> torch.Tensor:
    """Images u8 [B,3,H,W]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack(source.read(indices))).permute(0, 3, 1, 2).contiguous()


def _dataset(source: Source) -> Any:
    """A torch Dataset of u8 [3,H,W], as torch-fidelity takes them."""
    from torch.utils.data import Dataset

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, index: int) -> Any:
            return _batch(source, range(index, index + 1))[0]

    return Images()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the peers' warnings and progress."""
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)


def print_peer_scores(scores: Sequence[PeerScore], title: str) -> None:
    """Prints both programs' values with their difference."""
    from rich.table import Table

    from evalkit.results.terminal import make_console

    view = Table(title=title, title_justify="left")
    for head in ("metric", "evalkit", "peer's", "difference", "relative", "", "peer"):
        view.add_column(head, overflow="fold", justify="right" if head in ("evalkit", "peer's") else "left")
    for score in scores:
        relative = f"{abs(score.difference / score.theirs):.1e}" if score.theirs else "-"
        mark = "[green]agrees" if score.agrees else "[bold red]DIFFERS"
        figures = (f"{score.ours:.8g}", f"{score.theirs:.8g}", f"{score.difference:+.2e}", relative)
        view.add_row(score.metric, *figures, mark, score.peer)
    make_console(120).print(view)
