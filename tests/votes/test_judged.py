"""A judge's votes: which pairs it is asked about, their records, its place among a run's scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import evalkit
from evalkit.errors import ConfigError
from evalkit.extractors.judge import Judge
from evalkit.judges import DigitsTruth
from evalkit.judges.asker import FunctionAsker, Item
from evalkit.judges.pairwise import Verdict
from evalkit.judges.place import AnswerPlace
from evalkit.results.ratings import read_ratings
from evalkit.votes.agreement import voters
from evalkit.votes.judged import Asked, JudgedRating, Judges, draw_items, make_asked, votes_of
from evalkit.votes.records import read_votes

WORDS = [
    *("experiment=digits", "model=[digits_ldm]", "sampler=[ddim]", "metric=[]", "exclude=[]", "device=cpu"),
    *("num_samples=24", "lint=false", "contact_sheet=0", "name=small", "report=false", "map={method: none}"),
    *("model.digits_ldm.guidance_scale=4", "sampler.ddim.num_inference_steps={sweep: [1, 2, 8]}"),
]


class Images(SimpleNamespace):
    """A source of grey images: image i of level `level` + i."""

    def __len__(self) -> int:
        return len(self.prompts)

    def read(self, indices: range) -> list[np.ndarray]:
        return [np.full((4, 4, 3), self.level + i, np.uint8) for i in indices]


def sources(n: int = 10) -> dict[str, Any]:
    prompts = [f"prompt {i}" for i in range(n)]
    of = {"dark": Images(level=10, prompts=prompts), "grey": Images(level=90, prompts=prompts)}
    return of | {"light": Images(level=200, prompts=[*prompts[:-1], "another"])}


def test_pairs_are_balanced_and_more_go_on_where_fewer_ended() -> None:
    prompts = {cell: source.prompts for cell, source in sources().items()}
    few, more = (draw_items(prompts, count, 3, prompted=True) for count in (12, 29))
    assert more[:12] == few
    counts = [sum(1 for a, b, _ in few if {a, b} == pair) for pair in ({"dark", "grey"}, {"dark", "light"})]
    assert counts == [4, 4]
    assert len(set(more)) == 28  # the last image of "light" has another prompt: 10 + 9 + 9
    assert draw_items(prompts, 12, 4, prompted=True) != few
    nameless = {"a": [None] * 5, "b": [None] * 5}
    assert draw_items(nameless, 9, 0, prompted=True) == []
    assert len(draw_items(nameless, 9, 0, prompted=False)) == 5


@pytest.mark.parametrize(
    ("orders", "outcome", "consistent"),
    [(("a", "a"), "a", True), (("a", "b"), "tie", False), (("tie", "b"), "tie", False), (("a", "tie"), "tie", False),
     (("tie", "tie"), "tie", True), (("b", "b"), "b", True)],
)  # fmt: skip
def test_agreement_with_itself_is_that_of_the_orders(orders: tuple[str, str], outcome: str, consistent: bool) -> None:
    counted, other = votes_of(("dark", "grey", 3), Verdict(orders), "prompt 3", "judge:x")
    assert (counted.outcome, counted.check, other.check) == (outcome, False, True)
    (voter,) = voters([counted, other])
    assert (voter.votes, voter.with_self) == (1, float(consistent))


def test_the_lighter_cell_is_rated_higher_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    calls = 0

    def lighter(images: Sequence[np.ndarray], text: str, repeat: int) -> str:
        nonlocal calls
        calls += 1
        return "first" if images[0].mean() > images[1].mean() else "second"

    def rating(function: Any, items: int) -> JudgedRating:
        judge = Judge(FunctionAsker(function, "lighter"), question="x")
        judge.keep_in(AnswerPlace(tmp_path / "answers"))
        return JudgedRating("judge", Asked(judge, items, 0, "Which is lighter?", "cpu")).cast(sources())

    made = rating(lighter, 12)
    assert calls == 24
    assert made.position == {"pairs": 12, "flips": 0, "first": 0, "second": 0, "unread": 0}
    won = {(v.cell_a, v.cell_b): v.outcome for v in made.votes if not v.check}
    assert won == {("dark", "grey"): "b", ("dark", "light"): "b", ("grey", "light"): "b"}
    rating(lighter, 12)
    assert calls == 24
    more = rating(lighter, 15)
    assert calls == 30
    more.write(tmp_path)
    (file,) = tmp_path.glob("votes_judge_*.csv")
    data = file.read_bytes()
    made.write(tmp_path)
    assert file.read_bytes() == data  # it is added to, and all of these are there
    assert len(read_votes(file)) == 30

    biased = rating(lambda images, text, repeat: "first", 12)  # another answer under the same name: nothing is asked
    assert biased.position == made.position


def test_a_judge_of_places_is_told(tmp_path: Path) -> None:
    judge = Judge(FunctionAsker(lambda images, text, repeat: "second", "places"), question="x")
    judge.keep_in(AnswerPlace(tmp_path))
    made = JudgedRating("judge", Asked(judge, 9, 0, "Which is better?", "cpu")).cast(sources())
    assert made.position == {"pairs": 9, "flips": 9, "first": 0, "second": 9, "unread": 0}
    assert {vote.outcome for vote in made.votes if not vote.check} == {"tie"}


@pytest.mark.slow
def test_the_truth_about_digits_prefers_more_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = evalkit.run([*WORDS, "votes={truth: {judge: judge_digits, items: 60}}"])
    values = [row.value or 0.0 for row in table.rows if row.metric == "truth_rating"]
    assert [row.settings["num_inference_steps"] for row in table.rows if row.metric == "truth_rating"] == [1, 2, 8]
    assert values == sorted(values)
    row = next(row for row in table.rows if row.metric == "truth_rating")
    assert row.label == "Elo (truth:truth)"
    assert row.protocol["judge"]["judge"]["judge"] == "digits truth"
    folder = Path("runs/small")
    (about,) = read_ratings(folder / "ratings.json")
    assert about["position"]["flips"] == 0
    (file,) = folder.glob("votes_truth_*.csv")
    assert len(read_votes(file)) == 120

    def never(self: DigitsTruth, items: Sequence[Item]) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(DigitsTruth, "ask", never)
    again = evalkit.run([*WORDS, "votes={truth: {judge: judge_digits, items: 60}}"])
    assert again.to_json()["rows"] == table.to_json()["rows"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"judge": "judge_digit"}, "votes.j.judge: there is no extractor 'judge_digit' .* Did you mean 'judge_digits'"),
        ({"judge": "digits"}, "votes.j.judge: extractor.digits is no judge"),
        ({"judge": "judge_digits", "item": 3}, "votes.j.item: no such key. Did you mean 'items'"),
        ({"judge": "judge_digits", "items": 1}, "votes.j.items=1: give a whole number >= 2"),
        ({"judge": "judge_digits", "question": ""}, "votes.j.question='': give a text"),
    ],
)
def test_what_is_refused(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    extractors = {
        "judge_digits": {"_target_": "evalkit.extractors.judge.Judge", "question": "x",
                         "asker": {"_target_": "evalkit.judges.DigitsTruth"}},
        "digits": {"_target_": "evalkit.extractors.digits.Digits"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        make_asked(option, Judges(extractors, AnswerPlace(tmp_path), True, "cpu"), "votes.j")
