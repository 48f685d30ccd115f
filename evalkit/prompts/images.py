"""The images that prompts name (target, control, source), sample by sample: what metrics of pairs compare with."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evalkit.data.source import FileImages
from evalkit.utils.files import sha256_file

if TYPE_CHECKING:
    from evalkit.prompts.sets import PromptSet


@dataclass(frozen=True, eq=False)
class PromptImages(FileImages):
    """Image files in the order of the samples; one that several samples share stands once for each. It is a `Source`.

    Attributes:
        name: what messages call it.
        files: one per sample.
        prompts: the samples' texts.
    """

    remedy = "start again"
    name: str
    files: tuple[Path, ...]
    prompts: Sequence[str | None]

    warnings: ClassVar[Mapping[str, int]] = {}

    @functools.cached_property
    def sha256s(self) -> Sequence[str]:
        return [sha256_file(file) for file in self.files]


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
