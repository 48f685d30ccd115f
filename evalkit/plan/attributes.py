"""`attributes=FILE`: which of the file's attributes each sample has, by the name of the image that it was made from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.data.attributes import Attributes
from evalkit.errors import ConfigError, nearest
from evalkit.models.base import ExistingImages

if TYPE_CHECKING:
    from evalkit.cell import Cell
    from evalkit.config.schema import RunConfig
    from evalkit.data.source import Source
    from evalkit.samples.model_pool import BuiltCell

log = logging.getLogger(__name__)

Flags = Mapping[str, tuple[bool | None, ...]]
"""By attribute a flag per sample, none where the file does not name its image."""


def read_attributes(config: RunConfig, cells: Sequence[Cell], built: Mapping[str, BuiltCell]) -> Attributes | None:
    """What `attributes` names: a path, or {path: FILE, only: [Smiling, Male]}.

    Raises:
        ConfigError: it is none, or it names none of the images that samples are to be made from.
        DataError: it is no table of attributes.
    """
    given: Any = config.attributes
    if not given:
        return None
    option = {"path": given} if isinstance(given, str) else given
    if not isinstance(option, Mapping) or not option.get("path"):
        raise ConfigError(f"attributes={given}: give a file, or {{path: FILE, only: [NAME, ...]}}")
    for key in option:
        if key not in ("path", "only"):
            raise ConfigError(f"attributes.{key}: no such key. {nearest(str(key), ('path', 'only'))}")
    found = Attributes.read(option["path"], option.get("only"))
    if not any(isinstance(built[cell.key].model, ExistingImages) for cell in cells):
        names = {cell.name: image_names(cell, built[cell.key]) for cell in cells}
        if not any(_known(found.of(each)) for each in names.values()):
            example = next((f" (such as '{name}')" for each in names.values() for name in each if name), "")
            raise ConfigError(
                f"attributes={found.path} names none of the images that samples are made from{example}: give prompts "
                "with a column source or target, a model of images that exist, or leave attributes out"
            )
    return found


def flags_of(
    attributes: Attributes | None, cells: Sequence[Cell], built: Mapping[str, BuiltCell], sources: Mapping[str, Source]
) -> dict[str, Flags]:
    """By cell its samples' attributes, of those of whose images the file names some."""
    if attributes is None:
        return {}
    every = {c.name: attributes.of(image_names(c, built[c.key], sources[c.name])) for c in cells}
    found: dict[str, Flags] = {name: flags for name, flags in every.items() if _known(flags)}
    for name in every.keys() - found.keys():
        log.warning("%s: %s names none of its images: it has no attributes", name, attributes.path)
    return found


def _known(flags: Flags) -> bool:
    return any(flag is not None for each in flags.values() for flag in each)


def image_names(cell: Cell, built: BuiltCell, source: Source | None = None) -> list[str | None]:
    """By sample the name of the image that it was made from or should be; of images that exist (`source`) its own."""
    n = cell.num_samples
    if isinstance(built.model, ExistingImages):
        return [] if source is None else [source.location(i) for i in range(len(source))]
    for kind in ("target", "source"):
        own = built.model.own_images(kind, n)
        if own is not None:
            return [own.location(i) for i in range(n)]
    if built.prompts is None:
        return [None] * n
    prompts = [built.prompts[i] for i in range(n)]
    return [prompt.target or prompt.source or prompt.control for prompt in prompts]
