"""The feature pass and its store: one pass a batch, fixed batches, resume to the same bits, broken files made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images
from leftovers import left_by_the_dead

from evalkit.data import source as source_module
from evalkit.data.arrays import InHand
from evalkit.errors import ConfigError, DataError, StoreError
from evalkit.features import run as run_module
from evalkit.features.feature_pass import FeaturePass, text_chunks, unique_prompts
from evalkit.features.store import Column, check, extractor_id
from evalkit.utils.blobs import LocalBlobs


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 24 rows and blocks of 12, so that 60 images make 2 full chunks and one partial."""
    monkeypatch.setattr(source_module, "CHUNK", 24)
    monkeypatch.setattr(run_module, "BLOCK", 12)


def collect(run: FeaturePass, source: MemorySource, address: str) -> torch.Tensor:
    return torch.cat([batch.features[address] for batch in run.batches(source, [address])])


def file_of(run: FeaturePass, source: MemorySource, address: str, chunk: range) -> Path:
    assert isinstance(run.root, Path)
    return run.root / run.column(address).key(run.digest(source, address, chunk))


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.safetensors")}


def test_one_decode_and_one_pass_for_all(tmp_path: Path) -> None:
    source = MemorySource(random_images(60))
    a, b = MatrixExtractor("a"), MatrixExtractor("b", batch_size=5)
    FeaturePass(tmp_path, {"a": a, "b": b}).compute(source, ["a/flat", "a/soft", "b/flat", "a/flat"])
    assert set(source.reads.values()) == {1}
    assert len(source.reads) == 60
    assert [n for n, _ in a.calls] == [8] * 7 + [4]  # blocks of 12, in the extractor's own batches of 8
    assert [n for n, _ in b.calls] == [5, 5, 5, 5, 4] * 2 + [5, 5, 2]  # which begin anew with each chunk
    assert {layers for _, layers in a.calls} == {("flat", "soft")}


def test_values_and_order(tmp_path: Path) -> None:
    source = MemorySource(random_images(60))
    extractor = MatrixExtractor()
    run = FeaturePass(tmp_path, {"matrix": extractor})
    run.compute(source, ["matrix/flat"])
    expected = extractor(source.images, [], ["flat"])["flat"]
    torch.testing.assert_close(collect(run, source, "matrix/flat"), expected)
    batches = list(run.batches(source, ["matrix/flat"], images=True))
    assert torch.cat([b.index for b in batches]).tolist() == list(range(60))
    assert all(b.total == 60 for b in batches)
    assert batches[0].images is not None
    assert batches[0].images.shape == (24, 3, 8, 8)
    np.testing.assert_array_equal(batches[2].images[0].permute(1, 2, 0), source.images[48])  # type: ignore[index]


def test_second_pass_does_nothing(tmp_path: Path) -> None:
    source = MemorySource(random_images(30))
    FeaturePass(tmp_path, {"matrix": MatrixExtractor()}).compute(source, ["matrix/flat"])
    before = files(tmp_path)
    source.reads.clear()
    again = MatrixExtractor()
    FeaturePass(tmp_path, {"matrix": again}).compute(source, ["matrix/flat"])
    assert not source.reads
    assert not again.loaded
    assert files(tmp_path) == before


def test_found_by_content_not_by_name(tmp_path: Path) -> None:
    FeaturePass(tmp_path, {"matrix": MatrixExtractor()}).compute(
        MemorySource(random_images(30), name="one"), ["matrix/flat"]
    )
    same = MemorySource(random_images(30), name="another")
    other = MemorySource(random_images(30, seed=1), name="one")
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(same, ["matrix/flat"])
    run.compute(other, ["matrix/flat"])
    assert not same.reads
    assert len(other.reads) == 30


def test_another_extractor_identity_is_another_place() -> None:
    ids = {extractor_id(e) for e in (MatrixExtractor(), MatrixExtractor(version=2), MatrixExtractor(batch_size=4))}
    assert len(ids) == 3


def test_only_a_missing_layer_is_computed(tmp_path: Path) -> None:
    source = MemorySource(random_images(30))
    FeaturePass(tmp_path, {"matrix": MatrixExtractor()}).compute(source, ["matrix/flat"])
    extractor = MatrixExtractor()
    FeaturePass(tmp_path, {"matrix": extractor}).compute(source, ["matrix/flat", "matrix/soft"])
    assert {layers for _, layers in extractor.calls} == {("soft",)}


@pytest.mark.parametrize("stop", [0, 11, 12, 25, 40, 59])
def test_interrupted_and_resumed_gives_the_same_bits(tmp_path: Path, stop: int) -> None:
    addresses = ["matrix/flat", "matrix/soft"]
    whole = MemorySource(random_images(60))
    FeaturePass(tmp_path / "whole", {"matrix": MatrixExtractor()}).compute(whole, addresses)

    source = MemorySource(random_images(60), fail_at=stop)
    run = FeaturePass(tmp_path / "parts", {"matrix": MatrixExtractor()})
    with pytest.raises(KeyboardInterrupt):
        run.compute(source, addresses)
    kept = len(files(tmp_path / "parts"))
    assert kept <= 2 * (stop // 24)
    source.fail_at = None
    source.reads.clear()
    run.compute(source, addresses)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert len(source.reads) == 60 - kept // 2 * 24


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "gone", "text", "swapped", "retyped"])
def test_a_broken_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    source = MemorySource(random_images(60))
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/flat"])
    before, rows = files(tmp_path), collect(run, source, "matrix/flat")
    path = file_of(run, source, "matrix/flat", range(24, 48))
    data = path.read_bytes()
    broken = {
        "truncated": data[:-7],
        "empty": b"",
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "text": b"not safetensors at all",
        "swapped": file_of(run, source, "matrix/flat", range(24)).read_bytes(),  # whole, and of other images
        "retyped": data.replace(b'"F32"', b'"I32"'),
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(broken[damage])
    source.reads.clear()
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/flat"])
    assert torch.equal(collect(run, source, "matrix/flat"), rows)
    assert sorted(source.reads) == list(range(24, 48))
    assert files(tmp_path) == before


def test_broken_features_of_texts_are_made_anew(tmp_path: Path) -> None:
    source = MemorySource(random_images(3), prompts=["a", "b", "a"])
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/text"])
    rows, column, digest = collect(run, source, "matrix/text"), run.column("matrix/text"), text_chunks(["a", "b"])[0][1]
    (tmp_path / column.key(digest)).write_bytes(b"broken")
    assert torch.equal(collect(run, source, "matrix/text"), rows)
    assert column.load(digest, 2) is not None


def test_stored_features_are_read_once_where_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource(random_images(60))
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/flat"])
    loads: list[str] = []
    listings: list[str] = []
    load, listed = Column.load, LocalBlobs.list
    monkeypatch.setattr(Column, "load", lambda column, digest, rows: loads.append(digest) or load(column, digest, rows))
    monkeypatch.setattr(LocalBlobs, "list", lambda blobs, prefix: listings.append(prefix) or listed(blobs, prefix))
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    for more in (source, MemorySource(random_images(60)), MemorySource(random_images(48))):
        run.compute(more, ["matrix/flat"])
    assert not loads
    collect(run, source, "matrix/flat")
    assert sorted(loads) == sorted(source.chunk_digest(chunk) for chunk in source.chunks)
    assert listings == [f"{run.column('matrix/flat').folder}/"]


def test_leftovers_of_a_kill_are_swept(tmp_path: Path) -> None:
    source = MemorySource(random_images(5))
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    file = file_of(run, source, "matrix/flat", range(5))
    file.parent.mkdir(parents=True)
    left_by_the_dead(file).write_bytes(b"half")
    run.compute(source, ["matrix/flat"])
    assert list(file.parent.iterdir()) == [file]


def test_a_set_that_grows_extracts_only_what_is_new(tmp_path: Path) -> None:
    images = random_images(96)
    extractor = MatrixExtractor()
    extractor.load("cpu")
    expected = extractor(images, [], ["flat"])["flat"]
    for count, new in ((48, range(48)), (96, range(48, 96)), (60, range(48, 60)), (24, range(0))):
        source = MemorySource(images[:count])
        run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
        run.compute(source, ["matrix/flat"])
        assert sorted(source.reads) == list(new)
        torch.testing.assert_close(collect(run, source, "matrix/flat"), expected[:count])


def test_one_chunk_alone_and_in_hand(tmp_path: Path) -> None:
    """What a unit computes of a shard that is still in memory is what a run of the whole set finds."""
    images, addresses = random_images(60), ["matrix/flat", "matrix/text"]
    source = MemorySource(images, prompts=["a", "b", "c"] * 20)
    whole = FeaturePass(tmp_path / "whole", {"matrix": MatrixExtractor()})
    whole.compute(source, addresses)
    run = FeaturePass(tmp_path / "parts", {"matrix": MatrixExtractor()})
    assert run.missing_chunks(source, addresses) == list(source.chunks)
    run.compute(source, addresses, [range(24, 48)])
    assert sorted(source.reads) == list(range(60))  # of the whole; the same 24 once more
    assert [source.reads[i] for i in (23, 24, 47, 48)] == [1, 2, 2, 1]
    in_hand = Shard(images[:24], source.chunk_digest(range(24)))
    run.compute(in_hand, addresses, in_hand.chunks)
    later = FeaturePass(tmp_path / "parts", {"matrix": MatrixExtractor()})
    assert later.missing_chunks(source, addresses) == [range(48, 60)]
    later.compute(source, addresses)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


class Shard(InHand):
    """Whose digest is that of the same images in a `MemorySource`."""

    def __init__(self, images: list[np.ndarray], digest: str) -> None:
        super().__init__("in hand", images, [""] * len(images), [None] * len(images))
        object.__setattr__(self, "known", digest)

    def chunk_digest(self, chunk: range) -> str:
        return self.known  # type: ignore[attr-defined, no-any-return]


def test_the_first_writers_bits_stay(tmp_path: Path) -> None:
    """Two that compute the same chunk, one of them a little off: what both read is the first one's."""
    source = MemorySource(random_images(24))
    first, second = (FeaturePass(tmp_path, {"matrix": MatrixExtractor()}) for _ in range(2))
    for run in (first, second):
        assert run.missing_chunks(source, ["matrix/flat"]) == [range(24)]  # both have listed, and seen nothing
    first.compute(source, ["matrix/flat"])
    before = files(tmp_path)
    second.column("matrix/flat").save(source.chunk_digest(range(24)), np.zeros((24, 8), np.float32), device="cpu")
    assert files(tmp_path) == before
    assert torch.equal(collect(first, source, "matrix/flat"), collect(second, source, "matrix/flat"))


def test_the_device_stands_in_each_file(tmp_path: Path) -> None:
    source = MemorySource(random_images(24), prompts=["a"] * 24)
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()}, "cpu")
    run.compute(source, ["matrix/flat", "matrix/text"])
    assert len(files(tmp_path)) == 2
    for name, data in files(tmp_path).items():
        assert check(name, data)[1]["device"] == "cpu"
    collect(run, source, "matrix/flat")
    assert run.column("matrix/flat").devices == {"cpu"}


def test_texts_once_each_and_found_by_the_prompts(tmp_path: Path) -> None:
    texts = ["red", "blue", "red", "green", "blue"] * 6
    source = MemorySource(random_images(30), prompts=texts)
    extractor = MatrixExtractor()
    run = FeaturePass(tmp_path, {"matrix": extractor})
    run.compute(source, ["matrix/text"])
    assert extractor.calls == [(3, ("text",))]
    assert not source.reads
    rows = collect(run, source, "matrix/text")
    expected = extractor([], texts, ["text"])["text"]
    torch.testing.assert_close(rows, expected)

    renamed = MemorySource(source.images, prompts=["black", "blue", "red", "green", "blue"] * 6)
    assert renamed.digest == source.digest
    run.compute(renamed, ["matrix/text"])
    torch.testing.assert_close(
        collect(run, renamed, "matrix/text"), extractor([], list(map(str, renamed.prompts)), ["text"])["text"]
    )


def test_same_texts_in_another_assignment(tmp_path: Path) -> None:
    """The same set of unique texts, given to other images: each sample still gets its own text's features."""
    extractor = MatrixExtractor()
    run = FeaturePass(tmp_path, {"matrix": extractor})
    for prompts in (["a", "b", "a", "b"], ["a", "b", "b", "a"], ["b", "a", "a", "b"]):
        source = MemorySource(random_images(4), prompts=prompts)
        run.compute(source, ["matrix/text"])
        torch.testing.assert_close(collect(run, source, "matrix/text"), extractor([], prompts, ["text"])["text"])


def test_a_sample_without_a_prompt_has_no_text_features(tmp_path: Path) -> None:
    source = MemorySource(random_images(3), prompts=["a", None, "b"])
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/text"])
    with pytest.raises(DataError, match="sample 1 has no prompt"):
        list(run.batches(source, ["matrix/text"]))


def test_unique_prompts() -> None:
    assert unique_prompts(["b", None, "a", "b"]) == ["b", "a"]


def test_mixed_sizes_reach_the_extractor_as_they_are(tmp_path: Path) -> None:
    images = [*random_images(5, size=8), *random_images(5, size=16)]
    source = MemorySource(images)
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    run.compute(source, ["matrix/flat"])
    assert collect(run, source, "matrix/flat").shape == (10, 8)
    with pytest.raises(DataError, match="images of one size"):
        list(run.batches(source, [], images=True))


def test_not_finite_is_refused_and_not_stored(tmp_path: Path) -> None:
    extractor = MatrixExtractor()
    extractor.bad = True
    run = FeaturePass(tmp_path, {"matrix": extractor})
    with pytest.raises(DataError, match="'matrix' gave values that are not finite for memory"):
        run.compute(MemorySource(random_images(5)), ["matrix/flat"])
    assert not files(tmp_path)


def test_unknown_addresses(tmp_path: Path) -> None:
    run = FeaturePass(tmp_path, {"matrix": MatrixExtractor()})
    source = MemorySource(random_images(5))
    with pytest.raises(ConfigError, match=r"no extractor 'matrx'. Did you mean 'matrix'"):
        run.compute(source, ["matrx/flat"])
    with pytest.raises(ConfigError, match=r"no layer 'flet'. Did you mean 'flat'"):
        run.compute(source, ["matrix/flet"])


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    run = FeaturePass(tmp_path / "features", {"matrix": MatrixExtractor()})
    with pytest.raises(StoreError, match="cannot write to"):
        run.compute(MemorySource(random_images(5)), ["matrix/flat"])


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run = FeaturePass(
        tmp_path, {"matrix": MatrixExtractor()}, progress=lambda name, done, total: seen.append((name, done, total))
    )
    run.compute(MemorySource(random_images(30)), ["matrix/flat"])
    assert seen == [("memory", 0, 30), ("memory", 12, 30), ("memory", 24, 30), ("memory", 30, 30)]


def test_batch_sizes() -> None:
    with pytest.raises(ConfigError, match=r"extractor\.matrix\.batch_size=257: must be 1 to 256"):
        MatrixExtractor(batch_size=257)
    with pytest.raises(ConfigError, match=r"batch_size=.*: give a number, or one per kind of device: cpu, and what"):
        MatrixExtractor(batch_size={"cuda": 8})
    sized = MatrixExtractor(batch_size={"cpu": 8, "cuda": 128})
    assert [sized.batch_on(device) for device in ("cpu", "cuda", "cuda:1", "mps")] == [8, 128, 128, 8]
    assert extractor_id(sized) != extractor_id(MatrixExtractor(batch_size={"cpu": 8, "cuda": 64}))


class JointExtractor(MatrixExtractor):
    """Layer `both` (1): the length of an image's prompt times its first pixel."""

    joint_layers = frozenset({"both"})

    @property
    def layers(self) -> dict[str, int | None]:
        return {**super().layers, "both": 1}

    def __call__(self, images: Any, prompts: Any, layers: Any) -> Any:
        import torch

        if layers != ["both"]:
            return super().__call__(images, prompts, layers)
        assert len(images) == len(prompts)
        return {"both": torch.tensor([[len(p) * float(i[0, 0, 0])] for i, p in zip(images, prompts, strict=True)])}


def test_layers_of_image_and_prompt_belong_to_both(tmp_path: Path) -> None:
    images = random_images(70)
    for words in (["a", "bb", "ccc", "dddd", "eeeee"], ["", "x", "yy", "zzz", "wwww"]):
        source = MemorySource(images, words * 14)
        features = FeaturePass(tmp_path, {"joint": JointExtractor("joint")}, "cpu")
        features.compute(source, ["joint/both", "joint/flat"])
        expected = [len(word) * float(image[0, 0, 0]) for image, word in zip(images, words * 14, strict=True)]
        assert collect(features, source, "joint/both")[:, 0].tolist() == expected
    with pytest.raises(DataError, match="do not all have a prompt"):
        FeaturePass(tmp_path, {"joint": JointExtractor("joint")}).compute(MemorySource(images), ["joint/both"])
