"""Images of a Hugging Face dataset: a hub id, a local folder that `datasets` understands, or one saved by save_to_disk.

The rows' own file bytes are read (memory-mapped by Arrow), never decoded by `datasets`: pixels and digests are those of
the same files in a folder. To read a large set on the hub without fetching all of it, give its Parquet files instead:
path=hf://datasets/OWNER/NAME/data/train-*.parquet.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.data.containers.archive_index import MAX_FILES
from evalkit.data.containers.base import Table
from evalkit.data.open import TableOpener
from evalkit.data.records import ReadOptions
from evalkit.data.remote import Place, Remote, made_stamp
from evalkit.errors import ConfigError, DataError, nearest
from evalkit.utils.files import Stamp, read_file
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

SAVED = ("state.json", "dataset_dict.json")  # one of them lies in what save_to_disk made


@dataclass(eq=False)
class DatasetOpener(TableOpener):
    """A dataset, and how its images are read.

    Attributes:
        name: a hub id, or a local folder.
        split: which one, as `datasets` writes it ("test", "train[:1000]").
        image: the column of images; none: the first one.
        category: the column of classes; "auto": the first of class labels; or none.
        config: the dataset's configuration ("subset"), or none.
        revision: a commit or tag of the hub, or none: the newest.
        options: how its images are read; `prompts` is "auto" (the column prompt, text or caption), none, or a column.
    """

    name: str
    split: str = "train"
    image: str | None = None
    category: str | None = "auto"
    config: str | None = None
    revision: str | None = None
    options: ReadOptions = field(default_factory=ReadOptions)

    @functools.cached_property
    def _table(self) -> HFDataset:
        return HFDataset(self, load(self.name, self.split, self.config, self.revision, fetch=self.fetch))

    def identity(self) -> dict[str, Any]:
        names = ("name", "split", "image", "config", "revision")
        return {"dataset": {name: getattr(self, name) for name in names} | {"on_error": self.options.on_error}}


class HFDataset(Table):
    """The rows of a dataset.

    Raises:
        ConfigError: it has no rows, or no such column.
    """

    remedy = "load the dataset again and start again"

    def __init__(self, opener: DatasetOpener, table: Any) -> None:
        self.place: Place = Remote(f"datasets://{opener.name}/{opener.split}")
        self._features = dict(table.features)
        self._column = self._image_column(opener.image)
        self._label = opener.category
        if self._label == "auto":
            self._label = next((name for name, kind in self._features.items() if getattr(kind, "names", None)), None)
        elif self._label is not None and self._label not in self._features:
            raise ConfigError(f"{self.place}: no column '{self._label}'. {nearest(self._label, self._features)}")
        self._table = table
        self._images = table.select_columns([self._column])
        if type(self._features[self._column]).__name__ == "Image":
            import datasets

            self._images = self._images.cast_column(self._column, datasets.Image(decode=False))
        self._roots = _roots(Path(opener.name).expanduser())
        self.texts = [name for name, feature in self._features.items() if _is_text(feature)]
        if not len(table):
            raise ConfigError(f"{self.place}: no rows in it")
        if len(table) > MAX_FILES:
            raise DataError(f"{self.place}: more than {MAX_FILES:,} rows: split it")

    def __len__(self) -> int:
        return len(self._table)

    @functools.cached_property
    def version(self) -> Stamp:
        return made_stamp(len(self), [self._table._fingerprint, self._column])

    def image(self, row: int) -> bytes:
        value = self._images[row][self._column]
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path and Path(path).is_file():  # an imagefolder's rows name files
            real = Path(path).resolve()  # a table from elsewhere could name any file of this machine
            if not any(real.is_relative_to(root) for root in self._roots):
                raise DataError(f"{self.place}: row {row}: {path} lies outside the dataset, and is not followed")
            data = read_file(real)
        if not data:
            raise DataError(f"{self.place}: row {row}: no bytes of an image")
        return bytes(data)

    def labels(self) -> Sequence[str | None]:
        """Class labels by their names, anything else as text."""
        if self._label is None:
            return ()
        names = getattr(self._features[self._label], "names", None)
        values = self.values(self._label)
        if names:
            return [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]
        return [None if v is None else str(v) for v in values]

    def values(self, column: str) -> list[Any]:
        table = self._table.select_columns([column])
        parts = (table[i : i + 10_000][column] for i in range(0, len(table), 10_000))
        return list(itertools.chain.from_iterable(parts))

    def _image_column(self, asked: str | None) -> str:
        names = [str(name) for name, feature in self._features.items() if _is_image(feature)]
        if asked is None and not names:
            lists = [n for n, feature in self._features.items() if _is_image(getattr(feature, "feature", None))]
            hint = f": '{lists[0]}' holds lists of images, and a row is one sample: write a row each" if lists else ""
            raise ConfigError(f"{self.place}: no column of images among {', '.join(self._features)}{hint}")
        if asked is not None and asked not in names:
            raise ConfigError(f"{self.place}: no column of images '{asked}'. {nearest(asked, names)}")
        if asked is None and len(names) > 1:
            log.warning("%s: the images are the column '%s'; not read: %s", self.place, names[0], ", ".join(names[1:]))
        return asked or names[0]


def load(name: str, split: str, config: str | None = None, revision: str | None = None, *, fetch: bool = True) -> Any:
    """The dataset of `datasets` (arguments as of `DatasetOpener`); with `fetch` from the hub where it is not here.

    Raises:
        ConfigError: `datasets` is not installed, or there is no such dataset or split.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"the dataset '{name}' needs the package 'datasets': pip install 'evalkit[datasets]'"
        ) from None
    folder = Path(name).expanduser()
    try:
        if not any((folder / file).is_file() for file in SAVED):
            place = str(folder) if folder.is_dir() else name
            with contextlib.nullcontext() if fetch else _offline():
                return datasets.load_dataset(place, name=config, split=split, revision=revision)
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the hub's client raises: no such dataset, no network, no such split
        dry = "" if fetch else " (a dry run fetches nothing)"
        raise ConfigError(f"dataset '{name}', split '{split}': {one_line(error)}{dry}") from error
    if isinstance(saved, dict) and split not in saved:
        raise ConfigError(f"dataset '{name}': no split '{split}'. {nearest(split, saved)}")
    return saved[split] if isinstance(saved, dict) else saved  # one that was saved alone is taken as it is


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """`datasets` and the hub's client use their caches alone, as with HF_HUB_OFFLINE=1."""
    import datasets
    from huggingface_hub import constants

    switches: tuple[Any, ...] = (datasets.config, constants)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


def _roots(folder: Path) -> list[Path]:
    """Where files that rows name may lie: the dataset's own folder, and what `datasets` fetched."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    fetched = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    return [Path(path).resolve() for path in (*([folder] if folder.is_dir() else []), *fetched)]


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return type(inner).__name__ == "Value" and inner.dtype in ("string", "large_string")
