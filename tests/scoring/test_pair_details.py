"""Statistics of pairs next to their mean, identical pairs, and the cap that no mean holds in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import MemorySource, PixelGap, random_images
from options import metric_of, option

from evalkit.config.build import accepted_keys, build
from evalkit.data.codec import encode_png
from evalkit.data.source import Headers
from evalkit.errors import ConfigError
from evalkit.metric import Score
from evalkit.metrics.psnr import Psnr
from evalkit.samples.store import Store
from evalkit.scoring import Against, pair_pass, score_sources
from evalkit.scoring.pair_details import pooled, with_statistics
from evalkit.utils.files import sha256_bytes

N = 12


@dataclass
class OnDisk(MemorySource):
    """Knows its files' digests."""

    def headers(self) -> Headers:
        return Headers(sha256s=[sha256_bytes(encode_png(image)) for image in self.images])


def near(images: Sequence[np.ndarray], equal: int) -> list[np.ndarray]:
    """Images of which so many are the same, and the others differ by up to 3 levels."""
    rng = np.random.default_rng(7)
    noise = rng.integers(-3, 4, (len(images), *images[0].shape))
    changed = [np.clip(image + each, 0, 255).astype(np.uint8) for image, each in zip(images, noise, strict=True)]
    return [*images[:equal], *changed[equal:]]


def scored(folder: Path, a: MemorySource, b: MemorySource, **changes: Any) -> dict[str, Score]:
    options = {"psnr": option("metric", "psnr", **changes), "ssim": option("metric", "ssim")}
    found = score_sources(
        {"a": a, "b": b},
        metrics={name: (each, build(each)) for name, each in options.items()},
        extractors={},
        against=Against(baseline=a),
        store=Store(folder),
        progress=lambda name, done, total: None,
    )
    return {name: found["b", name].score for name in options}


def test_identical_pairs_are_counted_and_their_cap_is_noted(tmp_path: Path) -> None:
    images = random_images(N, 0, 16)
    a, b = OnDisk(images, ["p"] * N), OnDisk(near(images, 3), ["p"] * N)
    score = scored(tmp_path, a, b, threshold=45.0)["psnr"]
    others = [value for value in score.influence or () if value < 100]
    assert len(others) == N - 3
    details = score.details
    assert (details["pairs"], details["identical"], details["max"]) == (N, 3, 100)
    assert details["mean_of_others"] == pytest.approx(np.mean(others))
    assert details["share_below(45)"] == np.mean(np.array(others) < 45) * (N - 3) / N
    note = f"3 of {N} pairs are identical and count as 100 dB; mean of the others {np.mean(others):.4g}"
    assert (score.note or "").endswith(note)
    assert score.value == pytest.approx((300 + sum(others)) / N)  # as before: what is cached serves


def test_all_identical_is_said_and_never_a_warning(tmp_path: Path) -> None:
    images = random_images(N, 0, 16)
    a, b = OnDisk(images, ["p"] * N), OnDisk(list(images), ["p"] * N)
    found = scored(tmp_path, a, b)
    assert (found["psnr"].note or "").endswith(f"all {N} pairs are identical and count as 100 dB")
    assert "identical" not in (found["ssim"].note or "")
    assert "unrelated" not in found["psnr"].details | found["ssim"].details
    assert found["ssim"].details["identical"] == N


def test_files_of_another_writer_are_identical_where_psnr_says_so(tmp_path: Path) -> None:
    images = random_images(N, 0, 16)
    a, b = MemorySource(images, ["p"] * N), MemorySource(near(images, 3), ["p"] * N)
    found = scored(tmp_path, a, b)
    assert [score.details["identical"] for score in found.values()] == [3, 3]


def test_scores_that_were_cached_get_them_too_and_a_threshold_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(N, 0, 16)
    a, b = OnDisk(images, ["p"] * N), OnDisk(near(images, 3), ["p"] * N)
    scored(tmp_path, a, b)
    monkeypatch.setattr(
        pair_pass.PairPass, "_compute", lambda *given, **more: {} if not given[2] else pytest.fail("anew")
    )
    for source in (a, b):
        source.reads.clear()
    assert scored(tmp_path, a, b, threshold=44.0)["psnr"].details["share_below(44)"] > 0
    assert not a.reads
    assert not b.reads
    files = list((tmp_path / "scores").iterdir())
    assert len(files) == 2  # one per metric: of the other threshold there is none; the baseline has no value


def test_pairs_within_a_set_have_them_from_the_store(tmp_path: Path) -> None:
    source = MemorySource(random_images(N), [f"p{i // 2}" for i in range(N)])
    found = score_sources(
        {"a": source},
        metrics={"gap": ({"threshold": 80}, PixelGap("prompt"))},
        extractors={},
        against=Against(),
        store=Store(tmp_path),
        progress=lambda name, done, total: None,
    )
    details = found["a", "gap"].score.details
    assert details["pairs"] == N / 2
    assert details["min"] < details["median"] < details["max"]
    assert 0 <= details["share_above(80)"] <= 1  # worse is higher
    assert "unrelated" not in details


def test_near_the_cap_is_not_called_identical() -> None:
    score = with_statistics(Psnr(), Score(60.0, 3), [100.0, 40.0, 100.0], [True, False, False])
    assert (
        score.note
        == "2 of 3 pairs lie at or beyond the cap (1 are identical) and count as 100 dB; mean of the others 40"
    )


def test_seeds_are_pooled_over_all_pairs() -> None:
    parts = [with_statistics(Psnr(), Score(1.0, 2), each, [False, False], 3.0) for each in ([1.0, 5.0], [2.0, 9.0])]
    parts[1].details["unrelated"] = 1.0  # type: ignore[index]
    parts[0].details["unrelated"] = 0.0  # type: ignore[index]
    whole = Score(4.25, 4, influence=(1.0, 5.0, 2.0, 9.0), details={**parts[0].details, "seeds": 2.0})
    details = pooled(whole, parts).details
    assert [details[name] for name in ("pairs", "min", "max", "median", "identical")] == [4, 1, 9, 3.5, 0]
    assert (details["share_below(3)"], details["unrelated"], details["seeds"]) == (0.5, 1, 2)


def test_the_option_of_every_metric_of_pairs(tmp_path: Path) -> None:
    assert "threshold" in accepted_keys("evalkit.metrics.ssim.MsSsimDiversity")
    assert "threshold" not in accepted_keys("evalkit.metrics.vendi.Vendi")
    assert metric_of("psnr").constants() == Psnr().constants()
    with pytest.raises(ConfigError, match=r"metric\.psnr\.threshold=much: a finite number is wanted"):
        build(option("metric", "psnr", threshold="much"), "metric.psnr")
