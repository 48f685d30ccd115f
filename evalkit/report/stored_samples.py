"""Samples without a file of their own: images in an archive, array or table, which samples.csv calls PATH[n]."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.report.run_folder import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.arrays import ArrayImages
    from evalkit.data.source import FolderImages

MOST_BYTES = 1_000_000_000  # of an .npz, which is read whole
_INSIDE = re.compile(r"(.+)\[(\d+)\]", re.DOTALL)


@dataclass
class Inside:
    """Opens what holds the images once, with the options that the run gave it."""

    run: Run
    _opened: dict[str, FolderImages | ArrayImages | None] = field(default_factory=dict)

    def read(self, location: str) -> tuple[NDArray[np.uint8] | None, str]:
        """The image u8 [H,W,3] at PATH[n] or a URL; or none, and why: "gone" or "no file"."""
        found = _INSIDE.fullmatch(location)
        if "://" in location:
            return self._read_far(location)
        if found is None:
            return None, "gone"
        holder, number = found[1], int(found[2])
        if holder not in self._opened:
            self._opened[holder] = self._open(Path(holder))
        source = self._opened[holder]
        if source is None:
            return None, "no file" if Path(holder).is_file() or not Path(holder).is_absolute() else "gone"
        try:
            files = getattr(source, "files", ())  # of a table: row numbers, which skipped rows leave out
            index = files.index(f"{number:08d}") if f"{number:08d}" in files else number
            return source.read(range(index, index + 1))[0], ""
        except (EvalkitError, LookupError, OSError):
            return None, "damaged"

    def _read_far(self, location: str) -> tuple[NDArray[np.uint8] | None, str]:
        """Of a remote set or a dataset: by the models that the run opened, which know where their images lie."""
        for source, places in self._far:
            if location in places:
                try:
                    return source.read(range(places[location], places[location] + 1))[0], ""
                except (EvalkitError, OSError):
                    return None, "damaged"
        return None, "no file"

    @functools.cached_property
    def _far(self) -> list[tuple[FolderImages | ArrayImages, dict[str, int]]]:
        """The sets that are not files of this machine, and each image's index by its location."""
        from evalkit.config.build import build
        from evalkit.models.base import ExistingImages

        found = []
        for option in self._models():
            try:
                model = build({**option, **({"split_by": None} if "split_by" in option else {})})
                if isinstance(model, ExistingImages) and ("name" in option or "://" in str(option.get("path"))):
                    source = model.open(cache=self._cache)
                    found.append((source, {source.location(i): i for i in range(len(source))}))
            except (EvalkitError, OSError, ImportError):
                continue  # its images are shown as missing
        return found

    @property
    def _cache(self) -> Path | None:
        """The run's own scans."""
        cache = Path(str(self.run.table.run.get("store") or "")) / "cache"
        return cache if cache.is_dir() else None

    def _models(self) -> list[Mapping[str, Any]]:
        config = self.run.table.run.get("config")
        models = config.get("model") if isinstance(config, Mapping) else None
        return [m for m in (models.values() if isinstance(models, Mapping) else ()) if isinstance(m, Mapping)]

    def _open(self, path: Path) -> FolderImages | ArrayImages | None:
        if not path.is_file() or (path.suffix == ".npz" and path.stat().st_size > MOST_BYTES):
            return None
        from evalkit.data.open import Opening

        try:
            opening = Opening(path, prompts=None, mixed_sizes=True, **self._options(path))
            return opening.open(cache=self._cache)
        except (EvalkitError, OSError, ImportError, TypeError):
            return None

    def _options(self, path: Path) -> dict[str, Any]:
        """What decides which image is the n-th: as the model or the reference of this path was given it."""
        from evalkit.data.frames import Frames

        for option in self._models():
            if path in _parts(str(option.get("path"))):
                given = {name: option[name] for name in ("recursive", "on_error", "extensions") if name in option}
                frames = {"frames": Frames(option["every"], option.get("frames"))} if "every" in option else {}
                return given | frames
        return {}


def _parts(given: str) -> list[Path]:
    """The files that a model's path stands for."""
    from evalkit.data.concat import expand

    path = Path(given).expanduser()
    try:
        return [Path(str(part)).absolute() for part in expand(path) or [path]]
    except EvalkitError:
        return []
