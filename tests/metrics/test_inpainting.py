"""PSNR, SSIM and LPIPS inside and outside of a mask: against the formulas on the region's pixels, the whole way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import MatrixExtractor, MemorySource
from golden import Golden, peer
from omegaconf import OmegaConf
from options import metric_of, option
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from evalkit.config.compose import compose, resolve
from evalkit.metric import Batch
from evalkit.metrics.inpainting import RegionPsnr
from evalkit.plan.plan import make_plan
from evalkit.samples.store import Store
from evalkit.scoring import Against, Scored, score_sources


class Pixels(MatrixExtractor):
    """Layer phi: an image's levels / 255 in a row, so that LPIPS is a sum of squares."""

    joint_layers = text_layers = frozenset()

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"phi": None}

    def __call__(
        self, images: Sequence[np.ndarray], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        return {"phi": torch.from_numpy(np.stack(images).reshape(len(images), -1) / np.float32(255))}


def pictures(seed: int, n: int = 5) -> list[np.ndarray]:
    return [np.random.default_rng((seed, i)).integers(0, 256, (16, 18, 3), np.uint8) for i in range(n)]


def masks(n: int = 5) -> list[np.ndarray]:
    """White where it is painted again: another part of each image; of half the size, so that it is enlarged."""
    found = []
    for i in range(n):
        mask = np.zeros((8, 9, 3), np.uint8)
        mask[i : i + 3, 2:6] = 255 if i % 2 else 200
        found.append(mask)
    return found


def scored(
    name: str, folder: Path, made: list[np.ndarray], given: list[np.ndarray], of_masks: Any, **changes: Any
) -> Scored:
    """A metric's score of samples whose prompts name a source and a mask, through the store."""
    own = {"cell": {"source": MemorySource(given), "mask": of_masks}}
    return score_sources(
        {"cell": MemorySource(made, ["a", "a", "b", "c", "d"])},
        metrics={name: ({**option("metric", name), **changes}, metric_of(name, **changes))},
        extractors={"lpips_alex": Pixels("lpips_alex")},
        against=Against(own=own),
        store=Store(folder),
        device="cpu",
        progress=lambda *_: None,
    )["cell", name]


@pytest.mark.parametrize("region", ["inside", "outside"])
def test_golden(golden: Golden, tmp_path: Path, region: str) -> None:
    made, given = pictures(0), pictures(1)
    inside = [np.kron(mask[..., 0] >= 128, np.ones((2, 2), bool)) for mask in masks()]
    regions = [each == (region == "inside") for each in inside]
    pairs = [(a.astype(float), b.astype(float), r) for a, b, r in zip(made, given, regions, strict=True)]
    psnr = [10 * np.log10(255**2 / np.mean((a[r] - b[r]) ** 2)) for a, b, r in pairs]
    result = scored(f"psnr_{region}_mask", tmp_path, made, given, MemorySource(masks()))
    golden(f"psnr_{region}_mask", result.score.value, np.mean(psnr), rel=1e-9, source="the region's pixels, by numpy")
    assert result.label == f"PSNR {region} mask (source)"
    assert result.protocol["region"] == region
    assert result.score.influence == pytest.approx(psnr)

    ssim = []
    for a, b, r in pairs:
        x, y = (torch.from_numpy(image * r[..., None]).permute(2, 0, 1)[None] for image in (a, b))
        _, full = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none", return_full_image=True)
        ssim.append(float(full[0, :, torch.from_numpy(r)].mean()))
    result = scored(f"ssim_{region}_mask", tmp_path, made, given, MemorySource(masks()))
    source = f"{peer('torchmetrics')}'s map, mean over the region"
    golden(f"ssim_{region}_mask", result.score.value, np.mean(ssim), rel=1e-9, source=source)

    squares = [np.sum(((a - b) / 255) ** 2 * r[..., None]) for a, b, r in pairs]
    result = scored(f"lpips_{region}_mask", tmp_path, made, given, MemorySource(masks()))
    source = "squares of masked pixels as features, by numpy"
    golden(f"lpips_{region}_mask", result.score.value, np.mean(squares), rel=1e-6, source=source)


def test_what_is_left_alone_and_what_is_painted(tmp_path: Path) -> None:
    """Only the inside was changed: outside it is the cap; another mask is another protocol and another value."""
    given = pictures(2)
    inside = [np.kron(mask[..., :1] >= 128, np.ones((2, 2, 1), bool)) for mask in masks()]
    made = [np.where(where, 255 - image, image) for where, image in zip(inside, given, strict=True)]
    left = scored("psnr_outside_mask", tmp_path, made, given, MemorySource(masks()))
    painted = scored("psnr_inside_mask", tmp_path, made, given, MemorySource(masks()))
    assert left.score.value == 100
    assert painted.score.value is not None
    assert painted.score.value < 15
    other = scored("psnr_outside_mask", tmp_path, made, given, MemorySource([255 - mask for mask in masks()]))
    assert other.score.value == pytest.approx(painted.score.value)
    assert other.protocol_hash != left.protocol_hash
    again = scored("psnr_outside_mask", tmp_path, made, given, MemorySource(masks()))
    assert (again.cached, again.score.value) == (True, 100)


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    made, given = pictures(3), pictures(4)
    black = [*masks()[:4], np.zeros((8, 9, 3), np.uint8)]
    result = scored("psnr_inside_mask", tmp_path, made, given, MemorySource(black))
    assert result.score.value is None
    assert "sample 4: its mask leaves no pixel inside: white is inside" in str(result.score.note)
    without = scored("psnr_inside_mask", tmp_path, made, given, "the prompts name no mask image")
    assert (without.score.value, without.score.note) == (None, "the prompts name no mask image")
    with pytest.raises(ValueError, match="region=within: give inside or outside"):
        RegionPsnr(region="within")  # type: ignore[arg-type]


def test_a_batch_carries_its_region_to_a_device() -> None:
    region = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    batch = Batch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.arange(1), 1, [None], {}, region=region)
    moved = batch.to("meta")
    assert moved.region is not None
    assert moved.region.device.type == "meta"
    assert RegionPsnr().distance(batch, replace(batch, images=batch.images)).tolist() == [100.0]


def test_the_plan_finds_the_masks_that_prompts_name(tmp_path: Path) -> None:
    """Folders of prompts' images: the metric asks for the sources and for the masks."""
    for name, image in (("source", pictures(5)[0]), ("mask", masks()[1])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    prompt = {"text": "a red seven", "source": str(tmp_path / "source.png"), "mask": str(tmp_path / "mask.png")}
    composed = compose(["model=[digits_ldm]", "prompts=inline", "metric=[psnr_outside_mask]", "reference=none"])
    OmegaConf.update(composed, "prompts.inline.prompts", [prompt, {**prompt, "text": "a blue one"}])
    plan = make_plan(resolve(composed))
    own = plan.own[plan.cells[0].name]
    assert set(own) == {"source", "mask"}
    assert not isinstance(own["mask"], str)
