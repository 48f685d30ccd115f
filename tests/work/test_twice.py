"""Every unit is run twice at once, the second time with other bits: what was written first stays, all readers agree."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from test_stages import METRICS, Elsewhere, figures, plan_of

from evalkit import pipeline
from evalkit.engines.base import Run, Work
from evalkit.features.store import Column
from evalkit.lint.parts import Parts
from evalkit.samples.writer import FolderTarget, ShardWriter
from evalkit.scoring.cache import ScoreCache
from evalkit.utils.blobs import FsspecBlobs, LocalBlobs
from evalkit.work.stored_plan import Leftovers
from evalkit.work.units import Shard

NUMBERS = itertools.count()
THINGS = {"samples", "features", "lint", "scores", "left"}  # that units write
WRITTEN = {  # by kind of unit: what both of its runs must have tried to write
    "shard": {"samples", "features", "lint"},
    "extract": {"features", "lint"},
    "pairs": {"features"},
    "measure": {"scores"},
    "score": {"scores", "left"},
}


class Twice(Elsewhere):
    """Runs every unit in two workers at once.

    Attributes:
        refused: by (kind of unit, what it wrote): writes that came late.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused = Counter[tuple[str, str]]()
        self._runs: list[Run] = []

    def run(self, work: Work, unit: Any) -> None:
        if not self._runs:
            assert len(pickle.dumps(work.open)) < 200 + len(str(work.command))
            self._runs = [pickle.loads(pickle.dumps(work.open))() for _ in range(2)]
        first, late = self._runs
        overtaken = Overtaken(lambda: first(unit, lambda name, count: None))
        # Other pixels have another key of features and lint: two shards have other features of the same pixels.
        overtaken.pixels = isinstance(unit, Shard) and unit.start == 16
        with overtaken.writing():
            late(unit, lambda name, count: None)
        kind = unit.key.partition("/")[0]
        self.refused.update((kind, thing) for thing in overtaken.refused)


class Overtaken:
    """A run of a unit whose first write, when all that it looks at before has been looked at, waits for a rival's run.

    Args:
        rival: runs the same unit; none of what it writes is changed.
    """

    def __init__(self, rival: Callable[[], None]) -> None:
        self.pixels = False
        self.refused: list[str] = []
        self._rival, self._phase = rival, "before"

    @property
    def _late(self) -> bool:
        return self._phase != "rival"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for kind, name in (
                *((blobs, verb) for blobs in (LocalBlobs, FsspecBlobs) for verb in ("put_new", "put")),
                (FolderTarget, "commit"),
            ):
                stack.enter_context(mock.patch.object(kind, name, self._write(kind, name)))
            for kind, name, change in (
                (ShardWriter, "add", lambda row, pixels: (row, pixels ^ 1 if self.pixels else pixels)),
                (Column, "save", lambda digest, features: (digest, features + 1)),
                (ScoreCache, "keep", _other_score),
                (Parts, "keep", _other_parts),
                (Leftovers, "leave", lambda unit, word: (unit, word | {"late": True})),
            ):
                stack.enter_context(mock.patch.object(kind, name, self._changed(kind, name, change)))
            yield

    def _write(self, kind: Any, name: str) -> Any:
        write = getattr(kind, name)

        def late_write(this: Any, *arguments: Any) -> Any:
            if arguments[0] == "cell.json":  # the same from all
                return write(this, *arguments)
            if self._phase == "before":
                self._phase = "rival"
                self._rival()
                self._phase = "after"
            made = write(this, *arguments)
            path = f"{this.final if name == 'commit' else f'{this.where}/{arguments[0]}'}"
            thing = next(part for part in reversed(Path(path).parts) if part in THINGS)
            if self._late and made is False:
                self.refused.append(thing)
            elif self._late:
                # What is found by its pixels' digest, of other pixels, which nobody has: it is never looked for.
                assert (self.pixels, name) == (True, "put_new"), f"{name} {path}"
                assert thing in ("features", "lint")
            return made

        return late_write

    def _changed(self, kind: Any, name: str, change: Any) -> Any:
        function = getattr(kind, name)

        def changed(this: Any, *arguments: Any, **about: Any) -> Any:
            if self._late:
                arguments = change(*arguments, **(about if name == "leave" else {}))
            return function(this, *arguments, **about)

        def left(this: Any, unit: str, word: Any) -> Any:
            return function(this, *(change(unit, word) if self._late else (unit, word)))

        return left if name == "leave" else changed


def _other_score(key: Any, score: Any) -> tuple[Any, Any]:
    return key, score if score.value is None else replace(score, value=score.value + 1)


def _other_parts(digest: str, chunk: range, parts: Any) -> tuple[Any, ...]:
    return digest, chunk, [(index, replace(seen, thumbs=seen.thumbs ^ 1)) for index, seen in parts]


@pytest.fixture(scope="module", autouse=True)
def shards_of_16() -> Iterator[None]:
    with mock.patch("evalkit.samples.cells.SHARD_SAMPLES", 16):
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    plan = plan_of(tmp_path_factory.mktemp("alone"), None, METRICS, "num_samples=40")
    return figures(plan, pipeline.run(plan))


@pytest.mark.parametrize("store", ["folder", pytest.param("memory", marks=pytest.mark.slow)])
def test_units_that_run_twice_at_once(tmp_path: Path, expected: dict[str, Any], store: str) -> None:
    engine = Twice()
    place = [f"store=memory://twice{next(NUMBERS)}/store"] if store == "memory" else []
    plan = plan_of(tmp_path, engine, "num_samples=40", *place)
    assert figures(plan, pipeline.run(plan)) == expected
    assert engine.closed == 1
    kinds = Counter(key.partition("/")[0] for key in engine.ran)
    assert kinds == {"shard": 3, "extract": 1, "pairs": 1, "measure": 1, "score": 1}
    assert {kind: {thing for of, thing in engine.refused if of == kind} for kind in WRITTEN} == WRITTEN
