"""Requests that come within a few milliseconds are one batch: one forward pass serves them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import ServiceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values = dict[str, list[float]]
"""By metric one value per image."""

Score = Callable[[Sequence[str], Sequence["NDArray[np.uint8]"], Sequence[str] | None], Values]
"""Called as score(metrics, images, prompts)."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A request: metrics, images u8 [H,W,3], and a prompt per image, or none."""

    metrics: tuple[str, ...]
    images: Sequence[NDArray[np.uint8]]
    prompts: Sequence[str] | None


class Busy(ServiceError):
    """Too many requests wait."""


class Batcher:
    """Gathers requests, and has them scored by one thread, batch after batch.

    Args:
        score: what scores a batch.
        window: seconds that the first request of a batch waits for others.
        max_images: of a batch; one request may have more.
        max_waiting: requests; more are refused.

    Attributes:
        batches, images: how many were scored so far.
        waiting: requests that are not answered yet.
    """

    def __init__(self, score: Score, *, window: float = 0.005, max_images: int = 64, max_waiting: int = 256) -> None:
        self._score, self._window, self._max_images, self._most = score, window, max_images, max_waiting
        self._queue: asyncio.Queue[tuple[Asked, asyncio.Future[tuple[Values, int]]]] = asyncio.Queue()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evalkit-serve")
        self._held: tuple[Asked, asyncio.Future[tuple[Values, int]]] | None = None
        self.batches = self.images = self.waiting = 0

    async def submit(self, asked: Asked) -> tuple[Values, int]:
        """The values of a request, and the number of images in the batch that it was part of.

        Raises:
            Busy: too many requests wait.
            EvalkitError: as of `score`.
        """
        if self.waiting >= self._most:
            raise Busy(f"{self.waiting} requests wait already: ask again")
        answer: asyncio.Future[tuple[Values, int]] = asyncio.get_running_loop().create_future()
        self.waiting += 1
        try:
            await self._queue.put((asked, answer))
            return await answer
        finally:
            self.waiting -= 1

    async def run(self) -> None:
        """Scores what is asked until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                together = await self._gather()
                groups: dict[tuple[tuple[str, ...], bool], list[tuple[Asked, asyncio.Future[tuple[Values, int]]]]] = {}
                for asked, answer in together:
                    if not answer.cancelled():  # whose client went away
                        groups.setdefault((asked.metrics, asked.prompts is None), []).append((asked, answer))
                for group in groups.values():
                    await loop.run_in_executor(self._pool, self._answer, loop, group)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _gather(self) -> list[tuple[Asked, asyncio.Future[tuple[Values, int]]]]:
        """The next request, and those that come within the window of it; one that is too large waits for the next."""
        first, self._held = self._held or await self._queue.get(), None
        together, count = [first], len(first[0].images)
        end = asyncio.get_running_loop().time() + self._window
        while count < self._max_images:
            left = end - asyncio.get_running_loop().time()
            try:
                one = self._queue.get_nowait() if left <= 0 else await asyncio.wait_for(self._queue.get(), left)
            except (asyncio.QueueEmpty, TimeoutError):
                break
            if count + len(one[0].images) > self._max_images:
                self._held = one
                break
            together.append(one)
            count += len(one[0].images)
        return together

    def _answer(
        self, loop: asyncio.AbstractEventLoop, group: list[tuple[Asked, asyncio.Future[tuple[Values, int]]]]
    ) -> None:
        """Scores some requests as one batch; where that fails, one by one, so that no one pays for another's image."""
        images = [image for asked, _ in group for image in asked.images]
        prompts = [text for asked, _ in group for text in asked.prompts or ()] or None
        try:
            values = self._score(group[0][0].metrics, images, prompts)
        except Exception as error:
            if len(group) == 1:
                loop.call_soon_threadsafe(_settle, group[0][1], None, error)
                return
            for one in group:
                self._answer(loop, [one])
            return
        self.batches += 1
        self.images += len(images)
        start = 0
        for asked, answer in group:
            stop = start + len(asked.images)
            result = {name: each[start:stop] for name, each in values.items()}
            loop.call_soon_threadsafe(_settle, answer, (result, len(images)), None)
            start = stop


def _settle(
    answer: asyncio.Future[tuple[Values, int]], result: tuple[Values, int] | None, error: Exception | None
) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        assert result is not None
        answer.set_result(result)
