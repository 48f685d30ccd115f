"""Every option on the embedded digits' networks, from images to the score: its peer on features extracted otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from golden import SHIPPED, Golden, peer
from options import extractor_of, metric_of, option

from evalkit.data.arrays import ArrayImages
from evalkit.digits.data import reference_images
from evalkit.digits.nets import load_classifier
from evalkit.metrics.memorisation import partition
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources

OPTIONS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs/metric").glob("*_digits.yaml"))
OPTIONS.remove("ppl_digits")  # of a model, not of images: tests/metrics/test_path_length.py
OPTIONS.remove("fld_digits")  # the authors' values are of features: tests/metrics/test_fld.py
OPTIONS.remove("vqa_judge_digits")  # of a judge: tests/metrics/test_judge_mean.py
OPTIONS.remove("clip_i_digits")  # of subjects and prompts: tests/metrics/test_subject_similarity.py
OPTIONS.remove("set_consistency_digits")  # of subjects and prompts: tests/metrics/test_subject_similarity.py
N = 600  # images in each of the four sets


@pytest.fixture(scope="module")
def sets() -> dict[str, ArrayImages]:
    """Two images of each of 300 captions, blended with their mirror images; others as reference and for training."""
    pixels, captions = reference_images()
    pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))  # u8 [5000,32,32,3]
    texts = np.array([caption.text for caption in captions])
    of_text: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        of_text.setdefault(text, []).append(i)
    pairs = [i for found in of_text.values() if len(found) > 1 for i in found[:2]][:N]
    others = sorted(set(range(len(texts))) - set(pairs))
    blended = (0.7 * pixels[pairs] + 0.3 * pixels[pairs][:, :, ::-1]).round().astype(np.uint8)
    blended[::6] = pixels[others[N : 2 * N : 6]]  # every sixth is a training image
    return {
        "generated": ArrayImages("blended", blended, texts[pairs].tolist()),
        "reference": ArrayImages("reference", pixels[others[:N]], texts[others[:N]].tolist()),
        "training": ArrayImages("training", pixels[others[N : 2 * N]]),
    }


@pytest.fixture(scope="module")
def scores(sets: dict[str, ArrayImages], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = score_sources(
        {"generated": sets["generated"]},
        metrics={name: (option("metric", name), metric_of(name)) for name in OPTIONS},
        extractors={name: extractor_of(name) for name in ("digits", "digits_clip")},
        against=Against(sets["reference"], sets["training"], own={"generated": {"target": sets["reference"]}}),
        store=Store(tmp_path_factory.mktemp("store")),
        device="cpu",
        progress=lambda name, done, total: None,
    )
    return {name: scored.score for (_, name), scored in found.items()}


@pytest.fixture(scope="module")
def features(sets: dict[str, ArrayImages]) -> dict[str, Any]:
    """By side: the classifier's own features and logits, f32 arrays; the CLIP's of open_clip, images and texts."""
    import open_clip
    from PIL import Image

    from evalkit.utils.files import resolve_path

    where = f"local-dir:{resolve_path('pkg://evalkit.digits/weights/clip')}"
    clip, _, prepare = open_clip.create_model_and_transforms(where)
    tokenizer = open_clip.get_tokenizer(where)
    classifier = load_classifier()
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for side, images in sets.items():
            x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            found[side] = {name: value.numpy() for name, value in classifier(x).items()}
            shown = torch.stack([prepare(Image.fromarray(image)) for image in images.pixels])
            found[side]["image"] = clip.eval().encode_image(shown).numpy()
        for side in ("generated", "reference"):
            found[side]["text"] = clip.encode_text(tokenizer([str(text) for text in sets[side].prompts])).numpy()
    return found


def axes(wide: int) -> np.ndarray:
    """The projection of TopP and TopR: Xavier's, by torch's seed 99, [D,32]."""
    if wide <= 32:
        return np.eye(wide, dtype=np.float32)
    layer = torch.nn.Linear(wide, 32, bias=False)
    torch.manual_seed(99)
    return torch.nn.init.xavier_normal_(layer.weight).detach().numpy().T


def test_golden(scores: dict[str, Any], features: dict[str, Any], golden: Golden) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    (g, r, t) = (features[side]["features"] for side in ("generated", "reference", "training"))
    clip = features["generated"]
    kid = {"kid_subset_size": 500, "verbose": False}
    fidelity = f"{peer('torch-fidelity')}, from images"
    closed, strict = peers.prdc(r, g, 3, closed=True), peers.prdc(r, g, 5)
    cells = partition(torch.from_numpy(t), 3, 64, 2020)
    where = [cells.place(torch.from_numpy(x))[1].numpy() for x in (g, r)] + [cells.cell.numpy()]
    force = "brute force in float64, from images"
    drawn = torch.randn(1000, g.shape[1], generator=torch.Generator().manual_seed(2020)).double()
    directions = (drawn / drawn.norm(dim=1, keepdim=True)).numpy()
    joined = [np.concatenate([features[s]["features"], features[s]["text"]], 1) for s in ("generated", "reference")]
    lengths = [np.linalg.norm(features["reference"][part], axis=1).mean() for part in ("features", "text")]
    for x in joined:
        x[:, g.shape[1] :] *= lengths[0] / lengths[1]
    top = peers.top_pr(r @ axes(g.shape[1]), g @ axes(g.shape[1]))
    cosine = np.sum(clip["image"] * clip["text"], 1) / np.linalg.norm(clip["image"], axis=1)
    made, due = (np.bincount(features[side]["logits"].argmax(1), minlength=10) for side in ("generated", "reference"))
    expected: dict[str, tuple[float, float, str]] = {  # value, relative tolerance, who says so
        "fid_digits": (peers.frechet_sqrtm(g, r), 1e-5, f"{peer('scipy')} sqrtm, from images"),
        "fid_infinity_digits": (peers.frechet_infinity(g, r)[0], 1e-5, "dgm-eval's code written out, from images"),
        "is_digits": (
            isc_features_to_metric(torch.from_numpy(clip["logits"]))["inception_score_mean"],
            1e-5,
            fidelity,
        ),
        "kid_digits": (
            kid_features_to_metric(torch.from_numpy(g), torch.from_numpy(r), **kid)["kernel_inception_distance_mean"],
            1e-5,
            fidelity,
        ),
        "cmmd_digits": (peers.cmmd(clip["image"], features["reference"]["image"]), 1e-4, f"google's formula, {force}"),
        "clip_score_digits": (
            100 * float(np.mean(cosine / np.linalg.norm(clip["text"], axis=1))),
            1e-5,
            f"{peer('open-clip-torch')} and its cosines, from images and texts",
        ),
        "precision_digits": (closed["precision"], 1e-9, force),
        "recall_digits": (closed["recall"], 1e-9, force),
        "density_digits": (strict["density"], 1e-9, f"prdc's formula, {force}"),
        "coverage_digits": (strict["coverage"], 1e-9, f"prdc's formula, {force}"),
        "vendi_digits": (peers.vendi(g), 1e-5, "the N x N matrix in float64, from images"),
        "rke_digits": (peers.rke(g, 15.0), 1e-5, f"all pairs, {force}"),
        "mind_digits": (peers.mind(g, r, directions), 1e-5, "projections sorted in float64, from images"),
        "mifid_digits": (peers.mifid(g, t), 1e-4, f"the definition, {force}"),
        "fjd_digits": (peers.frechet_sqrtm(*joined), 1e-5, f"{peer('scipy')} sqrtm of joined features, from images"),
        "top_precision_digits": (top[0], 1e-9, f"top-pr's, {force}"),
        "top_recall_digits": (top[1], 1e-9, f"top-pr's, {force}"),
        "authpct_digits": (peers.authpct(g, t), 1e-9, f"dgm-eval's, {force}"),
        "c_t_digits": (peers.c_t(g, r, t, where)[0], 1e-5, f"data-copying's, in the same cells, {force}"),
        "nearest_training_digits": (peers.memorised(g, t), 1e-9, f"the criterion, {force}"),
        "feature_distance_target_digits": (
            float(np.square(g.astype(np.float64) - r).sum(1).mean()),
            1e-5,
            "squared distances in float64, pair by pair, from images",
        ),
        "feature_diversity_digits": (
            float(np.square(g[0::2].astype(np.float64) - g[1::2]).sum(1).mean()),
            1e-5,
            "squared distances in float64, pair by pair, from images",
        ),
    }
    expected["class_histogram_digits"] = (float(abs(made - due).sum() / 2 / N), 1e-12, f"counts, {force}")
    expected["collapsed_classes_digits"] = (float((made < 0.1 * N / 10).sum()), 1e-12, f"counts, {force}")
    assert sorted(expected) == OPTIONS
    for name, (value, rel, source) in expected.items():
        golden(name, scores[name].value, value, rel=rel, source=source, weights=SHIPPED)
