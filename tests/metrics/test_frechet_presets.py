"""The Frechet presets against the packages that they are named after: same files, same weights.

Their matrix roots take 25 to 90 s at D = 2048. Here the covariances come from 10 and 12 images, so that the trace
of the root has an exact short cut (`low_rank_eigenvalues`), which stands in for SciPy's sqrtm and torch's eigvals. The
roots themselves are compared in test_frechet.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from evalkit.config import build
from evalkit.extractors.base import Extractor
from evalkit.metric import Batch
from evalkit.metrics.frechet import FrechetDistance

pytestmark = pytest.mark.xdist_group("inception")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RANK = 16  # more than the number of images on a side


def low_rank_eigenvalues(product: np.ndarray) -> np.ndarray:
    """Those that are not zero, of a matrix [D,D] of rank below RANK: all of its range lies in `basis`."""
    probe = np.random.default_rng(0).standard_normal((len(product), RANK))
    basis = np.linalg.qr(product @ probe)[0]  # [D,RANK]
    values: np.ndarray = np.linalg.eigvals(basis.T @ product @ basis).real.clip(min=0)
    return values


def fast_sqrtm(product: np.ndarray, disp: bool = True) -> Any:
    """A matrix with the root's trace; `disp`, which SciPy 1.18 removes, changes what is returned."""
    root = np.zeros_like(product)
    root[:RANK, :RANK] = np.diag(np.sqrt(low_rank_eigenvalues(product)))
    return root if disp else (root, 0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """12 small images and 10 large ones: scaled up and down, not square."""
    from PIL import Image

    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    for name, n, size, grain in (("small", 12, (41, 50), 6), ("large", 10, (400, 330), 60)):
        (root / name).mkdir()
        for i in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(root / name / f"{i:02}.png")
    return root / "small", root / "large"


def pixels(folder: Path) -> list[np.ndarray]:
    from PIL import Image

    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def option(group: str, name: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"))
    return dict(found[name])


def features(extractor: Extractor, images: list[np.ndarray], layer: str) -> torch.Tensor:
    parts = [extractor(images[i : i + 8], [], [layer])[layer] for i in range(0, len(images), 8)]
    return torch.cat(parts)


def ours(metric_name: str, folders: tuple[Path, Path], weights: Path) -> float:
    """The preset as its two YAMLs describe it, with this weights file."""
    metric = build(option("metric", metric_name))
    name, _, layer = metric.needs[0].partition("/")
    extractor = build(option("extractor", name) | {"weights": str(weights)})
    extractor.load("cpu")
    states = []
    for folder in folders:
        x = features(extractor, pixels(folder), layer)
        batch = Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {metric.needs[0]: x})
        states.append(metric.observe(batch))
    return float(metric.score(generated=states[0], reference=states[1]).value)


@pytest.fixture
def pytorch_fid_network(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """pytorch-fid's network class, which fetches its weights: here they come from the seeded file."""
    network = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")

    def load(url: str, **_: Any) -> Any:
        return torch.load(inception_weights, weights_only=True)

    monkeypatch.setattr(network, "load_state_dict_from_url", load)
    found: Callable[..., Any] = network.InceptionV3
    return found


def test_pytorch_fid(
    folders: tuple[Path, Path],
    inception_weights: Path,
    pytorch_fid_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pytorch_fid import fid_score

    monkeypatch.setattr(fid_score.linalg, "sqrtm", fast_sqrtm)
    paths = [str(folder) for folder in folders]
    theirs = fid_score.calculate_fid_given_paths(paths, 8, "cpu", 2048, num_workers=0)
    assert ours("fid_pytorch_fid", folders, inception_weights) == pytest.approx(float(theirs), rel=1e-5)


def test_clean_fid(
    folders: tuple[Path, Path],
    inception_weights: Path,
    pytorch_fid_network: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """clean-fid's files, resize and distance around the network, whose TorchScript file is not here."""
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    network = pytorch_fid_network(resize_input=False, normalize_input=False).eval()

    def extract(x: torch.Tensor) -> torch.Tensor:  # f32 [B,3,299,299], 0 to 255; as InceptionV3W.forward
        found: torch.Tensor = network((x - 128) / 128)[0][:, :, 0, 0]
        return found

    monkeypatch.setattr(fid.linalg, "sqrtm", fast_sqrtm)
    options: dict[str, Any] = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    states = [fid.get_folder_features(str(f), extract, **options) for f in folders]
    theirs = fid.fid_from_feats(*states)
    assert ours("fid_clean", folders, inception_weights) == pytest.approx(float(theirs), rel=1e-5)


def test_torchmetrics(folders: tuple[Path, Path], inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    def eigvals(product: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(low_rank_eigenvalues(product.numpy())).to(torch.complex128)

    monkeypatch.setattr(torch.linalg, "eigvals", eigvals)
    peer = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception_weights))
    for folder, real in zip(folders, (False, True), strict=True):
        images = pixels(folder)
        for start in range(0, len(images), 8):
            peer.update(torch.from_numpy(np.stack(images[start : start + 8])).permute(0, 3, 1, 2), real=real)
    theirs = float(peer.compute())
    assert ours("fid_torchmetrics", folders, inception_weights) == pytest.approx(theirs, rel=1e-5)


def test_presets_differ(folders: tuple[Path, Path], inception_weights: Path) -> None:
    """They would not be worth a name, and the comparisons above no comparisons, otherwise."""
    images = pixels(folders[0])[:1] + pixels(folders[1])[:1]
    found = []
    for name in ("inception", "inception_pytorch_fid", "inception_clean", "inception_torchmetrics"):
        extractor = build(option("extractor", name) | {"weights": str(inception_weights)})
        extractor.load("cpu")
        found.append(features(extractor, images, "pool3"))
    for i, a in enumerate(found):
        for b in found[:i]:
            assert (a - b).norm() / a.norm() > 1e-3


def test_stylegan3() -> None:
    """stylegan3, metrics/frechet_inception_distance.py and metric_utils.py, written out: covariances divide by N."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    sets = [rng.standard_normal((n, 24)).astype(np.float32) * s + m for n, s, m in ((60, 1, 0), (80, 1.3, 0.2))]
    stats = []
    for x in sets:
        raw_mean, raw_cov = x.astype(np.float64).sum(0), x.astype(np.float64).T @ x.astype(np.float64)
        mean = raw_mean / len(x)
        stats.append((mean, raw_cov / len(x) - np.outer(mean, mean)))
    (mu_gen, sigma_gen), (mu_real, sigma_real) = stats
    s = sqrtm(np.dot(sigma_gen, sigma_real))
    theirs = float(np.real(np.square(mu_gen - mu_real).sum() + np.trace(sigma_gen + sigma_real - s * 2)))

    metric = build(option("metric", "fid_stylegan3"))
    address = metric.needs[0]
    states = [
        metric.observe(Batch(None, torch.arange(len(x)), len(x), [None] * len(x), {address: torch.from_numpy(x)}))
        for x in sets
    ]
    assert metric.score(generated=states[0], reference=states[1]).value == pytest.approx(theirs, rel=1e-9)
    assert metric.constants()["ddof"] == 0
    assert metric.title == "FID (ddof 0)"


def test_clip_fid_prepares_images_as_clean_fid() -> None:
    """cleanfid/clip_features.py written out (it imports OpenAI's `clip`), against open_clip's transform of the tag."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image
    from torchvision import transforms

    yaml = option("extractor", "clip_vit_b32")
    tag = open_clip.pretrained.get_pretrained_cfg(yaml["model"], yaml["pretrained"])
    known = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode")}
    mine = image_transform_v2(PreprocessCfg(size=224, **known), is_train=False)
    crop = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
        ]
    )
    norm = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    rng = np.random.default_rng(2)
    for size in ((50, 41), (400, 330), (224, 224)):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        theirs = norm(torch.from_numpy(np.array(crop(image))).permute(2, 0, 1).float() / 255.0)
        torch.testing.assert_close(mine(image), theirs, rtol=0, atol=1e-5)
    metric = build(option("metric", "clip_fid"))
    assert metric.needs == ("clip_vit_b32/image",)
    assert build(yaml).layers["image"] == 512


@pytest.mark.parametrize("name", ["dinov2_vitl14", "resnet50", "efficientnet_lite0"])
def test_timm_options_name_what_timm_has(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    yaml = option("extractor", name)
    with torch.device("meta"):
        net = timm.create_model(yaml["model"], num_classes=0, **yaml.get("model_args", {}))
    assert net.num_features == yaml["width"]
    if name != "efficientnet_lite0":  # whose weights are not timm's
        assert tuple(yaml["mean"]) == net.pretrained_cfg["mean"]
        assert tuple(yaml["std"]) == net.pretrained_cfg["std"]
        assert yaml["repo"] == net.pretrained_cfg["hf_hub_id"]


def test_fd_dinov2_prepares_images_as_dgm_eval() -> None:
    """dgm_eval/models/dinov2.py written out: Resize((224, 224), BICUBIC) of the PIL image, ImageNet's norm."""
    from PIL import Image
    from torchvision import transforms

    extractor = build(option("extractor", "dinov2_vitl14"))
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 211, 3), dtype=np.uint8))
    theirs = transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC)(image)
    assert np.array_equal(np.asarray(extractor._resized(image)), np.asarray(theirs))
    assert extractor.mean == [0.485, 0.456, 0.406]
    assert extractor.positions == "dinov2"
    metric = build(option("metric", "fd_dinov2"))
    assert isinstance(metric, FrechetDistance)
    assert metric.needs == ("dinov2_vitl14/features",)
