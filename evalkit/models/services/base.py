"""What models behind a service share: a request an image, several at a time, each kept as soon as it is there."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import ConfigError, DataError, nearest
from evalkit.models.base import Conditioning, Generated, Model, Request, Sampler, SideBySide
from evalkit.models.services.client import Client, ClientOptions, Job, Stopped, Transient
from evalkit.models.services.kept import Fetched, Kept
from evalkit.models.services.keys import Key, check_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Service(Model):
    """A model behind HTTP. Subclasses say what to send (`ask`, or `obtain` where one request is not enough).

    Args:
        base_url: where it is, without user, password or query.
        api_key_env: the environment variable that holds its key; none: it wants no key.
        api_key_header, api_key_scheme: how the key is sent: `Authorization: Bearer KEY`, or Basic with user:password.
        version: anything that names what is deployed there; change it when that changes, and its samples are made anew.
        client: see `http.ClientOptions`.
    """

    conditioning: Conditioning = "text"
    remote = True
    reserved: ClassVar[frozenset[str]] = frozenset()  # fields of a request that are not the user's to give in `extra`

    def __init__(
        self,
        base_url: str,
        api_key_env: str | None = None,
        api_key_header: str = "Authorization",
        api_key_scheme: str = "Bearer",
        version: str | None = None,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_url = check_url(base_url)
        self.key = Key(api_key_env, api_key_header, api_key_scheme)
        self.version = version
        self.options = ClientOptions.of(client)
        self._client: Client | None = None
        self._kept = Kept()
        self._size: tuple[int, int] | None = None  # of the first image, where none is asked for
        self._lock = threading.Lock()

    @abstractmethod
    def ask(self, job: Job, request: Request, settings: Mapping[str, Any]) -> tuple[bytes, list[str]]:
        """One attempt at one image: the bytes of its file, and its warnings. Raises `Transient` or `ServiceError`."""

    def check(self, *, fetch: bool = True) -> None:
        """Nothing lies on this machine: address and key are looked at in `check_call`, where samples are to be made."""

    def check_call(self, sampler: Sampler | None, settings: Mapping[str, Any]) -> None:
        """Refuses settings that the model does not take, a key that is not set, and a service that is not there.

        Raises:
            ConfigError: which of them, and how to mend it.
        """
        for name in settings:
            if name not in self.call_settings:
                raise ConfigError(f"{self.base_url}: there is no setting '{name}'. {nearest(name, self.call_settings)}")
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
        """Makes the client; `device` is the service's own matter."""
        self.key.check()
        self._client = Client(self.base_url, self.key, self.options)
        self._size = None

    def unload(self) -> None:
        """Lets go of the client."""
        self._client = None

    def keep_in(self, cell: Path) -> None:
        """Finished images are kept in the cell's folder until their shard is written."""
        if self._kept.cell != cell:
            self._size = None  # other settings may make other sizes
        self._kept = Kept(cell)

    def generate(
        self, requests: Sequence[Request], *, sampler: Sampler | None, settings: Mapping[str, Any]
    ) -> Generated:
        """One image a request; those that an earlier, failed call fetched are not asked for again.

        The first error ends the batch: what waits is dropped, what is under way is waited for, and kept.

        Raises:
            ServiceError: the service failed, after all retries.
            DataError: a request lacks its prompt.
        """
        import numpy as np

        if self._client is None:
            raise RuntimeError("load() comes before generate()")
        for request in requests:
            if request.prompt is None:
                raise DataError(f"{self.base_url} makes images from text, and sample {request.index} has no prompt")
        found = {request.index: self._kept.get(request.index) for request in requests}
        todo = [request for request in requests if found[request.index] is None]
        for image in found.values():
            if image is not None:
                self._size = image.pixels.shape[0], image.pixels.shape[1]
        found |= self._fetch(self._client, todo, settings)
        images = [image for request in requests if (image := found[request.index]) is not None]
        sizes = {image.pixels.shape for image in images}
        if len(sizes) > 1:
            raise DataError(f"{self.base_url} makes images of several sizes ({sorted(sizes)}): set height and width")
        return Generated(
            np.stack([image.pixels for image in images]),
            None,
            [list(image.warnings) for image in images],
            SideBySide(
                [image.latency for image in images],
                [image.kept for image in images],
                min(self.options.concurrency, len(requests)),
            ),
        )

    def _fetch(self, client: Client, todo: Sequence[Request], settings: Mapping[str, Any]) -> dict[int, Fetched | None]:
        stop = threading.Event()
        found: dict[int, Fetched | None] = {}
        if not todo:
            return found
        workers = min(self.options.concurrency, len(todo))
        with ThreadPoolExecutor(workers, thread_name_prefix="evalkit-fetch") as pool:
            running = {pool.submit(self._one, client, request, settings, stop): request for request in todo}
            try:
                for done in as_completed(running):
                    with suppress(Stopped):  # by another request's error, which comes as well: that one is to be told
                        found[running[done].index] = done.result()
            except BaseException as error:
                stop.set()
                if isinstance(error, KeyboardInterrupt):
                    log.warning("%s: stopping; images under way are waited for, and kept", self.base_url)
                pool.shutdown(cancel_futures=True)
                raise
        return found

    def _one(self, client: Client, request: Request, settings: Mapping[str, Any], stop: threading.Event) -> Fetched:
        job = Job(client, f"sample {request.index}", stop)
        try:
            pixels, latency, warnings = self.obtain(job, request, settings)
        except BaseException:
            stop.set()  # here, before this thread takes the next one
            raise
        if job.retries:
            warnings = [*warnings, "retried"]
        made = Fetched(pixels, round(latency, 6), tuple(dict.fromkeys(warnings)))
        self._kept.put(request.index, made)
        return made

    def obtain(
        self, job: Job, request: Request, settings: Mapping[str, Any]
    ) -> tuple[NDArray[np.uint8], float, list[str]]:
        """One image u8 [H,W,3], the seconds of the attempt that succeeded, and warnings."""

        def attempt() -> tuple[NDArray[np.uint8], float, list[str]]:
            began = time.monotonic()
            data, warnings = self.ask(job, request, settings)
            seconds = time.monotonic() - began
            pixels, notes = self.decode(data, settings)
            return pixels, seconds, [*warnings, *notes]

        return job.retrying(attempt)

    def decode(self, data: bytes, settings: Mapping[str, Any]) -> tuple[NDArray[np.uint8], list[str]]:
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
        made = (pixels.shape[0], pixels.shape[1])
        with self._lock:
            wanted = size_of(settings) or self._size or made
            if made != wanted:
                raise Transient(f"the image is {made[1]}x{made[0]} (width x height), not {wanted[1]}x{wanted[0]}")
            self._size = made
        return pixels, notes


def size_of(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that the settings ask for.

    Raises:
        ConfigError: one without the other, or no whole number.
    """
    height, width = settings.get("height"), settings.get("width")
    if height is None and width is None:
        return None
    for name, value in (("height", height), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value}: give both height and width, whole numbers of pixels")
    assert height is not None
    assert width is not None
    return height, width


def from_base64(text: Any) -> bytes:
    """The bytes of base64, with or without a data: prefix.

    Raises:
        Transient: it is none.
    """
    if not isinstance(text, str):
        raise Transient("the answer holds no image")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Transient("the answer's image is no base64") from None
