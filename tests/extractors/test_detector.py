"""Detectors: tiny networks of transformers' and torchvision's own classes, a plain function, colours by CLIP; and a
whole run on drawn shapes, where the truth of each image is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from command import run_evalkit
from PIL import Image
from shapes_world import ITEMS, detect, draw, write_items

from evalkit.errors import ConfigError
from evalkit.extractors.base import exact_float32
from evalkit.extractors.detector import GREY, Detector, crop
from evalkit.numerics.detections import Detections, class_code
from evalkit.numerics.geneval import COLOURS, TASKS

NAMES = {0: "N/A", 1: "bench", 2: "apple", 3: "mouse"}
CLIP = {"model": "pkg://evalkit.digits/weights/clip"}


def images() -> list[np.ndarray]:
    """Two of one size, and one of another."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (48, 64), (64, 64))]


def detr(folder: Path) -> None:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage4"])
    layers = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, d_model=16, num_queries=5, id2label=NAMES, **layers, **heads
    )
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(folder)


def rt_detr(folder: Path) -> None:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
        layer_type="basic",
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        **{"encoder_hidden_dim": 16, "encoder_in_channels": [8, 8, 16], "encoder_ffn_dim": 16},
        **{"encoder_attention_heads": 2, "d_model": 16, "num_queries": 6, "decoder_in_channels": [16, 16, 16]},
        **{"decoder_ffn_dim": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_n_points": 2},
        num_denoising=0,
        id2label=NAMES,
    )
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def mask2former(folder: Path) -> None:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    backbone = SwinConfig(
        **{"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        **{"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 8},
        **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 1, "dim_feedforward": 8, "num_queries": 5},
        train_num_points=4,
        id2label=NAMES,
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {"detr": detr, "rt_detr": rt_detr, "mask2former": mask2former}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        make(found[name])
    return found


def theirs(name: str, folder: Path, image: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, scores and boxes by transformers' own calls, the surest first, without what stands for no class."""
    import transformers

    kind = "AutoModelForUniversalSegmentation" if name == "mask2former" else "AutoModelForObjectDetection"
    net = getattr(transformers, kind).from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with exact_float32():
        outputs = net(**processor(images=[image], return_tensors="pt"))
        size = torch.tensor([image.shape[:2]])
        if name == "mask2former":
            found = processor.post_process_instance_segmentation(
                outputs, threshold=0.0, target_sizes=[image.shape[:2]], return_binary_maps=True
            )[0]
            pairs = zip(found["segments_info"], found["segmentation"].numpy(), strict=True)
            kept = sorted((p for p in pairs if p[0]["label_id"]), key=lambda pair: -pair[0]["score"])
            places = [np.argwhere(mask) for _, mask in kept]
            boxes = [[*at.min(0)[::-1], *(at.max(0)[::-1] + 1)] for at in places]
            return [NAMES[a["label_id"]] for a, _ in kept], np.array([a["score"] for a, _ in kept]), np.array(boxes)
        found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=size)[0]
    order = torch.argsort(-found["scores"], stable=True)
    order = order[found["labels"][order] != 0]
    names = [NAMES[i] for i in found["labels"][order].tolist()]
    return names, found["scores"][order].numpy(), found["boxes"][order].numpy()


@pytest.mark.parametrize("name", MAKERS)
def test_networks_of_transformers(name: str, folders: dict[str, Path]) -> None:
    """As transformers' own calls see each image alone, whatever stands next to it in a batch."""
    detector = Detector("detector", str(folders[name]), renamed={"mouse": "computer mouse"}, clip=CLIP, lowest=0.0)
    detector.check()
    assert detector.class_names == {"bench", "apple", "computer mouse"}
    detector.load("cpu")
    shown = images()
    found = detector(shown, [], ["objects", "colours"])
    assert {layer: tuple(x.shape) for layer, x in found.items()} == {"objects": (3, 602), "colours": (3, 1000)}
    assert all(bool(x.isfinite().all()) for x in found.values())
    for image, row, colours in zip(shown, found["objects"].numpy(), found["colours"].numpy(), strict=True):
        seen = Detections.from_row(row)
        names, scores, boxes = theirs(name, folders[name], image)
        called = ["computer mouse" if each == "mouse" else each for each in names]
        assert sorted(seen.codes.tolist()) == sorted(map(class_code, called))
        np.testing.assert_allclose(seen.scores, scores, atol=2e-5)
        np.testing.assert_allclose(sorted(seen.boxes.tolist()), sorted(boxes.tolist()), atol=1e-3)
        told = colours.reshape(-1, len(COLOURS))
        assert (abs(told[: len(seen)]).max(axis=1) > 0).all()
        assert not told[len(seen) :].any()
    detector.unload()


def test_networks_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import detection

    torch.manual_seed(0)
    options = {"min_size": 64, "max_size": 64, "box_detections_per_img": 5, "box_score_thresh": 0.0}
    options |= {"rpn_post_nms_top_n_test": 20}
    model = "fasterrcnn_mobilenet_v3_large_320_fpn"
    net = getattr(detection, model)(weights=None, weights_backbone=None, num_classes=3, **options).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    classes = ["__background__", "bench", "apple"]
    given: dict[str, Any] = {"library": "torchvision", "weights": str(tmp_path / "net.pth"), "classes": classes}
    detector = Detector("detector", model, options=options, lowest=0.0, **given)
    detector.check()
    detector.load("cpu")
    shown = images()
    found = detector(shown, [], ["objects"])["objects"].numpy()
    assert list(detector.layers) == ["objects"]  # without a CLIP nothing tells colours
    for image, row in zip(shown, found, strict=True):
        with exact_float32():
            each = net([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        seen = Detections.from_row(row)
        assert seen.codes.tolist() == [class_code(classes[i]) for i in each["labels"].tolist()]
        np.testing.assert_allclose(seen.boxes, each["boxes"].numpy(), atol=1e-3)
    with pytest.raises(ConfigError, match=r"net\.pth is not of fasterrcnn"):
        Detector("detector", model, **given | {"classes": classes[:2]}).load("cpu")
    with pytest.raises(ConfigError, match="no detector 'fastrcnn'"):
        Detector("detector", "fastrcnn", **given).load("cpu")


def test_colours_by_clip_are_those_of_its_own_calls(folders: dict[str, Path]) -> None:
    """Of an object in a box: the mean of three texts of length 1 per colour, against the crop."""
    import open_clip

    from evalkit.utils.files import resolve_path

    where = f"local-dir:{resolve_path(CLIP['model'])}"
    net, _, prepare = open_clip.create_model_and_transforms(where)
    tokens = open_clip.get_tokenizer(where)
    image = images()[0]
    detector = Detector("detector", str(folders["detr"]), clip=CLIP, lowest=0.0)
    detector.load("cpu")
    found = detector([image], [], ["objects", "colours"])
    seen = Detections.from_row(found["objects"][0].numpy())
    told = found["colours"][0].reshape(-1, len(COLOURS))
    names = {class_code(name): name for name in NAMES.values()}
    with exact_float32():
        for place, box in enumerate(seen.boxes):
            name = names[int(seen.codes[place])]
            x0, y0, x1, y1 = map(round, box.tolist())
            shown = net.eval().encode_image(prepare(Image.fromarray(image[y0:y1, x0:x1]))[None])
            for colour, got in zip(COLOURS, told[place].tolist(), strict=True):
                texts = [f"a photo of a {colour} {name}", f"a photo of a {colour}-colored {name}"]
                text = net.encode_text(tokens([*texts, f"a photo of a {colour} object"]))
                mean = torch.nn.functional.normalize(text, dim=1).mean(0)
                assert got == pytest.approx(float(torch.cosine_similarity(shown, mean[None])[0]), abs=1e-5)


def test_crops_lie_in_the_image_and_are_grey_around_a_mask() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert crop(image, np.array([-2.0, 1.4, 2.6, 9.0]), None).tolist() == image[1:4, 0:3].tolist()
    assert crop(image, np.array([9.0, 9.0, 9.0, 9.0]), None).shape == (1, 1, 3)
    mask = np.zeros((4, 6), bool)
    mask[2, 2] = True
    part = crop(image, np.array([1.0, 1.0, 4.0, 4.0]), mask)
    assert part[1, 1].tolist() == image[2, 2].tolist()
    assert part[0, 0].tolist() == list(GREY)


def test_folders_that_are_no_detectors_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="is no folder; give one made by"):
        Detector("detector", str(tmp_path / "none")).check()
    config = json.loads((folders["detr"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="has no weights in safetensors"):
        Detector("detector", str(tmp_path)).check()
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json"):
        Detector("detector", str(tmp_path)).check()
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ConfigError, match="detects no objects"):
        Detector("detector", str(tmp_path)).check()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="transformers cannot load"):
        Detector("detector", str(tmp_path)).load("cpu")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"library": "mmdet"}, "extractor.detector.library=mmdet"),
        ({"background": "white"}, "extractor.detector.background=white"),
        ({"lowest": 1.0}, "extractor.detector.lowest=1.0"),
        ({"most": 0}, "extractor.detector.most=0"),
        ({"library": "torchvision"}, "extractor.detector.weights is not set"),
        ({"function_colours": True}, "extractor.detector.function_colours"),
    ],
)
def test_options_that_are_wrong_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Detector("detector", "a_folder", **options)


def test_drawn_shapes_are_seen_as_they_were_drawn(tmp_path: Path) -> None:
    """The metric's verdict on each image is the truth that the image itself tells."""
    from options import metric_of

    from evalkit.metric import Batch

    options = {"library": "function", "function_colours": True, "lowest": 0.1, "most": 20}
    detector = Detector("detector", "shapes_world.detect", **options)
    detector.check()
    detector.load("cpu")
    prompts = [item["prompt"] for item in ITEMS for _ in range(8)]
    shown = draw(prompts, range(len(prompts)))
    found = detector(shown, [], ["objects", "colours"])
    metric = metric_of("geneval_images", metadata=str(write_items(tmp_path / "items.jsonl")))
    features = {f"detector/{layer}": value for layer, value in found.items()}
    score = metric.score(
        generated=metric.observe(Batch(None, torch.arange(len(prompts)), len(prompts), prompts, features))
    )
    truth = [float(image[0, 0, 0]) for image in shown]
    assert list(score.influence) == truth
    assert 0.4 < score.value < 0.8
    assert detect(shown[0])[0]["score"] == 0.2  # the ghost that counts nowhere


def test_the_benchmark_from_one_command(tmp_path: Path) -> None:
    """Prompts, four images each, the detector, the six tasks: the scores are the shares that the images tell, a run
    with another threshold looks at no image again, and what cannot be scored stops before the first image."""
    items = write_items(tmp_path / "items.jsonl")
    detector = ["library=function", "model=shapes_world.detect", "function_colours=true", "clip=null", "lowest=0.1"]
    command = ["benchmark=geneval", f"benchmark.path={items}", "model=[callable]", "report=false", "lint=false"]
    command += ["model.callable.function=shapes_world.draw", *(f"extractor.detector.{each}" for each in detector)]
    done = run_evalkit(*command, "name=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in _rows(tmp_path / "runs/first")}
    samples = csv.DictReader((tmp_path / "runs/first/samples.csv").open())
    right: dict[str, list[bool]] = {}
    for sample in samples:
        image = np.asarray(Image.open(tmp_path / "runs/first" / sample["file"]))
        right.setdefault(sample["category"], []).append(bool(image[0, 0, 0]))
        assert float(sample["geneval_images"]) == image[0, 0, 0]
    assert {task: len(each) for task, each in right.items()} == dict.fromkeys(TASKS, 8)
    shares = {task: sum(each) / 8 for task, each in right.items()}
    assert rows["geneval"]["details"] == pytest.approx(shares)
    assert rows["geneval"]["value"] == pytest.approx(sum(shares.values()) / 6)
    by_task = list(csv.DictReader((tmp_path / "runs/first/categories.csv").open()))
    assert {line["category"]: float(line["mean"]) for line in by_task if line["metric"] == "geneval"} == shares

    with mock.patch("shapes_world.detect", side_effect=AssertionError("an image was looked at again")):
        again = run_evalkit(*command, "name=strict", "metric.geneval.threshold=0.96", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    strict = {row["metric"]: row["details"] for row in _rows(tmp_path / "runs/strict")}["geneval"]
    assert strict == pytest.approx(dict.fromkeys(TASKS, 0.0) | {"counting": shares["counting"]})

    refused = run_evalkit(*command, "extractor.detector.classes=[book,clock]", "store=other", cwd=tmp_path)
    assert refused.returncode == 2
    assert "metric.geneval: the detector has no class 'kite' (1 missing)" in refused.stderr
    (tmp_path / "few.jsonl").write_text(json.dumps(ITEMS[0]))
    refused = run_evalkit(*command, f"metric.geneval.metadata={tmp_path}/few.jsonl", "store=other", cwd=tmp_path)
    assert "says nothing of the prompt 'a photo of a clock' of callable (nor of 10 others)" in refused.stderr
    assert not (tmp_path / "other").exists()


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["rows"]
    return rows
