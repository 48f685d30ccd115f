"""Composition: every shipped YAML is composed and built, and every wrong name is one clear line."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import evalkit
from evalkit.config import schema
from evalkit.config.build import GRID_KEYS, build, split_call_settings
from evalkit.config.compose import compose, resolve
from evalkit.config.sweep import expand
from evalkit.errors import ConfigError
from evalkit.models.base import Model

CONFIGS = Path(evalkit.__file__).resolve().parent.parent / "configs"
OPTIONS = sorted((group, path.stem) for group in schema.GROUPS for path in (CONFIGS / group).glob("*.yaml"))
ONE_ONLY = ("reference", "engine")  # groups of which a run has one option
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("group", sorted({group for group, _ in OPTIONS}))
def test_every_option_composes_under_its_own_name_and_builds(group: str) -> None:
    """A group's options composed together, for Hydra takes 0.2 s each time; the slow form composes each alone."""
    options = [option for its_group, option in OPTIONS if its_group == group]
    for chosen in [[option] for option in options] if group in ONE_ONLY else [options]:
        check_options(group, chosen)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_alone(group: str, option: str) -> None:
    check_options(group, [option])


def check_options(group: str, options: list[str]) -> None:
    """Composes and builds, with values made up for what the user must give; a file's stem is its key."""
    composed = compose([f"{group}={options[0]}" if group in ONE_ONLY else f"{group}=[{','.join(options)}]"])
    for option in options:
        assert option in composed[group], f"configs/{group}/{option}.yaml is not keyed '{option}'"
    for key in OmegaConf.missing_keys(composed[group]):
        value: Any = ["a prompt"] if key.endswith(".prompts") else "tests/helpers/grid_models.py"
        OmegaConf.update(composed, key, value)
    if "gan" in options:
        composed.model.gan.module = "grid_models.Bare"
        composed.model.gan.weights = "weights.safetensors"
    built_from = getattr(resolve(composed), group)
    for option in options:
        for variant in expand(option, built_from[option]):
            if group == "model":
                constructor, _ = split_call_settings({k: v for k, v in variant.option.items() if k not in GRID_KEYS})
                assert isinstance(build(constructor), Model)
            elif group not in ("prompts", *schema.RULES):  # tests/prompts reads files; tests/gate judges by rules
                build(variant.option)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    composed = compose([f"experiment={experiment}"])
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    for key in OmegaConf.missing_keys(own):  # the files that it asks the user for
        OmegaConf.update(composed, key, "FILE")
    assert resolve(composed).model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_sample=3", "num_sample: no such key. Did you mean 'num_samples'?"),
        ("sampelr=[ddim]", "sampelr: no such key. Did you mean 'sampler'?"),
        ("sampler=[dimm]", "sampler=dimm: no such option. Did you mean 'ddim'?"),
        ("experiment=digit", "experiment=digit: no such option. Did you mean 'digits'?"),
        ("metric=[fidd]", "metric=fidd: no such option. Did you mean 'fid'?"),
        ("batch_size=abc", "batch_size: Value 'abc' of type 'str' could not be converted to Integer"),
        ("sampler.dimm.num_inference_steps=3", "sampler.dimm: no such key. Did you mean 'ddim'?"),
        ("sampler.ddim.steps=3", "sampler.ddim.steps: no such key. "),
        ("sampler.unipc.num_inference_steps=3", "sampler.unipc: 'unipc' is not chosen in this run. Add it:"),
        ("model.digits_ldm.dtype=float16", "model.digits_ldm.dtype is not in its YAML, but can be added: write +"),
        ("extractor.inception.weight=x", "extractor.inception.weight: no such key. Did you mean 'weights'?"),
        ("a=[", "the command line was not understood"),
    ],
)
def test_a_wrong_override_is_one_line_with_the_nearest_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_wins_over_the_experiment() -> None:
    chosen = resolve(compose(["experiment=digits", "sampler=[euler]", "name=mine"]))
    assert list(chosen.sampler) == ["euler"]
    assert chosen.name == "mine"


def test_an_option_without_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler\.dimm has no _target_.*'ddim'"):
        resolve(compose(["+sampler.dimm.num_inference_steps=3"]))


def test_a_value_that_must_be_given_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"model\.folder\.path is not set: give model\.folder\.path=VALUE"):
        resolve(compose(["model=[folder]"]))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({}, "no _target_"),
        ({"_target_": "nowhere.Thing"}, "cannot be imported"),
        ({"_target_": "Thing"}, "not of the form"),
        ({"_target_": "grid_models.Bere"}, "Did you mean 'Bare'?"),
        ({"_target_": "grid_models.Bare", "widht": 3}, "takes no 'widht'. Did you mean 'width'?"),
    ],
)
def test_what_cannot_be_built_says_why(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(option, "model.x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "mend"), [("experiment", "~experiment"), ("reference", "~reference"), ("gate", "gate=[]")]
)
def test_a_group_that_is_null(group: str, mend: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{group}=null: a group cannot be null: {mend} leaves it out")):
        compose([f"{group}=null"])
    compose([mend])
