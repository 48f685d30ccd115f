"""A prompt, and how one is read from a table's row or from a mapping of the configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.prompts.shapes import Entry

IMAGES = ("control", "source", "mask", "target")  # a prompt's fields that are paths of images
COUNTS = ("width", "height", "num_inference_steps")  # those that are settings of the model for this prompt alone
SETTINGS = (*COUNTS, "guidance_scale")
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Prompt:
    """What one sample is asked to show.

    Attributes:
        text: the prompt; none where only a class is asked for.
        negative: what is not to be seen; none: the model's own setting.
        category: a heading for breakdowns of the scores; it changes no pixel.
        class_id: for class-conditional models, >= 0.
        control: path of a control image (ControlNet, T2I-Adapter).
        source: path of the image to start from (image-to-image, inpainting, upscaling, reconstruction).
        mask: path of an inpainting mask: white is painted again.
        target: path of the image that should come out, for metrics of pairs; it changes no pixel.
        seed: its sample's own, 0 to 2**63 - 1, as `torch.Generator().manual_seed` takes it; none: it goes by the run's.
        width, height: of its image, in pixels; none: the model's own setting, as of the next two.
        num_inference_steps: denoising steps, >= 1.
        guidance_scale: finite.
    """

    text: str | None = None
    negative: str | None = None
    category: str | None = None
    class_id: int | None = None
    control: str | None = None
    source: str | None = None
    mask: str | None = None
    target: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What it sets for its own sample, by the settings' names."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


def columns_of(**names: str | None) -> dict[str, str]:
    """By a prompt's field the column that it is read from. ConfigError: neither texts nor classes are."""
    columns = {field: name for field, name in names.items() if name is not None}
    if "text" not in columns and "class_id" not in columns:
        raise ConfigError("prompts: name the column of the prompts: text=COLUMN (or class_id=COLUMN)")
    return columns


def from_row(row: Mapping[str, Any], columns: Mapping[str, str], where: str, folder: Path | None) -> Prompt:
    """The prompt of a row; images' paths are relative to `folder`.

    Raises:
        ConfigError: a column is not there.
        DataError: a value is not what it should be, or an image is missing.
    """
    values: dict[str, Any] = {}
    for field, column in columns.items():
        if column not in row:
            raise ConfigError(f"{where}: no column '{column}' (asked for by {field}={column}). {nearest(column, row)}")
        values[field] = _cell(row[column], field, f"{where}: column '{column}'")
    for name in IMAGES:
        if values.get(name):
            image = (folder or Path()) / values[name]
            if not image.is_file():
                raise DataError(f"{where}: {name} image {image} is missing")
            values[name] = str(image)
    return Prompt(**values)


def _cell(value: Any, field: str, where: str) -> str | int | float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        if field in ("text", "class_id"):
            raise DataError(f"{where}: blank where a {'prompt' if field == 'text' else 'class'} is needed")
        return None
    if field == "class_id":
        return _class_id(value, where)
    if field in ("seed", *SETTINGS):
        return _number(field, value, where)
    if not isinstance(value, str):
        if field == "category" and isinstance(value, int | float):
            return str(value)
        raise DataError(f"{where}: a text is needed, not {value!r}")
    return value.strip()


def _number(field: str, value: Any, where: str) -> int | float:
    """A seed or a setting, from a cell's text or a number."""
    try:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
        exact = isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
        whole = int(value) if exact else int(number)  # a float has 53 bits, a seed 63
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {field} is a number, not {str(value)[:80]!r}") from None
    if field == "guidance_scale":
        return number
    least, most = (0, MAX_SEED) if field == "seed" else (1, 2**31 - 1)
    if float(whole) != number or not least <= whole <= most:
        raise DataError(f"{where}: {field} is a whole number of {least} to {most}, not {str(value)[:80]!r}")
    return whole


def _class_id(value: Any, where: str) -> int:
    try:
        number = int(value)
        if not 0 <= number < 2**31 or isinstance(value, bool) or (isinstance(value, float) and value != number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):  # of infinity
        raise DataError(f"{where}: a class id is a whole number >= 0 (below 2**31), not {str(value)[:80]!r}") from None
    return number


def inline(item: Any, where: str) -> Prompt:
    """The prompt of a text or a mapping of the configuration. ConfigError, DataError: it is none."""
    if isinstance(item, str):
        return Prompt(text=item.strip())
    if not isinstance(item, Mapping):
        raise ConfigError(f"prompts: {where}: a text or a mapping such as {{text: ..., class_id: 3}}, not {item!r}")
    fields = list(Prompt.__dataclass_fields__)
    for key in item:
        if key not in fields:
            raise ConfigError(f"prompts: {where}: no such key '{key}'. {nearest(str(key), fields)}")
    values: dict[str, Any] = {key: value.strip() if isinstance(value, str) else value for key, value in item.items()}
    if values.get("class_id") is not None:
        values["class_id"] = _class_id(values["class_id"], f"prompts: {where}")
    if values.get("text") is None and values.get("class_id") is None:
        raise ConfigError(f"prompts: {where}: give text or class_id")
    for name in ("seed", *SETTINGS):
        if values.get(name) is not None:
            values[name] = _number(name, values[name], f"prompts: {where}")
    for name in IMAGES:
        if values.get(name) is not None and not Path(str(values[name])).is_file():
            raise ConfigError(f"prompts: {where}: {name} image {values[name]} is missing")
    return Prompt(**values)


def row_of(entry: Entry, columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The columns of an entry; of a bare text that of the prompts alone."""
    if not isinstance(entry.row, str):
        return entry.row
    if set(columns) != {"text"}:
        raise ConfigError(f"{entry.where}: a bare text, and no object with columns: leave out all but text")
    return {columns["text"]: entry.row}
