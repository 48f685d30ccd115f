"""Images of a Hugging Face dataset: a hub id, a local folder that `datasets` understands, or one saved by save_to_disk.

The rows' own file bytes are read (memory-mapped by Arrow), never decoded by `datasets`: pixels and digests are those of
the same files in a folder. To read a large set on the hub without fetching all of it, give its Parquet files instead:
path=hf://datasets/OWNER/NAME/data/train-*.parquet.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.data.containers.archive_index import MAX_FILES
from evalkit.data.remote import Place, Remote, Stamp
from evalkit.data.rows import RowImages, open_rows
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import sha256_json

SAVED = ("state.json", "dataset_dict.json")  # one of them lies in what save_to_disk made


@dataclass(frozen=True)
class DatasetOpening:
    """A dataset, and how its images are read; nothing is looked at before a method is called.

    Attributes:
        name: a hub id, or a local folder.
        split: which one, as `datasets` writes it ("test", "train[:1000]").
        image: the column of images; none: the first one.
        prompts: "auto" (the column prompt, text or caption), none, or a column.
        category: the column of classes; "auto": the first of class labels; or none.
        config: the dataset's configuration ("subset"), or none.
        revision: a commit or tag of the hub, or none: the newest.
        on_error, mixed_sizes: as of `Opening`.
    """

    name: str
    split: str = "train"
    image: str | None = None
    prompts: str | None = "auto"
    category: str | None = "auto"
    config: str | None = None
    revision: str | None = None
    on_error: Literal["refuse", "skip"] = "refuse"
    mixed_sizes: bool = False

    def check(self) -> None:
        """Raises ConfigError where it is not there (it is fetched for that), or has no such column."""
        len(self._rows)

    def count(self) -> int:
        """How many images there are; with on_error="skip", how many can be read."""
        return len(self.open()) if self.on_error == "skip" else len(self._rows)

    def open(self, *, cache: Path | None = None) -> RowImages:
        """The images; `cache` keeps the scan. Raises ConfigError as `check`, DataError for a broken image."""
        how: dict[str, Any] = {"prompts": self.prompts, "on_error": self.on_error, "mixed_sizes": self.mixed_sizes}
        return open_rows(self._rows, "load the dataset again", **how, cache=cache)

    @functools.cached_property
    def _rows(self) -> DatasetRows:
        return DatasetRows(self, load(self))

    def identity(self) -> dict[str, Any]:
        """Which images are asked for (JSON)."""
        names = ("name", "split", "image", "config", "revision", "on_error")
        return {"dataset": {name: getattr(self, name) for name in names}}


class DatasetRows:
    """The rows of a dataset. Safe to use from several threads."""

    def __init__(self, opening: DatasetOpening, table: Any) -> None:
        self.place: Place = Remote(f"datasets://{opening.name}/{opening.split}")
        self._features = dict(table.features)
        self._column = self._image_column(opening.image)
        self._label = self._label_column(opening.category)
        self._table = table
        self._images = self._undecoded(table)
        self._roots = _roots(Path(opening.name).expanduser())
        self.texts: Sequence[str] = [name for name, feature in self._features.items() if _is_text(feature)]
        if not len(table):
            raise ConfigError(f"{self.place}: no rows in it")
        if len(table) > MAX_FILES:
            raise DataError(f"{self.place}: more than {MAX_FILES:,} rows: split it")

    def __len__(self) -> int:
        return len(self._table)

    def stamp(self) -> Stamp:
        return len(self), int(sha256_json([self._table._fingerprint, self._column])[:12], 16) + 1

    def image(self, row: int) -> bytes:
        value = self._images[row][self._column]
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path and Path(path).is_file():
            data = self._follow(Path(path), row)
        if not data:
            raise DataError(f"{self.place}: row {row}: no bytes of an image")
        return bytes(data)

    def _follow(self, path: Path, row: int) -> bytes:
        """A file that a row names (an imagefolder's do): a table from elsewhere could name any of this machine."""
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in self._roots):
            raise DataError(f"{self.place}: row {row}: {path} lies outside the dataset, and is not followed")
        return real.read_bytes()

    def strings(self, name: str) -> list[str | None]:
        return [(v[0] if v else None) if isinstance(v, list) else v for v in self._values(name)]

    @functools.cached_property
    def classes(self) -> Sequence[str | None]:
        """Class labels by their names, anything else as text."""
        if self._label is None:
            return ()
        names = getattr(self._features[self._label], "names", None)
        values = self._values(self._label)
        if names:
            return [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]
        return [None if v is None else str(v) for v in values]

    def _values(self, name: str) -> list[Any]:
        column = self._table.select_columns([name])
        parts = (column[i : i + 10_000][name] for i in range(0, len(column), 10_000))
        return list(itertools.chain.from_iterable(parts))

    def _undecoded(self, table: Any) -> Any:
        import datasets

        images = table.select_columns([self._column])
        if isinstance(self._features[self._column], datasets.Image):
            images = images.cast_column(self._column, datasets.Image(decode=False))
        return images

    def _image_column(self, asked: str | None) -> str:
        found = [str(name) for name, feature in self._features.items() if _is_image(feature)]
        if asked is None:
            if not found:
                raise ConfigError(f"{self.place}: no column of images among {', '.join(self._features)}")
            return found[0]
        if asked not in found:
            raise ConfigError(f"{self.place}: no column of images '{asked}'. {nearest(asked, found)}")
        return asked

    def _label_column(self, asked: str | None) -> str | None:
        if asked == "auto":
            return next((name for name, feature in self._features.items() if getattr(feature, "names", None)), None)
        if asked is not None and asked not in self._features:
            raise ConfigError(f"{self.place}: no column '{asked}'. {nearest(asked, self._features)}")
        return asked


def load(opening: DatasetOpening) -> Any:
    """The dataset of `datasets`, fetched from the hub where it is not on this machine.

    Raises:
        ConfigError: `datasets` is not installed, or there is no such dataset or split.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"the dataset '{opening.name}' needs the package 'datasets': pip install 'evalkit[datasets]'"
        ) from None
    folder = Path(opening.name).expanduser()
    try:
        if any((folder / name).is_file() for name in SAVED):
            return _saved(datasets.load_from_disk(str(folder)), opening)
        name = str(folder) if folder.is_dir() else opening.name
        return datasets.load_dataset(name, name=opening.config, split=opening.split, revision=opening.revision)
    except ConfigError:
        raise
    except Exception as error:  # whatever the hub's client raises: no such dataset, no network, no such split
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"dataset '{opening.name}', split '{opening.split}': {said}") from error


def _roots(folder: Path) -> list[Path]:
    """Where files that rows name may lie: the dataset's own folder, and what `datasets` fetched."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    fetched = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return [Path(path).resolve() for path in (*([folder] if folder.is_dir() else []), *fetched)]


def _saved(found: Any, opening: DatasetOpening) -> Any:
    """Of several saved splits the one that is asked for; one alone is taken as it is."""
    if not isinstance(found, dict):
        return found
    if opening.split not in found:
        raise ConfigError(f"dataset '{opening.name}': no split '{opening.split}'. {nearest(opening.split, found)}")
    return found[opening.split]


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return type(inner).__name__ == "Value" and inner.dtype in ("string", "large_string")
