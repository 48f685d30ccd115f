"""The ranks of `torch.distributed` that one evaluation is spread over: what one has to say, the others hear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from evalkit.engines.voice import Failure, describe, rebuild
from evalkit.errors import ConfigError, ServiceError
from evalkit.utils.text import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that evaluate together; by default it is alone.

    They talk by a gloo group of their own, whatever the training uses: what they send lies in the CPU's memory.

    Attributes:
        rank: from 0; the first one scores.
        size: how many there are.
        group: of `torch.distributed`; none where this process is alone.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def find(cls, distributed: bool | None, patience: float) -> Ranks:
        """The ranks of the process group that the caller began; all of them must come here.

        Args:
            distributed: whether there are others; none: where there is a process group.
            patience: seconds to wait for one another.

        Raises:
            ConfigError: they are asked for, and there is no process group.
            ServiceError: another rank did not come.
        """
        import datetime

        import torch.distributed as dist

        there = dist.is_available() and dist.is_initialized()
        if distributed and not there:
            raise ConfigError("distributed=True: call torch.distributed.init_process_group first")
        if distributed is False or not there or dist.get_world_size() == 1:
            return cls()
        with _told("every rank must build evalkit.Evaluation (distributed=False: this one is alone)"):
            group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=patience))
        return cls(dist.get_rank(), dist.get_world_size(), group)

    def together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives on each rank. Where it fails on one, its error is raised on all, with the rank's number."""
        if self.group is None:
            return [work()]
        import torch.distributed as dist

        mine = _attempt(work)
        said: list[Any] = [None] * self.size
        with _told("every rank must call compute()"):
            dist.all_gather_object(said, mine, group=self.group)
        for rank, (_, failure) in enumerate(said):
            if failure is not None:
                raise rebuild(failure, f"rank {rank}") from None
        return [value for value, _ in said]

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` gives on the first rank, which alone does it; its error is raised on all."""
        if self.group is None:
            return work()
        import torch.distributed as dist

        said: list[Any] = [_attempt(work) if self.rank == 0 else None]
        with _told("every rank must call compute()"):
            dist.broadcast_object_list(said, src=0, group=self.group)
        value, failure = said[0]
        if failure is not None:
            raise rebuild(failure, "rank 0") from None
        result: T = value
        return result

    def gather(self, to: int, mine: T) -> list[T]:
        """What each rank has, on one of them; nothing on the others."""
        if self.group is None:
            return [mine]
        import torch.distributed as dist

        said: list[Any] | None = [None] * self.size if self.rank == to else None
        with _told("every rank must call compute()"):
            dist.gather_object(mine, said, dst=to, group=self.group)
        return said or []

    def agree(self, settings: Callable[[], Mapping[str, Any]]) -> None:
        """ConfigError on all ranks where one differs from the first in a setting."""
        check_alike(self.together(settings))


def check_alike(said: Sequence[Mapping[str, Any]]) -> None:
    """ConfigError where a rank says something else than the first."""
    for rank, theirs in enumerate(said[1:], 1):
        for key, value in theirs.items():
            if value != said[0][key]:
                raise ConfigError(
                    f"rank {rank} has another {key} than rank 0 ({_short(value)}, not {_short(said[0][key])}): "
                    "give all ranks the same"
                )


def _attempt(work: Callable[[], T]) -> tuple[T | None, Failure | None]:
    try:
        return work(), None
    except Exception as error:
        return None, describe(error)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


@contextmanager
def _told(fix: str) -> Iterator[None]:
    """ServiceError, in one line, where another rank ended or does not come."""
    try:
        yield
    except RuntimeError as error:  # of gloo, and torch.distributed's own
        raise ServiceError(
            f"another rank of torch.distributed ended or did not come: {fix}: {one_line(error)[:200]}"
        ) from None
