"""Prompt sets: which prompt each sample gets, what files may hold, what is said where they are wrong."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, DataError
from evalkit.prompts.sets import (
    ClassPrompts,
    DatasetPrompts,
    DigitsPrompts,
    InlinePrompts,
    Prompt,
    PromptSet,
    TablePrompts,
    TextPrompts,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(
    texts=st.lists(TEXT, min_size=1, max_size=9),
    each=st.integers(1, 5),
    limit=st.none() | st.integers(1, 12),
    sample=st.integers(0, 10_000),
)
def test_sample_i_is_made_from_prompt_i_modulo_n(texts: list[str], each: int, limit: int | None, sample: int) -> None:
    prompts = PromptSet(tuple(Prompt(text) for text in texts), samples_per_prompt=each, limit=limit)
    kept = texts[:limit] if limit else texts
    assert prompts[sample].text == kept[sample % len(kept)]
    assert len(prompts) == len(kept) * each
    asked = [prompts[i] for i in range(len(prompts))]
    assert all(asked.count(p) == each * prompts.prompts.count(p) for p in prompts)  # repeated prompts are kept


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(IndexError):
        InlinePrompts(["a"])[-1]


@given(st.lists(TEXT, min_size=2, max_size=5, unique=True))
def test_identity_tells_all_that_changes_a_pixel(texts: list[str]) -> None:
    base = InlinePrompts(texts)
    assert InlinePrompts(list(texts), samples_per_prompt=3).identity() == base.identity()
    assert InlinePrompts([{"text": t, "category": "c"} for t in texts]).identity() == base.identity()
    assert InlinePrompts(texts[::-1]).identity() != base.identity() or texts == texts[::-1]
    assert InlinePrompts([{"text": t, "negative": "n"} for t in texts]).identity() != base.identity()
    assert InlinePrompts([{"text": t, "class_id": 0} for t in texts]).identity() != base.identity()
    assert InlinePrompts(texts, limit=1).identity() != base.identity()


def test_inline() -> None:
    prompts = InlinePrompts(["  a fox ", "", {"text": "a cat", "negative": "blurry", "class_id": "3"}, {"class_id": 1}])
    assert [p.text for p in prompts] == ["a fox", "", "a cat", None]
    assert prompts[2] == Prompt("a cat", "blurry", class_id=3)
    assert InlinePrompts("alone")[0].text == "alone"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "empty"),
        ([{"txt": "a"}], "Did you mean 'text'"),
        ([{"category": "x"}], "give text or class_id"),
        ([7], r"prompts\[0\]"),
        ([{"text": "a", "class_id": -1}], "whole number >= 0"),
        ([{"text": "a", "control": "/no/such.png"}], "/no/such.png is missing"),
    ],
)
def test_inline_errors(items: list[Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        InlinePrompts(items)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"limit": 0}, {"limit": True}, {"samples_per_prompt": 0}, {"limit": 1.5}])
def test_counts_must_be_whole_numbers(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="whole number >= 1"):
        InlinePrompts(["a"], **kwargs)


def test_text_file(tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", "\ufeffa fox\r\n\r\n   \n  two words \nein Füchslein\na fox")
    assert [p.text for p in TextPrompts(file)] == ["a fox", "two words", "ein Füchslein", "a fox"]
    assert len(TextPrompts(file, samples_per_prompt=2, limit=3)) == 6


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no prompts"), (b" \n\n", "no prompts"), (b"ok\ncaf\xe9\n", r"p\.txt:2: not UTF-8 \(byte 0xe9\)")],
)
def test_text_file_errors(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        TextPrompts(write(tmp_path / "p.txt", content))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt is missing"):
        TextPrompts(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="is a folder"):
        TablePrompts(tmp_path)


TABLES = {
    "p.csv": 'prompt,neg,kind,id\n"a, ""b""",no,x,1\nsecond,,y,2\n',
    "p.tsv": 'prompt\tneg\tkind\tid\na, "b"\tno\tx\t1\nsecond\t\ty\t2\n',
    "p.jsonl": '{"prompt": "a, \\"b\\"", "neg": "no", "kind": "x", "id": 1}\n\n'
    '{"prompt": "second", "neg": null, "kind": "y", "id": 2}\n',
    "tabs.txt": 'prompt\tneg\tkind\tid\na, "b"\tno\tx\t1\nsecond\t\ty\t2\n',
    "commas": 'prompt,neg,kind,id\n"a, ""b""",no,x,1\n\nsecond,,y,2\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_all_kinds_say_the_same(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, TABLES[name])
    prompts = TablePrompts(file, negative="neg", category="kind", class_id="id")
    assert list(prompts) == [Prompt('a, "b"', "no", "x", 1), Prompt("second", None, "y", 2)]
    assert len(TablePrompts(file, limit=1)) == 1


def test_a_table_with_another_delimiter(tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", "prompt;kind\na, b;x\n")
    assert TablePrompts(file, category="kind", delimiter=";")[0] == Prompt("a, b", None, "x")
    with pytest.raises(ConfigError, match="delimiter"):
        TablePrompts(file, delimiter="::")


def test_a_json_line_may_hold_any_character(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", json.dumps({"prompt": "a\u2028b"}, ensure_ascii=False))
    assert TablePrompts(file)[0].text == "a\u2028b"


def test_control_images(tmp_path: Path) -> None:
    write(tmp_path / "edge.png", b"one")
    file = write(tmp_path / "p.csv", "prompt,control\na,edge.png\n")
    before = TablePrompts(file, control="control")
    assert before[0].control == str(tmp_path / "edge.png")
    identity = before.identity()
    write(tmp_path / "edge.png", b"another")
    assert TablePrompts(file, control="control").identity() != identity
    write(file, "prompt,control\na,gone.png\n")
    with pytest.raises(DataError, match=r"gone\.png is missing"):
        TablePrompts(file, control="control")


@pytest.mark.parametrize(
    ("name", "content", "kwargs", "words"),
    [
        ("p.csv", "Prompt,x\na,b\n", {}, r"p\.csv:2: no column 'prompt'.*Did you mean 'Prompt'"),
        ("p.csv", "prompt,x\na,b\n", {"category": "y"}, "no column 'y' .asked for by category=y"),
        ("p.csv", "prompt\n", {}, "no rows"),
        ("p.csv", "", {}, "no rows"),
        ("p.csv", "prompt,x\na\n", {}, r"p\.csv:2: 1 cells where the header has 2"),
        ("p.csv", 'prompt,x\n"a,b\n', {}, "not a table"),
        ("p.csv", "prompt,prompt\na,b\n", {}, "two columns are called 'prompt'"),
        ("p.csv", "prompt,x\n ,b\n", {}, r"p\.csv:2: column 'prompt': blank"),
        ("p.csv", "prompt,x\na,b\n", {"class_id": "x"}, "whole number >= 0 .*, not 'b'"),
        ("p.csv", b"prompt,x\na,\xff\n", {}, r"p\.csv:2: not UTF-8"),
        ("p.csv", "prompt,x\na,b\n", {"text": None}, "name the column"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"\n', {}, r"p\.jsonl:2: not JSON"),
        ("p.jsonl", '["a"]\n', {}, "JSON object"),
        ("p.jsonl", '{"prompt": 3}\n', {}, "a text is needed"),
        ("p.jsonl", '{"prompt": "a", "id": true}\n', {"class_id": "id"}, "whole number"),
    ],
)
def test_table_errors(tmp_path: Path, name: str, content: str | bytes, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        TablePrompts(write(tmp_path / name, content), **kwargs)
    assert "\n" not in str(caught.value)


def test_classes() -> None:
    assert [(p.text, p.class_id) for p in ClassPrompts(3)] == [(None, 0), (None, 1), (None, 2)]
    assert ClassPrompts(names=["cat", "dog"])[1] == Prompt("dog", category="dog", class_id=1)
    with pytest.raises(ConfigError, match="2 names for num_classes=3"):
        ClassPrompts(3, names=["a", "b"])


def test_digits() -> None:
    prompts = DigitsPrompts()
    assert len(prompts) == len({p.text for p in prompts}) == 560
    assert all(p.category and p.category in str(p.text) for p in prompts)
    assert {p.class_id for p in prompts} == set(range(10))


def test_a_dataset_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"evalkit\[datasets\]"):
        DatasetPrompts("user/name")


def test_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"caption": "a", "kind": "x", "image": 1}, {"caption": "b", "kind": "y", "image": 2}]

    class Table(list[dict[str, Any]]):
        column_names = ("caption", "kind", "image")

        def select_columns(self, names: list[str]) -> Table:
            return Table([{name: row[name] for name in names} for row in self])

    def load_dataset(path: str, name: str | None, split: str, revision: str | None) -> Table:
        if path != "user/name":
            raise ValueError("no such\ndataset")
        assert (name, split, revision) == (None, "test", "abc")
        return Table(rows)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    made = DatasetPrompts("user/name", "test", text="caption", category="kind", revision="abc", samples_per_prompt=2)
    assert list(made) == [Prompt("a", category="x"), Prompt("b", category="y")]
    assert len(made) == 4
    with pytest.raises(ConfigError, match=r"no column 'captoin'\. Did you mean 'caption'"):
        DatasetPrompts("user/name", "test", text="captoin", revision="abc")
    with pytest.raises(ConfigError, match="dataset 'other', split 'train': no such dataset"):
        DatasetPrompts("other")


def test_the_published_sets(shared_data: Path) -> None:
    parti = TablePrompts(shared_data / "prompts/PartiPrompts.tsv", text="Prompt", category="Category", delimiter="\t")
    assert len(parti) == 1632
    assert parti[0] == Prompt("bond", category="Abstract")
    geneval = TablePrompts(shared_data / "prompts/geneval.jsonl", category="tag")
    assert len(geneval) == 553
    assert geneval[0] == Prompt("a photo of a bench", category="single_object")


@pytest.mark.parametrize("name", ["digits", "inline", "text", "table", "dataset", "classes", "parti", "geneval"])
def test_every_config_builds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "text": write(tmp_path / "p.txt", "a\n"),
        "table": write(tmp_path / "p.csv", "prompt\na\n"),
        "parti": write(tmp_path / "p.tsv", "Prompt\tCategory\na\tb\n"),
        "geneval": write(tmp_path / "p.jsonl", '{"prompt": "a", "tag": "b"}\n'),
    }
    overrides = [f"prompts=[{name}]"]
    if name in files:
        overrides.append(f"prompts.{name}.path={files[name]}")
    if name == "inline":
        overrides.append("prompts.inline.prompts=[a,b]")
    if name == "dataset":
        overrides.append("prompts.dataset.name=user/name")
        monkeypatch.setitem(sys.modules, "datasets", None)
    option = resolve(compose(overrides)).prompts[name]
    if name == "dataset":
        with pytest.raises(ConfigError, match=r"evalkit\[datasets\]"):
            build(option)
    else:
        assert isinstance(build(option), PromptSet)
