"""Sample sets as sources: content digests, verified reading, and what is altered or damaged in a store."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_models import make_cell
from png_folders import image

from evalkit.data.codec import encode_png
from evalkit.data.open import open_images
from evalkit.data.source import Source
from evalkit.errors import DataError, StoreError
from evalkit.samples.generate import generate_cells
from evalkit.samples.model_pool import ModelPool
from evalkit.samples.store import SampleSet, Store
from evalkit.utils.json_files import read_checked, write_checked

RNG = np.random.default_rng(0)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Any, SampleSet]:
    """A store with one cell of 12 samples in two shards."""
    store, cell = Store(tmp_path / "runs"), make_cell(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalkit.samples.cells.SHARD_SAMPLES", 8)
        generate_cells([cell], store, batch_size=4, device="cpu")
    return store, cell, SampleSet.open(store, cell)


# Sample sets ------------------------------------------------------------------------------------------------------


def test_reading(made: tuple[Store, Any, SampleSet]) -> None:
    source: Source = made[2]
    assert (source.name, len(source)) == ("noise-contrast_200", 12)
    every = source.read(range(12))
    assert [a.shape for a in every] == [(8, 8, 3)] * 12
    np.testing.assert_array_equal(source.read(range(5, 11, 2))[2], every[9])
    assert source.read(range(0)) == []
    assert source.prompts == ("a red fox", "zwei Füchse", "drei") * 4


def test_the_digest_is_that_of_the_files_wherever_they_are(made: tuple[Store, Any, SampleSet], tmp_path: Path) -> None:
    samples = made[2]
    for number, path in enumerate(samples.files):
        (tmp_path / "copy").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "copy" / f"{number:03d}.png")
    assert open_images(tmp_path / "copy").digest == samples.digest


def test_a_chunk_is_a_shard(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    assert list(samples.chunks) == [range(8), range(8, 12)]
    head = SampleSet.open(store, replace(cell, num_samples=10))
    assert list(head.chunks) == [range(8), range(8, 10)]
    first, last = (samples.chunk_digest(chunk) for chunk in samples.chunks)
    assert head.chunk_digest(head.chunks[0]) == first
    assert last not in {first, head.chunk_digest(head.chunks[1])}
    assert open_images(samples.files[0].parent).digest == first


def test_an_altered_image_is_never_scored(made: tuple[Store, Any, SampleSet]) -> None:
    _, _, samples = made
    path = samples.files[9]
    whole = path.read_bytes()
    for data in (encode_png(image(1, 8, 8)), whole[:-1], b"", whole[:100]):
        path.write_bytes(data)
        samples.read(range(9))
        with pytest.raises(DataError, match=r"000009\.png: altered or half written.*delete this shard's folder"):
            samples.read(range(8, 12))
    path.write_bytes(whole)
    assert len(samples.read(range(8, 12))) == 4


def test_damaged_shards(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    shard = samples.files[9].parent
    (shard / "Thumbs.db").write_bytes(b"")  # what a file manager leaves is no matter
    assert len(SampleSet.open(store, cell)) == 12
    samples.files[9].unlink()
    with pytest.raises(StoreError, match="damaged: 3 images where 4 were made: delete this folder"):
        SampleSet.missing(store, cell)
    (shard / "metadata.jsonl").unlink()
    with pytest.raises(StoreError, match=r"damaged: metadata\.jsonl is missing"):
        SampleSet.open(store, cell)
    shutil.rmtree(shard)
    assert SampleSet.missing(store, cell) == [(8, 12)]
    with pytest.raises(StoreError, match="4 of 12 samples are not made yet"):
        SampleSet.open(store, cell)
    generate_cells([cell], store, batch_size=4, device="cpu")
    assert SampleSet.open(store, cell).digest == samples.digest


@pytest.mark.parametrize("lines", [[], ["{"], ['{"index": 3}'] * 4])
def test_damaged_metadata(made: tuple[Store, Any, SampleSet], lines: list[str]) -> None:
    store, cell, samples = made
    (samples.files[9].parent / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(StoreError, match=r"is damaged: metadata\.jsonl.*: delete this folder"):
        SampleSet.open(store, cell)


def _columns(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "check"}


ALTERED = {
    "latency_s": 99.5,
    "nfe": 7,
    "warnings": ["blanked"],
    "category": "b",
    "prompt": "another",
    "device": "cuda",
    "peak_memory_mb": 1.0,
    "warmup": None,
    "batch": "x",
    "sha256": "0" * 64,
    "file_name": "../../x.png",
}


@pytest.mark.parametrize("column", ALTERED)
@pytest.mark.parametrize("check", ["kept", "gone"])
def test_no_column_of_metadata_is_believed(made: tuple[Store, Any, SampleSet], column: str, check: str) -> None:
    """An altered value, and a line whose digest is gone where others have theirs (F7)."""
    store, cell, samples = made
    file = samples.files[9].parent / "metadata.jsonl"
    lines = file.read_text().splitlines()
    row = json.loads(lines[2])
    row[column] = ALTERED[column] if row.get(column) != ALTERED[column] else "other"
    lines[2] = json.dumps(row if check == "kept" else _columns(json.dumps(row)))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(StoreError, match=r"is damaged: metadata\.jsonl: line 3 is not as it was written: delete this"):
        SampleSet.open(store, cell)
    SampleSet.open(store, replace(cell, num_samples=8))


def test_no_bit_of_metadata_changes_unseen(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    file = samples.files[9].parent / "metadata.jsonl"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.choice(8 * len(whole), 200, replace=False):
        file.write_bytes(whole[: at // 8] + bytes([whole[at // 8] ^ (1 << (at % 8))]) + whole[at // 8 + 1 :])
        try:
            assert SampleSet.open(store, cell).rows == samples.rows  # an added line end, say
        except StoreError as error:
            assert "damaged" in str(error)  # noqa: PT017


def test_a_shard_of_another_cell_is_told(made: tuple[Store, Any, SampleSet]) -> None:
    """Whole in itself, images and lines, but put in another cell's place."""
    store, cell, _ = made
    other = replace(cell, key="1" * 64, name="other")
    shutil.copytree(store.sample_folder(cell), store.samples / f"other-{'1' * 8}")
    path = store.samples / f"other-{'1' * 8}" / "cell.json"
    write_checked(path, {**read_checked(path), "key": other.key})
    with pytest.raises(StoreError, match="line 1 is not as it was written"):
        SampleSet.open(store, other)


def as_of_before(samples: SampleSet, **change: Any) -> Path:
    """Writes the last shard's lines as evalkit 0.1.0 did, with a change of the third."""
    file = samples.files[9].parent / "metadata.jsonl"
    rows = [_columns(line) for line in file.read_text().splitlines()]
    rows[2] |= change
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_shards_of_before_are_read(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    as_of_before(samples)
    path = store.sample_folder(cell) / "cell.json"
    path.write_text(json.dumps({name: value for name, value in read_checked(path).items() if name != "check"}))
    again = SampleSet.open(store, cell, ModelPool().built(cell))
    assert (again.digest, again.prompts, again.stats()) == (samples.digest, samples.prompts, samples.stats())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"warnings": 5}, "line 3: warnings is '5', not a list of texts"),
        ({"prompt": 5}, "line 3: prompt is '5', not a text or null"),
        ({"category": ["a"]}, "line 3: category is .* not a text or null"),
        ({"latency_s": "x"}, "line 3: latency_s is 'x', not a number >= 0"),
        ({"latency_s": float("inf")}, "line 3: not JSON"),
        ({"nfe": -1}, "line 3: nfe is '-1', not a number >= 0 or null"),
        ({"batch": 0}, "line 3: batch is '0', not a whole number >= 1"),
        ({"more": 1}, "line 3 has a key that no line has: 'more'"),
        ({"file_name": "../../x.png"}, "line 3: file_name is '../../x.png', not that of sample 10"),
        ({"prompt": "another"}, "prompt of sample 10 is 'another', but the cell asks for"),
        ({"seed": 99}, "seed of sample 10 is 99, but the cell asks for 0"),
        ({"class_id": 4}, "class_id of sample 10 is 4, but the cell asks for None"),
    ],
)
def test_wrong_metadata_of_before_is_one_line(
    made: tuple[Store, Any, SampleSet], change: dict[str, Any], words: str
) -> None:
    store, cell, samples = made
    as_of_before(samples, **change)
    with pytest.raises(StoreError, match=f"is damaged: metadata\\.jsonl: {words}.*: delete this folder"):
        SampleSet.open(store, cell, ModelPool().built(cell))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: {**about, "key": "0" * 64}, "is of another cell"),
        (lambda about: {**about, "format": 3}, "format 3, but this evalkit reads 1 and 2"),
        (lambda about: {"key": about["key"]}, "cannot be read"),
        (lambda about: None, "is missing next to its shards"),
    ],
)
def test_a_cell_file_that_is_not_ours(made: tuple[Store, Any, SampleSet], change: Any, words: str) -> None:
    store, cell, _ = made
    path = store.sample_folder(cell) / "cell.json"
    about = change({name: value for name, value in read_checked(path).items() if name != "check"})
    write_checked(path, about) if about is not None else path.unlink()
    with pytest.raises(StoreError, match=words) as caught:
        SampleSet.missing(store, cell)
    assert "\n" not in str(caught.value)


def test_a_cell_file_is_believed_as_it_was_written_alone(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, _ = made
    path = store.sample_folder(cell) / "cell.json"
    text = path.read_text()
    for old, new in (('"shard_size": 8', '"shard_size": 4'), ('"seed": 0', '"seed": 1'), ('"check"', '"chgck"')):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(StoreError, match=r"cell\.json: altered .*: put it back, or delete .* to make it again"):
            SampleSet.missing(store, cell)


def test_a_cell_is_found_under_another_name(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, samples = made
    renamed = replace(cell, name="called-otherwise")
    assert store.sample_folder(renamed) == store.sample_folder(cell)
    assert SampleSet.open(store, renamed).digest == samples.digest


def test_a_cells_folder_reads_each_sample_once(made: tuple[Store, Any, SampleSet]) -> None:
    store, cell, _ = made
    more = replace(cell, num_samples=14)
    generate_cells([more], store, batch_size=4, device="cpu")
    source = open_images(store.sample_folder(cell))
    assert len(source) == 14  # and not 18: shard 00001-004 is contained in 00001-006
    assert source.digest == SampleSet.open(store, more).digest
    assert source.prompts == SampleSet.open(store, more).prompts


# Arrays and the model ---------------------------------------------------------------------------------------------
