"""Samples without a file of their own: images in an archive, array or table, which samples.csv calls PATH[n]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.report.data import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.readers import ArrayImages, FolderImages

MOST_BYTES = 1_000_000_000  # of an .npz, which is read whole
_INSIDE = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


@dataclass
class Inside:
    """Opens what holds the images once, with the options that the run gave it."""

    run: Run
    _opened: dict[str, FolderImages | ArrayImages | None] = field(default_factory=dict)

    def read(self, location: str) -> tuple[NDArray[np.uint8] | None, str]:
        """The image u8 [H,W,3] at PATH[n]; or none, and why: "gone" or "no file"."""
        found = _INSIDE.fullmatch(location)
        if found is None:
            return None, "gone"
        holder, number = found[1], int(found[2])
        if holder not in self._opened:
            self._opened[holder] = self._open(Path(holder))
        source = self._opened[holder]
        if source is None:
            return None, "no file" if Path(holder).is_file() or not Path(holder).is_absolute() else "gone"
        try:
            files = getattr(source, "files", None)  # of a table: row numbers, which skipped rows leave out
            index = files.index(str(number)) if files and str(number) in files else number
            return source.read(range(index, index + 1))[0], ""
        except (EvalkitError, LookupError, OSError):
            return None, "damaged"

    def _open(self, path: Path) -> FolderImages | ArrayImages | None:
        if not path.is_file() or (path.suffix == ".npz" and path.stat().st_size > MOST_BYTES):
            return None
        from evalkit.opening import Opening

        store = Path(str(self.run.table.run.get("store") or ""))
        cache = store / "cache"  # the run's own scan of it
        try:
            opening = Opening(path, prompts=None, mixed_sizes=True, **self._options(path))
            return opening.open(cache=cache if cache.is_dir() else None)
        except (EvalkitError, OSError, ImportError, TypeError):
            return None

    def _options(self, path: Path) -> dict[str, Any]:
        """What decides which image is the n-th: as the model or the reference of this path was given it."""
        config = self.run.table.run.get("config")
        models = config.get("model") if isinstance(config, Mapping) else None
        for option in models.values() if isinstance(models, Mapping) else ():
            if isinstance(option, Mapping) and Path(str(option.get("path"))).expanduser().absolute() == path:
                return {name: option[name] for name in ("recursive", "on_error", "extensions") if name in option}
        return {}
