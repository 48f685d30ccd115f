"""`experiment=imagenet256` on small batches of ADM's format: statistics and images are two references, labels count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from options import extractor_of, features_of

from evalkit import run
from evalkit.config.compose import compose
from evalkit.data.reference import AdmReference
from evalkit.errors import ConfigError
from evalkit.plan.floors import open_floor
from evalkit.plan.grid import Missing
from evalkit.prompts.sets import ClassPrompts
from evalkit.results.table import ResultTable

N, SIZE = 8, 32
NAMES = ("fid", "sfid", "is_adm", "precision", "recall")


def images(count: int, seed: int) -> np.ndarray:
    """u8 [N,H,W,3]: noise on a ground of its own, so that features differ."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (count, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    pixels: np.ndarray = (ground + rng.integers(-30, 31, ground.shape)).clip(0, 255).astype(np.uint8)
    return pixels


def moments(seed: int) -> dict[str, np.ndarray]:
    """Statistics of a set that the images in the file are only a part of."""
    rng = np.random.default_rng(seed)
    stats: dict[str, np.ndarray] = {}
    for tail, width in (("", 2048), ("_s", 2023)):
        low = rng.standard_normal((width, 8))
        stats |= {f"mu{tail}": rng.random(width), f"sigma{tail}": low @ low.T / 8 + 0.1 * np.eye(width)}
    return stats


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, inception_weights: Path) -> tuple[Path, ResultTable]:
    folder = tmp_path_factory.mktemp("imagenet")
    np.savez(folder / "reference.npz", arr_0=images(N + 2, 0), **moments(0))
    np.savez(folder / "samples.npz", arr_0=images(N, 1), arr_1=np.arange(N) % 4)
    np.savez(folder / "random.npz", arr_0=images(N, 1), arr_1=np.random.default_rng(0).integers(0, 4, N))
    table = run(
        [
            *("experiment=imagenet256", f"reference.adm.path={folder / 'reference.npz'}", f"num_samples={N}"),
            *(f"model.samples.path={folder / 'samples.npz'}", "contact_sheet=0", "map.method=null", "report=false"),
            *(
                "+model.random._target_=evalkit.models.folder.FolderModel",
                f"+model.random.path={folder / 'random.npz'}",
            ),
            *(f"extractor.inception.weights={inception_weights}", f"store={folder / 'runs'}", "device=cpu"),
        ]
    )
    return folder, table


def test_it_is_composed_with_the_protocol_of_papers() -> None:
    config = compose(["experiment=imagenet256"])
    assert config.num_samples == 50_000
    assert tuple(config.metric) == NAMES
    assert config.metric["is_adm"]["split_size"] == 5000
    assert config.metric["precision"]["k"] == 3
    assert config.metric["sfid"]["features"] == "inception/mixed6_conv7"


def test_values_are_those_of_adms_evaluator(ran: tuple[Path, ResultTable], inception_weights: Path) -> None:
    """openai/guided-diffusion, evaluations/evaluator.py, written out on the same features."""
    from scipy.linalg import sqrtm

    folder, table = ran
    network: Any = extractor_of("inception", weights=str(inception_weights))
    layers = ("pool3", "mixed6_conv7", "logits_unbiased")
    given = {name: np.load(folder / f"{name}.npz") for name in ("samples", "reference")}
    found = {name: features_of(network, list(file["arr_0"]), *layers) for name, file in given.items()}
    ours = {name: table.value("samples", name) for name in NAMES}
    for name, layer, tail in (("fid", "pool3", ""), ("sfid", "mixed6_conv7", "_s")):
        x = found["samples"][layer].double().numpy()
        mu, sigma = (given["reference"][f"{key}{tail}"] for key in ("mu", "sigma"))
        # Tr sqrt(S1 S2) by the small matrix of the N samples: its root is exact where S1 has rank N - 1
        centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
        root = np.real(np.trace(sqrtm(centred @ sigma @ centred.T)))
        expected = np.square(x.mean(0) - mu).sum() + x.var(0, ddof=1).sum() + np.trace(sigma) - 2 * root
        assert ours[name] == pytest.approx(expected, rel=1e-5)
    p = torch.softmax(found["samples"]["logits_unbiased"], 1).numpy()
    kl = p * (np.log(p) - np.log(p.mean(0, keepdims=True)))
    assert ours["is_adm"] == pytest.approx(np.exp(kl.sum(1).mean()), rel=1e-5)
    a, b = (found[name]["pool3"].double() for name in ("samples", "reference"))
    for name, inner, outer in (("precision", a, b), ("recall", b, a)):
        radii = torch.cdist(outer, outer).sort(1).values[:, 3]
        assert ours[name] == pytest.approx(float((torch.cdist(inner, outer) <= radii).any(1).double().mean()))


def test_statistics_and_images_are_two_references(ran: tuple[Path, ResultTable]) -> None:
    rows = {row.metric: row for row in ran[1].rows if row.cell == "samples"}
    for name in ("fid", "sfid"):
        assert rows[name].protocol["reference"]["statistics"]
    for name in ("precision", "recall"):
        assert rows[name].protocol["reference"]["n"] == N + 2
    assert rows["fid"].protocol["reference"]["digest"] != rows["sfid"].protocol["reference"]["digest"]


def test_equal_and_random_labels_are_other_protocols(ran: tuple[Path, ResultTable]) -> None:
    table = ran[1]
    labels = {(row.cell, row.metric): row.protocol.get("labels") for row in table.rows if row.metric in NAMES}
    assert {labels["samples", name] for name in NAMES} == {"equal"}
    assert {labels["random", name] for name in NAMES} == {"random"}
    assert "labels is random, not equal" in " ".join(table.footnotes())
    assert table.value("samples", "fid") == table.value("random", "fid")  # the very same images
    assert not table.comparisons


def test_random_labels_of_a_model_are_drawn_once_and_for_all() -> None:
    drawn = ClassPrompts(num_classes=10, random=50)
    classes = [prompt.class_id for prompt in drawn]
    assert len(drawn) == 50
    assert classes == [prompt.class_id for prompt in ClassPrompts(num_classes=10, random=50)]
    assert classes != [prompt.class_id for prompt in ClassPrompts(num_classes=10, random=50, seed=1)]
    assert len(set(classes)) > 5
    assert ClassPrompts(num_classes=3).identity() == ClassPrompts(num_classes=3, seed=4).identity()


def test_a_batch_that_is_not_there_or_cannot_be_split(ran: tuple[Path, ResultTable]) -> None:
    with pytest.raises(ConfigError, match=r"there is no reference batch nowhere\.npz: check reference\.adm\.path"):
        AdmReference("nowhere.npz").check()
    config = compose(["experiment=imagenet256", "floor=split"])
    cells: Any = [type("Cell", (), {"num_samples": 2})]
    with pytest.raises(ConfigError, match="holds statistics, which cannot be split"):
        open_floor(config, AdmReference(ran[0] / "reference.npz").open(), cells, Missing(), None)
