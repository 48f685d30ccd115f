"""Load on a service: when requests leave, whatever becomes of them, and what is recorded of each.

Closed loop: `concurrency` clients, each of which sends its next request once it has the answer to the last one. After
an error a client waits as its back-off says, or longer where the service asks for it: a service that refuses at once
would else be asked thousands of times a second. Open loop: requests leave at times that were drawn before (a Poisson
process of `rate` per second, or evenly spaced), however long the others take. Latency counts from the time at which a
request was to leave, so that a late one does not look fast (Schroeder, Wierman and Harchol-Balter, "Open versus
closed", NSDI 2006; Tene's "coordinated omission").
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from evalkit.errors import ConfigError, nearest, whole_number

Arrivals = Literal["poisson", "constant"]
MOST_AT_ONCE = 512  # requests under way in open loop: a thread each; more wait here, which shows as queueing
WARMUP = 4

Send = Callable[[int, float], float]
"""Sends request i, which was to leave at a `time.monotonic()`; returns the seconds that a closed-loop client waits."""


@dataclass(frozen=True)
class Load:
    """How much is asked of a service at a time.

    Attributes:
        concurrency: closed loop: clients that each wait for their answer, >= 1.
        rate: open loop: requests per second, > 0.
        arrivals: of an open loop: "poisson" or "constant".
        seed: of Poisson arrivals, >= 0: the same times in each run.
        warmup: requests before the measured ones, >= 0. Their images count as samples, their times do not; the clock
            starts when all of them are answered.
    """

    concurrency: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "poisson"
    seed: int = 0
    warmup: int = WARMUP

    @classmethod
    def of(cls, values: Any) -> Self | None:
        """From the YAML's mapping; none: there is no load.

        Raises:
            ConfigError: an unknown key (the nearest is offered), or a value that makes no sense.
        """
        if values is None:
            return None
        if not isinstance(values, Mapping):
            raise ConfigError(f"load={values!r}: give a mapping such as {{concurrency: 4}} or {{rate: 2}}")
        known = [f.name for f in fields(cls)]
        given = {name: value for name, value in values.items() if value is not None}
        for name in values:
            if name not in known:
                raise ConfigError(f"load.{name}: there is no such setting. {nearest(str(name), known)}")
        if ("concurrency" in given) == ("rate" in given):
            raise ConfigError(
                "load: give concurrency (clients that each wait for their answer) or rate (requests per second)"
            )
        for name, least in (("concurrency", 1), ("seed", 0), ("warmup", 0)):
            if name in given:
                whole_number(given[name], f"load.{name}", least)
        rate = given.get("rate", 1.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigError(f"load.rate={rate!r}: give requests per second, more than 0")
        arrivals = given.get("arrivals", "poisson")
        if arrivals not in get_args(Arrivals):
            raise ConfigError(
                f"load.arrivals={arrivals!r}: there is no such way. {nearest(str(arrivals), get_args(Arrivals))}"
            )
        if "concurrency" in given and given.keys() & {"arrivals", "seed"}:
            raise ConfigError("load: arrivals and seed are of an open loop (rate); with concurrency nothing is drawn")
        return cls(**given)

    def shown(self) -> dict[str, Any]:
        """What tells loads apart, by the names of the tables' columns."""
        main = {"concurrency": self.concurrency} if self.rate is None else {"rate": self.rate}
        defaults = type(self)()
        rest = {name: getattr(self, name) for name in ("arrivals", "seed", "warmup")}
        return main | {f"load.{name}": value for name, value in rest.items() if value != getattr(defaults, name)}

    @property
    def kind(self) -> str:
        """As it is recorded: "closed", "poisson" or "constant"."""
        return "closed" if self.rate is None else self.arrivals

    def words(self, count: int) -> str:
        """Of `count` requests, for a log."""
        warm = f"the first {min(self.warmup, count)} to warm up"
        if self.rate is None:
            return f"{self.concurrency} at a time, {warm}"
        return f"{self.rate:g} per second ({self.arrivals}), {warm}: about {count / self.rate:.0f} s"

    def times(self, count: int) -> list[float]:
        """Open loop: seconds after the start at which each of `count` requests is to leave."""
        import numpy as np

        assert self.rate is not None
        if self.arrivals == "constant":
            return [i / self.rate for i in range(count)]
        gaps = np.random.default_rng(self.seed).exponential(1 / self.rate, count)
        times: list[float] = np.cumsum(gaps).tolist()
        return times

    def run(self, numbers: Sequence[int], send: Send, stop: threading.Event) -> None:
        """Has requests sent, by their numbers; returns when the last one is answered.

        Args:
            numbers: in the order in which they are to leave.
            send: is called in threads; what it raises ends the load (those under way are waited for) and is raised.
            stop: set by `send` before it raises, or by whoever wants an end: no further request leaves.
        """
        if not numbers:
            return
        (self._closed if self.rate is None else self._open)(numbers, send, stop)

    def _closed(self, numbers: Sequence[int], send: Send, stop: threading.Event) -> None:
        waiting, lock = iter(numbers), threading.Lock()

        def client() -> None:
            while not stop.is_set():
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                stop.wait(send(number, time.monotonic()))

        count = min(self.concurrency or 1, len(numbers))
        with ThreadPoolExecutor(count, thread_name_prefix="evalkit-load") as pool:
            _finish([pool.submit(client) for _ in range(count)], stop)

    def _open(self, numbers: Sequence[int], send: Send, stop: threading.Event) -> None:
        sending: list[Future[Any]] = []
        with ThreadPoolExecutor(min(len(numbers), MOST_AT_ONCE), thread_name_prefix="evalkit-load") as pool:
            try:
                start = time.monotonic()
                for number, after in zip(numbers, self.times(len(numbers)), strict=True):
                    if stop.wait(max(start + after - time.monotonic(), 0.0)):
                        break
                    sending.append(pool.submit(send, number, start + after))
            except BaseException:  # Ctrl-C
                stop.set()
                raise
            _finish(sending, stop)


def _finish(sending: Sequence[Future[Any]], stop: threading.Event) -> None:
    """Waits for all of them; raises the first error."""
    try:
        wait(sending)
    except BaseException:  # Ctrl-C
        stop.set()
        raise
    for each in sending:
        each.result()


@dataclass(frozen=True)
class RequestTimes:
    """What is recorded of a request under load; times are in seconds after the start of its measurement.

    Attributes:
        measured_at: when that was (Unix time): requests that share it were measured together.
        arrivals: "closed", "poisson" or "constant".
        scheduled_s: when it was to leave (closed loop: when its client was free).
        sent_s: when it left.
        answered_s: when the whole answer, or the error, was there.
        warmup: whether it came before the measured ones.
        failed: what went wrong (see `client.Transient`); its image was then asked for again outside of the load.
        queued_s: seconds for which the service says that it waited for its turn; none: it does not tell.
    """

    measured_at: float
    arrivals: str
    scheduled_s: float
    sent_s: float
    answered_s: float
    warmup: bool = False
    failed: str | None = None
    queued_s: float | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self | None:
        """From a record that holds them among others; none: it was not under load."""
        if "measured_at" not in record:
            return None
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})

    def record(self) -> dict[str, Any]:
        """As a line of metadata holds it; what is not known is left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
