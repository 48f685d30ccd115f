"""dry_run=true: the grid and all that is missing, told at once; nothing is made, and nothing fetched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import run_evalkit

from evalkit.config.compose import compose, resolve
from evalkit.data.codec import encode_png
from evalkit.errors import ConfigError, DataError
from evalkit.plan.grid import Missing
from evalkit.plan.plan import Plan, make_plan


@pytest.fixture(autouse=True)
def _nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of weights, and a network that must not be used."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def plan(*overrides: str) -> Plan:
    return make_plan(resolve(compose([*overrides, "dry_run=true"])))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "PartiPrompts.tsv"
    rows = [f"a bear {i}\t{'Animals' if i % 2 else 'Artifacts'}" for i in range(6)]
    file.write_text("\n".join(["Prompt\tCategory", *rows]) + "\n")
    return file


def grid(found: Plan) -> list[tuple[Any, ...]]:
    return [(c.model, c.sampler, c.num_samples, c.settings.get("num_inference_steps")) for c in found.cells]


def test_sdxl_vs_sd15_coco30k(tmp_path: Path) -> None:
    captions = tmp_path / "captions.csv"
    captions.write_text("caption\n" + "".join(f"a street {i}\n" for i in range(30)))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "0.jpg").write_bytes(encode_png(np.zeros((48, 64, 3), np.uint8)))
    (tmp_path / "val2014" / "1.jpg").write_bytes(encode_png(np.zeros((64, 48, 3), np.uint8)))
    files = (f"prompts.table.path={captions}", f"reference.folder.path={tmp_path / 'val2014'}")
    with pytest.raises(ConfigError, match="'kid' needs at least 1000 reference images, but there are 2"):
        plan("experiment=sdxl_vs_sd15_coco30k", *files)
    found = plan("experiment=sdxl_vs_sd15_coco30k", *files, "metric.kid.subset_size=2")
    assert grid(found) == [("sd15", "ddim", 30000, 50), ("sdxl", "ddim", 30000, 50)]
    assert [(c.settings["height"], c.settings["guidance_scale"]) for c in found.cells] == [(512, 7.5), (1024, 5.0)]
    assert found.reference is not None
    assert [image.shape for image in found.reference.read(range(2))] == [(256, 256, 3)] * 2  # type: ignore[union-attr]
    heads = [line.partition(":")[0] for line in found.missing]
    assert heads == [
        *("model.sd15", "model.sdxl"),
        *("extractor.inception", "extractor.inception_clean", "extractor.clip_vit_b32"),
    ]
    assert "is not in the cache (a dry run fetches nothing). Where there is a network, `hf download" in found.missing[0]
    assert all("\n" not in line for line in found.missing)


def test_sdxl_turbo_steps(prompts: Path) -> None:
    found = plan("experiment=sdxl_turbo_steps", f"prompts.parti.path={prompts}")
    assert grid(found) == [("sdxl_turbo", "default", 6, steps) for steps in (1, 2, 4)]
    assert all(cell.call_settings["guidance_scale"] == 0.0 for cell in found.cells)
    assert all(cell.identity["sampler"]["options"] == {"timestep_spacing": "trailing"} for cell in found.cells)
    assert found.baseline == found.cells[0].name
    assert len([line for line in found.missing if line.startswith("model.")]) == 1  # told once, not once a cell


def test_parti_prompts(prompts: Path) -> None:
    found = plan("experiment=parti_prompts", f"prompts.parti.path={prompts}")
    assert [row[:3] for row in grid(found)] == [(m, "dpmpp_2m_karras", 6) for m in ("sd15", "sdxl", "pixart_sigma")]
    assert list(found.metrics) == ["clip_score", "pickscore", "hpsv2", "image_reward"]
    assert len({line.partition(":")[0] for line in found.missing}) == len(found.missing) == 3 + 4


def test_images_and_local_weights_that_are_missing(tmp_path: Path) -> None:
    """A folder of samples, a pipeline's folder, a reference: one line each, and the grid all the same."""
    found = plan(
        *(
            "experiment=digits",
            "model=[folder,diffusers,digits_dcgan]",
            "sampler=[ddim]",
            "prompts=[digits]",
            "metric=[fid_digits]",
        ),
        *("exclude=[]", f"model.folder.path={tmp_path / 'samples'}", f"model.diffusers.path={tmp_path / 'weights'}"),
        *("reference=folder", f"reference.folder.path={tmp_path / 'real'}", "num_samples=20"),
    )
    assert {cell.model for cell in found.cells} == {"folder", "diffusers", "digits_dcgan"}
    assert [line.partition(":")[0] for line in found.missing] == ["model.folder", "model.diffusers", "reference"]


def test_what_is_wrong_is_still_refused(prompts: Path) -> None:
    turbo = ("experiment=sdxl_turbo_steps", f"prompts.parti.path={prompts}")
    with pytest.raises(ConfigError, match=r"baseline=.* picks 0 cells"):
        plan(*turbo, "baseline={num_inference_steps: 3}")
    with pytest.raises(ConfigError, match=r"prompts: the file gone\.tsv is missing"):
        plan(turbo[0], "prompts.parti.path=gone.tsv")
    with pytest.raises(ConfigError, match=r"prompts\.parti\.path is not set"):
        plan(turbo[0])


def test_a_run_that_is_not_dry_stops_at_the_first() -> None:
    with pytest.raises(ConfigError), Missing().noted("model.a"):
        raise ConfigError("no weights")
    missing = Missing(dry=True)
    for _ in range(2):
        with missing.noted("model.a"):
            raise ConfigError("no weights")
    assert missing.lines == ["model.a: no weights"]
    assert (missing.any_of("model.a", "b"), missing.any_of("b")) == (True, False)
    with pytest.raises(DataError), missing.noted("model.a"):
        raise DataError("a broken file")


def test_the_command(tmp_path: Path, prompts: Path) -> None:
    """Exit code 2 and a line for each missing file; 0 where all is there. Nothing is written."""
    cache = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch")}
    run = tmp_path / "run"
    run.mkdir()
    done = run_evalkit("experiment=sdxl_turbo_steps", f"prompts.parti.path={prompts}", "dry_run=true", cwd=run, **cache)
    assert done.returncode == 2, done.stderr
    assert "18 samples to make, about 9 MB" in done.stdout
    assert "missing: model.sdxl_turbo: model 'stabilityai/sdxl-turbo' (revision 7115331" in done.stdout
    assert "missing: extractor.pickscore: " in done.stdout
    assert "(a dry run fetches nothing)" in done.stdout
    assert "download=false" not in done.stdout
    assert not list(run.iterdir())
    assert shutil.which("hf") is None or "hf download stabilityai/sdxl-turbo" in done.stdout


def test_references_and_existing_images_are_not_fetched_either(tmp_path: Path) -> None:
    """A Hugging Face dataset by its hub id and a torchvision dataset with download=true, as model and as reference."""
    pytest.importorskip("datasets")
    gan = ("experiment=digits", "model=[digits_dcgan]", "sampler=[]", "prompts=[]", "exclude=[]", "metric=[fid_digits]")
    hub = plan(*gan, "reference=dataset", "reference.dataset.name=nobody/nothing")
    mnist = plan(
        *gan, "reference=torchvision", "reference.torchvision.name=MNIST", "reference.torchvision.download=true",
        f"reference.torchvision.root={tmp_path}",
    )  # fmt: skip
    models = plan(
        "model=[dataset]", "model.dataset.name=nobody/nothing", *gan[2:], "reference=digits", "num_samples=10"
    )  # fmt: skip
    for found, head in ((hub, "reference"), (mnist, "reference"), (models, "model.dataset")):
        assert [line.partition(":")[0] for line in found.missing] == [head], found.missing
        assert "a dry run fetches nothing" in found.missing[0]
    assert not list(tmp_path.rglob("*.gz"))
