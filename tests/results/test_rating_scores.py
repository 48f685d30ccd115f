"""Ratings of votes stand among a run's scores: in the table, the comparisons, the gate, the files, the next run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import evalkit
from evalkit.commands.power import load_pilot
from evalkit.errors import ConfigError, DataError
from evalkit.results.forecast import make_outlook
from evalkit.results.ratings import read_ratings
from evalkit.votes.records import Vote, append_votes

WORDS = [
    *("experiment=digits", "model=[digits_dcgan]", "sampler=[]", "metric=[]", "exclude=[]", "device=cpu"),
    *("num_samples=40", "lint=false", "contact_sheet=0", "name=small", "seed={sweep: [0, 1, 2]}", "seeds=apart"),
    *("map={method: none}", "batch_size=40", "report=false"),
]
BEST, MIDDLE, WORST = (f"digits_dcgan-seed{seed}" for seed in range(3))


def cast(path: Path, count: int = 160, people: tuple[str, ...] = ("ann", "bob")) -> None:
    """Votes on images without prompts; seed 0 is liked most, 2 least."""
    rng, votes = random.Random(1), []
    for number in range(count):
        first, second = rng.sample((BEST, MIDDLE, WORST), 2)
        chance = 0.5 + 0.3 * (int(second[-1]) - int(first[-1])) / 2
        outcome = "tie" if rng.random() < 0.2 else "a" if rng.random() < chance else "b"
        votes.append(
            Vote(voter=people[number % len(people)], cell_a=first, cell_b=second, index=number % 40, prompt="",
                 outcome=outcome, left=rng.choice("ab"), seconds=1.0)
        )  # fmt: skip
    append_votes(path, votes)


def test_ratings_are_scores_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gate").mkdir()
    rules = [
        {"metric": "votes_rating", "max": 1500},
        {"metric": "votes_rating", "no_worse_than": BEST, "where": {"seed": 2}},
        {"metric": "votes_rating", "max": 1125, "where": {"seed": 0}},
    ]
    Path("gate/liked.yaml").write_text(json.dumps({"liked": {"rules": rules}}))
    cast(tmp_path / "votes.csv")
    words = [*WORDS, "votes=votes.csv", f"baseline={BEST}", "gate=liked"]
    table = evalkit.run(words, config_dir=".")
    rows = {row.cell: row for row in table.rows if row.metric == "votes_rating"}
    assert list(rows) == [BEST, MIDDLE, WORST]
    values = [row.value or 0.0 for row in rows.values()]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(3000)
    best = rows[BEST]
    assert (best.label, best.better, best.n) == ("Elo (votes)", "higher", 40)
    assert best.low is not None
    assert best.stderr is not None
    assert best.low < values[0] - 1.9 * best.stderr
    assert best.together
    assert set(best.protocol["together"]) == {BEST, MIDDLE, WORST}
    assert best.protocol["votes"]["count"] == 160

    compared = {c.cell: c for c in table.comparisons if c.metric == "votes_rating"}
    folder = Path("runs/small")
    (about,) = read_ratings(folder / "ratings.json")
    gap = {(g["better"], g["worse"]): g for g in about["gaps"]}[BEST, WORST]
    assert compared[WORST].paired  # though their seeds are not the same, and they have no prompts
    assert compared[WORST].stderr == pytest.approx(gap["stderr"])
    assert compared[WORST].verdict == "worse"
    assert about["cells"] == [BEST, MIDDLE, WORST]
    assert sum(map(sum, about["matrix"][0])) == best.details["votes"]
    assert [voter["name"] for voter in about["voters"]] == ["ann", "bob"]

    assert table.gate is not None
    passed, *_, failed, unclear = table.gate["results"]
    assert (passed["status"], failed["status"], failed["paired"]) == ("pass", "fail", True)
    assert (unclear["status"], unclear["needed_n"]) == ("inconclusive", None)
    assert "votes on this cell, cast as these were, would decide it" in unclear["reason"]
    notes = " ".join(table.notes)
    assert "160 votes by 2 voters on 40 prompts" in notes
    assert "more votes between" in notes or "told apart" in notes

    # the same folder, with and without votes; what the report and a later comparison read is as it was
    again = evalkit.run(words, config_dir=".")
    assert again.to_json()["rows"] == table.to_json()["rows"]
    with pytest.raises(
        ConfigError, match="no score of this pilot has a standard error"
    ):  # it counts samples, not votes
        make_outlook(load_pilot(folder), {}, 0.8)
    more = evalkit.run([*WORDS, "votes={people: votes.csv, twice: [votes.csv, votes.csv]}"])
    assert {row.metric for row in more.rows} > {"people_rating", "twice_rating"}
    evalkit.run(WORDS)
    assert sorted(path.name for path in Path("runs").glob("small*")) == ["small"]
    assert not (folder / "ratings.json").exists()


def test_what_is_wrong_is_told_before_the_first_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"votes: there is no runs/small/votes.csv: `evalkit vote RUN` makes"):
        evalkit.run([*WORDS, "votes=true"])
    assert not Path("runs/samples").exists()


def test_votes_on_other_samples_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cast(Path("votes.csv"), 10)
    cast_on = Vote(voter="v", cell_a=BEST, cell_b=WORST, index=3, prompt="a red seven", outcome="a")
    append_votes(Path("votes.csv"), [cast_on])
    with pytest.raises(DataError, match=r"sample 3 of .* was voted on as 'a red seven', and is ''"):
        evalkit.run([*WORDS, "votes=votes.csv"])
