"""`experiment=mlperf_sdxl`: what it asks for, what is said where a file is missing, and the whole of it, tiny."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from command import results, run_evalkit
from tiny_pipelines import SIZE, save

from evalkit.config.compose import compose, resolve
from evalkit.data.codec import decode
from evalkit.errors import ConfigError
from evalkit.extractors.clip import Clip
from evalkit.plan.plan import Plan, make_plan

NEGATIVE = "normal quality, low quality, worst quality, low res, blurry, nsfw, nude"
COLUMNS = ("id", "image_id", "caption", "height", "width", "file_name", "coco_url")
CAPTIONS = [f"{letter} red car" for letter in "abcdefghijklmnopqr"] + ['a "stop", and a bus', "d red car"]


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytorch-fid saves them: 33 MB, once."""
    file = tmp_path_factory.mktemp("statistics") / "val2014.npz"
    np.savez(file, mu=np.zeros(2048), sigma=np.eye(2048))
    return file


@pytest.fixture
def here(tmp_path: Path, statistics: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mlperf/, whose three files are of MLPerf's layouts."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mlperf"
    folder.mkdir()
    with (folder / "captions_source.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")  # quoted as pandas does
        writer.writerow(COLUMNS)
        writer.writerows([7 * i, 1000 + i, text, 640, 480, f"{i}.jpg", "http"] for i, text in enumerate(CAPTIONS))
    assert '\t"a ""stop"", and a bus"\t' in (folder / "captions_source.tsv").read_text()
    torch.save(torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(0)), folder / "latents.pt")
    (folder / "val2014.npz").symlink_to(statistics)
    return tmp_path


def plan(*overrides: str) -> Plan:
    return make_plan(resolve(compose(["experiment=mlperf_sdxl", *overrides])))


def test_it_asks_for_what_the_contract_says(here: Path) -> None:
    found = plan("dry_run=true")
    (cell,) = found.cells
    assert (cell.model, cell.sampler, cell.num_samples) == ("sdxl", "euler", 20)
    asked = {"num_inference_steps": 20, "guidance_scale": 8, "height": 1024, "width": 1024, "negative_prompt": NEGATIVE}
    assert {name: cell.settings.get(name) for name in asked} == asked
    sampler = {"scheduler": "EulerDiscreteScheduler", "options": {}, "num_inference_steps": 20}
    assert cell.identity["sampler"] == sampler
    assert [prompt.text for prompt in found.prompts["table"]] == CAPTIONS
    limits = {(rule.metric, rule.kind): rule.limit for rule in found.gates["mlperf_sdxl"].rules}
    assert limits == {
        ("clip_score", "min"): 31.68631873,
        ("clip_score", "max"): 31.81331801,
        ("fid_pytorch_fid", "min"): 23.01085758,
        ("fid_pytorch_fid", "max"): 23.95007626,
    }
    for metric, reference, part in (("clip_score", 31.74981837, 0.002), ("fid_pytorch_fid", 23.48046692, 0.02)):
        for kind, sign in (("min", -1), ("max", 1)):
            assert limits[metric, kind] == pytest.approx(reference * (1 + sign * part), abs=1e-8)
    assert found.metrics["clip_score"].constants() == {"estimator": "mean(scale * cos)", "scale": 100.0}
    clip = found.extractors["clip_vit_b32"]
    assert isinstance(clip, Clip)
    assert (clip.model, clip.pretrained, clip.prefix) == ("ViT-B-32-quickgelu", "openai", "")
    assert [line.partition(":")[0] for line in found.missing] == [
        *("model.sdxl", "extractor.clip_vit_b32", "extractor.inception_pytorch_fid"),
    ]


@pytest.mark.parametrize(
    ("file", "option"),
    [
        ("captions_source.tsv", "prompts"),
        ("latents.pt", "model.sdxl.latents"),
        ("val2014.npz", "reference.stats.path"),
    ],
)
def test_a_missing_file_is_one_line(here: Path, file: str, option: str) -> None:
    (here / "mlperf" / file).unlink()
    with pytest.raises(ConfigError) as caught:
        plan()
    message = str(caught.value)
    assert f"mlperf/{file}" in message
    assert option in message
    assert "\n" not in message


def test_the_whole_of_it_on_a_tiny_sdxl(here: Path, inception_weights: Path) -> None:
    """20 captions, one latent: a smoke run, which says that it is none."""
    folder = save("sdxl", here / "sdxl")
    noise = torch.randn(1, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(0))
    torch.save(noise, here / "mlperf" / "latents.pt")
    done = run_evalkit(
        *("experiment=mlperf_sdxl", f"model.sdxl.path={folder}", "model.sdxl.revision=null", "model.sdxl.variant=null"),
        *(f"model.sdxl.height={SIZE}", f"model.sdxl.width={SIZE}", "model.sdxl.dtype=float32", "device=cpu"),
        *(f"extractor.inception_pytorch_fid.weights={inception_weights}", "metric.clip_score.image=digits_clip/image"),
        *("metric.clip_score.text=digits_clip/text", "report=false", "map.method=null"),
        cwd=here,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    out = here / "runs" / "mlperf_sdxl"
    table = results(out)
    assert (table["gate"]["status"], len(table["gate"]["results"])) == ("inconclusive", 4)
    for result in table["gate"]["results"]:
        assert result["reason"] == "of 20 samples, where 5,000 are asked for: that says nothing"
    assert "of 20 samples, where 5,000 are asked for" in done.stdout
    scores = {row["metric"]: row for row in table["rows"]}
    assert scores["clip_score"]["stderr"] > 0
    assert scores["clip_score"]["clusters"] == 19  # one caption stands there twice
    assert scores["fid_pytorch_fid"]["value"] > 0
    assert (
        "no standard error" in scores["fid_pytorch_fid"]["note"]
    )  # of 20 images in 2,048 dimensions; of 5,000 there is
    with (out / "samples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["prompt"] for line in lines] == CAPTIONS
    made = np.stack([decode(Path(line["file"])) for line in lines])
    assert len({image.tobytes() for image in made}) == 19  # from one latent, one caption gives one image
    np.testing.assert_array_equal(made[3], made[19])
    assert np.abs(made[:3].astype(int) - by_diffusers(folder, noise, CAPTIONS[:3])).max() <= 1


def by_diffusers(folder: Path, noise: torch.Tensor, captions: list[str]) -> np.ndarray:
    """As mlcommons/inference's backend_pytorch.py calls the pipeline, on texts: u8 [B,H,W,3]."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    scheduler = EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, scheduler=scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        captions,
        negative_prompt=[NEGATIVE] * len(captions),
        height=SIZE,
        width=SIZE,
        guidance_scale=8,
        num_inference_steps=20,
        latents=noise.repeat(len(captions), 1, 1, 1),
        output_type="pt",
    ).images
    return (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(int)
