"""Images that are rows of something with a number of rows: a Parquet file, a Hugging Face or torchvision dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from evalkit.data.remote import Place, Stamp
from evalkit.data.scan import PROMPT_COLUMNS, own_prompts, scan_inside
from evalkit.data.source import THREADED_FROM, FolderImages, decode_verified, keep_whole
from evalkit.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rows(Protocol):
    """Images by row, and columns of texts."""

    @property
    def place(self) -> Place:
        """What errors call it, and what its scan is kept under."""
        ...

    @property
    def texts(self) -> Sequence[str]:
        """The names of its columns of texts."""
        ...

    @property
    def classes(self) -> Sequence[str | None]:
        """The class of each row as text, or none; empty where it has none."""
        ...

    def __len__(self) -> int: ...

    def stamp(self) -> Stamp:
        """What changes with the content."""
        ...

    def image(self, row: int) -> bytes:
        """A row's image file. Safe to call from several threads. Raises DataError where there is none."""
        ...

    def strings(self, name: str) -> Sequence[str | None]:
        """A column of texts; of a list of texts the first."""
        ...


@dataclass(frozen=True, eq=False)
class RowImages(FolderImages):
    """The images of rows, in their order; `folder` is what holds them, `files` are the rows' numbers.

    Attributes:
        rows: where they lie.
        remedy: what mends a row that changed under the run.
    """

    rows: Rows | None = None
    remedy: str = ""

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        assert self.rows is not None
        items: list[tuple[str, str, Callable[[], bytes]]] = []
        for i in indices:
            data = functools.partial(self.rows.image, int(self.files[i]))
            items.append((f"{self.folder}: row {int(self.files[i])}", self.records[i].sha256, data))
        large = self.records[indices[0]].width * self.records[indices[0]].height >= THREADED_FROM if items else False
        return decode_verified(items, f"{self.remedy} and start again", threaded=large)

    def location(self, index: int) -> str:
        return f"{self.folder.absolute()}[{int(self.files[index])}]"

    def _classes(self) -> Sequence[str | None]:
        classes = self.rows.classes if self.rows is not None else ()
        return [classes[int(name)] for name in self.files] if classes else [None] * len(self)


def open_rows(
    rows: Rows,
    remedy: str,
    *,
    prompts: str | None = "auto",
    on_error: Literal["refuse", "skip"] = "refuse",
    mixed_sizes: bool = False,
    cache: Path | None = None,
) -> RowImages:
    """The images of all rows.

    Args:
        rows: what holds them.
        remedy: see `RowImages`.
        prompts: "auto" (the column prompt, text or caption, else the PNGs' own texts, else none), None, or a column.
        on_error, mixed_sizes, cache: as of `FolderImages.open`.

    Raises:
        ConfigError: there is no such column of prompts.
        DataError: an image is broken or refused, or sizes differ.
    """
    place, stamp = rows.place, rows.stamp()
    column = next((name for name in PROMPT_COLUMNS if name in rows.texts), None) if prompts == "auto" else prompts
    if column is not None and column not in rows.texts:
        raise ConfigError(f"{place}: no column of texts '{column}'. {nearest(column, rows.texts)}")
    names = [f"{row:08d}" for row in range(len(rows))]
    records = scan_inside(
        place, names, lambda name: rows.image(int(name)), lambda name: stamp, decode=on_error == "skip", cache=cache
    )
    kept, broken = keep_whole(place, list(zip(names, records, strict=True)), on_error, mixed_sizes=mixed_sizes)
    files, whole = tuple(name for name, _ in kept), tuple(record for _, record in kept)
    texts: Sequence[str | None]
    if column is not None:
        strings = rows.strings(column)
        texts = [strings[int(name)] for name in files]
    else:
        own = own_prompts(files, whole) if prompts == "auto" else {}
        texts = [own.get(name) for name in files]
    return RowImages(place, files, whole, tuple(texts), broken, rows=rows, remedy=remedy)
