"""map.json: a mode that is left out is named, equal sets have none, and what is there is not made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import MatrixExtractor, MemorySource

from evalkit import digits
from evalkit.config.compose import compose, resolve
from evalkit.data.moments import Moments
from evalkit.errors import ConfigError, DataError
from evalkit.features.feature_pass import FeaturePass
from evalkit.metric import ReferenceMetric
from evalkit.numerics.modes import Components, k_means, nearest_centre
from evalkit.plan.plan import make_plan
from evalkit.results import feature_map
from evalkit.results.feature_map import FeatureMap, check_map, missing_modes, read_map, wilson, write_map

COLOURS = np.random.default_rng(5).integers(40, 216, (5, 12))
ADDRESS = "matrix/flat"
DIGITS = Path(digits.__file__).parent


class Frechet(ReferenceMetric[Any]):
    """Of `matrix/flat`; never computed here."""

    def __init__(self) -> None:
        self.needs = (ADDRESS,)

    def new_state(self) -> Any: ...
    def observe(self, *args: Any) -> Any: ...
    def score(self, *args: Any, **states: Any) -> Any: ...


@dataclass
class Labelled(MemorySource):
    labels: Any = ()

    @property
    def categories(self) -> Any:
        return list(self.labels) or [None] * len(self)


def pictures(n: int, seed: int, modes: Any = range(5), name: str = "cell", *, labelled: bool = False) -> Labelled:
    """Images [2,2,3] around one of five colours."""
    generator = np.random.default_rng(seed)
    ids = generator.choice(list(modes), n)
    images = np.clip(COLOURS[ids] + generator.normal(0, 4, (n, 12)), 0, 255).astype(np.uint8)
    labels = [f"colour {i}" for i in ids] if labelled else []
    return Labelled(list(images.reshape(n, 2, 2, 3)), name=name, labels=labels)


def mapped(root: Path, reference: Any, *cells: Any, method: str = "pca") -> FeatureMap | None:
    sources = {cell.name: cell for cell in cells}
    outcome: Any = SimpleNamespace(sources=sources, reference=reference, metrics={"fid": Frechet()})
    extractors = {"matrix": MatrixExtractor()}
    stored = FeaturePass(root / "features", extractors, device="cpu")
    for source in (reference, *cells):
        stored.compute(source, [ADDRESS])
    write_map(outcome, root / "features", extractors, method, root)
    return read_map(root / feature_map.NAME) if (root / feature_map.NAME).exists() else None


def test_a_collapsed_generator_is_told_by_the_class_that_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = pictures(400, 0, name="reference", labelled=True)
    found = mapped(tmp_path, reference, pictures(200, 1, name="whole"), pictures(200, 2, [0, 1, 2, 4], name="lacks"))
    assert found is not None
    assert found.modes.classes
    assert found.modes.names == [f"colour {i}" for i in range(5)]
    assert found.cells["whole"].missing == []
    assert found.cells["lacks"].missing == [3]
    ((cell, words),) = found.findings()
    assert cell == "lacks"
    assert words.startswith("modes that are (nearly) missing: colour 3 0.0% of 200 (the reference ")
    assert words in caplog.text
    assert [len(images) for images in found.modes.images] == [3] * 5
    assert sum(found.cells["lacks"].counts) == 200
    assert sum(found.modes.counts) == 200  # the other half of the reference made the classes' centres
    assert 0.3 < sum(found.explained) <= 1


def test_clusters_stand_in_for_classes(tmp_path: Path) -> None:
    reference = pictures(500, 0, name="reference")
    found = mapped(tmp_path, reference, pictures(300, 1, name="whole"), pictures(300, 2, [0, 1], name="collapsed"))
    assert found is not None
    assert not found.modes.classes
    assert len(found.modes.names) == 6
    assert found.cells["whole"].missing == []
    seen = {i for i, count in enumerate(found.cells["collapsed"].counts) if count}
    assert len(found.cells["collapsed"].missing) >= 3
    assert not seen & set(found.cells["collapsed"].missing)


def test_equal_sets_lack_nothing_over_20_seeds(tmp_path: Path) -> None:
    reference = pictures(400, 999, name="reference")
    cells = [pictures(60, seed, name=f"seed{seed}") for seed in range(20)]
    found = mapped(tmp_path, reference, *cells)
    assert found is not None
    assert len(found.cells) == 20
    assert found.findings() == []


def test_what_is_there_stays_and_what_is_gone_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reference, cell = pictures(200, 0, name="reference"), pictures(50, 1)
    path = tmp_path / feature_map.NAME
    assert mapped(tmp_path, reference, cell) is not None
    first, before = path.read_bytes(), path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("evalkit.features.store.Column.load", None)  # no features are read
        assert mapped(tmp_path, reference, cell) is not None
    assert path.stat().st_mtime_ns == before
    path.unlink()
    mapped(tmp_path, reference, cell)
    assert path.read_bytes() == first  # to the byte
    reference.labels = ["left", "right"] * 100  # the same images, by other classes
    named = mapped(tmp_path, reference, cell)
    assert named is not None
    assert named.modes.names == ["left", "right"]
    path.write_bytes(first.replace(b"matrix/flat", b"matrix/flop"))
    with pytest.raises(DataError):
        read_map(path)
    for file in (tmp_path / "features").rglob("*.safetensors"):
        file.unlink()
    outcome: Any = SimpleNamespace(sources={"cell": cell}, reference=reference, metrics={"fid": Frechet()})
    write_map(outcome, tmp_path / "features", {"matrix": MatrixExtractor()}, "pca", tmp_path)
    assert not path.exists()
    assert "the store has no features of reference" in caplog.text


def test_none_and_a_small_reference_leave_no_file(tmp_path: Path) -> None:
    assert mapped(tmp_path, pictures(200, 0, name="reference"), pictures(50, 1)) is not None
    assert mapped(tmp_path, pictures(200, 0, name="reference"), pictures(50, 1), method="none") is None
    assert mapped(tmp_path, pictures(5, 0, name="reference"), pictures(50, 1)) is None
    few = mapped(tmp_path, pictures(40, 0, name="reference"), pictures(50, 1))
    assert few is not None
    assert few.modes.names == []
    assert few.findings() == []


def test_umap_is_an_extra(tmp_path: Path) -> None:
    pytest.importorskip("umap")
    found = mapped(tmp_path, pictures(200, 0, name="reference"), pictures(50, 1), method="umap")
    assert found is not None
    assert found.method == "umap"
    assert found.explained == []
    assert np.isfinite([*found.cells["cell"].x, *found.cells["cell"].y]).all()


def test_the_setting_is_checked() -> None:
    assert [check_map(each) for each in ({}, {"method": "none"}, {"method": None})] == ["pca", "none", "none"]
    with pytest.raises(ConfigError, match="Did you mean 'pca'"):
        check_map({"method": "pcaa"})
    with pytest.raises(ConfigError, match=r"map\.methd: no such key"):
        check_map({"methd": "pca"})


def test_missing_is_below_a_fifth_and_surely() -> None:
    assert missing_modes([0, 100, 100], [100, 100, 100]) == [0]
    assert missing_modes([30, 100, 100], [100, 100, 100]) == []  # fewer, but there
    assert missing_modes([0, 5, 5], [2, 50, 50]) == []  # chance
    assert missing_modes([], []) == missing_modes([0, 0], [1, 2]) == []
    assert wilson(0, 100) == pytest.approx((0, 0.0370), abs=1e-4)
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.mark.slow
def test_a_digit_that_is_left_out_is_named_and_an_equal_set_lacks_nothing(tmp_path: Path) -> None:
    """Features of 5,000 digits: 20 times one half is the reference, 1,000 of the other the samples."""
    overrides = ["experiment=digits", "metric=[fid_digits]", "device=cpu", f"store={tmp_path}", "num_samples=10"]
    plan = make_plan(resolve(compose(overrides)))
    reference, address = plan.reference, "digits/features"
    assert reference is not None
    assert not isinstance(reference, Moments)
    stored = FeaturePass(tmp_path / "features", plan.extractors, device="cpu")
    stored.compute(reference, [address])
    features = np.concatenate([batch.features[address].numpy() for batch in stored.batches(reference, [address])])
    with np.load(DIGITS / "reference.npz") as file:
        labels = file["labels"]
    alarms, named = 0, 0
    for seed in range(20):
        one, other = np.split(np.random.default_rng(seed).permutation(5000), 2)
        components = Components.of(features[one[:1250]], feature_map.AXES)
        centres = k_means(components.project(features[one[:1250]]), feature_map.CLUSTERS)
        lacking = other[labels[other] != seed % 10]
        ids = [
            nearest_centre(components.project(features[rows]), centres)
            for rows in (one[1250:], other[:1000], lacking[:1000])
        ]
        held, equal, collapsed = (np.bincount(each, minlength=len(centres)).tolist() for each in ids)
        alarms += bool(missing_modes(equal, held))
        of_held = labels[one[1250:]]
        named += any((of_held[ids[0] == mode] == seed % 10).mean() > 0.5 for mode in missing_modes(collapsed, held))
    assert alarms == 0
    assert named >= 18  # a cluster may hold two digits that are alike
