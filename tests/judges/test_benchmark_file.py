"""Benchmarks' own files: each YAML reads two prompts of its authors' format; what is wrong is told in one line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmark_formats import FORMATS
from omegaconf import OmegaConf

from evalkit.config.build import build
from evalkit.config.compose import compose, resolve
from evalkit.config.listing import option_files
from evalkit.errors import ConfigError, DataError
from evalkit.extractors.judge import Judge
from evalkit.judges.benchmark_file import BenchmarkFile, Task, by_prompt, read_benchmark
from evalkit.judges.score import BenchmarkScore
from evalkit.prompts import BenchmarkPrompts


def options_of(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The part `benchmark` of a YAML, with words of the command line; it needs no other part, and so no Hydra."""
    yaml = OmegaConf.load(option_files("benchmark")[name])
    merged = OmegaConf.merge(yaml, OmegaConf.from_dotlist(list(words)))
    options: dict[str, Any] = OmegaConf.to_container(merged.benchmark)  # type: ignore[assignment]
    return options


def read(name: str, folder: Path) -> list[Task]:
    return read_benchmark(options_of(name, FORMATS[name](folder)))


def asked(task: Task) -> list[tuple[Any, ...]]:
    return [(q.id, q.text, q.answer, q.parents) for q in task.questions]


@pytest.mark.parametrize("name", FORMATS)
def test_each_benchmark_is_composed_and_reads_its_authors_format(name: str, tmp_path: Path) -> None:
    config = resolve(compose([f"benchmark={name}", "model=[digits_ldm]", *FORMATS[name](tmp_path)]))
    tasks = read_benchmark(config.benchmark)
    assert len(tasks) == 2
    assert all("{" not in question.text for task in tasks for question in task.questions)
    (option,) = config.prompts.values()
    prompts = BenchmarkPrompts(**{key: value for key, value in option.items() if key != "_target_"})
    assert [prompt.text for prompt in prompts] == [task.prompt for task in tasks]
    judge = build(config.extractor["judge"], "extractor.judge", Judge)
    assert [judge.questions_of(task.prompt) for task in tasks] == [task.questions for task in tasks]
    for option in config.metric.values():
        metric = build(option, "metric", BenchmarkScore)
        assert {address.partition("/")[2] for address in metric.needs} <= set(judge.layers)


def test_every_yaml_of_a_benchmark_is_tested_and_has_its_page() -> None:
    root = Path(__file__).parents[2]
    names = set(option_files("benchmark")) - {"digits", "geneval"}
    assert names == set(FORMATS)
    assert all((root / "docs" / "benchmarks" / f"{name}.md").is_file() for name in {*names, "digits"})


def test_geneval2_has_an_answer_and_a_skill_per_question_and_an_atomicity_per_prompt(tmp_path: Path) -> None:
    mugs, fox = read("geneval2", tmp_path)
    count, blue = mugs.questions
    assert (count.text, count.answer) == ("How many mugs are in the image? Answer in one word.", "four")
    assert (count.tags, blue.tags, blue.answer) == (("skill: count",), ("skill: attribute",), "yes")
    assert {question.way for question in mugs.questions} == {"yes_probability"}
    assert (mugs.tags, fox.tags) == (("atomicity: 3",), ("atomicity: 1",))


def test_dpg_joins_the_rows_of_a_prompt_and_knows_what_depends_on_what(tmp_path: Path) -> None:
    chair, painting = read("dpg", tmp_path)
    assert [(one[0], one[3]) for one in asked(chair)] == [("1", ()), ("2", ("1",)), ("3", ("1", "2"))]
    assert chair.questions[1].tags == ("level 1: attribute", "level 2: attribute - color")
    assert painting.questions[0].text == "Is this a painting? Answer yes or no."


def test_tifa_offers_the_choices(tmp_path: Path) -> None:
    surfer, dog = read("tifa", tmp_path)
    assert surfer.questions[1].text == "where? Answer with one of these, and nothing else: beach, city."
    assert [(q.answer, q.tags) for q in surfer.questions] == [
        ("yes", ("element: human",)),
        ("beach", ("element: location",)),
    ]
    assert dog.prompt == "A dog."


def test_genai_bench_takes_skills_from_the_second_file_by_the_prompts_own_numbers(tmp_path: Path) -> None:
    cat, cups = read("genai_bench", tmp_path)
    assert cat.tags == ("skill: spatial relation", "skill: basic")
    assert cups.tags == ("skill: counting", "skill: negation")  # its name is 00007, and it is the second


def test_t2i_compbench_asks_for_each_noun_phrase(tmp_path: Path) -> None:
    colour, shape = read("t2i_compbench", tmp_path)
    assert [q.text for q in colour.questions] == [
        "Does the image show a green bench? Answer yes or no.",
        "Does the image show a blue bowl? Answer yes or no.",
    ]
    assert [q.text.split("show ")[1].split("?")[0] for q in shape.questions] == [
        "a round cookie",
        "a square box",
        "a tall jar",
    ]
    assert (colour.category, shape.category) == ("color_val", "shape_val")


def test_oneig_finds_a_categorys_questions_and_leaves_other_categories_out(tmp_path: Path) -> None:
    woman, cups = read("oneig", tmp_path)
    assert [(one[0], one[3]) for one in asked(woman)] == [("1", ()), ("2", ("1",)), ("3", ("2",))]
    assert woman.questions[2].text == "Is the coat red? Please answer 'Yes' or 'No' only."
    assert [one[3] for one in asked(cups)] == [(), ("1",)]
    assert [woman.category, cups.category] == ["Portrait", "General_Object"]


def test_tiif_joins_the_questions_line_by_line_and_takes_long_prompts(tmp_path: Path) -> None:
    mug, room = read("tiif", tmp_path)
    assert [(q.text, q.answer) for q in room.questions] == [
        ("Is there a mug? Answer yes or no.", "yes"),
        ("Is there a chair? Answer yes or no.", "no"),
    ]
    assert [mug.category, room.category] == ["color+2d", "negation"]
    long = options_of("tiif", [*FORMATS["tiif"](tmp_path), "benchmark.prompt=long_description"])
    assert read_benchmark(long)[1].prompt == "A room without a chair. Slowly."


def test_unigenbench_reads_lists_in_json_in_a_cell(tmp_path: Path) -> None:
    pandas, king = read("unigenbench", tmp_path)
    style, two = pandas.questions
    assert "alone: two (Attribute - Quantity). Does" in two.text
    assert style.tags == ("dimension: Style", "test point: Style")
    assert two.tags == ("dimension: Attribute", "test point: Attribute - Quantity")
    assert len(king.questions) == 1


def test_wise_tells_the_judge_what_is_right(tmp_path: Path) -> None:
    iron, noon = read("wise", tmp_path)
    assert 'from the prompt "Iron that lay in the rain"' in iron.questions[0].text
    assert '"It is rusty"' in iron.questions[0].text
    assert (iron.category, noon.tags) == ("Chemistry", ("subcategory: Horizontal time",))


def test_editing_benchmarks_name_the_pictures_to_edit(tmp_path: Path) -> None:
    car, sketch = read("gedit", tmp_path)
    assert [(q.id, q.images) for q in car.questions] == [("SC", 2), ("PQ", 1)]
    assert (car.image, sketch.category) == (tmp_path / "k1.png", "style_change")
    fur, fence = read("imgedit", tmp_path)
    assert fur.image == tmp_path / "originals/animal/1.jpg"
    assert [fur.category, fence.category] == ["adjust", "remove"]


ONE = {"questions": {"text": "{q}?"}}


def written(file: Path, text: str) -> dict[str, Any]:
    file.write_text(text, encoding="utf-8")
    return {"path": str(file), **ONE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o | {"promt": "x"}, "benchmark.promt: no such key. Did you mean 'prompt'?"),
        (lambda o: o | {"questions": {"txt": "x"}}, "benchmark.questions.txt: no such key. Did you mean 'text'?"),
        (lambda o: o | {"questions": [{"id": "a"}]}, "benchmark.questions[0].text is not set"),
        (lambda o: o | {"prompt": "prmpt"}, "b.csv:2: no column 'prmpt'. Did you mean 'prompt'?"),
        (
            lambda o: o | {"path": "no.csv", "source": "x of y"},
            "no.csv is missing: give the path of the benchmark's file (x of y)",
        ),
        (lambda o: o | {"where": {"q": "other"}}, "no prompts in it that `benchmark.where` takes"),
        (lambda o: o | {"questions": {"text": "{.}", "each": "q"}}, "b.csv:2: 'q' holds no list: 'Is it'"),
        (lambda o: o | {"join": {"path": "{q}.json", "on": "q"}}, "Is it.json is missing, where the questions of"),
        (lambda o: o | {"image": "q"}, "the image"),
        (lambda o: o | {"tag_files": {"skill": "s.json"}}, "benchmark.tag_files.skill:"),
        (lambda o: {"path": o["path"]}, "benchmark.questions is not set"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    options = change(written(tmp_path / "b.csv", "prompt,q\na cat,Is it\n"))
    with pytest.raises((ConfigError, DataError)) as caught:
        read_benchmark(options)
    assert message in str(caught.value)


def test_questions_that_form_no_graph_are_refused_and_lost_parents_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = written(tmp_path / "b.csv", "prompt,q,n,up\na,x,1,2\na,y,2,1\n") | {"id": "prompt"}
    options["questions"] = {"text": "{q}", "id": "n", "parents": "up"}
    with pytest.raises(DataError, match="form a circle"):
        read_benchmark(options)
    written(tmp_path / "b.csv", "prompt,q,n,up\na,x,1,0\na,y,2,7\n")
    (task,) = read_benchmark(options)
    assert [question.parents for question in task.questions] == [(), ()]
    assert "1 questions depend on one that is not there, or on themselves" in caplog.text


def test_prompts_that_are_there_again_count_once_and_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = written(tmp_path / "b.csv", "prompt,q,kind\na,x,one\na,x,one\na,x,two\n") | {"category": "kind"}
    tasks = read_benchmark(options)
    assert (len(tasks), [task.category for task in by_prompt(tasks).values()]) == (3, ["one"])
    assert "1 prompts are there again with other questions, another category or other tags" in caplog.text


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    options = written(tmp_path / "b.csv", "prompt,q\na cat,Is it\n")
    assert len(read_benchmark(options)) == 1
    written(tmp_path / "b.csv", "prompt,q\na cat,Is it\na dog,Is it\n")
    assert len(BenchmarkFile.of(options).read()) == len(read_benchmark(options)) == 2
