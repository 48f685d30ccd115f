"""A benchmark from a folder outside the repository, added by a YAML alone: run, scored, shown by category."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

import evalkit
from evalkit.config.call import compose_words
from evalkit.config.compose import resolve
from evalkit.digits.data import reference_images
from evalkit.errors import ConfigError
from evalkit.plan.catalogue import print_catalogue
from evalkit.report.categories import make_maps
from evalkit.report.run_folder import Run
from evalkit.results.by_category import views
from evalkit.results.terminal import make_console

YAML = """# @package _global_
# Glyphs: what stands on a tile, and in which colours? Digits, as somebody else would have written them down.
defaults:
  - override /prompts: []
  - override /metric: []
benchmark:
  title: Glyphs
  path: ???
  source: glyphs.jsonl of example.org, CC BY 4.0
  prompt: caption
  category: set.name
  questions:
    each: checks
    text: "Is it {what}?"
    id: name
    parents: needs
    answer: right
    tags: {skill: kind}
  judge: judge_digits
prompts:
  glyphs: {_target_: evalkit.prompts.BenchmarkPrompts, benchmark: "${benchmark}", samples_per_prompt: 2}
metric:
  glyphs:
    _target_: evalkit.judges.score.BenchmarkScore
    benchmark: ${benchmark}
    features: ${benchmark.judge}/answers
    calls: ${benchmark.judge}/calls
    factor: 100
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """own/benchmark/glyphs.yaml, glyphs.jsonl with two prompts, and in a/ and b/ two pictures for each of them.

    The first prompt is of the first reference digit, the second of another, of which it asks for the wrong ink. In a/
    the pictures are those digits; in b/ the first prompt has the second digit's pictures, and the other way round.
    """
    root = tmp_path_factory.mktemp("glyphs")
    (root / "own/benchmark").mkdir(parents=True)
    (root / "own/benchmark/glyphs.yaml").write_text(YAML)
    images, captions = reference_images()
    second = next(i for i, c in enumerate(captions) if len({*vars(c).values(), *vars(captions[0]).values()}) == 6)
    places, rows = (0, second), []
    for i, place in enumerate(places):
        c = captions[place]
        ink = c.ink if i == 0 else captions[0].ink
        checks = [
            {"name": "digit", "what": f"a {c.text.split()[2]}", "needs": [], "right": "yes", "kind": "glyph"},
            {"name": "ink", "what": ink, "needs": ["digit"], "right": "yes", "kind": "colour"},
            {"name": "other", "what": "on a grey background, a nought", "needs": [], "right": "no", "kind": "glyph"},
        ]
        rows.append({"caption": f"tile {i}", "set": {"name": f"set {i}"}, "checks": checks})
    (root / "glyphs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, order in (("a", places), ("b", places[::-1])):
        (root / name).mkdir()
        with (root / name / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "prompt"])
            for sample in range(4):
                Image.fromarray(images[order[sample % 2]].transpose(1, 2, 0)).save(root / name / f"{sample}.png")
                writer.writerow([f"{sample}.png", f"tile {sample % 2}"])
    return root


def test_a_yaml_alone_adds_a_benchmark(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(folder / "a"), str(folder / "b"), "reference=none", "benchmark=glyphs", "device=cpu", "name=glyphs"]
    words += [f"benchmark.path={folder / 'glyphs.jsonl'}", "lint=false", "report=false", "contact_sheet=0"]
    table = evalkit.run(words, config_dir=folder / "own")

    (column,) = [column for column in table.columns if not column.is_cost]
    assert column.title == "Glyphs [judge_digits:truth] ↑"
    a, b = column.rows["a"], column.rows["b"]
    assert a.value == pytest.approx((100 + 200 / 3) / 2)  # of the second prompt the ink is wrong
    assert b.value == pytest.approx(100 / 3)  # no digit is right, so no ink counts, though one is
    assert (a.n, a.clusters, a.details["calls"], a.details["unread"]) == (4, 2, 12, 0)

    lines = {(line["cell"], line["category"]): line for line in rows(tmp_path / "runs/glyphs/categories.csv")}
    assert float(lines["a", "set 0"]["mean"]) == pytest.approx(100)
    assert float(lines["b", "skill: glyph"]["mean"]) == pytest.approx(50)
    assert {float(lines["a", "skill: colour"][name]) for name in ("mean", "n", "clusters")} == {50.0, 4.0, 2.0}
    parts = rows(tmp_path / "runs/glyphs/headings.csv")
    assert len([line for line in parts if (line["cell"], line["category"]) == ("b", "skill: glyph")]) == 4

    console = make_console(100)
    with console.capture() as shown:
        for view in views(table, tmp_path / "runs/glyphs/categories.csv", 100):
            console.print(view)
    text = shown.get()
    assert "Glyphs [judge_digits:truth] ↑ by category" in text
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")] == [
        *("set 0", "set 1", "skill: glyph", "skill: colour")
    ]

    (heat,) = make_maps(Run.open(tmp_path / "runs/glyphs"))
    assert [name for name, _ in heat.categories] == ["set 0", "set 1", "skill: colour", "skill: glyph"]
    tiles = dict(heat.lines)["b"]
    assert [tile.value for tile in tiles if tile] == ["-66.67", "-33.33", "-50.00", "-50.00"]

    print_catalogue("benchmarks", str(folder / "own"))
    assert "Glyphs: what stands on a tile" in capsys.readouterr().out


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_where_its_file_is_not_given_the_message_says_which(folder: Path) -> None:
    config, _ = compose_words(["benchmark=glyphs", "model=[digits_ldm]"], config_dir=str(folder / "own"))
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    assert str(caught.value) == (
        "benchmark.path is not set: give benchmark.path=VALUE (glyphs.jsonl of example.org, CC BY 4.0)"
    )


def test_a_benchmark_leaves_the_demo_and_chooses_no_more_than_it_names() -> None:
    config, choose = compose_words(["benchmark=digits", "prompts.digits.limit=5", "metric.digits_all.combine=min"])
    assert not choose
    made = resolve(config)
    assert (list(made.model), list(made.prompts)) == (["digits_ldm"], ["digits"])
    assert list(made.metric) == ["digits_following", "digits_all"]
    (option,) = made.prompts.values()
    assert (option["limit"], option["benchmark"]) == (5, made.benchmark)
    other, _ = compose_words(["benchmark=digits", "model=[digits_ddpm]", "metric=[fid_digits]"])
    assert list(resolve(other).metric) == ["fid_digits", "digits_following", "digits_all"]


def test_the_judge_that_a_benchmark_names_is_given_its_questions_unless_it_has_others() -> None:
    words = ["benchmark=digits", "benchmark.judge=judge_local", "extractor.judge_local.asker.path=DIR"]
    made = resolve(compose_words(words)[0])
    assert made.extractor["judge_local"]["questions"] == made.benchmark
    assert made.extractor["judge_local"]["question"] is None
    assert made.extractor["judge_digits"]["questions"] is None
    assert {option["features"] for option in made.metric.values()} == {"judge_local/answers"}
    own = resolve(compose_words([*words, "extractor.judge_local.questions=mine.jsonl"])[0])
    assert own.extractor["judge_local"]["questions"] == "mine.jsonl"


def test_the_digits_benchmark_is_the_captions() -> None:
    from evalkit.digits.data import DIGIT_WORDS, PROMPTS
    from evalkit.prompts import BenchmarkPrompts

    config, _ = compose_words(["benchmark=digits"])
    (option,) = resolve(config).prompts.values()
    made = BenchmarkPrompts(option["benchmark"])
    assert [(p.text, p.class_id) for p in made] == [(c.text, c.digit) for c in PROMPTS]
    assert [p.category for p in made] == [DIGIT_WORDS[c.digit] for c in PROMPTS]
