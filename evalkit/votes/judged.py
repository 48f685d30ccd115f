"""Votes of a judge: pairs of a run's images, asked about in both orders, and rated as people's votes are.

Which pairs are asked about is drawn with a seed: two cells by turns, then an index. More `items` go on where fewer
ended, and answers are stored in the store: a run that was broken off, or asks for more, asks nothing twice.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from evalkit.config.build import build
from evalkit.data.source import Source
from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.extractors.judge import Judge
from evalkit.judges.answers import Answers
from evalkit.judges.asking import sized
from evalkit.judges.pairwise import QUESTION, Pair, Verdict, compare, text_of
from evalkit.judges.place import AnswerPlace
from evalkit.judges.questions import PLACE
from evalkit.utils.devices import pick_device
from evalkit.utils.files import sha256_json
from evalkit.utils.progress import stage
from evalkit.votes.metric import VotesRating
from evalkit.votes.records import Vote, append_votes, now, read_votes

log = logging.getLogger(__name__)

KEYS = ("judge", "items", "seed", "question")
ITEMS = 200
AT_ONCE = 64  # pairs of images in memory


@dataclass(frozen=True)
class Asked:
    """What a judge is asked about: an option `votes.NAME`.

    Attributes:
        judge: whose asker, `image_size` and `reask` count; its own questions do not.
        items: pairs of images.
        seed: of their choice.
        question: {prompt} stands for a pair's prompt.
        device: where a judge in this process runs.
    """

    judge: Judge
    items: int
    seed: int
    question: str
    device: str


class JudgedRating(VotesRating):
    """A rating by a judge's votes. They are cast once the run's samples are there.

    Args:
        source: the votes' name.
        asked: who is asked, and about what.
    """

    def __init__(self, source: str, asked: Asked) -> None:
        super().__init__(source, ())
        self.asked = asked
        self.verdicts: tuple[Verdict, ...] = ()
        self.title = f"Elo ({source}:{asked.judge.asker.label()})"

    def protocol(self, cells: Mapping[str, str]) -> dict[str, Any]:
        judge = self.asked.judge
        about = {
            "judge": judge.asker.identity(),
            "template": sha256_json([text_of(self.asked.question, "")]),
            "orders": "both; a tie where they differ",
            "image_size": judge.image_size,
            "reask": judge.reask,
        }
        return super().protocol(cells) | {"judge": about}

    def cast(self, sources: Mapping[str, Source]) -> JudgedRating:
        """With the judge's votes; errors as of `evalkit.judges.pairwise.compare`."""
        asked, judge = self.asked, self.asked.judge
        prompts = {cell: source.prompts for cell, source in sources.items()}
        items = draw_items(prompts, asked.items, asked.seed, prompted=PLACE in asked.question)
        stored = Answers(judge.stored_in, judge.asker.identity())
        verdicts: list[Verdict] = []

        def load() -> None:
            judge.asker.load(pick_device(asked.device))

        try:
            with stage(f"{self.title}: {judge.name} compares {len(items)} pairs of images"):
                for start in range(0, len(items), AT_ONCE):
                    some = items[start : start + AT_ONCE]
                    pairs = [_pair(sources, item, prompts[item[0]][item[2]], judge.image_size) for item in some]
                    verdicts += compare(judge.asker, stored, pairs, asked.question, judge.reask, load)
        finally:
            judge.asker.unload()
            stored.close()
        made = JudgedRating(self.source, asked)
        made.verdicts = tuple(verdicts)
        voter = f"{judge.name}:{judge.asker.label()}"
        made.votes = tuple(
            vote
            for (a, b, index), verdict in zip(items, verdicts, strict=True)
            for vote in votes_of((a, b, index), verdict, prompts[a][index] or "", voter)
        )
        return made

    def forecast(self) -> str | None:
        judge = self.asked.judge
        calls = 2 * self.asked.items * (1 + judge.reask)
        most = f" (at most {calls:,} calls, with those asked again)" if judge.reask else ""
        stored, sent, received = Answers(judge.stored_in, judge.asker.identity()).usage()
        pairs = f"{self.asked.items:,} pairs of images, {2 * self.asked.items:,} questions{most}"
        tokens = f"; an answer so far took {sent:,.0f} tokens sent and {received:,.0f} received" if sent else ""
        return f"{pairs}; {stored:,} answers of this judge are stored{tokens}"

    @property
    def position(self) -> dict[str, Any] | None:
        """How far the verdicts depend on the order: pairs, those that flip, and how many prefer which place."""
        if not self.verdicts:
            return None
        places = [verdict.position for verdict in self.verdicts]
        return {
            "pairs": len(self.verdicts),
            "flips": sum(verdict.flips for verdict in self.verdicts),
            "first": places.count("first"),
            "second": places.count("second"),
            "unread": sum(None in verdict.orders for verdict in self.verdicts),
        }

    def write(self, out: Path) -> None:
        """Adds to the run's file of this judge's votes those that are not in it yet."""
        digest = sha256_json(self.protocol({})["judge"])[:8]
        path = out / f"votes_{self.source}_{digest}.csv"
        known = {_without_time(vote) for vote in read_votes(path)} if path.is_file() else set()
        new = [vote for vote in self.votes if _without_time(vote) not in known]
        if new:
            append_votes(path, [replace(vote, time=now()) for vote in new])


def _without_time(vote: Vote) -> Vote:
    return replace(vote, time="2000-01-01T00:00:00Z")


Item = tuple[str, str, int]  # two cells, and the index of their samples


def draw_items(prompts: Mapping[str, Sequence[str | None]], count: int, seed: int, *, prompted: bool) -> list[Item]:
    """Pairs of samples of one index and prompt, as many of each two cells, each once; more of them begin as fewer do.

    Args:
        prompts: by cell, of its samples.
        count: the most to draw.
        seed: of the draws.
        prompted: whether samples without a prompt are left out.
    """
    rng = random.Random(seed)
    waiting: list[list[Item]] = []
    for a, b in combinations(prompts, 2):
        first, second = prompts[a], prompts[b]
        both = range(min(len(first), len(second)))
        shared = [i for i in both if first[i] == second[i] and (first[i] or not prompted)]
        rng.shuffle(shared)
        waiting.append([(a, b, i) for i in reversed(shared)])
    rng.shuffle(waiting)
    items: list[Item] = []
    while len(items) < count and any(waiting):
        for each in waiting:
            if each and len(items) < count:
                items.append(each.pop())
    return items


def votes_of(item: Item, verdict: Verdict, prompt: str, voter: str) -> list[Vote]:
    """A verdict as records: the vote that counts, and one of the other order, as a repeated item of the same voter.

    So a voter's agreement with itself is the share of verdicts that do not depend on the order.
    """
    a, b, index = item
    counted = Vote(voter=voter, cell_a=a, cell_b=b, index=index, prompt=prompt, outcome=verdict.outcome)
    counted = replace(counted, left="ab"[index % 2])  # it was both
    sides = [(side, said or "tie") for side, said in zip("ab", verdict.orders, strict=True)]
    other, said = next((each for each in sides if each[1] != verdict.outcome), sides[1])
    return [counted, replace(counted, outcome=said, left=other, check=True)]


def _pair(sources: Mapping[str, Source], item: Item, prompt: str | None, longest: int | None) -> Pair:
    a, b, index = item
    first, second = (sources[cell].read(range(index, index + 1))[0] for cell in (a, b))
    return Pair(sized(first, longest), sized(second, longest), prompt or "")


@dataclass(frozen=True)
class Judges:
    """What judges of votes are made of.

    Attributes:
        extractors: the configuration's.
        answers: where the run's store holds judges' answers.
        fetch: whether a judge may be fetched, or asked whether it is there.
        device: the run's.
    """

    extractors: Mapping[str, Any]
    answers: AnswerPlace
    fetch: bool
    device: str


def make_asked(option: Mapping[str, Any], given: Judges, where: str) -> Asked:
    """What `votes.NAME={judge: ...}` asks for.

    Args:
        option: the judge's name among extractors; items, seed, question.
        given: what it may be made of.
        where: the option's name.

    Raises:
        ConfigError: an unknown key or extractor, one that is no judge, a judge that cannot be asked.
    """
    for key in option:
        if key not in KEYS:
            raise ConfigError(f"{where}.{key}: no such key. {nearest(str(key), KEYS)}")
    name = option["judge"]
    if name not in given.extractors:
        raise ConfigError(
            f"{where}.judge: there is no extractor '{name}' (+extractor={name} adds an option). "
            + nearest(str(name), list(given.extractors))
        )
    judge = build(given.extractors[name], f"extractor.{name}")
    if not isinstance(judge, Judge):
        raise ConfigError(f"{where}.judge: extractor.{name} is no judge, such as extractor.judge")
    judge.keep_in(given.answers)
    judge.asker.check(fetch=given.fetch)
    question = option.get("question")
    if question is not None and not (isinstance(question, str) and question.strip()):
        raise ConfigError(f"{where}.question={question!r}: give a text, in which {PLACE} stands for the prompt")
    items = whole_number(option.get("items", ITEMS), f"{where}.items", 2)
    seed = whole_number(option.get("seed", 0), f"{where}.seed", 0)
    return Asked(judge, items, seed, question or QUESTION, given.device)
