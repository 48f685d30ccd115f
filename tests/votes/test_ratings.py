"""Ratings of votes: which cells, what a vote counts, groups, how many more votes, agreement."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from evalkit.metric import by_cluster
from evalkit.numerics.krippendorff import alpha
from evalkit.results.stats import Estimate, align, difference
from evalkit.votes.agreement import overall, voters
from evalkit.votes.groups import gaps, groups, needs
from evalkit.votes.ratings import Ratings, rate, scores
from evalkit.votes.records import Vote

CELLS = ("a", "b", "c", "d")


def own(cell: str, index: int) -> int:
    return -1 - index


def vote(first: str, second: str, index: int, outcome: str, voter: str = "ann", **more: object) -> Vote:
    about = {"prompt": f"prompt {index}", "seconds": 2.0} | more
    return Vote(voter=voter, cell_a=first, cell_b=second, index=index, outcome=outcome, **about)  # type: ignore[arg-type]


def cast(count: int, strengths: dict[str, float], seed: int = 0, people: Sequence[str] = ("ann",)) -> list[Vote]:
    """Votes of Davidson's model with nu = 0.5, each on a sample of its own."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        first, second = rng.sample(list(strengths), 2)
        half = (strengths[first] - strengths[second]) / 2
        outcome = rng.choices(("a", "b", "tie"), (np.exp(half), np.exp(-half), 0.5))[0]
        found.append(vote(first, second, index, outcome, rng.choice(people)))
    return found


def rated(votes: Sequence[Vote], cells: Sequence[str] = CELLS) -> Ratings:
    found = rate(votes, cells, own)
    assert found is not None
    return found


def test_who_is_named_first_does_not_matter() -> None:
    votes = cast(200, {"a": 1.0, "b": 0.0, "c": -1.0})
    turned = [vote(v.cell_b, v.cell_a, v.index, {"a": "b", "b": "a"}.get(v.outcome, v.outcome), v.voter) for v in votes]
    one, other = rated(votes), rated(turned)
    assert one.cells == other.cells == ("a", "b", "c")
    assert one.apart == ("d",)
    assert one.values == pytest.approx(other.values)
    assert one.values.mean() == pytest.approx(1000)
    assert [one.cells[place] for place in one.order] == ["a", "b", "c"]
    assert one.matrix.sum() == 2 * 200
    assert one.covariance == pytest.approx(other.covariance)
    won = sum(
        (v.outcome == "a") == (v.cell_a == "a") for v in votes if v.outcome in "ab" and "a" in v.cell_a + v.cell_b
    )
    assert scores(one, {cell: [-1 - i for i in range(200)] for cell in CELLS})["a"].details["won"] == won


def test_both_bad_is_a_tie_and_repeated_items_do_not_count() -> None:
    votes = [vote("a", "b", i, outcome) for i, outcome in enumerate(["a", "b", "tie", "both_bad"])]
    repeated = [vote("a", "b", i, "a", check=True) for i in range(4)]
    found = rated([*votes, *repeated])
    assert found.arrays.counts.tolist() == [[[1, 1, 2]]]
    assert found.values.tolist() == pytest.approx([1000, 1000])


def test_cells_that_no_votes_connect_are_left_out() -> None:
    votes = [vote("a", "b", i, "ab"[i % 2]) for i in range(9)] + [vote("c", "d", i, "a") for i in range(9)]
    votes += [vote("b", "e", 9, "a")]
    found = rated(votes, ("a", "b", "c", "d", "e"))
    assert found.cells == ("a", "b", "e")
    assert found.apart == ("c", "d")
    assert rate([vote("a", "x", 0, "a")], CELLS, own) is None
    assert rate([], CELLS, own) is None


def test_one_that_won_all_is_finite_and_says_so() -> None:
    votes = [vote("a", "bc"[i % 2], i, "a") for i in range(30)]
    votes += [vote("b", "c", 30 + i, "ab"[i % 2]) for i in range(30)]
    found = rated(votes)
    assert found.alone == {"a"}
    given = scores(found, {cell: [-1 - i for i in range(60)] for cell in CELLS})
    assert given["a"].note is not None
    assert "won all its votes" in given["a"].note
    assert given["b"].note is None
    assert given["a"].stderr is not None
    assert given["a"].stderr > 80  # its draws are all alike: the inverse information stands in
    top = [gap for gap in gaps(found) if found.cells[gap.better] == "a"]
    assert all(gap.told_apart for gap in top)
    alone = scores(rated([vote("a", "b", 0, o) for o in "aab"]), {"a": [-1], "b": [-1]})["a"]
    assert (alone.stderr, alone.note) == (None, "no standard error: all votes are of one prompt")


@pytest.mark.parametrize("samples", [120, 300])
def test_influences_give_the_errors_of_the_bootstrap(samples: int) -> None:
    """Of scores and of differences, by the functions that compare any metric; prompts have two samples each."""
    votes = [
        vote(v.cell_a, v.cell_b, v.index % 120, v.outcome, v.voter)
        for v in cast(400, {"a": 0.5, "b": 0.0, "c": -0.5}, 3, ("ann", "bob", "cem"))
    ]
    ids = [i // 2 for i in range(samples)]
    found = rate(votes, CELLS, lambda cell, index: ids[index])
    assert found is not None
    given = scores(found, dict.fromkeys(CELLS, ids))
    covariance = found.covariance
    assert covariance is not None
    estimates = {
        cell: Estimate(s.value or 0.0, s.stderr, s.n, s.influence, ids, s.clusters, together=True)
        for cell, s in given.items()
    }
    for place, cell in enumerate(found.cells):
        score = given[cell]
        each = by_cluster(score.influence or (), ids)
        assert each.mean() == pytest.approx(score.value)
        assert each.std(ddof=1) / len(each) ** 0.5 == pytest.approx(score.stderr)
        assert score.stderr == pytest.approx(covariance[place, place] ** 0.5)
    a, b = estimates["a"], estimates["b"]
    gap = difference((a.value, a.stderr), (b.value, b.stderr), align(a, b, same=True), most=min(a.groups, b.groups))
    wanted = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert gap.stderr == pytest.approx(wanted**0.5)
    assert gap.paired


def test_groups_and_needs() -> None:
    found = rated(cast(500, {"a": 1.5, "b": 0.1, "c": 0.0, "d": -1.5}, 5))
    between = gaps(found)
    assert len(between) == 6
    sets = [{found.cells[place] for place in one} for one in groups(found, between)]
    assert sets == [{"a"}, {"b", "c"}, {"d"}]
    (need,) = needs(found, between)
    assert {found.cells[need.gap.better], found.cells[need.gap.worse]} == {"b", "c"}
    assert need.between is not None
    assert need.at_large is not None
    assert need.between < need.at_large  # votes on other cells tell less of these two
    # with so many votes they are told apart: the same votes, as often as that says
    times = -(-(need.at_large + 500) // 500)
    strong = rated([vote(v.cell_a, v.cell_b, v.index + 500 * k, v.outcome) for v in found.votes for k in range(times)])
    assert all(gap.told_apart for gap in gaps(strong))


def test_a_cell_may_be_in_two_groups() -> None:
    """Three cells, of which the outer ones alone are told apart."""
    found = rated(cast(120, {"a": 0.8, "b": 0.1, "c": -0.9}, 8), ("a", "b", "c"))
    between = {(found.cells[gap.better], found.cells[gap.worse]): gap for gap in gaps(found)}
    assert between["a", "c"].told_apart
    told = [pair for pair, gap in between.items() if gap.told_apart]
    sets = [{found.cells[place] for place in one} for one in groups(found, gaps(found))]
    for pair in told:
        assert not any(set(pair) <= one for one in sets)
    for pair in between.keys() - set(told):
        assert any(set(pair) <= one for one in sets)
    ps = [gap.p for gap in gaps(found)]
    assert all(0 <= p <= 1 for p in ps)


def test_agreement() -> None:
    votes = [vote("a", "b", i, "a", "ann", left="a") for i in range(4)]
    votes += [vote("b", "a", i, "b" if i < 3 else "a", "bob", left="b") for i in range(4)]  # agrees on 3 of 4
    votes += [vote("a", "b", 0, "a", "ann", check=True), vote("a", "b", 1, "both_bad", "ann", check=True)]
    ann, bob = voters(votes)
    assert (ann.votes, ann.with_others, ann.shared, ann.with_self, ann.repeated) == (4, 0.75, 4, 0.5, 2)
    assert (ann.left, bob.left, bob.decided, ann.seconds) == (1.0, 0.75, 4, 2.0)
    same, beyond_chance, items = overall(votes)
    assert (same, items) == (0.75, 4)
    # 8 ratings, 7 for a: D_o = 1/4, D_e = 2 7 1 / (8 7) = 1/4
    assert beyond_chance == pytest.approx(0.0)
    assert overall(votes[:4]) == (None, None, 0)


def test_alpha_of_krippendorffs_example() -> None:
    """Four observers, twelve units, some not seen by all: 0.743 for names (Krippendorff 2011, "Computing alpha")."""
    table = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    counts = np.zeros((12, 5))
    for line in table:
        for unit, name in enumerate(line):
            if name != ".":
                counts[unit, int(name) - 1] += 1
    assert alpha(counts) == pytest.approx(0.743, abs=5e-4)
    assert alpha(np.array([[2.0, 0], [3, 0]])) is None
