"""CallableModel: functions and classes of anyone's own, what they return, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import own_makers
import pytest
from service_calls import PROMPTS, cell_of, make, pixels

from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.callable import CallableModel
from evalkit.samples.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def option(function: Any, **changes: Any) -> dict[str, Any]:
    return {"_target_": "evalkit.models.callable.CallableModel", "function": function, **changes}


def expected(count: int, top: int = 255) -> np.ndarray:
    return np.stack([own_makers.draw(PROMPTS[i % 4], Request(i, 0).seed32(), top) for i in range(count)])


@pytest.mark.parametrize(
    ("function", "args", "top"),
    [
        ("own_makers.as_list", None, 255),
        ("own_makers.as_array", None, 255),
        ("own_makers.of_arrays", None, 255),
        ("own_makers.as_list", {"top": 9}, 9),
        ("own_makers.Maker", None, 255),
        ({"_target_": "own_makers.Maker", "top": 9}, None, 9),
    ],
)
def test_images_are_those_of_the_callable(function: Any, args: Any, top: int, store: Store) -> None:
    samples = make(cell_of(option(function, args=args), 10), store, batch_size=4)
    np.testing.assert_array_equal(pixels(samples), expected(10, top))
    assert samples.warnings == {}
    assert samples.rows[0]["batch"] == 4
    assert "clock_s" not in samples.rows[0]


def test_a_class_is_built_once(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    make(cell_of(option({"_target_": "own_makers.Maker", "log": str(log)}), 10), store, batch_size=4)
    lines = log.read_text().splitlines()
    assert lines[0] == "built"
    assert [len(line.split()) for line in lines[1:]] == [4, 4, 2]


def test_negative_prompts(store: Store) -> None:
    prompts = [{"text": "a fox", "negative": "blurry"}, "a cat"]
    told = make(cell_of(option("own_makers.with_negatives"), 2, prompts=prompts), store)
    seeds = [Request(i, 0).seed32() for i in range(2)]
    wanted = [own_makers.draw("a fox/blurry", seeds[0]), own_makers.draw("a cat/None", seeds[1])]
    np.testing.assert_array_equal(pixels(told), np.stack(wanted))
    assert told.warnings == {}
    untold = make(cell_of(option("own_makers.as_list"), 2, prompts=prompts), store)
    assert untold.warnings == {"negative_prompt_ignored": 1}


@pytest.mark.parametrize(("conditioning", "asked"), [("class", 7), ("none", None)])
def test_what_is_asked_for(conditioning: Any, asked: Any) -> None:
    model = CallableModel("own_makers.as_list", conditioning=conditioning)
    model.load("cpu")
    made = model.generate([Request(3, 1, "a fox", None, 7)], sampler=None, settings={})
    np.testing.assert_array_equal(made.images[0], own_makers.draw(asked, Request(3, 1).seed32()))
    if conditioning == "class":
        with pytest.raises(DataError, match="wants a class_id, and sample 4 has none"):
            model.generate([Request(4, 1, "a fox")], sampler=None, settings={})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("floats", r"made float64 \[8, 8, 3\]: a PIL image or an array uint8 \[H,W,3\] is wanted"),
        ("few", "returned 2 images for 3 prompts"),
        ("grey", r"returned uint8 \[3, 8, 8\]: a list of PIL images or uint8 \[B,H,W,3\] is wanted"),
        ("sizes", "made images of several sizes"),
        ("nothing", "returned a NoneType"),
        ("strings", "made a str: a PIL image"),
        ("channels_first", r"made uint8 \[3, 8, 8\]"),
    ],
)
def test_what_is_no_image_is_refused(kind: str, words: str, store: Store) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make(cell_of(option("own_makers.wrong", args={"kind": kind}), 3), store)
    assert "\n" not in str(caught.value)
    assert "own_makers.wrong" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"function": "as_list"}, "'as_list' is not of the form package.module.name"),
        ({"function": "no_such_package.f"}, "there is no package 'no_such_package'"),
        ({"function": "own_makers.as_lits"}, "Did you mean 'as_list'"),
        ({"function": "own_makers.NOT_CALLABLE"}, "is a int, which cannot be called"),
        ({"function": "own_makers.NoCall"}, "is a class without __call__"),
        ({"function": "own_makers.no_seeds"}, r"does not take \(prompts, seeds, \*\*args\): too many positional"),
        ({"args": {"tpo": 3}}, r"does not take \(prompts, seeds, \*\*args\): .*'tpo'"),
        ({"function": {"top": 3}}, "function has no _target_"),
        ({"function": {"_target_": "own_makers.Maker", "tpo": 3}}, "Did you mean 'top'"),
        ({"conditioning": "txt"}, "Did you mean 'text'"),
    ],
)
def test_what_cannot_be_called_is_refused(changes: dict[str, Any], words: str, store: Store) -> None:
    with pytest.raises(ConfigError, match=words):
        make(cell_of({**option("own_makers.as_list"), **changes}, 3), store)


def test_the_cells_key_knows_the_functions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my_maker.py"
    file.write_text("def make(prompts, seeds): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    key = cell_of(option("my_maker.make")).key
    assert cell_of(option("my_maker.make")).key == key
    assert cell_of(option("my_maker.make", version="2")).key != key
    assert cell_of(option("my_maker.make", args={"x": 1})).key != key
    file.write_text("def make(prompts, seeds): return []\n")
    assert cell_of(option("my_maker.make")).key != key


@pytest.mark.parametrize("keep", [True, False])
def test_images_that_cost_are_kept_when_a_later_batch_fails(keep: bool, store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    function = {"_target_": "own_makers.Maker", "log": str(log), "fails_at": 3}
    cell = cell_of(option(function, keep=keep), 7)
    with pytest.raises(RuntimeError, match="the service is down"):
        make(cell, store, batch_size=3)
    assert len(log.read_text().splitlines()) == 1 + 2
    if keep:
        samples = make(cell, store, batch_size=3)
        np.testing.assert_array_equal(pixels(samples), expected(7))
        assert len(log.read_text().splitlines()) == 1 + 2 + 1 + 1  # built again, and one call for the seventh
        assert samples.rows[0]["clock_s"] is None
    else:
        with pytest.raises(RuntimeError):
            make(cell, store, batch_size=3)  # starts from the beginning, and fails as before
