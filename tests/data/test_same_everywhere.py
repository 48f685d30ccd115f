"""The same files are the same set wherever they lie: digest, prompts and classes. `pytest -s` prints the table."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import pytest
from hostile import image, write_tar, write_zip

from evalkit.data import source as source_module
from evalkit.data.arrays import InHand
from evalkit.data.codec import encode_png
from evalkit.data.open import open_images
from evalkit.data.records import ReadOptions
from evalkit.data.source import content_digest
from evalkit.errors import EvalkitError
from evalkit.utils.files import sha256_bytes

IMAGES = {f"{i:03d}.png": encode_png(image(i)) for i in range(3)}
NESTED = {f"0000{i // 2}/img{i:08d}.png": encode_png(image(i)) for i in range(3)}
NONE = [None] * 3

# By set: its files, and the prompts and classes that it is to have.
SETS: dict[str, tuple[Mapping[str, bytes], list[str | None], list[str | None]]] = {
    "webdataset": (
        IMAGES
        | {f"{i:03d}.json": json.dumps({"caption": f"c{i}", "width": 5}).encode() for i in range(3)}
        | {f"{i:03d}.cls": f"{i}\n".encode() for i in range(3)},
        ["c0", "c1", "c2"],
        ["0", "1", "2"],
    ),
    "webdataset, texts": (
        IMAGES | {"000.txt": b"a cat\n", "001.txt": b"\xef\xbb\xbfa dog", "001.cls": b"dog"},
        ["a cat", "a dog", None],
        [None, "dog", None],
    ),
    "stylegan": (
        NESTED | {"dataset.json": json.dumps({"labels": [[name, i] for i, name in enumerate(NESTED)]}).encode()},
        NONE,
        ["0", "1", "2"],
    ),
    "stylegan without labels": (
        NESTED | {"dataset.json": b'{"labels": null}', "00001/img00000002.cls": b"7"},
        NONE,
        NONE,
    ),
    "metadata": (
        NESTED
        | {
            "metadata.csv": b"file_name,prompt,category\n"
            + b"".join(f"{name},far,{i}\n".encode() for i, name in enumerate(NESTED)),
            "00001/metadata.jsonl": b'{"file_name": "img00000002.png", "text": " near ", "category": "x"}',
        },
        ["far", "far", "near"],
        ["0", "1", "x"],
    ),
    "a cell's folder": (
        {
            f"shards/{folder}/{i:06d}.png": encode_png(image(i))
            for folder, n in (("00000", 3), ("00000-001", 1))
            for i in range(n)
        }
        | {"cell.json": b"{}", "shards/00000/metadata.jsonl": b'{"file_name": "000001.png", "prompt": "p"}'},
        [None, "p", None],
        NONE,
    ),
}


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_memory(path: Path, files: Mapping[str, bytes]) -> str:
    url = f"memory://{path.parent.name}/{path.name}"
    for name, data in files.items():
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write(data)
    return url


KINDS: dict[str, Callable[[Path, Mapping[str, bytes]], Path | str]] = {
    "folder": write_folder,
    "zip": lambda path, files: write_zip(path.with_suffix(".zip"), files),
    "tar": lambda path, files: write_tar(path.with_suffix(".tar"), files),
    "memory": write_memory,
    "memory zip": lambda path, files: (
        write_memory(path, {"a.zip": write_zip(path.with_suffix(".zip"), files).read_bytes()}) + "/a.zip"
    ),
}


def write_parquet(path: Path, files: Mapping[str, bytes], prompts: list[str | None], classes: list[str | None]) -> Path:
    """The images in the same order, with a column of prompts, and one of classes (whole numbers where they are)."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [data for name, data in sorted(files.items()) if name.endswith(".png") and "-001/" not in name]
    columns: dict[str, list[object]] = {"image": list(images), "prompt": list(prompts)}
    if all(text is not None and text.isdigit() for text in classes):
        columns["label"] = [int(str(text)) for text in classes]
    else:
        columns["class"] = list(classes)
    table = pyarrow.table(columns | {"prompt": pyarrow.array(prompts, pyarrow.string())})
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_the_same_wherever_it_lies(tmp_path: Path, name: str) -> None:
    files, prompts, classes = SETS[name]
    places = {kind: write(tmp_path / "set", files) for kind, write in KINDS.items()}
    places["parquet"] = write_parquet(tmp_path / "set.parquet", files, prompts, classes)
    print(f"\n{name}\n{'kind':12} {'digest':14} {'prompts':30} classes")
    digests = set()
    for kind, place in places.items():
        source = open_images(place)
        print(f"{kind:12} {source.digest[:12]:14} {list(source.prompts)!s:30} {list(source.categories)}")
        digests.add(source.digest)
        assert list(source.prompts) == prompts, kind
        assert list(source.categories) == classes, kind
    assert len(digests) == 1


def test_a_chunk_is_the_same_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in memory on its way into a file, whatever else the set holds, and in a set that grew."""
    monkeypatch.setattr(source_module, "CHUNK", 2)
    places = {kind: write(tmp_path / "set", IMAGES) for kind, write in KINDS.items()}
    places["parquet"] = write_parquet(tmp_path / "set.parquet", IMAGES, NONE, NONE)
    sha256s = [sha256_bytes(data) for data in IMAGES.values()]
    expected = [content_digest(sha256s[:2]), content_digest(sha256s[2:])]
    for kind, place in places.items():
        source = open_images(place)
        assert list(source.chunks) == [range(2), range(2, 3)], kind
        assert [source.chunk_digest(chunk) for chunk in source.chunks] == expected, kind
        last = source.take([2])
        assert [last.chunk_digest(chunk) for chunk in last.chunks] == expected[1:], kind
    in_hand = InHand("shard", [image(0), image(1)], sha256s[:2], [None, None])
    assert [in_hand.chunk_digest(chunk) for chunk in in_hand.chunks] == expected[:1]
    assert in_hand.digest == open_images(places["zip"]).head(2).digest
    longer = open_images(write_folder(tmp_path / "longer", IMAGES | {"003.png": encode_png(image(3))}))
    assert longer.chunk_digest(longer.chunks[0]) == expected[0] != longer.chunk_digest(longer.chunks[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_errors_wherever_it_lies(tmp_path: Path, kind: str) -> None:
    numbers = itertools.count()

    def opened(files: Mapping[str, bytes], prompts: str | None = "auto") -> str:
        place = KINDS[kind](tmp_path / f"set{next(numbers)}", IMAGES | files)
        try:
            open_images(place, ReadOptions(prompts=prompts))
        except EvalkitError as error:
            return str(error)
        return ""

    assert "names 'gone.png', which is not there" in opened(
        {"metadata.jsonl": b'{"file_name": "gone.png", "text": "x"}'}
    )
    assert "dataset.json names 'gone.png', which is not there" in opened(
        {"dataset.json": b'{"labels": [["gone.png", 1]]}'}
    )
    assert "000.json: not JSON" in opened({"000.json": b"["})
    assert "more than 1,048,576 bytes for one image's text" in opened({"000.txt": random.Random(0).randbytes(2 << 20)})
    assert "mine.csv: the file of prompts is missing" in opened({}, "mine.csv")
    assert "002.png: no prompt for this image (prompts=sidecar)" in opened(
        {"000.txt": b"", "001.json": b'{"text": "x"}'}, "sidecar"
    )
    assert opened({"000.json": b"[1]", "dataset.json": b'{"images": []}'}) == ""


def test_checksums_in_metadata_are_compared_wherever_it_lies(tmp_path: Path) -> None:
    metadata = b'{"file_name": "001.png", "sha256": "0123"}'
    for kind, write in KINDS.items():
        source = open_images(write(tmp_path / "set", IMAGES | {"metadata.jsonl": metadata}))
        assert source.unlike_metadata() == [1], kind
