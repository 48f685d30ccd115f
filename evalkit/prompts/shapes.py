"""The layouts of JSON that prompts come in: arrays, objects by name, COCO's captions and Karpathy's splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evalkit.errors import ConfigError, DataError, nearest

_TAKEN = (
    "prompts are an array of texts or objects, objects by name, COCO's captions (annotations) or Karpathy's splits "
    "(images with sentences)"
)


class Entry(NamedTuple):
    """One prompt as a file has it.

    Attributes:
        where: the file and the place in it.
        row: its columns; or a text.
        id: of the caption that was chosen for an image; none where there is no choice.
    """

    where: str
    row: Mapping[str, Any] | str
    id: int | str | None = None


@dataclass(frozen=True)
class Captions:
    """Which caption of an image is taken, where it has several.

    Attributes:
        seed: none: the one of the lowest id; else one by lot, which depends on seed and image alone.
        split: of Karpathy's layout: train, restval, val or test; none: all.
    """

    seed: int | None = None
    split: str | None = None

    def __str__(self) -> str:
        return "the lowest id" if self.seed is None else f"by lot, seed {self.seed}"

    def choose(self, image: object, captions: Mapping[int | str, str]) -> int | str:
        """The id of one of an image's captions, of which there is one at least."""
        ids = sorted(captions, key=lambda name: (isinstance(name, str), name))
        if self.seed is None:
            return ids[0]
        lot = hashlib.sha256(f"{self.seed}/{image}".encode()).digest()
        return ids[int.from_bytes(lot[:8], "big") % len(ids)]


def json_entries(file: Path, value: Any, text: str | None, captions: Captions) -> Iterator[Entry]:
    """The prompts of a JSON file, in its order.

    Args:
        file: what errors call it.
        value: what it holds.
        text: the name of the column of prompts.
        captions: which caption of an image is taken.

    Raises:
        DataError: the layout is none of those above; the message names what was found.
        ConfigError: there is no such split.
    """
    annotations, images = (value.get(name) if isinstance(value, dict) else None for name in ("annotations", "images"))
    if isinstance(annotations, list):
        return _coco(file, annotations, images, text, captions)
    if isinstance(images, list) and any(isinstance(image, dict) and "sentences" in image for image in images):
        return _karpathy(file, images, text, captions)
    if captions.split is not None:
        raise ConfigError(
            f"{file}: split={captions.split}: only Karpathy's layout has splits, and this is {shape_of(value)}"
        )
    items: list[tuple[str, Any]] = []
    if isinstance(value, list):
        items = [(f"{file}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, dict) and text in value and isinstance(value[text], str):
        items = [(str(file), value)]  # one row
    elif isinstance(value, dict) and all(isinstance(item, dict) for item in value.values()):
        items = [(f"{file}: {name!r}", item) for name, item in value.items()]
    if not items or not all(isinstance(item, dict | str) for _, item in items):
        raise DataError(f"{file}: holds {shape_of(value)}; {_TAKEN}")
    return (Entry(where, item) for where, item in items)


def shape_of(value: Any) -> str:
    """What a JSON value is, for errors: "an array of 3 numbers", "an object of 2 keys (info: object, rows: array)"."""
    if isinstance(value, list):
        kinds = sorted({_kind(item) for item in value})
        return f"an array of {len(value)} ({' and '.join(kinds)})" if value else "an empty array"
    if isinstance(value, dict):
        first = ", ".join(f"{str(name)[:30]}: {_kind(item)}" for name, item in list(value.items())[:4])
        return (
            f"an object of {len(value)} keys ({first}{', ...' if len(value) > 4 else ''})"
            if value
            else "an empty object"
        )
    return f"a single {_kind(value)}"


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "number")


def _coco(file: Path, annotations: Sequence[Any], images: Any, text: str | None, captions: Captions) -> Iterator[Entry]:
    """captions_val2014.json and its like: images in the order of `images`, then those that it does not list."""
    if captions.split is not None:
        raise ConfigError(f"{file}: split={captions.split}: COCO has a file per split: give that of the split")
    listed = [image for image in images or () if isinstance(image, dict)] if isinstance(images, list) else []
    names = {image["id"]: image.get("file_name") for image in listed if isinstance(image.get("id"), int | str)}
    by_image: dict[int | str, dict[int | str, str]] = {image: {} for image in names}
    for i, annotation in enumerate(annotations):
        where = f"{file}: annotations[{i}]"
        if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
            raise DataError(
                f"{where}: no caption in it, but {shape_of(annotation)}: give COCO's captions_*.json, not instances"
            )
        image, name = (_id(annotation, key, where) for key in ("image_id", "id"))
        if annotation["caption"].strip():
            by_image.setdefault(image, {})[name] = annotation["caption"]
    for image, texts in by_image.items():
        if texts:  # an image without captions asks for nothing
            chosen = captions.choose(image, texts)
            row = {"image_id": str(image), "file_name": names.get(image), "caption": texts[chosen]}
            yield Entry(f"{file}: image {image}", {**row, text or "caption": texts[chosen]}, chosen)


def _karpathy(file: Path, images: Sequence[Any], text: str | None, captions: Captions) -> Iterator[Entry]:
    """dataset_coco.json and its like, in their order."""
    splits = {str(image["split"]) for image in images if isinstance(image, dict) and "split" in image}
    if captions.split is not None and captions.split not in splits:
        raise ConfigError(f"{file}: split={captions.split}: {nearest(captions.split, splits)}")
    for i, image in enumerate(images):
        where = f"{file}: images[{i}]"
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(sentences, list):
            raise DataError(f"{where}: no sentences in it, but {shape_of(image)}")
        if captions.split not in (None, image.get("split")):
            continue
        texts: dict[int | str, str] = {}
        for sentence in sentences:
            if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
                raise DataError(f"{where}: a sentence has no text 'raw', but is {shape_of(sentence)}")
            if sentence["raw"].strip():
                texts[_id(sentence, "sentid", where)] = sentence["raw"]
        if texts:
            chosen = captions.choose(image.get("filename", i), texts)
            row = {name: image[name] for name in ("filename", "split") if isinstance(image.get(name), str)}
            yield Entry(where, {**row, "caption": texts[chosen], text or "caption": texts[chosen]}, chosen)


def _id(item: Mapping[str, Any], key: str, where: str) -> int | str:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: '{key}' is {_kind(value)}, not a whole number: an image's captions go by it")
    return value
