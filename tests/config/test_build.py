"""What a `_target_` names is looked at before anything is called, and values fit what they are given to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalkit.config.build import build, factory_of
from evalkit.config.compose import compose, resolve
from evalkit.config.values import misfit
from evalkit.errors import ConfigError
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric
from evalkit.models.base import Model, Sampler
from evalkit.plan.plan import make_plan
from evalkit.prompts.sets import PromptSet
from evalkit.trackers.push import make_trackers

CALLED: list[str] = []


def called(path: str = "") -> Sampler:
    """A function that says what it makes, and whether it ran."""
    CALLED.append(path)
    return Sampler()


def untold(path: str = ""):  # type: ignore[no-untyped-def]
    CALLED.append(path)


@pytest.mark.parametrize("expected", [Model, Metric, Extractor, PromptSet])
@pytest.mark.parametrize("target", ["test_build.called", "test_build.untold", "builtins.dict", "os.system"])
def test_nothing_is_called_that_is_not_what_is_expected(target: str, expected: type) -> None:
    CALLED.clear()
    with pytest.raises(ConfigError, match=rf"model\.x: {target} is not a subclass of evalkit\.") as caught:
        build({"_target_": target, "path": "/x"}, "model.x", expected)
    assert not CALLED
    assert "\n" not in str(caught.value)


def test_a_function_may_say_what_it_makes() -> None:
    assert build({"_target_": "test_build.called"}, "sampler.x", Sampler) == Sampler()
    with pytest.raises(ConfigError, match="`-> ITS_CLASS`"):
        factory_of({"_target_": "test_build.untold"}, "sampler.x", Sampler)


@pytest.mark.parametrize(
    ("group", "mode"), [("model", "w"), ("metric", "w"), ("sampler", "w"), ("prompts", "w"), ("export", "w")]
)
def test_no_group_opens_a_file_that_a_target_names(group: str, mode: str, tmp_path: Path) -> None:
    """F4: `builtins.open` truncated the file, and was refused afterwards."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    option = f"+{group}.evil={{_target_: builtins.open, file: '{victim}', mode: {mode}}}"
    with pytest.raises(ConfigError, match=rf"{group}\.evil: builtins\.open is not a subclass of evalkit\."):
        make_plan(resolve(compose(["experiment=digits", "model=[digits_dcgan]", "exclude=[]", option])))
    assert victim.read_text() == "precious"


def test_nor_does_a_tracker(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with pytest.raises(ConfigError, match=r"tracker\.t: builtins\.open is not a subclass of evalkit\.trackers"):
        make_trackers({"t": {"_target_": "builtins.open", "file": str(victim), "mode": "w"}})
    assert victim.read_text() == "precious"


def test_a_builtin_without_a_signature() -> None:
    with pytest.raises(ConfigError, match="does not say what it takes"):
        build({"_target_": "builtins.dict"}, "model.x")


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (5, "Sequence[str]", "a list [A, B]"),
        ("ten", "int | None", "a whole number or null"),
        (1.5, "int", "a whole number"),
        (True, "int", "a whole number"),
        ("high", "float", "a number"),
        ([1], "str | None", "a text or null"),
        ("x", "Mapping[str, Any] | None", "a mapping {KEY: VALUE} or null"),
        (1, "bool", "true or false"),
        (None, "str", "a text"),
        (2, "str | None", None),  # `version: 2`
        (3, "float", None),
        (["a"], "str | Sequence[str] | None", None),
        ({"a": 1}, "str | Mapping[str, dict[str, int]]", None),
        ("x", "Literal['a', 'b']", None),  # other kinds are the class's own to judge
        (5, int | str, None),
    ],
)
def test_values_fit_annotations(value: Any, annotation: Any, wanted: str | None) -> None:
    assert misfit(value, annotation) == wanted


def test_a_misfit_names_its_key() -> None:
    """F14: "prompts.inline: 'int' object is not iterable"."""
    with pytest.raises(ConfigError, match=r"^prompts\.inline\.prompts=5: a list \[A, B\]"):
        build({"_target_": "evalkit.prompts.InlinePrompts", "prompts": 5}, "prompts.inline", PromptSet)
    with pytest.raises(ConfigError, match=r"^sampler\.ddim\.num_inference_steps=ten: a whole number or null is wanted"):
        build({"_target_": "evalkit.models.base.Sampler", "num_inference_steps": "ten"}, "sampler.ddim", Sampler)
