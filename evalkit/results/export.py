"""Writes cells' images for other tools, into <out>/export/: a folder, ADM's .npz, a WebDataset .tar, a Parquet dataset.

`export=[folder,npz,webdataset,parquet]`; their starting noise: `export_latents.py`. Each is there whole or not at all,
is read back by `evalkit.data.open` to the same pixels, and is written again only where the images, their prompts or
the options changed. Images are read in blocks: the memory needed does not depend on their number.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.data import codec
from evalkit.data.remote import Place, Remote, find_place
from evalkit.data.shard_format import METADATA
from evalkit.errors import ConfigError, DataError
from evalkit.results.render import plain_markdown
from evalkit.utils.files import (
    atomic_folder,
    atomic_path,
    sha256_file,
    sha256_json,
    stamp_of_file,
    sweep,
    temporary_path,
    write_json,
    write_text,
    writing,
)
from evalkit.utils.json_files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source

log = logging.getLogger(__name__)

FORMAT = 1  # of what is written: another one is written again
RECORD = "written.json"  # what the files next to it were made from, and their digests
_BLOCK = 64  # images in memory
_GROUP_BYTES = 64 << 20  # of files in a Parquet row group
_GROUP_ROWS = 1000


@dataclass(frozen=True)
class Set:
    """What is exported of a cell.

    Attributes:
        source: its images and their prompts.
        categories: of each image, or none.
        about: model, sampler, settings ... for people, in the order in which a dataset card shows them.
        key: the cell's.
        noise: gives each sample's starting noise, f32 without a batch axis; none where the model shows none.
    """

    source: Source
    categories: Sequence[str | None]
    about: Mapping[str, Any]
    key: str | None = None
    noise: Callable[[], Iterator[NDArray[np.float32]]] | None = None

    def blocks(self) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
        """First index and images u8 [H,W,3] of each block."""
        for start in range(0, len(self.source), _BLOCK):
            yield start, self.source.read(range(start, min(start + _BLOCK, len(self.source))))

    def rows(self) -> Iterator[tuple[int, bytes, str | None, str | None]]:
        """Index, PNG, prompt and category of each image."""
        for start, block in self.blocks():
            for i, pixels in enumerate(block, start=start):
                yield i, codec.encode_png(pixels), self.source.prompts[i], self.categories[i]


class Export(ABC):
    """A kind of file; its YAML's keys are the constructor's arguments.

    Args:
        to: the folder that takes them, which may be an fsspec URL (made here first, then copied there); none:
            <out>/export.
    """

    ending: ClassVar[str]  # after the cell's name
    of_noise: ClassVar[bool] = False  # whether it is about the samples' starting noise, not their pixels

    def __init__(self, to: str | None = None) -> None:
        self.to = find_place(to) if to is not None else None

    def check(self) -> None:
        """Raises ConfigError where a package is missing or a URL takes no files; before any work."""
        if isinstance(self.to, Remote):
            self.to.check_writable()

    @abstractmethod
    def write(self, images: Set, path: Path) -> None:
        """Writes the images to `path`, whole or not at all."""


def write_exports(
    exports: Mapping[str, Export], sets: Mapping[str, Set], folder: Path, *, rescan: bool = False
) -> list[Place]:
    """Writes each cell's images in each kind, and returns where.

    Args:
        exports: by name.
        sets: by the cell's name.
        folder: takes <cell><ending> where an export has no folder of its own, and the record of what was written.
        rescan: whether files are read again though their stamps are those of then.

    Raises:
        StoreError: the disk is full, say.
        DataError: images of different sizes for a kind that cannot hold them.
        ServiceError: a URL cannot be written; the next run goes on there.
    """
    record = read_record(folder / RECORD)
    written: list[Place] = []
    for name, each in sets.items():
        for kind, export in exports.items():
            if export.of_noise and each.noise is None:
                continue
            path = (export.to or folder) / f"{name}{export.ending}"
            title = path.name if export.to is None else str(path)
            options = {key: value for key, value in vars(export).items() if key != "to"}
            texts = sha256_json([list(each.source.prompts), list(each.categories)])
            cell = [each.key] if export.of_noise else []
            key = sha256_json([FORMAT, kind, options, each.source.digest, texts, _plain(each.about), *cell])
            now = _written(path, record.get(title, {}) | ({"stamps": ""} if rescan else {}), key)
            if now is None:
                with writing(folder if isinstance(path, Remote) else path):
                    if isinstance(path, Remote):
                        _write_remote(export, each, path, folder)
                    else:
                        export.write(each, path)
                    now = {"key": key, **({} if isinstance(path, Remote) else fingerprint(path))}
            if record.get(title) != now:
                record[title] = now
                write_json(folder / RECORD, record)
            written.append(path)
    return written


def _written(path: Place, recorded: Mapping[str, str], key: str) -> dict[str, str] | None:
    """The record of what is there and needs no writing; none: it is another's, gone, or was altered.

    Of files whose stamps are the recorded ones nothing is read; of a URL's files only whether they are there.
    """
    if recorded.get("key") != key or not path.exists():
        return None
    if isinstance(path, Remote) or recorded.get("stamps") == stamps_of(path):
        return dict(recorded)
    found = fingerprint(path)
    if found["sha256"] != recorded.get("sha256"):
        log.warning("%s: altered since it was written: it is written again", path)
        return None
    return {"key": key, **found}


def files_of(path: Path) -> list[tuple[str, Path]]:
    """An exported file, or the files of an exported folder with their names in it; hidden ones are not ours."""
    if path.is_file():
        return [("", path)]
    files = ((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    return sorted((name, file) for name, file in files if not f"/{name}".count("/."))


def stamps_of(path: Path) -> str:
    """Digest of the stamps of an export's files."""
    return sha256_json([[name, *stamp_of_file(file)] for name, file in files_of(path)])


def fingerprint(path: Path) -> dict[str, str]:
    """What tells whether an export's files are those that were written: their stamps, and what they hold."""
    held = sha256_json([[name, sha256_file(file, anew=True)] for name, file in files_of(path)])
    return {"stamps": stamps_of(path), "sha256": held}


def _write_remote(export: Export, each: Set, place: Remote, folder: Path) -> None:
    """Made in a temporary folder next to the local exports, then copied: one file at a time, metadata last."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    with temporary_path(folder / "export") as temporary:
        temporary.mkdir()
        made = temporary / (place.name or "export")
        export.write(each, made)
        if made.is_file():
            place.put(made)
            return
        place.remove()  # what is there may have more files than what comes
        files = [file for file in sorted(made.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == METADATA):
            (place / file.relative_to(made).as_posix()).put(file)


def read_record(path: Path) -> dict[str, dict[str, str]]:
    """What a written.json says of each export, by its name; empty where there is none, or it cannot be read."""
    try:
        content = read_json(path)
    except (OSError, DataError):
        return {}  # none yet
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}  # evalkit 0.1.0 kept the key alone


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


class FolderExport(Export):
    """<cell>/000000.png ... and metadata.jsonl: for clean-fid, torch-fidelity, pytorch-fid, `datasets`' imagefolder."""

    ending = ""

    def write(self, images: Set, path: Path) -> None:
        with atomic_folder(path) as folder, (folder / METADATA).open("w", encoding="utf-8") as lines:
            for index, png, prompt, category in images.rows():
                name = f"{index:06d}.png"
                (folder / name).write_bytes(png)
                row = {"file_name": name, "prompt": prompt, "category": category}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


class NpzExport(Export):
    """<cell>.npz with arr_0, u8 [N,H,W,3], as ADM's evaluator and guided-diffusion's scripts take it; not packed."""

    ending = ".npz"

    def write(self, images: Set, path: Path) -> None:
        import numpy as np

        shape: tuple[int, ...] = ()
        with (
            atomic_path(path) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
            archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file,
        ):
            for start, block in images.blocks():
                if not start:
                    shape = block[0].shape
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(images.source), *shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                odd = next((pixels.shape for pixels in block if pixels.shape != shape), None)
                if odd is not None:
                    raise DataError(
                        f"{images.source.name}: an .npz holds images of one size, not {list(shape)} and {list(odd)}"
                        ": export=[folder], [webdataset] or [parquet] hold any"
                    )
                file.write(np.stack(block).tobytes())


class WebDatasetExport(Export):
    """<cell>.tar: 000000.png, 000000.txt (the prompt), 000000.cls (the category, where it is a number)."""

    ending = ".tar"

    def write(self, images: Set, path: Path) -> None:
        with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index, png, prompt, category in images.rows():
                _add(archive, f"{index:06d}.png", png)
                if prompt is not None:
                    _add(archive, f"{index:06d}.txt", prompt.encode())
                if category is not None and category.isdecimal():
                    _add(archive, f"{index:06d}.cls", category.encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # of no time and nobody: the same images give the same file
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


class ParquetExport(Export):
    """<cell>-parquet/: README.md (a dataset card) and data/train-00000-of-00001.parquet, as on the Hugging Face hub."""

    ending = "-parquet"

    def check(self) -> None:
        super().check()
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigError("export.parquet needs pyarrow: pip install 'evalkit[parquet]'") from None

    def write(self, images: Set, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        text, image = pyarrow.string(), pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        fields = {"image": image, "prompt": text, "category": text}
        schema = pyarrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})
        with atomic_folder(path) as folder:
            (folder / "data").mkdir()
            write_text(folder / "README.md", card(path.name.removesuffix(self.ending), images))
            with pyarrow.parquet.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", schema) as file:
                for group in _groups(images):
                    file.write_table(pyarrow.Table.from_pylist(group, schema), row_group_size=len(group))


_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES = {"image": {"_type": "Image"}, "prompt": _TEXT, "category": _TEXT}


def _groups(images: Set) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for index, png, prompt, category in images.rows():
        group.append({"image": {"bytes": png, "path": f"{index:06d}.png"}, "prompt": prompt, "category": category})
        size += len(png)
        if size >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(name: str, images: Set) -> str:
    """The README.md of a dataset on the Hugging Face hub: the header that it reads, and what the images are."""
    count = len(images.source)
    size = next((word for limit, word in _SIZES if count < limit), "1M<n<10M")
    prompted = any(prompt is not None for prompt in images.source.prompts)
    task = "text-to-image" if prompted else "unconditional-image-generation"
    about = {key: value for key, value in images.about.items() if value not in (None, {}, "")}
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in about.items())
    return f"""---
pretty_name: {json.dumps(name)}
size_categories: [{json.dumps(size)}]
task_categories: [{task}]
tags: [evalkit, synthetic]
dataset_info:
  features:
  - {{name: image, dtype: image}}
  - {{name: prompt, dtype: string}}
  - {{name: category, dtype: string}}
configs:
- config_name: default
  data_files:
  - {{split: train, path: data/train-*.parquet}}
---

# {plain_markdown(name)}

{count:,} images, exported by evalkit: PNGs in the order of their indices, with prompts and categories where known.

| | |
|---|---|
{rows}
| sha256 of the images | `{images.source.digest}` |

    datasets.load_dataset("parquet", data_files="data/train-*.parquet", split="train")

The license of the images is that of the model and of its training data: add it above before you publish them.
"""


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)
    return plain_markdown(text)
