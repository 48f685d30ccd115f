"""Features do not depend on the number of threads; batches of a reentrant extractor are under way at once."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images
from torch import Tensor

from evalkit.errors import UnsuitedError
from evalkit.extractors.base import exact_float32
from evalkit.features.feature_pass import FeaturePass
from evalkit.numerics.precision import float32_arithmetic

SIZE = 112  # pixels: sums of so many values are shared among threads


class Sums(MatrixExtractor):
    """A sum that rounds as the number of threads has it, and who computed it."""

    reentrant = True

    def __init__(self, meet: int = 1, fail: int = -1) -> None:
        super().__init__("sums", batch_size=2)
        self.names: set[str] = set()
        self.barrier, self.fail = threading.Barrier(meet), fail

    def __call__(self, images: Any, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        self.names.add(threading.current_thread().name)
        self.barrier.wait(timeout=20)
        if int(images[0][0, 0, 0]) == self.fail:
            raise ValueError("this batch")
        with exact_float32():
            sums = [(torch.from_numpy(image).float() / 255).pow(1.7).sum() for image in images]
        return {layer: torch.stack(sums)[:, None].expand(-1, 8).contiguous() for layer in layers}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def computed(root: Path, extractor: Sums, threads: int) -> Tensor:
    torch.set_num_threads(threads)
    source = MemorySource(random_images(12, size=SIZE))
    run = FeaturePass(root, {"sums": extractor}, "cpu")
    run.compute(source, ["sums/flat"])
    assert torch.get_num_threads() == threads
    stored = torch.cat([batch.features["sums/flat"] for batch in run.batches(source, ["sums/flat"])])
    pairs = run.extract(source, source.images, ["sums/flat"])["sums/flat"]
    assert torch.equal(stored, pairs)
    return stored


def test_bits_of_one_thread_and_of_several(tmp_path: Path) -> None:
    images = random_images(12, size=SIZE)
    torch.set_num_threads(3)
    plain = Sums()(images, [], ["flat"])["flat"]
    one = computed(tmp_path / "1", Sums(), 1)
    alone = Sums()
    alone.reentrant = False  # type: ignore[misc]
    assert torch.equal(one, computed(tmp_path / "2", Sums(meet=2), 2))  # which waits for two calls at once
    assert torch.equal(one, computed(tmp_path / "3", alone, 3))
    assert alone.names == {threading.current_thread().name}
    assert not torch.equal(one, plain)  # or this test shows nothing


def test_a_batch_that_fails_ends_the_pass_and_leaves_the_settings(tmp_path: Path) -> None:
    source = MemorySource(random_images(12, size=SIZE))
    with float32_arithmetic():
        before = torch.backends.cudnn.deterministic
        torch.set_num_threads(2)
        failing = Sums(fail=int(source.images[4][0, 0, 0]))
        with pytest.raises(UnsuitedError, match="this batch"):
            FeaturePass(tmp_path, {"sums": failing}, "cpu").compute(source, ["sums/flat"])
        assert torch.backends.cudnn.deterministic == before
    assert not list(tmp_path.rglob("*.safetensors"))
