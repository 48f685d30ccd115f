"""What a command line means before Hydra reads it: the demo stays out of people's runs, names match in any case."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.config.compose import compose, group_options, resolve
from evalkit.config.listing import complete_word, headline, option_files
from evalkit.config.overrides import METRICS, complete, leaves_demo, leaves_metrics_open
from evalkit.config.schema import GROUPS
from evalkit.config.words import is_statistics, place_name, read_words
from evalkit.errors import ConfigError

COMMANDS, MODELS = ("ls", "init", "report"), ("sdxl_turbo", "folder")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=[digits_dcgan]"],
        ["model.digits_dcgan.truncation=1"],  # a setting chooses the option that it is of
        ["model=[Digits_DCGAN]"],
        ["++model.digits_dcgan.truncation=1", "model=[digits_dcgan]"],
    ],
)
def test_nothing_of_the_demo_is_inherited_once_a_model_is_named(overrides: list[str]) -> None:
    config = resolve(compose(overrides))
    assert list(config.model) == ["digits_dcgan"]
    assert (config.prompts, config.metric, config.sampler, config.exclude) == ({}, {}, {}, [])
    assert (list(config.reference), config.name) == (["none"], "auto")


def test_the_demo_is_what_names_no_model_or_asks_for_it() -> None:
    assert len(resolve(compose([])).model) == len(resolve(compose(["num_samples=8", "metric=[is_digits]"])).model) == 3
    asked = resolve(compose(["experiment=digits", "model=[digits_dcgan]"]))
    assert (list(asked.model), asked.name, list(asked.reference)) == (["digits_dcgan"], "digits", ["digits"])
    assert leaves_demo(["model=[x]"])
    assert leaves_demo(["+model.x={_target_: a.B}"])
    assert not leaves_demo(["~model.digits_dcgan"])
    assert not leaves_demo(["model=[x]", "~experiment"])


def test_a_setting_chooses_its_option_where_nothing_else_does() -> None:
    config = resolve(compose(["model.folder.path=here", "reference.folder.path=there", "metric.kid.subset_size=50"]))
    assert (config.model["folder"]["path"], config.reference["folder"]["path"]) == ("here", "there")
    assert config.metric["kid"]["subset_size"] == 50
    with pytest.raises(ConfigError, match="'unipc' is not chosen in this run"):
        compose(["model=[digits_ddpm]", "sampler=[ddim]", "sampler.unipc.num_inference_steps=3"])


def test_names_match_whatever_their_case() -> None:
    config = resolve(compose(["experiment=Digits", "metric=[FID,kid_Digits]", "metric.Fid.features=digits/features"]))
    assert list(config.metric) == ["fid", "kid_digits"]
    assert config.metric["fid"]["features"] == "digits/features"
    options = {"model": ["sd15", "SD15", "other"]}
    assert complete(["model=[SD15,OTHER]"], lambda group: options.get(group, []))[1] == "model=[SD15,other]"
    assert complete(["model=[Sd15]"], lambda group: options.get(group, []))[1] == "model=[Sd15]"  # which is not clear


def test_an_extractors_setting_brings_the_extractor() -> None:
    assert resolve(compose(["extractor.timm.model=resnet18"])).extractor["timm"]["model"] == "resnet18"
    assert "timm" not in resolve(compose([])).extractor


def test_metrics_are_open_where_a_run_of_ones_own_names_none() -> None:
    assert leaves_metrics_open([], True)
    assert leaves_metrics_open(["model=[x]"], False)
    assert not leaves_metrics_open([], False)  # the demo
    assert not leaves_metrics_open(["metric=[]"], True)
    assert not leaves_metrics_open(["experiment=digits"], True)
    assert set(METRICS) <= set(group_options("metric"))


def test_words_are_folders_a_reference_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sdxl-1.0", "b", "real", "runs", "x/samples", "y/samples", "a=b"):
        (tmp_path / name).mkdir(parents=True)

    def read(*words: str, reference: str | None = None) -> tuple[list[str], dict[str, str], str | None]:
        found = read_words(words, reference, COMMANDS, MODELS)
        return list(found.overrides), dict(found.folders), found.reference

    assert read("sdxl-1.0") == ([], {"sdxl-1.0": "sdxl-1.0"}, None)
    assert read("sdxl-1.0/", "real", "num_samples=3") == (["num_samples=3"], {"sdxl-1.0": "sdxl-1.0/"}, "real")
    assert read("b", "real", "reference=digits")[1:] == ({"b": "b", "real": "real"}, None)
    assert read("b", "real", "runs", reference="digits")[1:] == ({"b": "b", "real": "real", "runs": "runs"}, "digits")
    assert list(read("x/samples", "y/samples", reference="real")[1]) == ["x-samples", "y-samples"]
    assert list(read("a=b")[1]) == ["a_b"]  # a folder of that name is one
    assert read("s3://bucket/a.zip", "data/{0..3}.tar")[1:] == ({"a": "s3://bucket/a.zip"}, "data/{0..3}.tar")
    for words, message in (
        (("lss",), "'lss' is no folder or file that is here, no command, and no KEY=VALUE. Did you mean 'ls'?"),
        (("sdxl_turbo",), r"'sdxl_turbo' is a model's name, and no folder: write 'model=\[sdxl_turbo\]'"),
        (("b", "real", "runs"), "3 folders: which is the reference\\? Name it: --reference runs"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(*words)
    with pytest.raises(ConfigError, match=r"--reference gone\.zip: there is no such folder or file"):
        read("b", reference="gone.zip")


def test_places_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sd 2.1 (ema)").mkdir()
    monkeypatch.chdir(tmp_path / "sd 2.1 (ema)")
    assert place_name(".") == "sd_2.1_ema"
    assert [place_name(f"a/{name}") for name in ("b.tar.gz", "v1.5", ".zip", "c.npz")] == ["b", "v1.5", "zip", "c"]
    assert place_name("https://host/d/e.parquet?token=secret") == "e"


def test_folders_and_their_reference_are_composed(tmp_path: Path) -> None:
    import numpy as np

    stats, images = tmp_path / "stats.npz", tmp_path / "images.npz"
    np.savez(stats, mu=np.zeros(2), sigma=np.eye(2))
    np.savez(images, np.zeros((2, 8, 8, 3), np.uint8))
    assert is_statistics(str(stats))
    assert not is_statistics(str(images))
    shared = ["model.folder.recursive=false"]
    config = resolve(compose(shared, folders={"v1.0": "a b", "two": "c"}, reference=str(stats)))
    assert [(key, option["path"], option["recursive"]) for key, option in config.model.items()] == [
        ("v1.0", "a b", False),
        ("two", "c", False),
    ]
    assert config.reference == {
        "stats": {"_target_": "evalkit.data.reference.StatsReference", "path": str(stats)},
    }
    both = resolve(compose(["model=[digits_dcgan]"], folders={"mine": "a"}, reference="digits"))
    assert (list(both.model), list(both.reference)) == (["digits_dcgan", "mine"], ["digits"])


def test_a_word_is_completed() -> None:
    assert complete_word("re", COMMANDS) == ["readers=", "reference=", "report", "report=", "rescan="]
    assert complete_word("metric=[fid,kid_d", COMMANDS) == ["metric=[fid,kid_digits"]
    assert complete_word("reference=fold", COMMANDS) == ["reference=folder"]
    assert complete_word("sampler=ddi", COMMANDS) == []  # a list: sampler=[ddim]
    assert "sampler=[ddim" in complete_word("sampler=", COMMANDS)


def test_every_option_says_what_it_is() -> None:
    files = [file for group in GROUPS for file in option_files(group).values()]
    assert len(files) > 150
    assert not [file for file in files if len(headline(file)) < 8]
