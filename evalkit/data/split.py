"""Existing images as several cells: one for each sampler, number of steps, checkpoint ... that they say made them.

AUTOMATIC1111 and ComfyUI write these into their PNGs (`evalkit.data.png_parameters`); the folder that an image lies in
can tell them apart as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.data.arrays import ArrayImages
from evalkit.data.concat import natural_key
from evalkit.data.source import FolderImages
from evalkit.errors import ConfigError, nearest

# What images can be told apart by, and what the table calls it: as the cells that evalkit makes itself.
KEYS = {
    "folder": "folder",
    "sampler": "sampler",
    "steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "scheduler": "scheduler",
    "model": "checkpoint",
    "seed": "noise_seed",
    "negative_prompt": "negative_prompt",
}
MAX_CELLS = 1000


@dataclass(frozen=True)
class Part:
    """One combination.

    Attributes:
        where: what its images say, by key.
        count: of its images.
    """

    where: Mapping[str, Any]
    count: int

    @property
    def sampler(self) -> str | None:
        """For the table's column, where images are told apart by it."""
        return str(self.where["sampler"] or "none") if "sampler" in self.where else None

    @property
    def settings(self) -> dict[str, Any]:
        """As the settings of a cell."""
        return {KEYS[key]: value for key, value in self.where.items() if key != "sampler"}


def check_keys(keys: Sequence[str], where: str) -> None:
    """Raises ConfigError for a key that images cannot be told apart by."""
    for key in keys:
        if key not in KEYS:
            raise ConfigError(f"{where}: '{key}': {nearest(str(key), KEYS)}")


def split(source: FolderImages | ArrayImages, keys: Sequence[str]) -> list[Part]:
    """The combinations that there are, in natural order. An image that does not say stands under none.

    Raises:
        ConfigError: no image says anything of a key, or there are too many combinations.
    """
    images = _with_records(source)
    counts: dict[tuple[Any, ...], int] = {}
    for index in range(len(images)):
        told = tuple(_told(images, index, key) for key in keys)
        counts[told] = counts.get(told, 0) + 1
    for position, key in enumerate(keys):
        if all(told[position] is None for told in counts):
            raise ConfigError(
                f"{source.name}: split_by={key}: none of its {len(images)} images says so (PNGs of AUTOMATIC1111 and "
                "ComfyUI do; folder goes by sub-folders)"
            )
    if len(counts) > MAX_CELLS:
        raise ConfigError(f"{source.name}: split_by={list(keys)} makes {len(counts):,} cells (limit {MAX_CELLS:,})")
    ordered = sorted(counts, key=lambda told: [natural_key("" if v is None else str(v)) for v in told])
    return [Part(dict(zip(keys, told, strict=True)), counts[told]) for told in ordered]


def pick(source: FolderImages | ArrayImages, where: Mapping[str, Any]) -> FolderImages:
    """The images that say all of `where`, in their order. Raises ConfigError where there are none."""
    images = _with_records(source)
    chosen = [i for i in range(len(images)) if all(_told(images, i, key) == value for key, value in where.items())]
    if not chosen:
        raise ConfigError(f"{source.name}: none of its {len(images)} images says {dict(where)}")
    return images.take(chosen)


def _with_records(source: FolderImages | ArrayImages) -> FolderImages:
    if isinstance(source, FolderImages):
        return source
    raise ConfigError(f"{source.name}: an array's images say nothing of their making: split_by and where need files")


def _told(images: FolderImages, index: int, key: str) -> Any:
    if key == "folder":
        first, inside, _ = images.files[index].partition("/")
        return first if inside else None
    return (images.records[index].parameters or {}).get(key)
