"""One measurement: requests to a service under a load, each tried once, its times and its error recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from evalkit.errors import ServiceError
from evalkit.http.client import Client, ClientOptions, Stopped, Transient
from evalkit.http.job import Job
from evalkit.http.keys import Key
from evalkit.models.base import Request, Settings
from evalkit.models.services.cache import FetchedImage, FetchedImages
from evalkit.models.services.load import Load, RequestTimes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WRITERS = 2  # images are cached by other threads than those that send: a client does not wait for a disk


class Asked(Protocol):
    """What a measurement needs of a service (`base.Service`)."""

    base_url: str
    key: Key
    options: ClientOptions
    cache: FetchedImages

    def obtain(self, job: Job, request: Request, settings: Settings) -> tuple[NDArray[np.uint8], float, list[str]]:
        """One image u8 [H,W,3], the seconds that it took, and warnings."""

    def readable(self, error: ServiceError, job: Job) -> ServiceError:
        """An error that says whose it is."""


@dataclass
class Measurement:
    """What a load made of some requests.

    Attributes:
        service: who is asked.
        requests: in the order in which they leave; the first ones warm up.
        settings: of the cell, without the load.
        load: how they leave.
        failed: by sample the times of the requests that failed.
    """

    service: Asked
    requests: Sequence[Request]
    settings: Settings
    load: Load
    failed: dict[int, RequestTimes] = field(default_factory=dict)

    def run(self) -> None:
        """Sends all requests; images are cached as they come.

        Raises:
            ServiceError: the service refuses a request for good (a wrong key, a field that it does not take).
            StoreError: the store cannot be written.
        """
        service, options = self.service, self.service.options
        # No retries, and no waiting for others' Retry-After: the load is what arrives, whatever is answered.
        self._client = Client(service.base_url, service.key, replace(options, retries=0), patient=False)
        self._stop = threading.Event()
        warmup = min(self.load.warmup, len(self.requests))
        self._began, self._measured_at = time.monotonic(), round(time.time(), 3)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="evalkit-cache") as writers:
            self._writers, self._writing = writers, list[Future[None]]()
            self._warm = True
            self.load.run(range(warmup), self._send, self._stop)
            self._warm = False
            self.load.run(range(warmup, len(self.requests)), self._send, self._stop)
            for writing in self._writing:
                writing.result()

    def _send(self, number: int, scheduled: float) -> float:
        """One request, which was to leave at `scheduled`; returns for how long a closed-loop client waits after it."""
        service, request = self.service, self.requests[number]
        job = Job(self._client, f"sample {request.index}", self._stop, time.monotonic() + service.options.budget)
        job.once = True
        sent = time.monotonic()
        try:
            pixels, seconds, warnings = service.obtain(job, request, self.settings)
        except Stopped:
            return 0.0
        except Transient as error:
            answered = time.monotonic()
            self.failed[request.index] = self._times(scheduled, sent, answered, job, error.kind)
            options = service.options
            return min(max(error.after, options.backoff), options.max_backoff)
        except BaseException as error:
            self._stop.set()
            if isinstance(error, ServiceError):
                raise service.readable(error, job) from None
            raise
        times = self._times(scheduled, sent, sent + seconds, job)
        latency = round(times.answered_s - times.scheduled_s, 6)
        image = FetchedImage(pixels, latency, tuple(dict.fromkeys(warnings)), times=times)
        self._writing.append(self._writers.submit(self._put, request.index, image))
        return 0.0

    def _put(self, index: int, image: FetchedImage) -> None:
        try:
            self.service.cache.put(index, image)
        except BaseException:  # a full disk
            self._stop.set()
            raise

    def _times(
        self, scheduled: float, sent: float, answered: float, job: Job, failed: str | None = None
    ) -> RequestTimes:
        scheduled, sent, answered = (round(max(at - self._began, 0.0), 6) for at in (scheduled, sent, answered))
        queued = None if job.queued is None else round(min(job.queued, answered - sent), 6)  # whatever it says
        return RequestTimes(self._measured_at, self.load.kind, scheduled, sent, answered, self._warm, failed, queued)
