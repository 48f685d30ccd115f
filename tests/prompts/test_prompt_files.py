"""Files of prompts as people have them: JSON of several layouts, captions of images, folders, several files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.errors import ConfigError, DataError, EvalkitError
from evalkit.prompts.sets import InlinePrompts, Prompt, TablePrompts, TextPrompts

# As captions_val2014.json: several captions per image, in no order, with spaces and line ends about them
COCO: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 9, "file_name": "no_captions.jpg"},
    ],
    "annotations": [
        {"image_id": 7, "id": 31, "caption": "A later one."},
        {"image_id": 42, "id": 650, "caption": "A shoe rack with a dog. "},
        {"image_id": 7, "id": 5, "caption": "A man riding a wave.\n"},
        {"image_id": 42, "id": 641, "caption": "This wire metal rack holds several pairs of shoes\u2028and sandals"},
        {"image_id": 7, "id": 2, "caption": " "},
        {"image_id": 9, "id": 1, "caption": ""},
    ],
}
KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {
            "filename": "a.jpg",
            "split": "test",
            "sentences": [{"raw": "Second.", "sentid": 8}, {"raw": "First. ", "sentid": 3}],
        },
        {"filename": "b.jpg", "split": "train", "sentences": [{"raw": "Of b.", "sentid": 4, "tokens": ["of", "b"]}]},
        {"filename": "c.jpg", "split": "test", "sentences": []},
    ],
}


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def texts(file: Any, **kwargs: Any) -> list[str | None]:
    return [prompt.text for prompt in TablePrompts(file, **kwargs)]


@pytest.mark.parametrize(
    "value",
    [
        [" a fox", "a\u2028cat"],
        [{"prompt": "a fox", "tag": "x"}, {"prompt": "a\u2028cat", "tag": "y"}],
        {"0001": {"prompt": "a fox", "tag": "x"}, "0000": {"prompt": "a\u2028cat", "tag": "y"}},
    ],
)
def test_layouts_of_json(tmp_path: Path, value: Any) -> None:
    for indent in (None, 2):
        for name in ("p.json", "prompts"):
            file = saved(tmp_path / name, json.dumps(value, indent=indent))
            assert texts(file) == ["a fox", "a\u2028cat"]
    if "tag" in json.dumps(value):
        assert [prompt.category for prompt in TablePrompts(file, category="tag")] == ["x", "y"]
        assert len(TablePrompts(file, limit=1)) == 1
    else:
        with pytest.raises(ConfigError, match="a bare text, and no object with columns"):
            TablePrompts(file, category="tag")


def test_json_lines_by_another_name(tmp_path: Path) -> None:
    assert texts(saved(tmp_path / "p.json", '{"prompt": "a"}\n{"prompt": "b"}\n')) == ["a", "b"]
    assert texts(saved(tmp_path / "q.json", '{"prompt": "a", "tag": "x"}\n')) == ["a"]


def test_coco_captions(tmp_path: Path) -> None:
    """One per image, in the order of the images: of the lowest id that says something; or by lot."""
    file = saved(tmp_path / "captions_val2014.json", COCO)
    lowest = TablePrompts(file)
    shoes = "This wire metal rack holds several pairs of shoes\u2028and sandals"
    assert [prompt.text for prompt in lowest] == [shoes, "A man riding a wave."]
    assert lowest.caption_ids == (641, 5)
    assert texts(file, text="caption", limit=1) == [shoes]
    assert [prompt.category for prompt in TablePrompts(file, category="image_id")] == ["42", "7"]
    drawn = {seed: TablePrompts(file, caption_seed=seed) for seed in range(20)}
    assert drawn[3].caption_ids == TablePrompts(file, caption_seed=3).caption_ids
    assert {prompts.caption_ids for prompts in drawn.values()} == {(a, b) for a in (641, 650) for b in (5, 31)}
    part = saved(tmp_path / "part.json", {**COCO, "images": COCO["images"][1:]})
    assert TablePrompts(part, caption_seed=3).caption_ids[0] == drawn[3].caption_ids[1]  # whatever stands before it


def test_the_ids_of_captions_are_in_the_cells_identity(tmp_path: Path) -> None:
    file = saved(tmp_path / "captions.json", COCO)
    lowest, drawn = TablePrompts(file).identity(), TablePrompts(file, caption_seed=1).identity()
    assert lowest["captions"]["rule"] == "the lowest id"
    assert drawn["captions"]["rule"] == "by lot, seed 1"
    assert lowest["captions"]["ids_sha256"] == TablePrompts(file, text="x").identity()["captions"]["ids_sha256"]
    other = json.loads(json.dumps(COCO))
    other["annotations"][2]["id"] = 4  # the same text under another id
    assert TablePrompts(saved(tmp_path / "other.json", other)).identity() != lowest
    assert "captions" not in TablePrompts(saved(tmp_path / "p.json", ["a"])).identity()


def test_karpathys_splits(tmp_path: Path) -> None:
    file = saved(tmp_path / "dataset_coco.json", KARPATHY)
    assert texts(file) == ["First.", "Of b."]
    assert texts(file, split="test", category="filename") == ["First."]
    assert TablePrompts(file, split="test").caption_ids == (3,)
    with pytest.raises(ConfigError, match=r"split=tests: Did you mean 'test'\?"):
        TablePrompts(file, split="tests")


def test_texts_of_a_folder(tmp_path: Path) -> None:
    for name, text in (
        ("p10.txt", "ten"),
        ("p2.txt", "\ufefftwo,\nof two lines\n"),
        ("._p2.txt", "\x00"),
        ("a.png", ""),
    ):
        saved(tmp_path / "dpg" / name, text)
    assert [prompt.text for prompt in TextPrompts(tmp_path / "dpg")] == ["two,\nof two lines", "ten"]
    saved(tmp_path / "dpg" / "p3.txt", " \n")
    with pytest.raises(DataError, match=r"p3\.txt: blank, and each file of a folder is one prompt"):
        TextPrompts(tmp_path / "dpg")
    saved(tmp_path / "dpg" / "p3.txt", "a\n" * 300)
    with pytest.raises(DataError, match=r"p3\.txt: 300 lines, .* give the pattern .*dpg/\*\.txt"):
        TextPrompts(tmp_path / "dpg")


def test_several_files(tmp_path: Path) -> None:
    color, shape = saved(tmp_path / "color2.txt", "a\rb\r"), saved(tmp_path / "shape10.txt", "c\u2028d\r\n\r\ne")
    assert [prompt.text for prompt in TextPrompts(tmp_path / "*.txt")] == ["a", "b", "c\u2028d", "e"]
    assert [prompt.text for prompt in TextPrompts([str(shape), color], limit=3)] == ["c\u2028d", "e", "a"]
    tables = [saved(tmp_path / "a.jsonl", '{"prompt": "a"}'), saved(tmp_path / "b.json", ["b", "c"])]
    assert texts([str(file) for file in tables]) == ["a", "b", "c"]
    assert texts(tmp_path / "{a.jsonl,b.json}", limit=2) == ["a", "b"]
    option = resolve(compose(["prompts=[text]", f"prompts.text.path=[{shape},{color}]"])).prompts["text"]
    assert len(build(option)) == 4
    with pytest.raises(ConfigError, match="nothing fits this pattern"):
        TextPrompts(tmp_path / "*.text")
    with pytest.raises(ConfigError, match="path is an empty list"):
        TextPrompts([])


def test_texts_hold_what_other_readers_take_for_line_ends(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\u0085d\x0ce\x0bf\x1cg"
    file = saved(tmp_path / "p.txt", f"{odd}\nnext\n")
    assert [prompt.text for prompt in TextPrompts(file)] == [odd, "next"]


@pytest.mark.parametrize(
    ("value", "kwargs", "words"),
    [
        ([1, 2, "a"], {}, r"p\.json: holds an array of 3 \(number and text\); prompts are an array of texts"),
        ([], {}, "holds an empty array"),
        ({}, {}, "holds an empty object"),
        (3, {}, "holds a single number"),
        ({"Prompt": "a", "tag": "x"}, {}, r"an object of 2 keys \(Prompt: text, tag: text\)"),
        ({"animals": ["a", "b"], "n": 3}, {}, r"an object of 2 keys \(animals: array, n: number\)"),
        ([{"Prompt": "a"}], {}, r"p\.json\[0\]: no column 'prompt'.*Did you mean 'Prompt'"),
        ([{"prompt": "a"}, {"prompt": " "}], {}, r"p\.json\[1\]: column 'prompt': blank"),
        ({"x": {"text": "a"}}, {}, r"p\.json: 'x': no column 'prompt'"),
        ({"annotations": [{"image_id": 1, "id": 2, "bbox": []}]}, {}, r"annotations\[0\]: no caption .*not instances"),
        ({"annotations": [{"image_id": None, "id": 2, "caption": "a"}]}, {}, "'image_id' is null, not a whole number"),
        ({"annotations": [{"image_id": 1, "id": 1.5, "caption": "a"}]}, {}, "'id' is number, not a whole number"),
        ({"annotations": []}, {}, "no rows"),
        (COCO, {"split": "val"}, "COCO has a file per split"),
        (KARPATHY, {"caption_seed": -1}, "caption_seed=-1: give a whole number >= 0"),
        ({"images": [{"sentences": 3}]}, {}, r"images\[0\]: no sentences in it, but an object of 1 keys"),
        ({"images": [{"sentences": ["a"]}]}, {}, r"a sentence has no text 'raw', but is a single text"),
        (["a"], {"split": "val"}, "only Karpathy's layout has splits, and this is an array of 1 "),
        (["a"], {"limit": 0}, "limit=0: give a whole number >= 1"),
        ("[" * 200_000, {}, r"p\.json: not JSON: nested more than 100 deep"),
        ('["a", "\\ud800"]', {}, r"p\.json: not JSON: .*half of a surrogate pair"),
        ("[" + "9" * 6000 + "]", {}, r"p\.json: not JSON: Exceeds the limit"),
        ('[{"prompt": "a", "id": 1e999}]', {"class_id": "id"}, "whole number >= 0 .*, not 'inf'"),
        ('[{"prompt": "a", "id": 1e300}]', {"class_id": "id"}, "whole number >= 0 "),
        ('[{"prompt": "a", "id": NaN}]', {"class_id": "id"}, "whole number >= 0 .*, not 'nan'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: Any, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        TablePrompts(saved(tmp_path / "p.json", value), **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["[" * 200_000, '{"prompt": "a", "n": ' + "9" * 6000 + "}", '{"prompt": "\\ud800"}'])
def test_lines_that_are_no_json(tmp_path: Path, line: str) -> None:
    """These were a RecursionError, a ValueError, and an error once the shard was made."""
    with pytest.raises(DataError, match=r"p\.jsonl:2: not JSON: ") as caught:
        TablePrompts(saved(tmp_path / "p.jsonl", '{"prompt": "a"}\n' + line))
    assert len(str(caught.value)) < 400


def test_other_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompt 1: half of a surrogate pair, which is no character: 'a.udfff'"):
        InlinePrompts(["a", "a\udfff"])
    for name in ("p.csv", "p.json", "p.jsonl", "p.tsv"):
        with pytest.raises(ConfigError, match=r"a table, not a text of a prompt per line: prompts=\[table\]"):
            TextPrompts(saved(tmp_path / name, "prompt\na\n"))
    with pytest.raises(ConfigError, match=r"is a folder: .*prompts=\[text\] reads a folder of \.txt files"):
        TablePrompts(tmp_path)
    with pytest.raises(ConfigError, match=r"no \.txt files in it, but 4 others, such as p\.csv"):
        TextPrompts(tmp_path)


def test_parti_keeps_its_quotes(shared_data: Path) -> None:
    """Line 1,562 lost those about its first words."""
    parti = TablePrompts(shared_data / "prompts/PartiPrompts.tsv", text="Prompt", category="Category", delimiter="\t")
    assert parti[1560] == Prompt(
        '"G I G G L E" painted in thick colorful lettering as graffiti on a faded red brick wall with a splotch of '
        "exploding white paint.",
        category="Illustrations",
    )
    lines = (shared_data / "prompts/PartiPrompts.tsv").read_text("utf-8").split("\n")[1:]
    assert [prompt.text for prompt in parti] == [line.split("\t")[0].strip() for line in lines if line]


def test_mlperfs_captions_stay_right(tmp_path: Path) -> None:
    """As pandas writes them: quoted where they hold quotes or line ends, quotes doubled."""
    file = saved(
        tmp_path / "captions.tsv",
        "id\timage_id\tcaption\theight\n"
        '1\t2\t"A sign that says ""STOP"" on it."\t480\n'
        "2\t3\tA dog.\t480\n"
        '3\t4\t"Two\nlines."\t480\n'
        '4\t5\t"""Hi"""\t480\n',
    )
    assert texts(file, text="caption") == ['A sign that says "STOP" on it.', "A dog.", "Two\nlines.", '"Hi"']


CONTENTS: dict[str, str] = {
    "p.csv": 'prompt,id\n"a, ""b""",1\nc,2\n',
    "p.tsv": 'prompt\tid\n"a ""b"""\t1\n"c\nd"\t2\n',
    "p.jsonl": '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2}\n',
    "p.json": json.dumps([{"prompt": "a", "id": 1}, {"prompt": "b", "id": 2}]),
    "coco.json": json.dumps(COCO),
    "karpathy.json": json.dumps(KARPATHY),
    "p.txt": "a\nb\n",
}


def try_bytes(folder: Path, name: str, where: float, fresh: bytes, cut: int) -> None:
    data = CONTENTS[name].encode()
    at = int(where * len(data))
    file = folder / name
    file.write_bytes(data[:at] + fresh + data[at + cut :])
    kind: Any = (
        TextPrompts if name == "p.txt" else functools.partial(TablePrompts, class_id="id" if name[0] == "p" else None)
    )
    try:
        for prompt in kind(file):
            assert prompt.text
            json.dumps([prompt.text, prompt.class_id], ensure_ascii=False).encode()
    except EvalkitError as error:
        message = str(error)
    else:
        message = ""
    assert message.isprintable()


FRESH = st.binary(max_size=6) | st.sampled_from(
    [
        b'"',
        b"\t",
        b"\r",
        b"{",
        b"[",
        b"null",
        b"1e999",
        b"NaN",
        b'"\\ud800"',
        b"\xe2\x80\xa8",
        b"[" * 5000,
        b"9" * 5000,
        b"-1",
        b"{}",
    ]
)
ANY = {"name": st.sampled_from(list(CONTENTS)), "where": st.floats(0, 1), "fresh": FRESH, "cut": st.integers(0, 9)}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**ANY)
def test_no_bytes_make_it_fail(tmp_path: Path, name: str, where: float, fresh: bytes, cut: int) -> None:
    try_bytes(tmp_path, name, where, fresh, cut)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**ANY)
def test_no_bytes_make_it_fail_in_many_tries(tmp_path: Path, name: str, where: float, fresh: bytes, cut: int) -> None:
    try_bytes(tmp_path, name, where, fresh, cut)
