"""Images in a .parquet file (Hugging Face's image datasets), read in place, a row group at a time. Needs pyarrow.

The images' column holds a file's bytes, or Hugging Face's struct {bytes, path}; or a list of one of these. Paths are
never followed. At most two row groups are in memory.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from evalkit.data.containers.archive_index import MAX_FILES, MAX_RATIO, RATIO_FROM
from evalkit.data.containers.base import Table
from evalkit.data.remote import Place, Remote, stamp_of
from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.utils.files import Stamp, check_file
from evalkit.utils.text import one_line

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "img", "png", "jpg", "jpeg", "webp", "bytes")  # the first that is there; else the only one
MAX_GROUP_BYTES = 1 << 30  # of a row group, unpacked: what must fit into memory twice
_GROUPS = 2  # of a table in memory: reading on from one into the next needs both
_TABLES = 3  # that keep theirs: of several as one set, and of what it is compared with, a few are read at a time

CLASS_COLUMNS = ("category", "class", "label", "cls")  # the first that is there
_TEXT, _BYTES = ("string", "large_string"), ("binary", "large_binary")  # pyarrow's types
_LISTS = ("list", "large_list", "fixed_size_list")

# The last used last. Of the process, not of an object: the bound on memory is one for all tables that are open.
_reading: list[weakref.ref[Parquet]] = []
_counting = threading.Lock()


class Parquet(Table):
    """The images' column of a file: how many rows, and the bytes of each. Safe to use from several threads.

    Raises:
        ConfigError: the file is missing, or pyarrow is.
        DataError: it is no Parquet file, or has no column of images, or row groups beyond the limits.
    """

    remedy = "write the table again and start again"

    def __init__(self, path: Place) -> None:
        self.place = path
        self._lock = threading.Lock()
        self._loaded: dict[int, Any] = {}  # by row group, the last used last
        with _failures(path), _open(path) as file:
            self.column, self.leaf = _image_column(path, file.schema_arrow)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self.starts: list[int] = list(itertools.accumulate(counts, initial=0))
            kinds = {field.name: field.type for field in file.schema_arrow}
            inner = {n: kind.value_type if _is(kind, *_LISTS) else kind for n, kind in kinds.items()}
            self.texts = [name for name, kind in inner.items() if _is(kind, *_TEXT)]
            classes = (name for name in CLASS_COLUMNS if name in kinds and _is(kinds[name], *_TEXT, "integer"))
            self._classes = next(classes, None)
            _check_groups(path, file.metadata)
        if not len(self):
            raise ConfigError(f"{path}: no rows in it")
        if len(self) > MAX_FILES:
            raise DataError(f"{path}: more than {MAX_FILES:,} rows: a bomb; if not, split it")

    def __len__(self) -> int:
        return self.starts[-1]

    @functools.cached_property
    def version(self) -> Stamp:
        return stamp_of(self.place)

    def labels(self) -> Sequence[str | None]:
        """The column of classes, texts or whole numbers, as text."""
        if self._classes is None:
            return ()
        return [None if value is None else str(value) for value in self.values(self._classes)]

    def image(self, row: int) -> bytes:
        """A row's file. Raises DataError where there is none, or the row group is damaged."""
        group = bisect.bisect_right(self.starts, row) - 1
        with self._lock:
            column = self._loaded.pop(group, None)
            if column is None:
                column = self._load(group)
            self._loaded[group] = column
            while len(self._loaded) > _GROUPS:
                self._loaded.pop(next(iter(self._loaded)))
            with _failures(self.place):  # a damaged group has fewer rows than the footer tells
                value = column[row - self.starts[group]].as_py()
        if isinstance(value, list):
            if len(value) > 1:
                raise DataError(
                    f"{self.place}: row {row}: a list of {len(value)} images, and a row is one sample: write a row each"
                )
            value = value[0] if value else None
        if isinstance(value, dict):  # in a list
            value = value["bytes"]
        if not value:
            raise DataError(
                f"{self.place}: row {row}: no bytes of an image (a path alone is not followed: write the files' bytes)"
            )
        return bytes(value)

    def _load(self, group: int) -> Any:
        _forget_others(self)
        with _failures(self.place), _open(self.place) as file:
            column = file.read_row_group(group, columns=[self.leaf], use_threads=False).column(0)
            if self.leaf == f"{self.column}.bytes":
                import pyarrow.compute

                column = pyarrow.compute.struct_field(column, "bytes")
            return column

    def values(self, column: str) -> list[Any]:
        with _failures(self.place), _open(self.place) as file:
            values: list[Any] = file.read(columns=[column], use_threads=False).column(0).to_pylist()
        if len(values) != len(self):
            raise DataError(
                f"{self.place}: column '{column}' has {len(values)} rows, the table {len(self)}: {self.remedy}"
            )
        return values


def _forget_others(table: Parquet) -> None:
    """Lets go of the row groups of tables that were read longest ago."""
    with _counting:
        reading = [ref for ref in _reading if ref() is not None and ref() is not table] + [weakref.ref(table)]
        for other in (ref() for ref in reading[:-_TABLES]):
            if other is not None:
                other._loaded = {}
        _reading[:] = reading[-_TABLES:]


def _open(path: Place) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow: pip install 'evalkit[parquet]'") from None
    if not isinstance(path, Remote):
        check_file(path)
    return pyarrow.parquet.ParquetFile(path.open() if isinstance(path, Remote) else path)


@contextlib.contextmanager
def _failures(path: Place) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a DataError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{path}: the table of images is missing: check the path") from None
    except EvalkitError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a readable .parquet: {one_line(error)[:200]}") from error


def _image_column(path: Place, schema: Any) -> tuple[str, str]:
    """The column's name, and what of it is read: of a struct its bytes, of a list all."""
    leaves = {field.name: leaf for field in schema if (leaf := _leaf(field.name, field.type))}
    known = [name for name in IMAGE_COLUMNS if name in leaves]
    if len(leaves) == 1 or known:
        name = known[0] if known else next(iter(leaves))
        if others := [other for other in leaves if other != name]:
            log.warning("%s: the images are the column '%s'; not read: %s", path, name, ", ".join(others))
        return name, leaves[name]
    if leaves:
        raise DataError(
            f"{path}: several columns of bytes ({', '.join(leaves)}): call the images' column 'image' (a file's bytes, "
            "or a struct {bytes, path}), or read the table's folder with model=[dataset] model.dataset.image=COLUMN"
        )
    paths = [field.name for field in schema if _is(field.type, "struct") and "path" in [f.name for f in field.type]]
    paths += [field.name for field in schema if field.name in IMAGE_COLUMNS and _is(field.type, *_TEXT)]
    hint = f": '{paths[0]}' holds paths alone, which are not followed" if paths else ""
    raise DataError(
        f"{path}: no column of bytes among {schema.names}{hint}: call the images' column 'image' (a file's bytes, or a "
        "struct {bytes, path})"
    )


def _leaf(name: str, kind: Any) -> str | None:
    if _is(kind, *_BYTES):
        return name
    if _is(kind, "struct") and any(f.name == "bytes" and _is(f.type, *_BYTES) for f in kind):
        return f"{name}.bytes"
    return name if _is(kind, *_LISTS) and _leaf(name, kind.value_type) else None


def _is(kind: Any, *names: str) -> bool:
    """Whether a column's type is one of those that pyarrow calls so."""
    import pyarrow.types

    return any(getattr(pyarrow.types, f"is_{name}")(kind) for name in names)


def _check_groups(path: Place, metadata: Any) -> None:
    """Refuses what would not fit into memory, by what the row groups say of themselves.

    Their columns are not asked: pyarrow 25 aborts the process where a column's statistics are damaged.
    """
    size = stamp_of(path)[0]
    for group in range(metadata.num_row_groups):
        unpacked = metadata.row_group(group).total_byte_size
        if unpacked > MAX_GROUP_BYTES:
            raise DataError(
                f"{path}: row group {group} holds {unpacked:,} bytes (limit {MAX_GROUP_BYTES:,}): write it again with "
                "smaller ones (row_group_size=1000)"
            )
        if unpacked > RATIO_FROM and unpacked > MAX_RATIO * size:
            raise DataError(
                f"{path}: row group {group} unpacks {unpacked:,} bytes from {size:,} (limit {MAX_RATIO} to 1)"
            )
