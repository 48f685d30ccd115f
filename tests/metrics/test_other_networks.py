"""CLIP-FID, FD-DINOv2: images prepared as their authors do, networks of the same architecture with seeded weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from golden import RANDOM, Golden, peer
from options import extractor_of, features_of, metric_of, option, score_of
from whole_path import pixels

from evalkit.config.build import build
from evalkit.extractors.clip import WEIGHTS_NAME, Clip
from evalkit.metrics.frechet import FrechetDistance

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clean_fid_crop(image: np.ndarray) -> np.ndarray:
    """img_preprocess_clip of cleanfid/clip_features.py, which cannot be imported: it imports OpenAI's `clip`."""
    from PIL import Image
    from torchvision import transforms

    shown = Image.fromarray(image.astype(np.uint8)).convert("RGB")
    resize = transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC)
    crop = transforms.Compose([resize, transforms.CenterCrop(224)])
    return np.asarray(crop(shown)).clip(0, 255).astype(np.uint8)


def test_clip_fid_prepares_images_as_clean_fid() -> None:
    """Against open_clip's transform of the tag."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image
    from torchvision import transforms

    yaml = option("extractor", "clip_vit_b32")
    tag = open_clip.pretrained.get_pretrained_cfg(yaml["model"], yaml["pretrained"])
    known = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode")}
    mine = image_transform_v2(PreprocessCfg(size=224, **known), is_train=False)
    rng = np.random.default_rng(2)
    for size in ((50, 41), (400, 330), (224, 224)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        theirs = transforms.Normalize(*CLIP)(torch.from_numpy(clean_fid_crop(image)).permute(2, 0, 1).float() / 255.0)
        torch.testing.assert_close(mine(Image.fromarray(image)), theirs, rtol=0, atol=1e-5)
    assert metric_of("clip_fid").needs == ("clip_vit_b32/image",)
    assert build(yaml).layers["image"] == 512


def test_clip_fid(folders: tuple[Path, Path], tmp_path: Path, golden: Golden) -> None:
    """A tiny ViT of 224 px, read as open_clip's folder."""
    import open_clip
    from safetensors.torch import save_file
    from torchvision import transforms

    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    config = {
        "embed_dim": 4,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "patch_size": 32, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    prepare = {"mean": CLIP[0], "std": CLIP[1], "interpolation": "bicubic", "resize_mode": "shortest"}
    written = json.dumps({"model_cfg": config, "preprocess_cfg": prepare})
    (tmp_path / "open_clip_config.json").write_text(written)
    torch.manual_seed(0)
    net = open_clip.CLIP(**json.loads(written)["model_cfg"]).eval()
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, str(tmp_path / WEIGHTS_NAME))

    def extract(x: torch.Tensor) -> torch.Tensor:  # as CLIP_fx of clean-fid
        found: torch.Tensor = net.encode_image(transforms.Normalize(*CLIP)(x / 255.0))
        return found

    options: dict[str, Any] = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    options |= {"custom_fn_resize": clean_fid_crop, "mode": "clean"}
    expected = fid.fid_from_feats(*(fid.get_folder_features(str(folder), extract, **options) for folder in folders))
    extractor = Clip("clip_vit_b32", f"local-dir:{tmp_path}")
    extractor.check()
    extractor.load("cpu")
    small, large = (features_of(extractor, pixels(folder), "image")["image"] for folder in folders)
    source = f"{peer('clean-fid')} with open_clip's network, from image files"
    found = score_of("clip_fid", small, reference=large).value
    golden("clip_fid", found, expected, rel=1e-4, source=source, weights=RANDOM)


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


def facebook_positions(embedding: torch.Tensor) -> torch.Tensor:
    """interpolate_pos_encoding of facebookresearch/dinov2, vision_transformer.py: of 37 x 37 patches to 16 x 16."""
    patches = embedding[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scale = float(16 + 0.1) / 37
    small = torch.nn.functional.interpolate(patches, mode="bicubic", antialias=False, scale_factor=(scale, scale))
    return torch.cat((embedding[:, :1], small.permute(0, 2, 3, 1).flatten(1, 2)), dim=1)


def test_fd_dinov2(folders: tuple[Path, Path], tmp_path: Path, golden: Golden) -> None:
    """The option on a DINOv2 two blocks deep; dgm_eval/models/dinov2.py written out around timm's network."""
    from PIL import Image
    from torchvision import transforms

    timm = pytest.importorskip("timm", reason="timm is not installed")
    args = {"depth": 2, "embed_dim": 16, "num_heads": 2, "init_values": 1.0}
    torch.manual_seed(2)
    state = timm.create_model("vit_small_patch14_dinov2", **args).state_dict()
    for value in state.values():
        torch.nn.init.normal_(value, std=0.3)
    torch.save(state, tmp_path / "w.pth")
    net = timm.create_model("vit_small_patch14_dinov2", img_size=224, **args).eval()
    net.load_state_dict(state | {"pos_embed": facebook_positions(state["pos_embed"])})
    prepare = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    changes = {"model": "vit_small_patch14_dinov2", "weights": str(tmp_path / "w.pth"), "width": 16}
    extractor = extractor_of("dinov2_vitl14", model_args=args | {"img_size": 224}, **changes)
    mine, theirs = [], []
    for folder in folders:
        images = pixels(folder)
        mine.append(features_of(extractor, images, "features")["features"])
        with torch.inference_mode():
            x = torch.stack([prepare(Image.fromarray(image)) for image in images])
            theirs.append(net.forward_features(x)[:, 0].numpy())
    found = score_of("fd_dinov2", mine[0], reference=mine[1]).value
    source = f"dgm-eval's preparation, {peer('timm')}'s network, from image files; singular values"
    golden("fd_dinov2", found, peers.frechet(*theirs), rel=1e-4, source=source, weights=RANDOM)
    metric = metric_of("fd_dinov2")
    assert isinstance(metric, FrechetDistance)
    assert metric.needs == ("dinov2_vitl14/features",)
