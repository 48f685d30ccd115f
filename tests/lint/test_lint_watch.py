"""What is measured while images are read for their features is what the lint would have measured by itself."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lint_faults import findings_of
from pictures import pictures, resized
from PIL import Image

from evalkit.data.arrays import ArrayImages
from evalkit.lint import Watch, lint, pixels
from evalkit.lint.watch import WatchedSource


def images() -> ArrayImages:
    """150 pictures: some copied, black, enlarged."""
    made = np.stack(
        [
            resized(p, 48, Image.Resampling.BICUBIC) if i % 9 == 0 else resized(p, 48)
            for i, p in enumerate(pictures(150, 40))
        ]
    )
    made[140] = made[3]
    made[77] = 0
    return ArrayImages("made", made)


def read_all(source: Any, blocks: list[range]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.read, blocks))


@pytest.mark.parametrize("size", [64, 33, 150])
def test_blocks_in_any_order_measure_the_same(tmp_path: Path, size: int) -> None:
    source = images()
    alone, _ = pixels.PixelScan(source, Counter()).finish()
    watch = Watch(tmp_path)
    watched = watch.of(source)
    blocks = [range(i, min(i + size, 150)) for i in range(0, 150, size)]
    read_all(watched, blocks[::-1] + blocks)
    measured, bad = watch.scan_of(source, Counter()).finish()
    assert measured == alone
    assert not bad


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = images()
    watch = Watch(tmp_path)
    watched = watch.of(source)
    read_all(watched, [range(0, 64), range(64, 128)])
    seen: list[range] = []
    read = ArrayImages.read
    monkeypatch.setattr(ArrayImages, "read", lambda self, indices: seen.append(indices) or read(self, indices))
    findings = lint({"cell": source}, None, watch=watch)
    assert seen == [range(128, 150)]  # the rest
    assert {finding.kind for finding in findings} >= {"duplicates", "black"}
    assert findings == findings_of(source, tmp_path / "another")
    assert watch.of(source) is source  # known from now on: nothing is measured


def test_of_a_large_set_the_blocks_lie_within_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "IMAGES", 64)
    watch, source = Watch(tmp_path), images()
    read_all(watch.of(source), [range(0, 64), range(64, 128), range(128, 150)])
    monkeypatch.setattr(ArrayImages, "read", lambda self, indices: pytest.fail("an image is decoded again"))
    measured, _ = watch.scan_of(source, Counter()).finish()
    assert measured.looked == 64


def test_two_cells_of_the_same_images_are_measured_once(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    one, other = images(), images()
    first, second = watch.of(one), watch.of(other)
    assert isinstance(first, WatchedSource)
    assert watch.of(one) is first
    assert second is other  # itself: a cell that equals the baseline is not the baseline
    assert (len(first), first.name, first.location(3)) == (150, "made", "made[3]")


def test_what_was_read_whole_is_put_away(tmp_path: Path) -> None:
    """Thumbnails of all cells at once would fill the memory; what is found is the same."""
    source = images()
    expected = lint({"cell": source}, None, watch=Watch(tmp_path / "alone"))
    watch = Watch(tmp_path / "watched")
    watched = watch.of(source)
    watched.read(range(64))
    watch.settle(source)
    assert watch.watched  # not read whole
    watched.read(range(64, 150))
    watch.settle(source)
    assert not watch.watched
    watched.read(range(64))
    assert watched.scan is None  # whoever holds the source holds no thumbnails
    assert watch.of(source) is source
    assert lint({"cell": source}, None, watch=watch) == expected
