"""The images that prompts name (target, control, source), sample by sample: what metrics of pairs compare with."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.config import build
from evalkit.paths import sha256_file
from evalkit.readers import Source, content_digest, read_verified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.grid import Cell
    from evalkit.models.base import Model
    from evalkit.prompts import PromptSet


@dataclass(frozen=True, eq=False)
class PromptImages:
    """Image files in the order of the samples; one that several samples share stands once for each. It is a `Source`.

    Attributes:
        name: what messages call it.
        files: one a sample.
        prompts: the samples' texts.
    """

    name: str
    files: tuple[Path, ...]
    prompts: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def _sha256s(self) -> tuple[str, ...]:
        return tuple(sha256_file(file) for file in self.files)

    @functools.cached_property
    def digest(self) -> str:
        return content_digest(self._sha256s)

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        return read_verified([(self.files[i], self._sha256s[i]) for i in indices], "start again")

    def location(self, index: int) -> str:
        return str(self.files[index].absolute())

    @property
    def warnings(self) -> Mapping[str, int]:
        return {}


def prompt_images(prompts: PromptSet, kind: str, num_samples: int, name: str) -> PromptImages | str:
    """The images that the prompts of the first samples name; or why there are none.

    Args:
        prompts: sample i is made from `prompts[i]`.
        kind: "target", "control" or "source": the prompts' field.
        num_samples: of how many samples.
        name: the cell's, for messages.
    """
    asked = [prompts[i] for i in range(num_samples)]
    paths = [getattr(prompt, kind) for prompt in asked]
    absent = sum(path is None for path in paths)
    if absent == num_samples:
        return f"the prompts name no {kind} image"
    if absent:
        return f"the prompts of {absent} of {num_samples} samples name no {kind} image"
    return PromptImages(
        f"the {kind} images of {name}", tuple(Path(path) for path in paths), [prompt.text for prompt in asked]
    )


def own_images(cell: Cell, model: Model, kinds: Iterable[str], cache: Path | None) -> dict[str, Source | str]:
    """A cell's images by kind: the model's own where it knows of some, else those of its prompts; or why none.

    Args:
        cell: whose samples they belong to.
        model: the cell's, built.
        kinds: which are wanted.
        cache: a folder that keeps the scan of a folder of images, or none.
    """
    found: dict[str, Source | str] = {}
    prompts: PromptSet | None = None
    for kind in kinds:
        images = model.own_images(kind, cell.num_samples, cache=cache)
        if images is not None:
            found[kind] = images
        elif cell.options["prompts"] is None:
            found[kind] = f"the samples have no prompts that name {kind} images"
        else:
            prompts = prompts or build(cell.options["prompts"], f"prompts.{cell.prompts}")
            found[kind] = prompt_images(prompts, kind, cell.num_samples, cell.name)
    return found
