"""What a voter is asked, in which order, and what is shown at the left: a function of the voter's name alone.

Pairs of cells come in rounds, each once per round in another order; a pair takes the prompt that this voter has seen
least, so that after any number of votes both pairs and prompts are as even as can be. Of each pair a cell is shown as
often at the left as at the right. A share of the items comes again with the sides swapped.

Order is drawn by digests, not by a generator whose draws may change with Python's version.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from evalkit.utils.files import sha256_bytes
from evalkit.votes.records import Vote

GAP = 5  # steps at least between an item and its repetition
Pair = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """Two cells' samples of one index."""

    cell_a: str
    cell_b: str
    index: int


@dataclass(frozen=True)
class Step:
    """What is shown at once.

    Attributes:
        item: both samples.
        left: "a" or "b", which is shown at the left.
        check: whether it repeats an earlier step, with the sides swapped.
    """

    item: Item
    left: str
    check: bool = False

    @property
    def key(self) -> tuple[frozenset[str], int, bool]:
        """What tells whether it was voted on."""
        return frozenset((self.item.cell_a, self.item.cell_b)), self.item.index, self.check


def key_of(vote: Vote) -> tuple[frozenset[str], int, bool]:
    """`Step.key` of the step that a vote is of."""
    return frozenset((vote.cell_a, vote.cell_b)), vote.index, vote.check


def steps(
    pairs: Mapping[Pair, Sequence[int]],
    prompts: Mapping[int, str],
    voter: str,
    *,
    repeats: float = 0.1,
    differ: Callable[[Item], bool] = lambda item: True,
) -> Iterator[Step]:
    """All steps of a voter, one after the other, until each item was shown.

    Args:
        pairs: by pair of cells the indices at which they can be compared.
        prompts: by index what says which samples are of one prompt; a blank one is a prompt of its own.
        voter: their name.
        repeats: the share of steps that repeat an earlier one, 0 to 0.5.
        differ: whether an item's images differ; where they do not, it is left out. Asked when the item's turn comes.
    """
    lefts: dict[Pair, int] = {}
    fresh: list[tuple[int, Step]] = []  # with the number of the step
    due, number = 0.0, 0
    for item in _items(pairs, prompts, voter, differ):
        pair = item.cell_a, item.cell_b
        nth = lefts[pair] = lefts.get(pair, -1) + 1
        first = _draw(voter, "side", *pair, nth // 2) < _HALF  # of two items of a pair one is shown the other way round
        step = Step(item, "a" if first == (nth % 2 == 0) else "b")
        fresh.append((number, step))
        yield step
        number += 1
        due += repeats / (1 - repeats)
        while due >= 1 and (old := [at for at, (then, _) in enumerate(fresh) if number - then >= GAP]):
            draws = {at: _draw(voter, "again", number, fresh[at][0]) for at in old}
            _, again = fresh.pop(min(old, key=draws.__getitem__))
            yield replace(again, left="b" if again.left == "a" else "a", check=True)
            number += 1
            due -= 1


def _items(
    pairs: Mapping[Pair, Sequence[int]],
    prompts: Mapping[int, str],
    voter: str,
    differ: Callable[[Item], bool],
) -> Iterator[Item]:
    """The items in a voter's order, each once."""
    lists = {id(indices): indices for indices in pairs.values()}  # most pairs share theirs
    groups = {index: prompts.get(index) or index for indices in lists.values() for index in indices}
    seen: dict[str | int, int] = dict.fromkeys(groups.values(), 0)
    drawn = {index: _draw(voter, "prompt", index) for index in groups}
    waiting: dict[Pair, list[tuple[int, str, int]]] = {}  # of pairs whose turn came: there may be hundreds
    for number in count():
        left = [pair for pair in pairs if waiting.get(pair, True)]
        if not left:
            return
        for pair in sorted(left, key=lambda pair: _draw(voter, "pair", *pair, number)):
            if pair not in waiting:
                waiting[pair] = [(0, drawn[index], index) for index in set(pairs[pair])]
                heapq.heapify(waiting[pair])
            item = _take(pair, waiting[pair], seen, groups, differ)
            if item is not None:
                seen[groups[item.index]] += 1
                yield item


def _take(
    pair: Pair,
    heap: list[tuple[int, str, int]],
    seen: Mapping[str | int, int],
    groups: Mapping[int, str | int],
    differ: Callable[[Item], bool],
) -> Item | None:
    """A pair's item of the prompt that was seen least, taken out; none where no images differ any more."""
    while heap:
        times, drawn, index = heapq.heappop(heap)
        now, item = seen[groups[index]], Item(*pair, index)
        if now > times:  # it was seen since: back into its place
            heapq.heappush(heap, (now, drawn, index))
        elif differ(item):
            return item
    return None


_HALF = "8"  # half of all digests are below it


def _draw(*parts: str | int) -> str:
    return sha256_bytes("\0".join(["evalkit votes", *map(str, parts)]).encode("utf-8", "surrogatepass"))
