"""What models behind a service share: one request per image, several at a time, each cached as soon as it is there.

With `load` a shard's images are asked for at once, as the load says, before its first batch (`ahead`); what failed is
asked for again when the load is over, and the batches find all images in the cache.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import ConfigError, DataError, ServiceError, whole_number
from evalkit.http.client import Client, ClientOptions, Stopped, Transient
from evalkit.http.job import Job
from evalkit.http.keys import Key, check_url
from evalkit.models.base import Generated, Model, Request, Sampler, Settings, SideBySide
from evalkit.models.services.cache import FetchedImage, FetchedImages
from evalkit.models.services.load import Load, RequestTimes
from evalkit.models.services.measure import Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_AGAIN = 64  # images that are asked for again at a time
_CACHED = "What was fetched is kept: the same command goes on from there"


@dataclass(eq=False, repr=False)
class Service(Model):
    """A model behind HTTP. Subclasses say what to send (`ask`, or `obtain` where one request is not enough).

    Args:
        base_url: where it is, without user, password or query.
        api_key_env: the environment variable that holds its key; none: it wants no key.
        api_key_header, api_key_scheme: how the key is sent: `Authorization: Bearer KEY`, or Basic with user:password.
        version: anything that names what is deployed there; change it when that changes: samples are then made again.
        client: see `ClientOptions`.
    """

    conditioning = "text"
    remote = True
    remakes = ("again",)
    reserved: ClassVar[frozenset[str]] = frozenset()  # fields of a request that `extra` cannot hold

    base_url: str
    api_key_env: str | None = None
    api_key_header: str = "Authorization"
    api_key_scheme: str = "Bearer"
    version: str | None = None
    client: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.base_url = check_url(self.base_url)
        self.key = Key(self.api_key_env, self.api_key_header, self.api_key_scheme)
        self.options = ClientOptions.of(self.client)
        self._client: Client | None = None
        self.cache = FetchedImages()
        self._size: tuple[int, int] | None = None  # of the first image, where none is asked for
        self._lock = threading.Lock()

    @abstractmethod
    def ask(self, job: Job, request: Request, settings: Settings) -> tuple[bytes, list[str]]:
        """One attempt at one image: the bytes of its file, and its warnings. Raises `Transient` or `ServiceError`."""

    def check(self, *, fetch: bool = True) -> None:
        """Nothing lies on this machine: address and key are looked at in `check_call`, where samples are to be made."""

    def check_call(self, sampler: Sampler | None, settings: Settings) -> None:
        """Refuses settings that the model does not take, a key that is not set, and a service that is not there."""
        super().check_call(sampler, settings)
        Load.of(settings.get("load"))
        extra = settings.get("extra") or {}
        if not isinstance(extra, Mapping):
            raise ConfigError(f"extra={extra!r}: give a mapping of further fields of the request")
        for name in extra:
            if name in self.reserved:
                raise ConfigError(f"extra.{name}: this field is set by evalkit, and cannot be given")
        size_of(settings)
        self.key.check()
        Client(self.base_url, self.key, self.options).probe()

    def load(self, device: str) -> None:
        """Makes the client; `device` says nothing to a service."""
        self.key.check()
        self._client = Client(self.base_url, self.key, self.options)
        self._size = None

    def unload(self) -> None:
        self._client = None

    def keep_in(self, fetched: FetchedImages) -> None:
        """Finished images are cached next to the cell's shards until theirs is written."""
        if self.cache.place != fetched.place:
            self._size = None  # other settings may make other sizes
        self.cache = fetched

    def generate(self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Settings) -> Generated:
        """One image per request; those that an earlier, failed call fetched are not asked for again.

        The first error ends the batch: what waits is dropped, what is under way is waited for, and cached.
        """
        import numpy as np

        if self._client is None:
            raise RuntimeError("load() comes before generate()")
        self._look_at(requests)
        load, settings = Load.of(settings.get("load")), _without_load(settings)
        images = {r.index: image for r in requests if (image := self.cache.get(r.index)) is not None}
        for image in images.values():
            if size_of(settings) is None:
                self._size = image.pixels.shape[0], image.pixels.shape[1]
        images |= self._fetch(self._client, [r for r in requests if r.index not in images], settings)
        batch = [images[request.index] for request in requests]
        sizes = {image.pixels.shape for image in batch}
        if len(sizes) > 1:
            raise DataError(f"{self.base_url} makes images of several sizes ({sorted(sizes)}): set height and width")
        together = min(self.options.concurrency, len(requests)) if load is None else load.concurrency or 1
        records = [image.times.record() if image.times is not None else {} for image in batch]
        timing = SideBySide([image.latency for image in batch], [image.cached for image in batch], together, records)
        return Generated(np.stack([i.pixels for i in batch]), None, [list(i.warnings) for i in batch], timing)

    def _look_at(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.prompt is None:
                raise DataError(f"{self.base_url} makes images from text, and sample {request.index} has no prompt")

    def ahead(self, requests: Sequence[Request], settings: Settings) -> None:
        """With `load`: asks for all images that are not cached as it says; what failed is asked for again afterwards.

        A load that an earlier run broke off goes on with the images that are missing: the two are told apart by
        `RequestTimes.measured_at`.
        """
        load, settings = Load.of(settings.get("load")), _without_load(settings)
        if load is None or self.cache.place is None:
            return
        if self._client is None:
            raise RuntimeError("load() comes before ahead()")
        self._look_at(requests)
        missing = [request for request in requests if self.cache.get(request.index) is None]
        if not missing:
            return
        log.info("%s: measuring %d requests, %s", self.base_url, len(missing), load.words(len(missing)))
        measurement = Measurement(self, missing, settings, load)
        try:
            measurement.run()
        except KeyboardInterrupt:
            log.warning("%s: stopping; images under way are waited for, and kept", self.base_url)
            raise
        again = [request for request in missing if request.index in measurement.failed]
        if again:
            log.info("%s: asking again for %d images that failed under load", self.base_url, len(again))
        for start in range(0, len(again), _AGAIN):  # their images are in the cache: they need not stay in memory
            self._fetch(self._client, again[start : start + _AGAIN], settings, measurement.failed)

    def _fetch(
        self,
        client: Client,
        requests: Sequence[Request],
        settings: Settings,
        times: Mapping[int, RequestTimes] | None = None,
    ) -> dict[int, FetchedImage]:
        """Asks for images, with retries; `times` are those of requests that failed under load before."""
        if not requests:
            return {}
        stop = threading.Event()
        images: dict[int, FetchedImage] = {}
        workers = min(self.options.concurrency, len(requests))
        with ThreadPoolExecutor(workers, thread_name_prefix="evalkit-fetch") as pool:
            running = {
                pool.submit(self._fetch_one, client, request, settings, stop, (times or {}).get(request.index)): request
                for request in requests
            }
            try:
                for done in as_completed(running):
                    with suppress(Stopped):  # by another request's error, which is the one to raise
                        images[running[done].index] = done.result()
            except BaseException as error:
                stop.set()
                if isinstance(error, KeyboardInterrupt):
                    log.warning("%s: stopping; images under way are waited for, and kept", self.base_url)
                pool.shutdown(cancel_futures=True)
                raise
        return images

    def _fetch_one(
        self, client: Client, request: Request, settings: Settings, stop: threading.Event, times: RequestTimes | None
    ) -> FetchedImage:
        job = Job(client, f"sample {request.index}", stop, time.monotonic() + self.options.budget)
        try:
            pixels, latency, warnings = self.obtain(job, request, settings)
        except BaseException as error:
            stop.set()  # here, before this thread takes the next one
            if isinstance(error, ServiceError):
                raise self.readable(error, job) from None
            raise
        if job.retries:
            warnings = [*warnings, "retried"]
        image = FetchedImage(pixels, round(latency, 6), tuple(dict.fromkeys(warnings)), times=times)
        self.cache.put(request.index, image)
        return image

    def readable(self, error: ServiceError, job: Job) -> ServiceError:
        """An error that says whose it is, without the key."""
        return ServiceError(f"{self.base_url}, {job.name}: {self.key.redact(str(error))}. {_CACHED}")

    def shown_settings(self, settings: Settings) -> Settings:
        """A load by its concurrency or rate."""
        load = Load.of(settings.get("load"))
        return settings if load is None else {**_without_load(settings), **load.shown()}

    def obtain(self, job: Job, request: Request, settings: Settings) -> tuple[NDArray[np.uint8], float, list[str]]:
        """One image u8 [H,W,3], the seconds of the attempt that succeeded, and warnings."""

        def attempt() -> tuple[NDArray[np.uint8], float, list[str]]:
            began = time.monotonic()
            data, warnings = self.ask(job, request, settings)
            seconds = time.monotonic() - began
            pixels, notes = self.decode(data, settings)
            return pixels, seconds, [*warnings, *notes]

        return job.retrying(attempt)

    def decode(self, data: bytes, settings: Settings) -> tuple[NDArray[np.uint8], list[str]]:
        """An image file's pixels u8 [H,W,3] and notes.

        Raises:
            Transient: it is no image, or of another size than was asked for.
        """
        from evalkit.data import codec

        try:
            pixels = codec.decode(data, "the answer")
            notes = [note for note in codec.inspect(data).notes if note == "alpha_dropped"]
        except DataError as error:
            raise Transient(str(error)) from None
        size = (pixels.shape[0], pixels.shape[1])
        with self._lock:
            expected = size_of(settings) or self._size or size
            if size != expected:
                raise Transient(f"the image is {size[1]}x{size[0]} (width x height), not {expected[1]}x{expected[0]}")
            if size_of(settings) is None:  # a prompt may ask for a size of its own
                self._size = size
        return pixels, notes


def _without_load(settings: Settings) -> Settings:
    """What of the settings is the image's."""
    return {name: value for name, value in settings.items() if name != "load"}


def size_of(settings: Settings) -> tuple[int, int] | None:
    """Height and width that the settings ask for. ConfigError: one without the other, or no whole number."""
    height, width = settings.get("height"), settings.get("width")
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise ConfigError(f"height={height}, width={width}: give both height and width, or neither")
    return whole_number(height, "height"), whole_number(width, "width")


def only_image(images: object) -> object:
    """The one image of an answer's list. Transient: it is no list, or holds none or several."""
    if not isinstance(images, list) or len(images) != 1:
        raise Transient(f"the answer holds {len(images) if isinstance(images, list) else 'no'} images, not 1")
    return images[0]


def from_base64(text: object) -> bytes:
    """The bytes of base64, with or without a data: prefix. Transient: it is none."""
    if not isinstance(text, str):
        raise Transient("the answer holds no image")
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError:
        raise Transient("the answer's image is no base64") from None
