"""Samples that show the image that they were made from: an edit that did not happen, a ControlNet that gave its input.

What was found is stored by the content of both sides, so that a finished run decodes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import DataError, StoreError
from evalkit.lint.cache import file_name
from evalkit.lint.finding import Finding, locations
from evalkit.utils.code import module_digest
from evalkit.utils.files import sha256_json
from evalkit.utils.json_files import get_checked, put_checked

if TYPE_CHECKING:
    from evalkit.data.source import Source
    from evalkit.utils.blobs import Blobs

SAME = 2.0  # levels (r.m.s.): a copy, at most saved again without visible loss
MOST = 0.5
_EFFECT = "nothing was made of the prompt: metrics of pairs and FID look better than the model is; CLIP score falls"


@dataclass(frozen=True)
class Copies:
    """Indices of samples.

    Attributes:
        looked: how many were compared.
        same: those that are their source.
        near: those that show nearly the same picture.
    """

    looked: int
    same: list[int]
    near: list[int]


def check_copies(name: str, source: Source, made_from: Mapping[str, Source], cache: Blobs) -> list[Finding]:
    """Findings about a cell whose samples were made from images.

    Args:
        name: the cell's.
        source: its samples.
        made_from: by kind ("source", "control") the image of each.
        cache: the lint's.
    """
    findings = []
    for kind, images in made_from.items():
        copies = _find(source, images, cache)
        if copies is None or not copies.looked:
            continue
        count = str(copies.looked) if copies.looked == len(source) else f"{copies.looked} (of {len(source)})"
        severity = "error" if len(copies.same) > MOST * copies.looked else "warning"
        for indices, words, severe in ((copies.same, "are", severity), (copies.near, "show nearly", "note")):
            if indices:
                about = len(indices), locations(source, indices)
                message = f"{len(indices)} of {count} samples {words} their own {kind} image"
                findings.append(Finding("source_copied", severe, name, *about, message, _EFFECT, copies.looked))
    return findings


def _find(source: Source, images: Source, cache: Blobs) -> Copies | None:
    """What is known of both sides, else measured; none where an image cannot be read, which the run says itself."""
    try:
        code = module_digest("evalkit.data.codec", "evalkit.lint.copies", "evalkit.lint.pixels")
        key = sha256_json([code, source.digest, images.digest])
        known = _load(cache, key)
        if known is not None:
            return known
        copies = _measure(source, images)
    except (DataError, OSError):
        return None
    with contextlib.suppress(StoreError):
        put_checked(cache, file_name(key), {"about": [key], "copies": vars(copies)})
    return copies


def _load(cache: Blobs, key: str) -> Copies | None:
    try:
        data = get_checked(cache, file_name(key))
        return Copies(**data["copies"]) if data["about"] == [key] else None
    except (OSError, DataError, LookupError, TypeError):
        return None


def _measure(source: Source, images: Source) -> Copies:
    import numpy as np
    from PIL import Image

    from evalkit.lint import pixels

    first = source.read(range(1))[0]
    looked, same, near = 0, list[int](), list[int]()
    for block in (range(*span) for span in pixels.spans(len(source), first.nbytes)):
        for i, sample, own in zip(block, source.read(block), images.read(block), strict=True):
            height, width = sample.shape[:2]
            if own.shape != sample.shape:  # as pipelines resize them (evalkit.models.diffusers.condition_images)
                own = np.asarray(Image.fromarray(own).resize((width, height), Image.Resampling.LANCZOS))
            looked += 1
            apart = float(np.sqrt(np.mean(np.square(sample.astype(np.float32) - own))))
            if apart <= SAME:
                same.append(i)
            elif pixels.show_the_same(sample, own):
                near.append(i)
    return Copies(looked, same, near)
