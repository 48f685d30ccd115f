"""Who is asked what and when: even over pairs, prompts and sides, the same for the same name, repeats as asked for."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.utils.files import sha256_json
from evalkit.votes.schedule import GAP, Item, Step, steps

PAIRS = {pair: list(range(30)) for pair in itertools.combinations("xyz", 2)}
PROMPTS = {index: f"prompt {index % 10}" for index in range(30)}


def test_even_over_pairs_prompts_and_sides_after_any_number_of_votes() -> None:
    fresh = [step for step in steps(PAIRS, PROMPTS, "Ann") if not step.check]
    assert len(set(fresh)) == len({step.key for step in fresh}) == 90
    for n in range(1, 91):
        pairs = Counter((step.item.cell_a, step.item.cell_b) for step in fresh[:n])
        prompts = Counter(PROMPTS[step.item.index] for step in fresh[:n])
        assert max(pairs.values()) - min(pairs[p] for p in PAIRS) <= 1
        assert max(prompts.values()) - min(prompts[p] for p in PROMPTS.values()) <= 2
    for pair in PAIRS:
        sides = Counter(step.left for step in fresh if (step.item.cell_a, step.item.cell_b) == pair)
        assert sides == {"a": 15, "b": 15}


def test_the_order_is_the_names_and_stays() -> None:
    """A golden order: were it another one, people who are half through would begin anew."""
    ann, bob = (
        [step for step, _ in zip(steps(PAIRS, PROMPTS, name), range(20), strict=False)] for name in ("Ann", "Bob")
    )
    assert ann != bob
    lines = [[*vars(step.item).values(), step.left, step.check] for step in ann]
    assert lines[:3] == [["y", "z", 17, "a", False], ["x", "y", 19, "a", False], ["x", "z", 14, "b", False]]
    assert sha256_json(lines)[:12] == "a5b253acdbe6"


@settings(deadline=None, max_examples=40)
@given(share=st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5]), n=st.integers(1, 12), equal=st.sets(st.integers(0, 11)))
def test_repeats_are_earlier_items_with_the_sides_swapped(share: float, n: int, equal: set[int]) -> None:
    pairs = {("x", "y"): range(n), ("x", "z"): range(0, n, 2)}
    plan = list(steps(pairs, {}, "Ann", repeats=share, differ=lambda item: item.index not in equal))
    fresh = [step for step in plan if not step.check]
    wanted = {Item(*pair, index) for pair, indices in pairs.items() for index in indices if index not in equal}
    assert {step.item for step in fresh} == wanted
    assert len(fresh) == len(wanted)
    for number, step in enumerate(plan):
        if step.check:
            other = Step(step.item, "b" if step.left == "a" else "a")
            assert number - plan.index(other) >= GAP
    again = Counter(step.item for step in plan if step.check)
    assert set(again.values()) <= {1}
    most = len(fresh) * share / (1 - share)
    assert most - GAP - 1 <= len(again) <= most + 1e-9
