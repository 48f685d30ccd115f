"""Published statistics: others' formats, ours, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.data.moments import Moments, moments_for, read_moments, write_moments
from evalkit.errors import ConfigError, DataError, EvalkitError

IDENTITY = {"network": "inception", "weights": "6726825d", "resize": "tf1", "sizes": [299, 299]}


def some_moments(d: int = 6, n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x.mean(0), np.cov(x, rowvar=False)


def written(path: Path, **changes: Any) -> Path:
    mean, cov = some_moments()
    options: dict[str, Any] = {"n": 40, "features": "inception/pool3", "extractor": IDENTITY}
    write_moments(path, mean, cov, **options | changes)
    return path


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 8), n=st.integers(2, 50), seed=st.integers(0, 9))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, d: int, n: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((n, d))
    mean, cov = x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))
    path = tmp_path_factory.mktemp("moments") / "m.npz"
    write_moments(path, mean, cov, n=n, features="inception/pool3", extractor=IDENTITY)
    found = read_moments(path)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.cov, cov)
    assert (found.n, found.features, found.extractor) == (n, "inception/pool3", IDENTITY)
    assert found.name == str(path)


def test_pytorch_fid_reads_ours(tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed")
    path = written(tmp_path / "ours.npz")
    mean, cov = fid_score.compute_statistics_of_path(str(path), None, 1, 2048, "cpu")
    np.testing.assert_array_equal(mean, some_moments()[0])
    np.testing.assert_array_equal(cov, some_moments()[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_files_of_pytorch_fid_clean_fid_and_edm(tmp_path: Path, dtype: Any) -> None:
    mean, cov = some_moments()
    np.savez_compressed(tmp_path / "s.npz", mu=mean.astype(dtype), sigma=cov.astype(dtype))
    found = read_moments(tmp_path / "s.npz")
    assert found.mean.dtype == found.cov.dtype == np.float64
    np.testing.assert_allclose(found.cov, cov, rtol=1e-6)
    assert (found.n, found.features, found.extractor, found.spatial) == (None, None, None, None)


def adm_file(path: Path) -> Path:
    (mu, sigma), (mu_s, sigma_s) = some_moments(6), some_moments(4, seed=1)
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(path, arr_0=images, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    return path


def test_adm_has_a_pair_a_layer(tmp_path: Path) -> None:
    """As VIRTUAL_imagenet256_labeled.npz; the images' number is not that of the statistics."""
    found = read_moments(adm_file(tmp_path / "adm.npz"))
    assert found.n is None
    pool3 = moments_for(found, "inception/pool3", IDENTITY, 6)
    spatial = moments_for(found, "inception/mixed6_conv7", IDENTITY, 4)
    assert len(pool3.mean) == 6
    np.testing.assert_array_equal(spatial.mean, some_moments(4, seed=1)[0])
    assert spatial.digest != pool3.digest
    with pytest.raises(ConfigError, match="have 6 dimensions, but digits/features has 64"):
        moments_for(found, "digits/features", IDENTITY, 64)


def test_content_decides_the_digest(tmp_path: Path) -> None:
    one = read_moments(written(tmp_path / "a.npz"))
    assert read_moments(written(tmp_path / "b.npz")).digest == one.digest
    assert read_moments(written(tmp_path / "c.npz", n=41)).digest != one.digest
    assert read_moments(written(tmp_path / "d.npz", features="inception/logits")).digest != one.digest
    mean, cov = some_moments()
    np.savez(tmp_path / "e.npz", mu=mean, sigma=cov)
    np.savez(tmp_path / "f.npz", mu=mean + 1e-9, sigma=cov)
    assert read_moments(tmp_path / "e.npz").digest != read_moments(tmp_path / "f.npz").digest


def test_another_extractor_is_refused(tmp_path: Path) -> None:
    found = read_moments(written(tmp_path / "m.npz"))
    same = dict(IDENTITY, sizes=(299, 299))  # as JSON, a tuple is a list
    assert moments_for(found, "inception/pool3", same, 6) is found
    other = IDENTITY | {"resize": "pil-bicubic"}
    with pytest.raises(ConfigError) as caught:
        moments_for(found, "inception_clean/pool3", other, 6)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("m.npz", "inception_clean/pool3", 'resize was "tf1"', 'is "pil-bicubic"', "reference=folder"):
        assert part in message
    with pytest.raises(ConfigError, match="dtype was null"):
        moments_for(found, "inception/pool3", IDENTITY | {"dtype": "bfloat16"}, 6)
    with pytest.raises(ConfigError, match="are of inception/pool3, but inception/logits is asked for"):
        moments_for(found, "inception/logits", IDENTITY, 6)
    with pytest.raises(ConfigError, match="6 dimensions"):
        moments_for(found, "inception/pool3", IDENTITY, 2048)
    assert moments_for(found, "inception/pool3", IDENTITY, None) is found  # a width that is not known yet


def broken(**arrays: Any) -> dict[str, Any]:
    mean, cov = some_moments()
    return {"mu": mean, "sigma": cov} | arrays


ASYMMETRIC = some_moments()[1] + np.triu(np.ones((6, 6)), 1)
WRONG = {
    "no statistics": ({"arr_0": np.zeros((2, 3))}, "'mu' and 'sigma' are wanted, it has arr_0"),
    "no sigma": ({"mu": np.zeros(6)}, "'mu' and 'sigma' are wanted, it has mu"),
    "not square": (broken(sigma=np.zeros((6, 5))), r"\(6,\) and \(6, 5\)"),
    "dimensions": (broken(mu=np.zeros(5)), r"\(5,\) and \(6, 6\)"),
    "mean of two axes": (broken(mu=np.zeros((1, 6))), r"\(1, 6\)"),
    "not finite": (broken(mu=np.full(6, np.nan)), "not finite"),
    "not symmetric": (broken(sigma=ASYMMETRIC), "not symmetric"),
    "negative variance": (broken(sigma=-np.eye(6)), "negative variance"),
    "integers": (broken(mu=np.zeros(6, int)), "must be floats"),
    "n": (broken(n=np.array(1)), "'n' must be the number of images"),
    "n of floats": (broken(n=np.array(4.5)), "'n' must be the number of images"),
    "protocol": (broken(protocol=np.array("{")), "'protocol' cannot be read"),
    "newer protocol": (broken(protocol=np.array('{"schema": 2}')), "schema 2"),
    "spatial": (broken(mu_s=np.zeros(4), sigma_s=np.zeros((4, 3))), "'mu_s' must be"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_broken_statistics(tmp_path: Path, kind: str) -> None:
    arrays, message = WRONG[kind]
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        read_moments(tmp_path / "s.npz")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "s.npz") in str(caught.value)


class Payload:
    """What a malicious file would hold."""

    def __reduce__(self) -> Any:
        return print, ("a pickle was run",)


@pytest.mark.parametrize("kind", ["object array", "npy", "text", "truncated", "pkl", "renamed pickle", "missing"])
def test_files_that_are_no_statistics(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    path = tmp_path / ("edm2.pkl" if kind == "pkl" else "s.npz")
    if kind == "object array":
        np.savez(path, mu=np.array([Payload()], dtype=object), sigma=np.eye(1))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(written(tmp_path / "whole.npz").read_bytes()[:300])
    elif kind in ("pkl", "renamed pickle"):
        path.write_bytes(pickle.dumps({"fid": {"mu": Payload()}}))
    with pytest.raises(EvalkitError) as caught:
        read_moments(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "a pickle was run" not in capsys.readouterr().out
    if kind == "pkl":
        assert "is a pickle" in str(caught.value)


def test_writing_refuses_what_reading_would(tmp_path: Path) -> None:
    mean, cov = some_moments()
    options: dict[str, Any] = {"n": 40, "features": "inception/pool3", "extractor": IDENTITY}
    with pytest.raises(ConfigError, match=r"written as \.npz"):
        write_moments(tmp_path / "m.pkl", mean, cov, **options)
    with pytest.raises(DataError, match="not finite"):
        write_moments(tmp_path / "m.npz", mean, cov * np.inf, **options)
    assert list(tmp_path.iterdir()) == []
    assert read_moments(written(tmp_path / "m.npz", n=None)).n is None


def test_the_distance_from_statistics_is_that_from_samples(tmp_path: Path) -> None:
    """Written, read and handed to the metric: what the samples themselves give."""
    import torch

    from evalkit.metric import Batch
    from evalkit.metrics.frechet import FrechetDistance

    rng = np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.standard_normal((n, 6)).astype(np.float32)) for n in (50, 70))
    metric = FrechetDistance()
    states = [
        metric.observe(Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {"inception/pool3": x}))
        for x in (a, b)
    ]
    x = b.double().numpy()
    write_moments(
        tmp_path / "m.npz", x.mean(0), np.cov(x, rowvar=False), n=70, features="inception/pool3", extractor=IDENTITY
    )
    found: Moments = read_moments(tmp_path / "m.npz")
    reference = metric.from_moments(mean=torch.from_numpy(found.mean), cov=torch.from_numpy(found.cov), n=found.n)
    direct = metric.score(generated=states[0], reference=states[1]).value
    assert metric.score(generated=states[0], reference=reference).value == pytest.approx(direct, rel=1e-9)
