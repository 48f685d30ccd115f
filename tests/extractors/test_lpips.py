"""LPIPS: the published distances, torchmetrics' on the same weights, and how weights and images can be wrong."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import PUBLISHED, RANDOM, Golden, peer
from lpips_weights import seeded_trunk, torchvision_features
from options import pair_score
from torch import Tensor

from evalkit.errors import ConfigError, DataError
from evalkit.extractors import lpips
from evalkit.extractors.lpips import SMALLEST, TRUNKS, Lpips
from evalkit.utils.files import sha256_file
from evalkit.utils.state_dict import read_state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    for net in TRUNKS:
        torch.save({**seeded_trunk(net), "classifier.1.bias": torch.zeros(3)}, folder / f"{net}.pth")
    return {net: folder / f"{net}.pth" for net in TRUNKS}


def loaded(net: str, weights: dict[str, Path], **more: int) -> Lpips:
    extractor = Lpips(f"lpips_{net}", net, weights=str(weights[net]), **more)
    extractor.check()
    extractor.load("cpu")
    return extractor


def images(n: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(n)]


def phi(extractor: Lpips, shown: list[np.ndarray]) -> Tensor:
    return extractor(shown, [], ["phi"])["phi"]


def test_the_published_distances(shared_data: Path, tmp_path: Path, golden: Golden) -> None:
    """The LPIPS authors' example images with the true AlexNet weights."""
    from PIL import Image

    folder = shared_data / "lpips"
    extractor = Lpips("lpips_alex", weights=str(folder / "lpips_alexnet_v0.1.safetensors"))
    extractor.check()
    extractor.load("cpu")
    ref, *shown = (np.asarray(Image.open(folder / f"ex_{name}.png").convert("RGB")) for name in ("ref", "p0", "p1"))
    found = pair_score("lpips", tmp_path, shown, [ref, ref], extractor).influence
    assert found is not None
    for name, value, expected in zip(("p0", "p1"), found, (0.7219, 0.1376), strict=True):
        source = f"the LPIPS authors' ex_ref and ex_{name}"
        golden("lpips", value, expected, abs=5e-5, source=source, weights=PUBLISHED)


@pytest.mark.parametrize(("net", "size"), [("alex", (64, 64)), ("alex", (47, 90)), ("vgg", (32, 40))])
def test_equals_torchmetrics(
    net: str, size: tuple[int, int], weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights in torchmetrics' network: equal to 1e-5 relative, the rounding of float32 in either."""
    import torchmetrics.functional.image.lpips as theirs

    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained: torchvision_features(net))
    model = theirs._LPIPS(net=net, pnet_rand=True)
    a, b = images(3, *size), images(3, *size, seed=1)
    b[2] = np.clip(a[2].astype(int) + 2, 0, 255).astype(np.uint8)  # a near pair
    x, y = (torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 127.5 - 1 for shown in (a, b))
    expected = model(x, y).flatten()
    extractor = loaded(net, weights)
    mine = (phi(extractor, a) - phi(extractor, b)).double().square().sum(1)
    assert mine.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert 0 < mine[2] < mine[0] / 5


def test_golden(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, golden: Golden) -> None:
    """From images to the mean over pairs: with a baseline's or the targets, and of two samples of each prompt."""
    import torchmetrics.functional.image.lpips as theirs

    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained: torchvision_features("alex"))
    a, b = images(3, 64, 64, seed=2), images(3, 64, 64, seed=3)
    x, y = (torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 127.5 - 1 for shown in (a, b))
    expected = float(theirs._LPIPS(net="alex", pnet_rand=True)(x, y).mean())
    extractor = loaded("alex", weights)
    mixed = [image for pair in zip(a, b, strict=True) for image in pair]
    found = {
        "lpips": pair_score("lpips", tmp_path, a, b, extractor),
        "lpips_target": pair_score("lpips_target", tmp_path, a, b, extractor),
        "lpips_diversity": pair_score("lpips_diversity", tmp_path, mixed, (), extractor),
    }
    for name, score in found.items():
        source = f"{peer('torchmetrics')}, pair by pair"
        golden(name, score.value, expected, rel=1e-5, source=source, weights=RANDOM)


def test_each_image_stands_alone(weights: dict[str, Path]) -> None:
    extractor = loaded("alex", weights)
    shown = images(3, 40, 40)
    alone = torch.cat([phi(extractor, [image]) for image in shown])
    torch.testing.assert_close(phi(extractor, shown), alone, rtol=1e-4, atol=1e-6)
    assert extractor.layers == {"phi": None}


def test_resize(weights: dict[str, Path]) -> None:
    """Images of any size come to one; those of that size already stay as they are, to the bit."""
    plain, resized = loaded("alex", weights), loaded("alex", weights, resize=40)
    same, other = images(1, 40, 40), images(1, 64, 33, seed=2)
    both = phi(resized, [*same, *other])
    torch.testing.assert_close(both[:1], phi(plain, same))
    x = torch.from_numpy(other[0]).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(x, (40, 40), mode="bilinear", antialias=True)
    assert plain._net is not None
    torch.testing.assert_close(both[1:], plain._net(small), rtol=1e-4, atol=1e-6)
    assert plain.identity() != resized.identity()
    with pytest.raises(DataError, match=r"images of one size, not .*resize=SIZE"):
        phi(plain, [*same, *other])


@pytest.mark.parametrize("net", sorted(SMALLEST))
def test_the_smallest_images(net: str, weights: dict[str, Path]) -> None:
    extractor = loaded(net, weights)
    least = SMALLEST[net]
    assert bool(phi(extractor, images(1, least, least)).isfinite().all())
    with pytest.raises(DataError, match=f"{net} needs images of {least} pixels or more, not {least - 1}x{least}"):
        phi(extractor, images(1, least - 1, least))
    assert extractor._net is not None
    with pytest.raises(RuntimeError):
        extractor._net(torch.zeros(1, 3, least - 1, least))  # so the bound is the true one


def test_labels_and_the_published_file(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of one's own carries its digest; the published file, in torch's hub cache, does not."""
    digest = sha256_file(weights["alex"])
    own = Lpips("lpips_alex", weights=str(weights["alex"]))
    assert own.label() == f"lpips_alex:{digest[:8]}"
    assert not own.canonical()
    assert Lpips("lpips_alex", weights=str(weights["alex"]), sha256=digest[:12]).label() == "lpips_alex"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(lpips.TRUNKS, "alex", replace(TRUNKS["alex"], sha256=digest))
    cached = tmp_path / "hub" / "checkpoints" / TRUNKS["alex"].file
    cached.parent.mkdir(parents=True)
    cached.write_bytes(weights["alex"].read_bytes())
    shipped = Lpips("lpips_alex")
    shipped.check()
    assert shipped.canonical()
    assert shipped.label() == "lpips_alex"
    assert not Lpips("lpips_alex", resize=64).canonical()
    cached.write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"has sha256 .* is asked for"):
        Lpips("lpips_alex").check()


def test_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, whole or not at all, with the right digest; else one line that says what to do."""
    data = b"weights"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "source.pth"
    source.write_bytes(data)
    known = replace(TRUNKS["vgg"], url=source.as_uri(), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(lpips.TRUNKS, "vgg", known)
    with pytest.raises(
        ConfigError, match=r"extractor\.v\.download=false\): put file:.*or give extractor\.v\.weights=FI"
    ):
        Lpips("v", "vgg", download=False).check()
    Lpips("v", "vgg").check()
    assert (tmp_path / "home" / "hub" / "checkpoints" / known.file).read_bytes() == data
    monkeypatch.setitem(lpips.TRUNKS, "vgg", replace(known, file="other.pth", sha256="00000000"))
    with pytest.raises(ConfigError, match="fetching them failed: what came has sha256"):
        Lpips("v", "vgg").check()
    assert not (tmp_path / "home" / "hub" / "checkpoints" / "other.pth").exists()


def test_wrong_files(weights: dict[str, Path], tmp_path: Path) -> None:
    good = str(weights["alex"])
    lacking = tmp_path / "lacking.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, lacking)
    negative = tmp_path / "negative.pth"
    heads = {f"lin{i}.model.1.weight": -torch.ones(1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}
    torch.save(heads, negative)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    cases = {
        r"'features.0.bias' is missing": Lpips("l", weights=str(lacking)),
        r"'features.0.weight' has shape": Lpips("l", "alex", weights=str(weights["vgg"])),
        r"holds negative weights": Lpips("l", weights=good, heads=str(negative)),
        r"'heads.0' is missing": Lpips("l", weights=good, heads=good),
        r"cannot be read as a state dict": Lpips("l", weights=str(broken)),
    }
    for message, extractor in cases.items():
        with pytest.raises(ConfigError, match=message):
            extractor.load("cpu")
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pth \(extractor\.l\.weights\)"):
        Lpips("l", weights=str(tmp_path / "gone.pth")).check()
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pth \(extractor\.l\.heads\)"):
        Lpips("l", weights=good, heads=str(tmp_path / "gone.pth")).check()
    with pytest.raises(ConfigError, match=r"net=squeeze: there is no such trunk\. Choices: alex, vgg"):
        Lpips("l", "squeeze")
    with pytest.raises(ConfigError, match="resize=0"):
        Lpips("l", resize=0)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        read_state(tmp_path / "trap.pth", "here")
    assert not (tmp_path / "sprung").exists()
