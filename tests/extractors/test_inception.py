"""The FID Inception network: torch-fidelity's features on the same weights, and how a weights file can be wrong."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import ConfigError
from evalkit.extractors import inception
from evalkit.extractors.inception import PUBLISHED, Inception
from evalkit.utils import weights as weights_files
from evalkit.utils.weights import fetch, torch_cache

LAYERS = ["pool3", "logits_unbiased", "logits"]


def smooth_images(n: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]


@pytest.fixture(scope="module")
def extractor(inception_weights: Path) -> Inception:
    found = Inception(weights=str(inception_weights))
    found.load("cpu")
    return found


def test_features_equal_torch_fidelity(extractor: Inception, inception_weights: Path) -> None:
    """Batch norm folded, TF1 resize as matrices, mixed sizes in one batch: equal to float32 rounding."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(inception_weights)
    )
    small, odd, large = smooth_images(2, 32, 32), smooth_images(1, 50, 41), smooth_images(1, 320, 400)
    mine = extractor([small[0], odd[0], small[1], large[0]], [], LAYERS)
    rows = {(0, 2): small, (1,): odd, (3,): large}
    for positions, images in rows.items():
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        for layer, expected in zip(LAYERS, theirs(x), strict=True):
            error = (mine[layer][list(positions)] - expected).abs().max() / expected.abs().max()
            # the seeded logits leave out the direction that all features share, so that rounding weighs more in them
            assert error < (3e-6 if layer == "pool3" else 2e-5), f"{layer} of {images[0].shape}: {float(error):.1e}"


def test_the_spatial_layer_of_sfid(extractor: Inception, inception_weights: Path) -> None:
    """mixed_6/conv:0 of the TF graph: torch-fidelity's Mixed_6d.branch1x1, 7 channels, flattened as TF does (NHWC)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(inception_weights))
    caught: list[torch.Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, x, y: caught.append(y))
    images = smooth_images(2, 50, 41)
    (pool3,) = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    expected = caught[0].permute(0, 2, 3, 1)[..., :7].reshape(2, -1)  # evaluator.py: spatial[..., :7], then reshape
    assert expected.shape == (2, 2023)
    mine = extractor(images, [], ["mixed6_conv7", "pool3"])
    assert (mine["mixed6_conv7"] - expected).abs().max() / expected.abs().max() < 1e-5
    assert (mine["pool3"] - pool3).abs().max() / pool3.abs().max() < 3e-6


def test_no_further_than_asked_for(extractor: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    """sFID alone needs no layer above its own; asked for together, all layers have the same bits."""
    images = smooth_images(2, 32, 32)
    whole = extractor(images, [], [*LAYERS, "mixed6_conv7"])
    assert torch.equal(extractor(images, [], LAYERS)["pool3"], whole["pool3"])
    assert extractor._net is not None
    calls: list[str] = []
    for name in ("Mixed_6d", "Mixed_7c"):
        extractor._net.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    alone = extractor(images, [], ["mixed6_conv7"])
    assert calls == []
    assert torch.equal(alone["mixed6_conv7"], whole["mixed6_conv7"])
    extractor(images, [], ["mixed6_conv7", "pool3"])
    assert calls == ["Mixed_6d", "Mixed_7c"]  # one pass


@pytest.mark.parametrize("name", ["bfloat16", "bf16"])
def test_bfloat16_is_near_and_says_so(extractor: Inception, inception_weights: Path, name: str) -> None:
    other = Inception(weights=str(inception_weights), precision=name)
    assert other.identity() == extractor.identity() | {"dtype": "bfloat16"}
    assert other.label() == f"inception:bf16:{extractor.label().rpartition(':')[2]}"
    other.load("cpu")
    images = smooth_images(2, 64, 64)
    exact, near = extractor(images, [], LAYERS), other(images, [], LAYERS)
    assert near["pool3"].dtype == torch.float32
    error = (near["pool3"] - exact["pool3"]).norm() / exact["pool3"].norm()
    assert 1e-5 < error < 3e-2


@pytest.mark.parametrize(
    ("resize", "tag"), [("torch", "pytorch-fid"), ("clean", "clean"), ("antialias", "torchmetrics")]
)
def test_presets_are_told_apart(
    inception_weights: Path, monkeypatch: pytest.MonkeyPatch, resize: str, tag: str
) -> None:
    default, preset = (Inception(weights=str(inception_weights), resize=how) for how in ("tf1", resize))
    assert preset.identity()["resize"] != default.identity()["resize"]
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert preset.label() == f"inception:{tag}:{digest[:8]}"
    monkeypatch.setattr(inception, "PUBLISHED", replace(PUBLISHED, sha256=digest[:8]))  # as if these were published
    default, preset = (Inception(weights=str(inception_weights), resize=how) for how in ("tf1", resize))
    assert preset.label() == f"inception:{tag}"
    assert not preset.canonical()
    assert default.canonical()
    assert not Inception(weights=str(inception_weights), precision="bf16").canonical()


def test_unknown_options() -> None:
    with pytest.raises(ConfigError, match=r"extractor\.inception\.resize=cleen: Did you mean 'clean'"):
        Inception(resize="cleen")
    with pytest.raises(ConfigError, match=r"extractor\.inception\.precision=float61: Did you mean '\w*float\d+'"):
        Inception(precision="float61")


def test_a_batch_of_one_gives_the_same_to_rounding(extractor: Inception) -> None:
    images = smooth_images(2, 32, 32, seed=3)
    both = extractor(images, [], ["pool3"])["pool3"]
    alone = extractor(images[1:], [], ["pool3"])["pool3"]
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4 * float(both.abs().max()))


def test_the_published_file_is_torch_fidelitys() -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert PUBLISHED.url == URL_INCEPTION_V3
    assert PUBLISHED.url.endswith(PUBLISHED.file)
    assert all(PUBLISHED.sha256 in name for name in (PUBLISHED.file, *PUBLISHED.other_names))
    assert torch_cache() == Path(torch.hub.get_dir()) / "checkpoints"


def test_safetensors_holds_the_same(extractor: Inception, inception_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(torch.load(inception_weights, weights_only=True), str(tmp_path / "w.safetensors"))
    other = Inception(weights=str(tmp_path / "w.safetensors"))
    other.load("cpu")
    images = smooth_images(1, 32, 32)
    assert torch.equal(other(images, [], ["pool3"])["pool3"], extractor(images, [], ["pool3"])["pool3"])


def test_identity_and_label(inception_weights: Path) -> None:
    extractor = Inception(weights=str(inception_weights))
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert extractor.identity()["weights"] == digest
    assert extractor.label() == f"inception:{digest[:8]}"
    assert not extractor.canonical()
    assert extractor.layers == {"pool3": 2048, "logits_unbiased": 1008, "logits": 1008, "mixed6_conv7": 2023}


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*args: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(weights_files, "fetch", refuse)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("download", "fetch", "reason"),
    [
        (True, True, "no network in tests"),
        (True, False, "a dry run fetches nothing"),
        (False, True, "download=false"),
        (False, False, "download=false"),  # what a run would stop for
    ],
)
def test_missing_weights_say_where_to_put_them(torch_home: Path, download: bool, fetch: bool, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Inception(download=download).check(fetch=fetch)
    message = str(caught.value)
    assert "\n" not in message
    for part in (reason, PUBLISHED.url, str(torch_home / PUBLISHED.file), "extractor.inception.weights=FILE"):
        assert part in message


def test_the_cache_is_found_under_both_names(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_home.mkdir(parents=True)
    for name in (PUBLISHED.file, *PUBLISHED.other_names):
        (torch_home / name).write_bytes(b"the weights")
        digest = hashlib.sha256(b"the weights").hexdigest()
        with pytest.raises(ConfigError, match=f"has sha256 {digest[:8]}..., but 6726825d is asked for"):
            Inception().check()
        monkeypatch.setattr(inception, "PUBLISHED", replace(PUBLISHED, sha256=digest[:8]))
        extractor = Inception()
        extractor.check()
        assert extractor.label() == "inception"
        assert extractor.canonical()
        monkeypatch.undo()
        monkeypatch.setenv("TORCH_HOME", str(torch_home.parents[1]))
        (torch_home / name).unlink()


def test_a_given_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pth \(extractor\.inception\.weights\)"):
        Inception(weights=str(tmp_path / "gone.pth")).check()


def test_a_wrong_sha256_names_both(inception_weights: Path) -> None:
    digest = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    Inception(weights=str(inception_weights), sha256=digest[:12]).check()
    with pytest.raises(ConfigError) as caught:
        Inception(weights=str(inception_weights), sha256="6726825d").check()
    assert digest[:8] in str(caught.value)
    assert "6726825d" in str(caught.value)
    assert "\n" not in str(caught.value)


class Payload:
    """Unpickling one of these would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a pickle was run",)


@pytest.mark.parametrize("kind", ["text", "pickle", "other", "missing tensor", "truncated"])
def test_a_file_that_is_not_the_weights(
    tmp_path: Path, inception_weights: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    if kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        torch.save({"fc.weight": Payload()}, path)
    elif kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "missing tensor":
        state = torch.load(inception_weights, weights_only=True, mmap=True)
        del state["fc.bias"]
        torch.save(state, path)
    else:
        path.write_bytes(inception_weights.read_bytes()[:100_000])
    with pytest.raises(ConfigError) as caught:
        Inception(weights=str(path)).load("cpu")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "a pickle was run" not in capsys.readouterr().out


def test_fetch_checks_and_is_atomic(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.write_bytes(b"the weights")
    digest = hashlib.sha256(b"the weights").hexdigest()
    fetch(served.as_uri(), tmp_path / "new" / "file", digest[:8])
    assert (tmp_path / "new" / "file").read_bytes() == b"the weights"
    with pytest.raises(OSError, match="not 00000000"):
        fetch(served.as_uri(), tmp_path / "bad" / "file", "00000000")
    assert list((tmp_path / "bad").iterdir()) == []
    with pytest.raises(OSError):
        fetch((tmp_path / "nothing").as_uri(), tmp_path / "bad" / "file", digest[:8])
