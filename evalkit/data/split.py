"""Existing images as several cells: one for each sampler, number of steps, checkpoint ... that they say made them.

AUTOMATIC1111 and ComfyUI write these into their files (`evalkit.data.png_parameters`); the folder that an image lies
in can tell them apart as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.data.concat import natural_key
from evalkit.errors import ConfigError, nearest

if TYPE_CHECKING:
    from evalkit.data.open import Images
    from evalkit.data.source import Source

# What images can be told apart by, and what the table calls it: as the cells that evalkit makes itself.
KEYS = {
    "folder": "folder",
    "sampler": "sampler",
    "steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "scheduler": "scheduler",
    "model": "checkpoint",
    "lora": "lora",
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


def split(source: Source, keys: Sequence[str], where: Mapping[str, Any]) -> list[Part]:
    """The combinations that there are among the images that say all of `where`, in natural order.

    An image that does not say stands under none.

    Raises:
        ConfigError: no image says anything of a key, or there are too many combinations.
    """
    making = _making(source)
    counts = Counter(tuple(making[i].get(key) for key in keys) for i in _fitting(source, where))
    for position, key in enumerate(keys):
        if all(values[position] is None for values in counts):
            raise ConfigError(
                f"{source.name}: split_by={key}: none of its {counts.total()} images says so (files of AUTOMATIC1111 "
                "and ComfyUI do; folder goes by sub-folders)"
            )
    if len(counts) > MAX_CELLS:
        raise ConfigError(f"{source.name}: split_by={list(keys)} makes {len(counts):,} cells (limit {MAX_CELLS:,})")
    ordered = sorted(counts, key=lambda values: [natural_key("" if v is None else str(v)) for v in values])
    return [Part(dict(zip(keys, values, strict=True)), counts[values]) for values in ordered]


def pick(source: Images, where: Mapping[str, Any]) -> Images:
    """The images that say all of `where`, in their order. Raises ConfigError where there are none."""
    return source.take(_fitting(source, where))


def _fitting(source: Source, where: Mapping[str, Any]) -> list[int]:
    making = _making(source)
    chosen = [i for i, values in enumerate(making) if all(values.get(key) == value for key, value in where.items())]
    if not chosen:
        raise ConfigError(f"{source.name}: none of its {len(making)} images says {dict(where)}")
    return chosen


def _making(source: Source) -> Sequence[Mapping[str, Any]]:
    making = source.headers().making
    if not making:
        raise ConfigError(
            f"{source.name}: an array's images say nothing of their making: split_by and where need files"
        )
    return making
