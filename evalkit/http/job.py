"""One image's requests: retries, waits, and the end of a batch."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.errors import ServiceError
from evalkit.http.client import Client, Stopped, Transient

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from evalkit.http.form import Form

Value = TypeVar("Value")


def seconds_of(value: object) -> float | None:
    """A duration that a service tells; none where it is no finite number >= 0."""
    try:
        seconds = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return seconds if 0 <= seconds < math.inf else None


@dataclass
class Job:
    """One image's requests: its time (`deadline`), its retries, and whether the batch still wants it (`stop`).

    `once`: the first failure is the answer, and is raised as it is (`Transient`). `queued`: seconds for which the
    service says that the image waited for its turn; none: it does not tell.
    """

    client: Client
    name: str  # "sample 17"
    stop: threading.Event
    deadline: float
    retries: int = 0
    once: bool = False
    queued: float | None = None

    def json(self, method: str, path: str, body: Mapping[str, Any] | Form | None = None) -> dict[str, Any]:
        """As `Client.json`, within the image's time; notes what the answer's header says of the queue."""
        return self.client.json(method, path, body, deadline=self.deadline, timing=self._note_timing)

    def _note_timing(self, header: str) -> None:
        """Server-Timing (W3C): `queue;dur=12.5, generate;dur=310`, in milliseconds."""
        queue = re.search(r"(?:^|,)\s*queue\s*;[^,]*?\bdur=(\d+(?:\.\d+)?)", header)
        if queue is not None:
            self.queued = seconds_of(float(queue[1]) / 1000)

    def retrying(self, attempt: Callable[[], Value]) -> Value:
        """What `attempt` returns, after as many retries as the options allow.

        Raises:
            ServiceError: it failed for good, or retries or budget are used up.
            Stopped: the batch ended meanwhile.
        """
        import tenacity

        options = self.client.options
        attempts = 1 if self.once else options.retries + 1
        half = options.backoff / 2, options.max_backoff / 2
        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(Transient),
                stop=tenacity.stop_after_attempt(attempts),
                wait=tenacity.wait_exponential(*half) + tenacity.wait_random_exponential(*half),
                before=lambda _: self._wait_for_turn(),
                before_sleep=self._wait_after,
                sleep=lambda _: None,  # `_wait_after` has waited: it knows the reason
                reraise=True,
            )(attempt)
        except Transient as error:
            if self.once:
                raise
            raise ServiceError(f"{error}, {attempts} times") from None

    def _wait_for_turn(self) -> None:
        held = self.client.held()
        if held:
            self.wait(held + random.uniform(0, self.client.options.backoff / 2), "asked to wait")
        if self.stop.is_set():
            raise Stopped

    def _wait_after(self, state: RetryCallState) -> None:
        """Waits after a failed attempt: as long as tenacity says, or longer where the service asks for it."""
        error = state.outcome and state.outcome.exception()
        seconds = max(state.upcoming_sleep, self.client.held())
        self.retries += 1
        again = f"again in {seconds:.1f} s (retry {state.attempt_number} of {self.client.options.retries})"
        self.client.warn_once(f"{self.client.base_url}, {self.name}: {error}; {again}")
        self.wait(seconds, str(error))

    def wait(self, seconds: float, reason: str) -> None:
        """Waits, unless the image's budget would then be used up (`ServiceError`) or the batch ends (`Stopped`)."""
        if time.monotonic() + seconds > self.deadline:
            budget = f"its {self.client.options.budget:g} s (client.budget)"
            if self.once:
                raise Transient(f"{reason}, after {budget}", "timeout")
            raise ServiceError(f"{reason}; {seconds:.3g} s more would go beyond {budget}")
        if self.stop.wait(seconds):
            raise Stopped

    def unstoppable(self) -> Job:
        """The same job, but finished even if the batch ends meanwhile: the image is being made."""
        return replace(self, stop=threading.Event(), retries=0)
