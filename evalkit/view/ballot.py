"""What a run's voters are asked, what they see of it, and where their votes go."""

from __future__ import annotations

import functools
import hmac
import logging
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from evalkit.data import codec
from evalkit.errors import ConfigError, DataError, nearest, printable
from evalkit.history.registry import PastRun
from evalkit.utils.files import sha256_bytes
from evalkit.view.comparable import chosen_cells, comparable
from evalkit.view.samples import Sample, image_of, samples_of
from evalkit.votes.agreement import voters
from evalkit.votes.records import OUTCOMES, VOTES, Followed, Vote, append_vote
from evalkit.votes.schedule import Item, Pair, Step, key_of, steps

log = logging.getLogger(__name__)

MAX_NAME = 60  # characters of a voter's name
_DAY = 86_400.0


@dataclass(frozen=True)
class Choice:
    """What is to be voted on.

    Attributes:
        cells: by name; none: all of the run.
        prompts: how many at most, drawn at random, the same for all voters.
        votes: how many a voter is asked for, repeated items among them.
        repeats: the share of items that come again.
    """

    cells: tuple[str, ...] = ()
    prompts: int = 1000
    votes: int = 100
    repeats: float = 0.1


@dataclass
class _Plan:
    """A voter's steps, as far as they were worked out."""

    rest: Iterator[Step]
    known: list[Step] = field(default_factory=list)
    whole: bool = False


class Ballot:
    """Asks voters, and writes their votes. It may be called by several threads at once.

    Args:
        run: a finished run.
        choice: what is to be voted on.
        file: where votes go; none: votes.csv next to the run's results.json.
        also: further folders whose images may be shown, next to the run's store.

    Raises:
        ConfigError: a cell is unknown, or no two cells have images of the same prompt and seed that differ.
        DataError: the run's samples.csv, or the file of votes, cannot be read.
    """

    def __init__(
        self, run: PastRun, choice: Choice | None = None, *, file: Path | None = None, also: Sequence[Path] = ()
    ) -> None:
        self.run, self.choice = run, choice or Choice()
        self.file = file or run.path.with_name(VOTES)
        self.roots = [folder.resolve() for folder in (*_stores(run), *also)]
        found = samples_of(run)
        if isinstance(found, str):
            raise DataError(f"{run.path.parent}: {found}")
        self.samples = {cell: {sample.index: sample for sample in found.get(cell, [])} for cell in run.table.cells}
        cells = chosen_cells(self.choice.cells, run.table.cells)
        self.pairs = comparable(run, self.samples, cells, self.choice.prompts)
        lists = {id(indices): (cell, indices) for (cell, _), indices in self.pairs.items()}  # most pairs share theirs
        self.prompts = {i: self.samples[cell][i].prompt for cell, indices in lists.values() for i in indices}
        self._plans: dict[str, _Plan] = {}
        self._shown: dict[str, tuple[str, int]] = {}
        self._secret = secrets.token_bytes()
        self._lock = threading.RLock()
        self._followed = Followed(self.file)
        self._why = ""
        self._pixels = functools.lru_cache(100_000)(self._digest)
        self.png = functools.lru_cache(64)(self._png)
        self.votes()
        if next(self._steps(""), None) is None:
            raise ConfigError(f"{run.name}: there is nothing to vote on: {self._why or 'all images are equal'}")

    @property
    def items(self) -> int:
        """How many items there are, those with equal images too."""
        return sum(map(len, self.pairs.values()))

    def votes(self) -> list[Vote]:
        """All votes that count, as they are in the file at this moment."""
        with self._lock:
            return self._followed.votes()

    def state(self, voter: str) -> dict[str, Any]:
        """What a voter's page shows: how far they are, the next item and the images after it; as JSON, without names.

        Raises:
            DataError: the name is none.
        """
        with self._lock:
            return self._state(name_of(voter))

    def vote(self, voter: str, item: str, outcome: str, seconds: float) -> dict[str, Any]:
        """Adds a vote, and gives the state after it. A vote on another than the next item was sent twice: it is none.

        Args:
            voter: their name.
            item: the id that `state` gave.
            outcome: "left", "right", "tie" or "both_bad".
            seconds: since both images were seen.

        Raises:
            DataError: a value is none of these.
            StoreError: the vote cannot be written.
        """
        if outcome not in ("left", "right", *OUTCOMES[2:4]):
            raise DataError(f"outcome '{outcome}': {nearest(outcome, ['left', 'right', 'tie', 'both_bad'])}")
        with self._lock:
            voter = name_of(voter)
            number, step = self._next(voter)
            if step is not None and item == _id(voter, number, step):
                right = "b" if step.left == "a" else "a"
                said = {"left": step.left, "right": right}.get(outcome, outcome)
                append_vote(self.file, self._record(voter, step, said, seconds))
            return self._state(voter)

    def undo(self, voter: str, done: int) -> dict[str, Any]:
        """Takes a voter's last vote back, and gives the state after it.

        Args:
            voter: their name.
            done: how many votes their page shows; where there are others by now, it was sent twice.

        Raises:
            StoreError: it cannot be written.
        """
        with self._lock:
            voter = name_of(voter)
            last = self._last(voter)
            if last is not None and self._next(voter)[0] == done:
                append_vote(self.file, self._record(voter, last, "undo", 0.0))
            return self._state(voter)

    def image(self, token: str) -> bytes:
        """A PNG of an image that a state named; a LookupError of another name."""
        return self.png(*self._shown[token])

    def plan(self, voter: str) -> Iterator[Step]:
        """All steps of a voter."""
        plan = self._plans.setdefault(voter, _Plan(islice(self._steps(voter), self.choice.votes)))
        for number in count():
            if number == len(plan.known):
                step = next(plan.rest, None)
                if step is None:
                    plan.whole = True
                    return
                plan.known.append(step)
            yield plan.known[number]

    def _steps(self, voter: str) -> Iterator[Step]:
        return steps(self.pairs, self.prompts, voter, repeats=self.choice.repeats, differ=self._differ)

    def _mine(self, voter: str) -> list[Vote]:
        return [vote for vote in self.votes() if vote.voter == voter]

    def _next(self, voter: str) -> tuple[int, Step | None]:
        """The first step without a vote, and its number."""
        done = {key_of(vote) for vote in self._mine(voter)}
        number = -1
        for number, step in enumerate(self.plan(voter)):
            if step.key not in done:
                return number, step
        return number + 1, None

    def _last(self, voter: str) -> Step | None:
        """The step of the last vote, among those of this plan."""
        known = {step.key: step for step in self._plans[voter].known} if voter in self._plans else {}
        return next((known[key_of(v)] for v in reversed(self._mine(voter)) if key_of(v) in known), None)

    def _state(self, voter: str) -> dict[str, Any]:
        number, step = self._next(voter)
        plan = self._plans[voter]
        most = min(self.choice.votes, int(self.items / (1 - self.choice.repeats)))
        return {
            "voter": voter,
            "done": number,
            "of": len(plan.known) if plan.whole else max(most, len(plan.known)),
            "undo": self._last(voter) is not None,
            "item": self._item(voter, number, step) if step else None,
            "next": self._item(voter, number + 1, after) if step and (after := self._after(voter, number)) else None,
            "repeated": None if step else self._repeated(voter),
        }

    def _repeated(self, voter: str) -> dict[str, int]:
        """How many items came twice, and of how many the answer was the same."""
        about = next(iter(voters(self._mine(voter))), None)
        of = about.repeated if about is not None else 0
        return {"same": round((about.with_self or 0) * of) if about is not None else 0, "of": of}

    def _after(self, voter: str, number: int) -> Step | None:
        return next(islice(self.plan(voter), number + 1, None), None)

    def _item(self, voter: str, number: int, step: Step) -> dict[str, str]:
        sides = ("a", "b") if step.left == "a" else ("b", "a")
        addresses = []
        for side in sides:
            cell = step.item.cell_a if side == "a" else step.item.cell_b
            mark = hmac.new(self._secret, f"{number} {side} {voter}".encode(), "sha256").hexdigest()[:24]
            self._shown[mark] = (cell, step.item.index)
            addresses.append(f"/image/{mark}")
        about = self._sample((step.item.cell_a, step.item.cell_b), step.item.index)
        text = printable(about.prompt or about.category)
        return {"id": _id(voter, number, step), "prompt": text, "left": addresses[0], "right": addresses[1]}

    def _record(self, voter: str, step: Step, outcome: str, seconds: float) -> Vote:
        item = step.item
        return Vote(
            voter=voter,
            cell_a=item.cell_a,
            cell_b=item.cell_b,
            index=item.index,
            prompt=self._sample((item.cell_a, item.cell_b), item.index).prompt,
            outcome=outcome,
            left=step.left,
            seconds=round(float(min(max(seconds, 0.0), _DAY)), 3),
            check=step.check,
        )

    def _sample(self, pair: Pair, index: int) -> Sample:
        return self.samples[pair[0]][index]

    def _differ(self, item: Item) -> bool:
        try:
            return self._pixels(item.cell_a, item.index) != self._pixels(item.cell_b, item.index)
        except (DataError, OSError) as error:
            if not self._why:
                log.warning("left out: %s", error)
            self._why = self._why or str(error)
            return False

    def _decoded(self, cell: str, index: int) -> Any:
        data, _ = image_of(self.samples[cell][index], self.run, self.roots)
        return codec.decode(data, f"{cell}, sample {index}")

    def _digest(self, cell: str, index: int) -> str:
        pixels = self._decoded(cell, index)
        return sha256_bytes(f"{pixels.shape}".encode() + pixels.tobytes())

    def _png(self, cell: str, index: int) -> bytes:
        """The pixels alone: what else a file holds may name the model."""
        return codec.encode_png(self._decoded(cell, index))


def name_of(voter: str) -> str:
    """A voter's name as it is written. Raises DataError where it is none."""
    name = " ".join(printable(voter).split())
    if not 0 < len(name) <= MAX_NAME:
        raise DataError(f"a voter's name of {len(name)} characters: give 1 to {MAX_NAME}")
    return name


def _id(voter: str, number: int, step: Step) -> str:
    """What stands for an item on the page: the same after a restart, so that an open page goes on."""
    item = step.item
    parts = (voter, number, item.cell_a, item.cell_b, item.index, step.left, step.check)
    return sha256_bytes("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"))[:24]


def _stores(run: PastRun) -> list[Path]:
    """Where a run's images may lie: the folder that holds it, and its store where that holds it too."""
    folder = run.path.parent.resolve()
    store = Path(str(run.table.run.get("store") or folder.parent)).resolve()
    return [folder.parent, *([store] if folder.is_relative_to(store) and (store / "samples").is_dir() else [])]
