"""Scores, protocols, labels, the score cache; the whole path against torch-fidelity on the same files and weights."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource, random_images
from read_only import read_only
from whole_path import RANK, fast_eigvals

from evalkit.errors import ConfigError, DataError
from evalkit.metric import Batch, KeepsFeatures, Metric, Rows, SampleMetric, Score
from evalkit.metrics.clip_score import ClipScore
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.inception_score import InceptionScore
from evalkit.results.rows import Outcome, make_rows
from evalkit.results.table import ResultTable
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.scoring.cache import ScoreCache, dump
from evalkit.scoring.checks import check_counts
from evalkit.scoring.protocol import column_label
from evalkit.utils import code

ROOT = Path(__file__).resolve().parents[2]

METRICS: dict[str, tuple[dict[str, Any], Metric]] = {
    "fid": ({"_target_": "FrechetDistance", "features": "matrix/flat"}, FrechetDistance("matrix/flat")),
    "is": ({"_target_": "InceptionScore"}, InceptionScore("matrix/soft", splits=4)),
    "clip": ({"_target_": "ClipScore"}, ClipScore("matrix/flat", "matrix/text")),
}


def score(
    tmp_path: Path, sources: dict[str, MemorySource], reference: MemorySource | None, **changes: Any
) -> dict[tuple[str, str], Any]:
    arguments: dict[str, Any] = {
        "metrics": METRICS,
        "extractors": {"matrix": MatrixExtractor()},
        "store": Store(tmp_path),
    }
    return score_sources(sources, against=Against(reference), **{**arguments, **changes})


def prompted(n: int = 40, seed: int = 0) -> MemorySource:
    return MemorySource(random_images(n, seed), prompts=[f"text {i % 7}" for i in range(n)], name=f"set {seed}")


def test_scores_of_all_cells_and_metrics(tmp_path: Path) -> None:
    reference = MemorySource(random_images(50, 9))
    results = score(tmp_path, {"a": prompted(), "b": prompted(seed=1)}, reference)
    assert list(results) == [(cell, name) for cell in "ab" for name in METRICS]
    for scored in results.values():
        assert scored.score.value is not None
        assert scored.score.n == 40
        assert not scored.cached
        json.dumps(scored.protocol, allow_nan=False)
    assert results["a", "fid"].score.value != results["b", "fid"].score.value
    assert len(results["a", "clip"].score.influence) == 40
    assert set(reference.reads.values()) == {1}  # once a run, not once a cell


def test_a_second_run_finds_all_scores(tmp_path: Path) -> None:
    reference = MemorySource(random_images(50, 9))
    first = score(tmp_path, {"a": prompted()}, reference)
    extractor = MatrixExtractor()
    source = prompted()
    again = score(tmp_path, {"renamed": source}, reference, extractors={"matrix": extractor})
    assert not extractor.loaded
    assert not source.reads
    for name in METRICS:
        assert again["renamed", name].cached
        assert again["renamed", name].score == first["a", name].score
        assert again["renamed", name].protocol == first["a", name].protocol


def changed_option(changes: dict[str, Any]) -> None:
    option, metric = METRICS["fid"]
    changes["metrics"] = {"fid": ({**option, "extra": 1}, metric)}


@pytest.mark.parametrize("change", ["images", "prompts", "reference", "extractor", "option", "n"])
def test_what_a_score_depends_on_is_not_found_again(tmp_path: Path, change: str) -> None:
    only_fid = {"metrics": {"fid": METRICS["fid"]}}
    reference = MemorySource(random_images(50, 9))
    score(tmp_path, {"a": prompted()}, reference, **only_fid)
    assert score(tmp_path, {"a": prompted()}, reference, **only_fid)["a", "fid"].cached
    source, changes = prompted(), dict(only_fid)
    if change == "images":
        source = prompted(seed=2)
    elif change == "n":
        source = prompted(39)
    elif change == "prompts":
        source.prompts = ["another text"] * 40
    elif change == "reference":
        reference = MemorySource(random_images(49, 9))
    elif change == "extractor":
        changes["extractors"] = {"matrix": MatrixExtractor(version=2)}
    else:
        changed_option(changes)
    assert not score(tmp_path, {"a": source}, reference, **changes)["a", "fid"].cached


def test_other_prompts_give_another_clip_score_on_the_same_images(tmp_path: Path) -> None:
    one, other = prompted(), prompted()
    other.prompts = [f"other {i % 7}" for i in range(40)]
    reference = MemorySource(random_images(50, 9))
    results = score(tmp_path, {"one": one, "other": other}, reference)
    assert results["one", "clip"].score.value != results["other", "clip"].score.value
    assert results["one", "fid"].score.value == results["other", "fid"].score.value


def test_the_protocol_leaves_out_what_may_differ(tmp_path: Path) -> None:
    """Two cells, one protocol; another N or another reference is another protocol."""
    reference = MemorySource(random_images(50, 9))
    results = score(tmp_path, {"a": prompted(), "b": prompted(seed=1), "few": prompted(30)}, reference)
    assert results["a", "fid"].protocol_hash == results["b", "fid"].protocol_hash
    assert results["a", "fid"].protocol_hash != results["few", "fid"].protocol_hash
    elsewhere = score(tmp_path, {"a": prompted()}, MemorySource(random_images(50, 8)))
    assert elsewhere["a", "fid"].protocol_hash != results["a", "fid"].protocol_hash
    assert elsewhere["a", "is"].protocol_hash == results["a", "is"].protocol_hash
    assert results["a", "fid"].protocol["reference"]["n"] == 50
    assert results["a", "fid"].protocol["n"] == 40


def _one_bit(data: bytes, seed: int) -> bytes:
    at = int(np.random.default_rng(seed).integers(8 * len(data)))
    return data[: at // 8] + bytes([data[at // 8] ^ (1 << at % 8)]) + data[at // 8 + 1 :]


@pytest.mark.parametrize(
    "harm",
    [
        *(pytest.param(partial(_one_bit, seed=seed), id=f"bit{seed}") for seed in range(12)),
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"{}",
        lambda data: b"[" * 200_000,
        lambda data: re.sub(rb'"value": .', b'"value": 9', data),
        lambda data: re.sub(rb'"value": [-.e\d]+', b'"value": "text"', data),
        lambda data: re.sub(rb'"value": [-.e\d]+', b'"value": NaN', data),
        lambda data: re.sub(rb'"stderr": [-.e\d]+', b'"stderr": [1]', data),
        lambda data: re.sub(rb'"n": \d+', b'"n": 41', data),
        lambda data: data[:-8] + bytes(8),  # of the digest or of a value
    ],
)
def test_an_altered_cache_file_is_computed_anew(
    tmp_path: Path, harm: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was altered is named in a line, and the scores are those of before to the bit (F1)."""
    monkeypatch.setattr(logging.getLogger("evalkit"), "propagate", True)
    cells, reference = {"a": prompted()}, prompted(60, 1)
    first = score(tmp_path, cells, reference)
    files = sorted((tmp_path / "scores").iterdir())
    before = [file.read_bytes() for file in files]
    for file, data in zip(files, before, strict=True):
        file.write_bytes(harm(data))
    harmed = [file for file, data in zip(files, before, strict=True) if file.read_bytes() != data]
    again = score(tmp_path, cells, reference)
    assert harmed
    assert sum(not scored.cached for scored in again.values()) == len(harmed)
    assert {key: scored.score for key, scored in again.items()} == {key: scored.score for key, scored in first.items()}
    assert all(any(str(file) in line and "computed anew" in line for line in caplog.messages) for file in harmed)
    assert [file.read_bytes() for file in files] == before


def test_a_score_in_anothers_place_is_computed_anew(tmp_path: Path) -> None:
    cells, reference = {"a": prompted()}, prompted(60, 1)
    first = score(tmp_path, cells, reference)
    files = sorted((tmp_path / "scores").iterdir())
    texts = [file.read_bytes() for file in files]
    for file, text in zip(files, texts[1:] + texts[:1], strict=True):
        file.write_bytes(text)
    again = score(tmp_path, cells, reference)
    assert not any(scored.cached for scored in again.values())
    assert {key: scored.score for key, scored in again.items()} == {key: scored.score for key, scored in first.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "text"},
        {"value": True},
        {"value": None},
        {"n": 4.5},
        {"n": -1},
        {"stderr": -1.0},
        {"influence": [[1.0, 2.0]]},
        {"details": {"a": []}},
        {"nearest": [[1]]},
        {"note": 3},
        {"clusters": "x"},
        {"more": 1},
    ],
)
def test_a_forged_score_of_a_wrong_type_is_a_miss(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """The digest is no signature: who forges it gets a miss, not a traceback."""
    cache, key = ScoreCache(tmp_path), {"a": [1, {"b": None}]}
    whole = {**asdict(Score(1.5, 4, 0.5, (1.0, 2.0))), "nearest": [[0, 1, 0.5]]}
    cache.keep(key, Score(1.5, 4, 0.5, (1.0, 2.0), nearest=((0, 1, 0.5),)))
    assert cache.find(key) == Score(1.5, 4, 0.5, (1.0, 2.0), nearest=((0, 1, 0.5),))
    (file,) = tmp_path.iterdir()
    file.write_bytes(dump(key, {**whole, **wrong}))
    assert cache.find(key) is None


def test_an_edited_extractor_or_library_is_not_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its features nor its scores; the protocol, by which scores compare, stays (F3)."""
    cells, reference = {"a": prompted()}, prompted(60, 1)
    first = score(tmp_path, cells, reference)
    real = code._read

    def edited(file: Path, package: str) -> Any:
        digest, imports = real(file, package)
        return ("edited" if file.name == "fakes.py" else digest), imports

    def fresh() -> dict[tuple[str, str], Any]:
        code._digest.cache_clear()
        return score(tmp_path, cells, reference)

    folders = set((tmp_path / "features").glob("*/*"))
    monkeypatch.setattr(code, "_read", edited)
    again = fresh()
    assert not any(scored.cached for scored in again.values())
    assert len(set((tmp_path / "features").glob("*/*"))) == 2 * len(folders)
    assert {k: s.protocol_hash for k, s in again.items()} == {k: s.protocol_hash for k, s in first.items()}
    monkeypatch.undo()
    assert all(scored.cached for scored in fresh().values())
    monkeypatch.setattr(code, "_version", lambda top: "99.0" if top == "PIL" else "1")
    assert not any(scored.cached for scored in fresh().values())
    monkeypatch.undo()
    code._digest.cache_clear()


def test_a_read_only_store_takes_no_score_and_gives_those_it_has(tmp_path: Path) -> None:
    cells, reference = {"a": prompted()}, prompted(60, 1)
    first = score(tmp_path, cells, reference)

    with read_only(tmp_path):
        assert all(scored.cached for scored in score(tmp_path, cells, reference).values())
    for file in (tmp_path / "scores").iterdir():
        file.unlink()
    with read_only(tmp_path):
        again = score(tmp_path, cells, reference)  # the features are there
    assert list((tmp_path / "scores").iterdir()) == []
    assert {key: scored.score for key, scored in again.items()} == {key: scored.score for key, scored in first.items()}


@pytest.mark.parametrize(("prompts", "note"), [((), "the samples have no prompt"), (["a"] * 39 + [None], "1 of 40")])
def test_no_prompts_no_clip_score(tmp_path: Path, prompts: list[str | None], note: str) -> None:
    source = MemorySource(random_images(40), prompts=prompts)
    results = score(tmp_path, {"a": source}, MemorySource(random_images(50, 9)))
    assert results["a", "clip"].score.value is None
    assert note in results["a", "clip"].score.note
    assert results["a", "fid"].score.value is not None


def test_truncated_prompts_are_told_the_second_time_as_well(tmp_path: Path) -> None:
    source = MemorySource(random_images(40), prompts=["short", "long " * 20, "longer " * 20, "short"] * 10)
    for cached in (False, True):
        results = score(tmp_path, {"a": source}, MemorySource(random_images(50, 9)))
        assert results["a", "clip"].cached is cached
        assert results["a", "clip"].score.value is not None
        assert results["a", "clip"].score.note.startswith("2 different prompts are longer than")
        assert "longer" not in results["a", "fid"].score.note


class NotANumber(SampleMetric):
    title = "nothing"
    better = "higher"
    needs = ("matrix/flat",)

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {})

    def score(self, *, generated: Rows) -> Score:
        return Score(float("nan"), len(generated))


class Brightness(SampleMetric):
    """A metric of pixels: no features."""

    title = "brightness"
    better = "higher"

    def observe(self, batch: Batch) -> Rows:
        assert batch.images is not None
        return Rows(batch.index, {"mean": batch.images.double().mean((1, 2, 3))})

    def score(self, *, generated: Rows) -> Score:
        return Score(float(generated["mean"].mean()), len(generated))


def test_not_a_number_is_no_value_and_not_cached(tmp_path: Path) -> None:
    for _ in range(2):
        scored = score(tmp_path, {"a": prompted()}, None, metrics={"nan": ({}, NotANumber())})["a", "nan"]
        assert scored.score.value is None
        assert scored.score.note == "the computation gave nan"
        assert scored.score.broken
        assert not scored.cached
    cell = SimpleNamespace(name="a", model="m", sampler=None, prompts=None, settings={}, seed=0)
    outcome = Outcome([cell], {"nan": NotANumber()}, {"a": prompted()}, {("a", "nan"): scored})
    table = ResultTable({}, tuple(make_rows(outcome)))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(table.to_json()))
    assert [row.broken for row in ResultTable.load(path).rows if row.metric == "nan"] == [True]


def test_a_metric_of_pixels(tmp_path: Path) -> None:
    source = prompted()
    scored = score(tmp_path, {"a": source}, None, metrics={"bright": ({}, Brightness())}, extractors={})["a", "bright"]
    assert scored.score.value == pytest.approx(np.mean(source.images), rel=1e-9)
    assert scored.label == "brightness"


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'is' needs at least 2 samples, but x has 1: raise num_samples"):
        check_counts({"is": InceptionScore()}, {"x": 1}, {})
    with pytest.raises(ConfigError, match="at least 2 reference images, but there are 1"):
        check_counts({"fid": FrechetDistance()}, {"x": 9}, {"reference": MemorySource(random_images(1))})


def test_a_missing_reference_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric 'fid' compares with reference images, but there are none: give"):
        check_counts({"fid": FrechetDistance()}, {"a": 40}, {"reference": None})


def test_unknown_extractor_and_layer(tmp_path: Path) -> None:
    for address, message in (("matrx/flat", "no extractor 'matrx'. Did you mean"), ("matrix/x", "no layer 'x'")):
        with pytest.raises(ConfigError, match=message):
            score(tmp_path, {"a": prompted()}, None, metrics={"is": ({}, InceptionScore(address))})


class Published(MatrixExtractor):
    def canonical(self) -> bool:
        return True


def test_labels() -> None:
    extractors = {"inception": Published("inception"), "digits": MatrixExtractor("digits")}
    assert column_label(FrechetDistance(), extractors) == "FID"
    assert column_label(FrechetDistance("digits/features"), extractors) == "FID [digits]"
    assert column_label(FrechetDistance("inception/logits"), extractors) == "FID [inception/logits]"
    custom = {"inception": MatrixExtractor("inception:1a2b3c4d")}
    assert column_label(InceptionScore(), custom) == "IS [inception:1a2b3c4d]"
    assert column_label(ClipScore("digits/image", "digits/text"), extractors) == "CLIP score [digits]"


class Kept(KeepsFeatures, SampleMetric[Rows]):
    """Shows the rows that it is given."""

    title = "kept"
    better = "higher"

    def __init__(self, *addresses: str) -> None:
        self.needs = addresses
        self.seen: Rows | None = None

    def score(self, *, generated: Rows) -> Score:
        self.seen = generated
        return Score(0.0, len(generated))


def test_metrics_that_keep_the_same_features_share_one_copy(tmp_path: Path) -> None:
    images = random_images(600)  # three chunks of features
    one, two, both = Kept("matrix/flat"), Kept("matrix/flat"), Kept("matrix/soft", "matrix/flat")
    metrics = {"one": ({}, one), "two": ({}, two), "both": ({}, both), "mean": ({}, FeatureSum())}
    results = score(tmp_path, {"a": MemorySource(images)}, None, metrics=metrics)
    assert one.seen is not None
    assert two.seen is not None
    assert both.seen is not None
    assert one.seen["matrix/flat"] is two.seen["matrix/flat"] is both.seen["matrix/flat"]
    assert list(both.seen.values) == ["matrix/soft", "matrix/flat"]
    extractor = MatrixExtractor()
    extractor.load("cpu")
    expected = extractor(images, [], ["flat", "soft"])
    torch.testing.assert_close(one.seen["matrix/flat"], expected["flat"])
    torch.testing.assert_close(both.seen["matrix/soft"], expected["soft"])
    assert torch.equal(one.seen.index, torch.arange(600))
    assert results["a", "mean"].score.value == pytest.approx(float(expected["flat"].double().sum()))


class FeatureSum(SampleMetric):
    """Rows of its own making; a plain `SampleMetric`, as plugins wrote before its state had a type."""

    title = "sum"
    better = "higher"
    needs = ("matrix/flat",)

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index[self.start :], {"sum": batch.features["matrix/flat"].double().sum(1)[self.start :]})

    def score(self, *, generated: Rows) -> Score:
        return Score(float(generated["sum"].sum()), len(generated))


def test_rows_that_are_not_the_samples_are_refused(tmp_path: Path) -> None:
    found = score(tmp_path, {"a": prompted()}, None, metrics={"sum": ({}, FeatureSum(start=1))})["a", "sum"].score
    assert found.broken
    assert found.note == "39 rows for a batch of 40: give one row per sample, in the batch's order"


class Failing(SampleMetric[Rows]):
    """Fails where it is told to."""

    title = "failing"
    better = "higher"

    def __init__(self, where: str, error: Exception, *needs: str) -> None:
        self.where, self.error, self.needs = where, error, needs

    def observe(self, batch: Batch) -> Rows:
        if self.where == "observe":
            raise self.error
        return Rows(batch.index, {"x": batch.index.double()})

    def score(self, *, generated: Rows) -> Score:
        raise self.error


class Blind(MatrixExtractor):
    """Another extractor, which fails on every image."""

    def __call__(self, images: Any, prompts: Any, layers: Any) -> Any:
        raise RuntimeError("kernel larger than\nthe input")


def test_a_metric_that_cannot_score_ends_nothing(tmp_path: Path) -> None:
    metrics = {
        **METRICS,
        "small": ({}, Failing("observe", ValueError("give images of 176 pixels"))),
        "singular": ({}, Failing("score", torch.linalg.LinAlgError("singular"))),
        "blind": ({}, FrechetDistance("blind/flat")),
        "blind too": ({}, Failing("score", ValueError("never asked"), "blind/flat")),
        "large": ({}, Failing("observe", MemoryError())),
    }
    extractors = {"matrix": MatrixExtractor(), "blind": Blind("blind", version=2)}
    reference = MemorySource(random_images(50, 9))
    found = score(tmp_path, {"a": prompted()}, reference, metrics=metrics, extractors=extractors)
    alone = score(tmp_path / "alone", {"a": prompted()}, reference)
    assert list(found) == [("a", name) for name in metrics]
    for name in METRICS:
        assert found["a", name].score == alone["a", name].score
    failed = "extractor 'blind' failed: kernel larger than the input"
    expected = {"small": "give images of 176 pixels", "singular": "LinAlgError: singular"}
    expected |= {"blind": failed, "blind too": failed}
    expected |= {"large": "it ran out of memory: give it smaller batches (batch_size), or fewer samples"}
    for name, note in expected.items():
        assert (found["a", name].score.value, found["a", name].score.broken) == (None, True)
        assert found["a", name].score.note == note


def test_an_image_that_cannot_be_read_still_ends_the_run(tmp_path: Path) -> None:
    def read(indices: range) -> Any:
        raise DataError("a.png: altered")

    source = prompted()
    source.read = read  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"a\.png: altered"):
        score(tmp_path, {"a": source}, MemorySource(random_images(50, 9)))


WRONG_PLUGIN = """
from evalkit.metric import Batch, ReferenceMetric, Rows, SampleMetric, Score, Sums


class Wrong(SampleMetric[Rows]):
    title = "wrong"
    better = "higher"

    def observe(self, batch: Batch) -> Sums:
        return Sums({})

    def score(self, *, generated: Sums) -> Score:
        return Score(None, 0)


class Other(ReferenceMetric[Sums]):
    title = "other"
    better = "lower"

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {})

    def score(self, *, generated: Sums, reference: Sums) -> Score:
        return Score(None, 0)


class Right(SampleMetric[Rows]):
    title = "right"
    better = "higher"

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {})

    def score(self, *, generated: Rows) -> Score:
        return Score(None, len(generated))
"""


def test_mypy_sees_a_state_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(WRONG_PLUGIN)
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", "--follow-imports=skip"]  # no torch
    command = [sys.executable, "-m", "mypy", *options, "evalkit/metric.py", str(tmp_path / "plugin.py")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    errors = [line.partition("plugin.py:")[2] for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.partition(":")[0] for line in errors] == ["9", "12", "20"], done.stdout + done.stderr
    assert all("incompatible with" in line for line in errors)


class PngFolder(MemorySource):
    """Images of a folder, in the order of the file names."""

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        super().__init__([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())], name=folder.name)


@pytest.mark.parametrize("n", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_fid_and_is_equal_torch_fidelity(
    tmp_path: Path, inception_weights: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """Two folders of PNGs of two sizes, and one weights file: equal to 1e-5 relative.

    Of few images the trace of torch-fidelity's matrix root is known without its 2048 eigenvalues, which take seconds.
    """
    import torch_fidelity
    from PIL import Image

    from evalkit.extractors.inception import Inception

    rng = np.random.default_rng(5)
    for name, size, spread in (("one", 32, 90), ("two", 40, 60)):
        (tmp_path / name).mkdir()
        for i in range(n):
            coarse = np.clip(rng.normal(128, spread, (6, 6, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(
                tmp_path / name / f"{i:03d}.png"
            )
    if n < RANK:
        monkeypatch.setattr(np.linalg, "eigvals", fast_eigvals)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "one"),
        input2=str(tmp_path / "two"),
        fid=True,
        isc=True,
        cuda=False,
        cache=False,
        verbose=False,
        isc_splits=5,
        batch_size=16,
        save_cpu_ram=True,  # no processes that load images
        feature_extractor_weights_path=str(inception_weights),
    )
    extractor = Inception(weights=str(inception_weights))
    results = score_sources(
        {"one": PngFolder(tmp_path / "one")},
        metrics={"fid": ({}, FrechetDistance()), "is": ({}, InceptionScore(splits=5))},
        extractors={"inception": extractor},
        against=Against(PngFolder(tmp_path / "two")),
        store=Store(tmp_path / "store"),
    )
    fid, inception_score = results["one", "fid"], results["one", "is"]
    assert fid.score.value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert inception_score.score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert inception_score.score.details["std"] == pytest.approx(theirs["inception_score_std"], rel=1e-4)
    assert inception_score.score.value is not None
    assert inception_score.score.value > 1.1  # the seeded weights are not degenerate
    assert fid.label == f"FID [inception:{extractor.identity()['weights'][:8]}]"


def test_a_cached_score_is_the_same_and_small(tmp_path: Path) -> None:
    """Per-sample values are float64, not text: every bit comes back, and at 8 bytes each."""
    each = tuple(float(x) for x in np.random.default_rng(0).standard_normal(5000))
    whole = Score(1.5, 5000, 0.1, each, {"a": 1e-17}, ((3, 4, 0.1),), "a note", clusters=7)
    cache, key = ScoreCache(tmp_path), {"metric": "fid", "source": "x"}
    assert not cache.has(key)
    cache.keep(key, whole)
    assert cache.has(key)
    assert cache.find(key) == whole
    assert ScoreCache(tmp_path).has(key)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 8 * 5000 + 1000
    for at in range(0, file.stat().st_size, 997):
        data = bytearray(whole_file := file.read_bytes())
        data[at] ^= 1
        file.write_bytes(bytes(data))
        assert cache.find(key) is None, at
        file.write_bytes(whole_file)
