"""The samples of a run as its samples.csv lists them, and their images' bytes where these may be shown."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.data import codec
from evalkit.errors import DataError
from evalkit.history.registry import PastRun
from evalkit.results.csv_files import CLUSTER, SAMPLE_HEADS, number, read_columns, read_heads
from evalkit.utils.files import MAX_FILE_BYTES, read_file

# What browsers show as it is, by its first bytes; other kinds are sent as PNG.
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


@dataclass(frozen=True)
class Sample:
    """A line of samples.csv: index, where its image lies, prompt, category, and by metric its own score."""

    index: int
    file: str
    prompt: str
    category: str
    scores: dict[str, float]


@functools.lru_cache(maxsize=4)  # of the runs that were looked at last
def read_samples(path: Path, stamp: float) -> dict[str, list[Sample]]:
    """By cell the samples of a samples.csv; `stamp` is the file's time: another file is read anew.

    Raises:
        DataError, OSError: it cannot be read.
    """
    heads = read_heads(path)
    metrics = [head for head in heads if head not in (*SAMPLE_HEADS, CLUSTER) and not head.endswith(".influence")]
    cells: dict[str, list[Sample]] = {}
    for line, (cell, index, file, prompt, category, *values) in read_columns(path, (*SAMPLE_HEADS, *metrics)):
        scores = {m: number(v, f"{path}:{line}: {m}") for m, v in zip(metrics, values, strict=True)}
        known = {metric: value for metric, value in scores.items() if not math.isnan(value)}
        try:
            cells.setdefault(cell, []).append(Sample(int(index), file, prompt, category, known))
        except ValueError:
            raise DataError(f"{path}:{line}: index is no number") from None
    return cells


def samples_of(run: PastRun) -> dict[str, list[Sample]] | str:
    """By cell the samples of a run, or why there are none."""
    path = run.path.with_name("samples.csv")
    try:
        return read_samples(path, path.stat().st_mtime)
    except FileNotFoundError:
        return "There is no samples.csv next to this run's results.json."
    except (DataError, OSError) as error:
        return f"samples.csv cannot be read: {error}"


def image_of(sample: Sample, run: PastRun, roots: Sequence[Path]) -> tuple[bytes, str]:
    """An image's bytes and media type.

    Args:
        sample: whose.
        run: it is of; where its store was moved as a whole, the image is found next to the run.
        roots: folders, resolved; what lies elsewhere is never read, wherever a samples.csv or a link points.

    Raises:
        DataError: it has no file of its own, lies elsewhere, is gone, or is no image.
    """
    for path in _candidates(sample.file, run):
        place = path.resolve()
        archive = place.parent if place.parent.suffix == ".zip" and place.parent.is_file() else None
        if not (archive or place).is_file():
            continue
        if not any((archive or place).is_relative_to(root) for root in roots):
            raise DataError(f"{path}: it lies outside of the folders that are shown (--also FOLDER adds one)")
        data = _member(archive, place.name) if archive else read_file(place)
        return _shown(data, place.name)
    raise DataError(
        f"{sample.file}: there is no such file: the image was not kept, has no file of its own, or was moved"
    )


def _candidates(file: str, run: PastRun) -> list[Path]:
    """Where the image was, and where it is if the store was moved."""
    _, marker, inside = file.rpartition("/samples/")
    store = run.path.parent.parent
    return [Path(file), *([store / "samples" / inside] if marker else [])]


def _member(archive: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(name).file_size > MAX_FILE_BYTES:
                raise DataError(f"{archive}: {name} is too large for an image")
            return opened.read(name)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: {name} cannot be read ({error})") from None


def _shown(data: bytes, name: str) -> tuple[bytes, str]:
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    return (data, kind) if kind else (codec.encode_png(codec.decode(data, name)), "image/png")
