"""mIoU and depth RMSE: by hand and by peers, and the whole way by tiny networks of transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MemorySource
from golden import Golden, peer
from options import metric_of, option
from scipy.optimize import minimize
from torchmetrics.functional.classification import multiclass_jaccard_index

from evalkit.config.build import build
from evalkit.errors import ConfigError
from evalkit.extractors.base import Extractor
from evalkit.metric import Batch
from evalkit.metrics.dense_adherence import DepthRmse, SegMiou
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources


def batch(features: dict[str, torch.Tensor], images: np.ndarray | None = None) -> Batch:
    n = len(next(iter(features.values())))
    pixels = None if images is None else torch.from_numpy(images).permute(0, 3, 1, 2)
    return Batch(pixels, torch.arange(n), n, [None] * n, features)


def labels(seed: int, classes: int = 5) -> torch.Tensor:
    return torch.randint(0, classes, (3, 64), generator=torch.Generator().manual_seed(seed)).float()


def test_miou_golden(golden: Golden) -> None:
    metric = metric_of("seg_miou")
    a, b = labels(0), labels(1)
    a[0], b[0] = 2 * (a[0] > 2), 4 * (b[0] > 2)  # classes that only one of them holds, and one that neither does
    found = metric.distance(batch({"segmentation/labels": a}), batch({"segmentation/labels": b}))
    each = []
    for x, y in zip(a.long(), b.long(), strict=True):
        per_class = multiclass_jaccard_index(x, y, num_classes=5, average="none")
        there = sorted(set(x.tolist()) | set(y.tolist()))
        each.append(float(per_class[there].double().mean()))
    source = f"{peer('torchmetrics')}'s Jaccard index per class, mean over classes of either map"
    golden("seg_miou", float(found.mean()), np.mean(each), abs=1e-7, source=source)
    assert found.tolist() == pytest.approx(each, abs=1e-6)
    assert metric.distance(*[batch({"segmentation/labels": a})] * 2).tolist() == [1.0] * 3


def test_maps_in_colours(tmp_path: Path) -> None:
    """A control of 16x16 in colours, one of them a level off: each pixel of the nearest colour."""
    colours = [[0, 0, 0], [200, 30, 30], [20, 20, 220]]
    (tmp_path / "palette.json").write_text(json.dumps(colours))
    metric = SegMiou(control="map", palette=str(tmp_path / "palette.json"))
    truth = labels(2, 3).view(3, 8, 8)
    image = np.array(colours, np.uint8)[truth.long().numpy()].repeat(2, 1).repeat(2, 2)
    image[image == 200] = 199
    ours = batch({"segmentation/labels": truth.flatten(1)})
    assert metric.distance(ours, batch({"segmentation/labels": labels(3)}, image)).tolist() == [1.0] * 3
    assert metric.constants()["palette"] == colours
    for given, line in (("[[1, 2]]", "a JSON list of a colour"), ("{", "cannot be read"), ("[[0, 0, 256]]", "levels")):
        (tmp_path / "palette.json").write_text(given)
        with pytest.raises(ValueError, match=line):
            SegMiou(control="map", palette=str(tmp_path / "palette.json"))
    with pytest.raises(ValueError, match="control=map needs palette=FILE"):
        SegMiou(control="map")
    with pytest.raises(ValueError, match="control=maps: give image or map"):
        SegMiou(control="maps")  # type: ignore[arg-type]


def test_depth_golden(golden: Golden) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(3, 9, (3, 64))
    control = rng.integers(0, 256, (3, 8, 8, 1), np.uint8).repeat(3, -1)
    ours = batch({"depth/depth": torch.from_numpy(depth)}, control)
    wanted = control[..., 0].reshape(3, -1).astype(float)
    wanted = (wanted - wanted.min(1, keepdims=True)) / np.ptp(wanted, axis=1, keepdims=True) * 255
    given = (depth - depth.min(1, keepdims=True)) / np.ptp(depth, axis=1, keepdims=True) * 255
    each = np.sqrt(np.mean((given - wanted) ** 2, axis=1))
    found = metric_of("depth_rmse").distance(ours, ours)
    golden("depth_rmse", float(found.mean()), each.mean(), rel=1e-9, source="the definition, by numpy")
    fitted = [
        np.sqrt(minimize(lambda w, x=x, y=y: np.mean((w[0] * x + w[1] - y) ** 2), [1.0, 0.0], method="BFGS").fun)
        for x, y in zip(depth, wanted, strict=True)
    ]
    found = metric_of("depth_rmse", align="affine").distance(ours, ours)
    golden("depth_rmse, affine", float(found.mean()), np.mean(fitted), rel=1e-6, source="scipy's minimum")


def test_what_depth_does_not_see() -> None:
    """Another unit and zero change nothing; a flat map has no shape; near and far are not the same."""
    rng = np.random.default_rng(1)
    control = rng.integers(0, 256, (2, 8, 8, 1), np.uint8).repeat(3, -1)
    control[:, 0, 0], control[:, 0, 1] = 0, 255
    depth = torch.from_numpy(control[..., 0].reshape(2, -1).astype(float))
    for align in ("minmax", "affine"):
        metric = DepthRmse(align=align)  # type: ignore[arg-type]

        def rmse(x: torch.Tensor, metric: DepthRmse = metric) -> list[float]:
            return metric.distance(batch({"depth/depth": x}), batch({"depth/depth": x}, control)).tolist()

        assert rmse(depth * 3 + 7) == pytest.approx([0, 0], abs=1e-9)
        assert min(rmse(torch.zeros_like(depth))) > 50
    assert rmse(-depth) == pytest.approx([0, 0], abs=1e-9)  # affine: a negative factor
    assert min(DepthRmse().distance(batch({"depth/depth": -depth}), batch({"depth/depth": depth}, control))) > 50
    with pytest.raises(ValueError, match="align=linear: give minmax or affine"):
        DepthRmse(align="linear")  # type: ignore[arg-type]


def segformer(folder: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=4,
    )  # fmt: skip
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def depth_anything(folder: Path) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "extractor", "make", "changes"),
    [
        ("seg_miou", "segmentation", segformer, {}),
        ("depth_rmse", "depth", depth_anything, {"control": "image"}),
    ],
)
def test_the_whole_way(tmp_path: Path, name: str, extractor: str, make: Any, changes: dict[str, Any]) -> None:
    """A sample follows itself; the maps of images of several sizes are the network's own."""
    make(tmp_path / "model")
    values = option("extractor", extractor, model=str(tmp_path / "model"), size=16)
    built: Extractor = build(values, f"extractor.{extractor}", Extractor)
    built.check()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 40 + 8 * (i % 2), 3), np.uint8) for i in range(4)]
    others = [np.ascontiguousarray(image[:, ::-1]) for image in images]

    def score(controls: list[np.ndarray]) -> Any:
        found = score_sources(
            {"cell": MemorySource(images)},
            metrics={name: ({**option("metric", name), **changes}, metric_of(name, **changes))},
            extractors={extractor: built},
            against=Against(own={"cell": {"control": MemorySource(controls)}}),
            store=Store(tmp_path / "store"),
            device="cpu",
            progress=lambda *_: None,
        )
        return found["cell", name]

    same, other = score(images), score(others)
    best = 1.0 if name == "seg_miou" else 0.0
    assert same.score.value == pytest.approx(best, abs=1e-6)
    assert other.score.value is not None
    assert abs(other.score.value - best) > 1e-3
    assert same.label.startswith(f"{metric_of(name).title} (control) [{extractor}:")
    layer = next(iter(built.layers))
    maps = built(images, [], [layer])[layer]
    assert maps.shape == (4, 256)
    assert torch.allclose(built(images[1:2], [], [layer])[layer], maps[1:2], atol=1e-4)
    if name == "seg_miou":
        net, processor = built._net, built._processor  # type: ignore[attr-defined]
        with torch.no_grad():
            logits = net(**processor(images=images[:1], return_tensors="pt")).logits
        expected = torch.nn.functional.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)
        assert torch.equal(maps[0].view(16, 16).long(), expected[0].argmax(0))
    wrong = build(option("extractor", "depth" if name == "seg_miou" else "segmentation", model=str(tmp_path / "model")))
    with pytest.raises(ConfigError, match=r"is a '\w+': give a model whose class ends in For"):
        wrong.check()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"extractor\.depth\.model is not set: give a folder"):
        build(option("extractor", "depth")).check()
    with pytest.raises(ConfigError, match=r"extractor\.depth\.size=4"):
        build(option("extractor", "depth", size=4))
