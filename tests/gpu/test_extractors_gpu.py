"""Extractors on the device: the CPU's features to stated bounds, whatever the batch, in each precision, by any path."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource
from lpips_weights import seeded_trunk
from PIL import Image
from seeded_inception import write_weights

from evalkit.errors import ConfigError, UnsuitedError
from evalkit.extractors.base import NetworkExtractor, exact_float32
from evalkit.extractors.clip import Clip
from evalkit.extractors.digits import Digits
from evalkit.extractors.inception import Inception
from evalkit.extractors.lpips import Lpips
from evalkit.extractors.timm import Timm
from evalkit.extractors.vgg16 import Vgg16
from evalkit.features.feature_pass import FeaturePass
from evalkit.features.store import check

CHOSEN = os.environ.get("EVALKIT_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CHOSEN == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]

# How far features may be from the CPU's float32 ones, relative to their length. Of float32 by sums in another order;
# the others are protocols of their own, and bounded roughly.
BOUNDS = {"float32": 1e-5, "tf32": 1e-2, "bfloat16": 0.1, "float16": 1e-2}
Files = dict[str, str]


def pictures(count: int, size: tuple[int, int] = (96, 80), seed: int = 0) -> list[np.ndarray]:
    """Smooth pictures with a little noise."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
        images.append(np.clip(smooth + rng.integers(-6, 7, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8))
    return images


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Seeded random weights of each network."""
    timm = pytest.importorskip("timm")
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file
    from torchvision.models import vgg16

    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder / "inception.pth")
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "timm.pth")
    net = vgg16(init_weights=False)
    for value in net.state_dict().values():
        fan = value[0].numel() if value.ndim > 1 else 1e4
        value.copy_(torch.empty_like(value).uniform_(-1, 1) * (6 / fan) ** 0.5)
    torch.save(net.state_dict(), folder / "vgg16.pth")
    torch.save({**seeded_trunk("alex"), "classifier.1.bias": torch.zeros(3)}, folder / "alex.pth")
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    (folder / "clip").mkdir()
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    weights = open_clip.CLIP(**json.loads(json.dumps(config))).state_dict()
    save_file({n: v.contiguous() for n, v in weights.items()}, str(folder / "clip" / "open_clip_model.safetensors"))
    return {path.stem: str(path) for path in folder.iterdir()}


Make = Callable[..., NetworkExtractor]
MAKERS: dict[str, Callable[[Files], Make]] = {
    "inception": lambda files: lambda **o: Inception(weights=files["inception"], **o),
    "inception torch": lambda files: lambda **o: Inception(weights=files["inception"], resize="torch", **o),
    "inception clean": lambda files: lambda **o: Inception(weights=files["inception"], resize="clean", **o),
    "inception antialias": lambda files: lambda **o: Inception(weights=files["inception"], resize="antialias", **o),
    "clip": lambda files: lambda **o: Clip("tiny", f"local-dir:{files['clip']}", **o),
    "timm": lambda files: lambda **o: Timm("tiny", "vit_tiny_patch16_224", weights=files["timm"], **o),
    "vgg16": lambda files: lambda **o: Vgg16(weights=files["vgg16"], **o),
    "lpips": lambda files: lambda **o: Lpips("lpips_alex", weights=files["alex"], resize=64, **o),
    "digits": lambda files: lambda **o: Digits(**o),
}
LAYERS = {"inception": ["pool3", "mixed6_conv7"], "clip": ["image", "image_unit"]}


def joined(parts: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    """All layers of all batches, f64 [B,D] on the CPU; each layer scaled to unit mean length."""
    columns = [torch.cat([part[layer] for part in parts]).double().cpu() for layer in parts[0]]
    return torch.cat([column / column.norm(dim=1).mean() for column in columns], 1)


def features(extractor: NetworkExtractor, device: str, images: Sequence[Any], size: int = 256) -> torch.Tensor:
    extractor.load(device)
    layers = LAYERS.get(extractor.name) or (["image"] if isinstance(extractor, Clip) else list(extractor.layers))
    return joined([extractor(images[i : i + size], [], layers) for i in range(0, len(images), size)])


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("name", MAKERS)
def test_the_cpus_features(files: Files, name: str, device: str) -> None:
    """In each precision, of one kind of resize; of the other resizes in float32."""
    make = MAKERS[name](files)
    images = [*pictures(5), *pictures(3, (48, 64), seed=1)]  # of two sizes
    expected = features(make(), "cpu", images)
    precisions = [p for p in BOUNDS if device.startswith("cuda") or p not in ("tf32", "float16")]
    deviations: dict[str, float] = {}
    for precision in precisions if " " not in name else ["float32"]:
        extractor = make(precision=precision)
        found = features(extractor, device, images)
        assert torch.equal(found, features(extractor, device, images)), "the same batch twice: other bits"
        deviations[precision] = off(found, expected)
    print(f"\n{name}: " + ", ".join(f"{precision} {value:.1e}" for precision, value in deviations.items()))
    for precision, deviation in deviations.items():
        assert deviation <= BOUNDS[precision], f"{precision}: {deviation:.1e}"
    if len(deviations) > 1:
        assert deviations["bfloat16"] > 10 * deviations["float32"], "bfloat16 changed nothing"


@pytest.mark.parametrize("name", ["inception", "clip", "timm", "vgg16", "lpips", "digits"])
def test_no_feature_depends_on_its_batch(files: Files, name: str, device: str) -> None:
    """Beyond the kernels that libraries choose by the batch's size."""
    extractor, images = MAKERS[name](files)(), pictures(33)
    whole = features(extractor, device, images)
    far = {size: off(features(extractor, device, images, size), whole) for size in (1, 7, 32)}
    print(f"\n{name}: {far}")
    assert max(far.values()) < 5e-6


def test_precision_is_exact_whatever_the_process_asked_for(files: Files, device: str) -> None:
    """By torch's new settings and its old ones; afterwards they are as they were."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("torch before 2.9")
    extractor, images = MAKERS["inception"](files)(), pictures(4)
    expected = features(extractor, device, images)
    settings = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32"
        assert torch.equal(features(extractor, device, images), expected)
        assert [setting.fp32_precision for setting in settings] == ["tf32"] * 3
        if device.startswith("cuda"):
            x = torch.randn(512, 512, device=device)
            with exact_float32():
                exact = x @ x
            assert not torch.equal(x @ x, exact), "TF32 was not on outside"
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def test_the_pass_on_the_device(files: Files, tmp_path: Path, device: str) -> None:
    """Prepared ahead, copied by way of pinned memory: what calls on the plain images give, to the bit; in any parts."""
    count = 600 if device.startswith("cuda") else 280
    images = pictures(count)
    extractors: dict[str, NetworkExtractor] = {
        "inception": MAKERS["inception"](files)(batch_size={"cpu": 32, "cuda": 48}),
        "tiny": MAKERS["clip"](files)(),
    }
    addresses = ["inception/pool3", "tiny/image", "tiny/text"]
    source = MemorySource(images, prompts=["a red seven", "a blue one"] * (count // 2))
    run = FeaturePass(tmp_path / "whole", extractors, device)
    run.compute(source, addresses)
    for batch in run.batches(source, addresses):
        chunk = images[int(batch.index[0]) : int(batch.index[-1]) + 1]
        for name, layer in (("inception", "pool3"), ("tiny", "image")):
            size = extractors[name].batch_on(run.device)
            expected = [extractors[name](chunk[i : i + size], [], [layer])[layer] for i in range(0, len(chunk), size)]
            assert torch.equal(batch.features[f"{name}/{layer}"], torch.cat(expected).cpu())
    FeaturePass(tmp_path / "parts", extractors, device).compute(source, addresses, [source.chunks[1]])
    FeaturePass(tmp_path / "parts", extractors, device).compute(source, addresses)
    whole, again = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.safetensors")}
        for root in (tmp_path / "whole", tmp_path / "parts")
    )
    assert whole == again
    assert len(whole) == 2 * len(source.chunks) + 1
    kind = "cuda (" if device.startswith("cuda") else "cpu"
    assert all(check(name, data)[1]["device"].startswith(kind) for name, data in whole.items())


def test_not_finite_is_refused_on_the_device(tmp_path: Path, device: str) -> None:
    class OnDevice(MatrixExtractor):
        def __call__(self, *given: Any) -> dict[str, torch.Tensor]:
            return {layer: value.to(device) for layer, value in super().__call__(*given).items()}

    extractor = OnDevice()
    extractor.bad = True
    with pytest.raises(UnsuitedError, match="'matrix' gave values that are not finite for memory"):
        FeaturePass(tmp_path, {"matrix": extractor}, device).compute(MemorySource(pictures(5)), ["matrix/flat"])


def test_tf32_is_refused_without_its_units() -> None:
    with pytest.raises(ConfigError, match="precision=tf32: cpu has no units for it: give float32"):
        Digits(precision="tf32").load("cpu")
