"""A small HTTP client for models behind a service: limits on time, retries, and keys that are never shown.

On the standard library: which HTTP package the hub's client brings (requests, httpx, httpx2) depends on its version.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

from evalkit.errors import ConfigError, ServiceError, nearest
from evalkit.models.services.keys import Key

log = logging.getLogger(__name__)

Value = TypeVar("Value")

MAX_BYTES = 256 * 2**20  # of an answer: a 4096x4096 PNG in base64 takes 64 MB at most
_CHUNK = 1 << 16
_REDIRECTS = 5
_RETRIED = (408, 425, 429)  # besides all from 500 on
_FINAL = ("insufficient_quota", "billing_hard_limit_reached")  # OpenAI's 429s that no waiting mends


class Transient(Exception):
    """An answer that may be right the next time. `after`: seconds that the service asks to wait, if it does."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class GaveUp(ServiceError):
    """A `ServiceError` that names its sample already."""


class Stopped(Exception):
    """Another image's error ended the batch."""


@dataclass(frozen=True)
class ClientOptions:
    """How a service is asked; nothing of it changes a pixel.

    Attributes:
        concurrency: requests at a time (never more than batch_size).
        timeout: seconds for one request, from its sending to the last byte of the answer.
        retries: how often a request is sent again after 408, 425, 429, 5xx, a cut connection, a time-out, or an answer
            that is not what it should be.
        backoff: seconds before the first retry; doubled each time, of which a random half is waited for sure.
        max_backoff: seconds that a wait does not exceed, unless the service asks for more (Retry-After).
        budget: seconds for one image, with all its retries and waits.
    """

    concurrency: int = 4
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    max_backoff: float = 60.0
    budget: float = 900.0

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Self:
        """From the YAML's mapping.

        Raises:
            ConfigError: an unknown key (the nearest is offered), or a value that makes no sense.
        """
        known = {f.name: f.default for f in fields(cls)}
        for name, value in (values or {}).items():
            if name not in known:
                raise ConfigError(f"client.{name}: there is no such setting. {nearest(name, known)}")
            least = 1 if name == "concurrency" else 0
            whole = isinstance(known[name], int)
            fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not fits or not least <= value < float("inf") or (name in ("timeout", "budget") and value == 0):
                kind = f"a whole number >= {least}" if whole else "seconds, more than 0"
                raise ConfigError(f"client.{name}={value!r}: give {kind}")
        return cls(**(values or {}))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would send the key on to wherever it is sent."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass
class Client:
    """Sends requests to one service. Safe to use from several threads."""

    base_url: str
    key: Key
    options: ClientOptions
    _held_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: bool = False

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(_NoRedirects())

    def probe(self) -> None:
        """ConfigError where nothing listens at the address (not asked where a proxy stands between)."""
        parts = urllib.parse.urlsplit(self.base_url)
        host = parts.hostname or ""
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=min(10.0, self.options.timeout)).close()
        except OSError as error:
            raise ConfigError(f"{self.base_url} cannot be reached ({_why(error)}): is it running?") from error

    def json(self, method: str, path: str, body: Any = None, *, until: float) -> dict[str, Any]:
        """A JSON object from the service.

        Args:
            method: "GET" or "POST".
            path: behind base_url, with a leading slash.
            body: a JSON value to send.
            until: `time.monotonic()` at which to give up.

        Raises:
            Transient: it may go better another time.
            ServiceError: it will not.
        """
        answer = self.send(method, path, body, until=until)
        try:
            value = json.loads(answer)
        except ValueError:
            raise Transient(f"the answer is no JSON ({self.quote(answer)})") from None
        if not isinstance(value, dict):
            raise Transient(f"the answer is no JSON object ({self.quote(answer)})")
        return value

    def send(self, method: str, path: str, body: Any = None, *, until: float) -> bytes:
        """The answer's bytes; otherwise as `json`."""
        headers = {"Accept": "application/json", **self.key.headers()}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        url = self.base_url + path
        answer, moved = self._send(method, url, data, headers, until)
        if moved is not None:
            raise ServiceError(
                f"{url} sends on to {_place(urllib.parse.urljoin(url, moved))}: set base_url to where it is"
            )
        return answer

    def download(self, url: str, *, until: float) -> bytes:
        """A file, perhaps from elsewhere (a cloud's storage): the key goes to the service's own origin alone.

        Raises:
            Transient, ServiceError: as `json`; also an address that is not http(s).
        """
        for _ in range(_REDIRECTS):
            if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
                raise Transient("the image's address is not http(s)")
            own = _origin(url) == _origin(self.base_url)
            answer, moved = self._send("GET", url, None, self.key.headers() if own else {}, until)
            if moved is None:
                return answer
            url = urllib.parse.urljoin(url, moved)
        raise Transient(f"the image's address sends on more than {_REDIRECTS} times")

    def _send(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], until: float
    ) -> tuple[bytes, str | None]:
        """The answer's body, and where it redirects to, if it does."""
        now = time.monotonic()
        end = min(until, now + self.options.timeout)
        headers = {"User-Agent": "evalkit", **headers}
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=max(end - now, 0.001)) as response:
                return _read(response, end), None
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
                    return b"", str(error.headers["Location"])
                raise self._refusal(error, end) from None
        except ssl.SSLCertVerificationError as error:
            raise ServiceError(f"{_place(url)}: its certificate is not trusted: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ServiceError(f"{_place(url)}: its certificate is not trusted: {reason.verify_message}") from None
            if isinstance(reason, TimeoutError) or isinstance(error, TimeoutError):
                limit = "timeout" if end < until else "budget"
                raise Transient(f"no whole answer within {end - now:.3g} s (client.{limit})") from None
            raise Transient(self.key.redact(_why(error))) from None

    def _refusal(self, error: urllib.error.HTTPError, end: float) -> Exception:
        """What a status of 400 or more means."""
        status = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code in (401, 403):  # services like to repeat the key
            name = f"the key in {self.key.env}" if self.key.env else "a request without a key (api_key_env)"
            return ServiceError(f"{_place(error.url)} refuses {name}: {status}")
        try:
            body = _read(error, end)
        except (OSError, http.client.HTTPException, Transient):
            body = b""
        final = any(f'"{word}"'.encode() in body for word in _FINAL)
        if not final and (error.code in _RETRIED or error.code >= 500):
            return Transient(f"{status}{self._said(body)}", _retry_after(error.headers.get("Retry-After")))
        return ServiceError(f"{_place(error.url)}: {status}{self._said(body)}")

    def _said(self, body: bytes) -> str:
        quoted = self.quote(body)
        return f" ({quoted})" if quoted else ""

    def quote(self, body: bytes) -> str:
        """The start of an answer on one line, without the key; of a JSON error, its message."""
        text = body.decode("utf-8", "replace")
        try:
            value = json.loads(text)
            error = value.get("error") or value.get("detail") or value.get("message")
            text = error if isinstance(error, str) else str(error["message"])
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        words = " ".join(self.key.redact(text).split())
        return words if len(words) <= 160 else words[:157] + "..."

    def hold(self, seconds: float) -> None:
        """No request leaves for so long: the service asked one of them to wait."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def held(self) -> float:
        """Seconds until requests may leave."""
        return max(self._held_until - time.monotonic(), 0.0)

    def say_once(self, message: str) -> None:
        """Logs the first trouble; all retries are counted in the run's notes."""
        with self._lock:
            first, self._told = not self._told, True
        log.log(logging.WARNING if first else logging.DEBUG, "%s", message)


@dataclass
class Job:
    """One image's requests: its budget of time, its retries, and whether the batch still wants it."""

    client: Client
    name: str  # "sample 17"
    stop: threading.Event
    until: float = 0.0
    retries: int = 0

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.client.options.budget

    def retrying(self, attempt: Callable[[], Value]) -> Value:
        """What `attempt` returns, after as many retries as the options allow.

        Raises:
            ServiceError: it failed for good, or retries or budget are used up.
            Stopped: the batch ended meanwhile.
        """
        options = self.client.options
        tries = 0
        while True:
            held = self.client.held()
            if held:
                self.wait(held + random.uniform(0, options.backoff / 2), "asked to wait")
            if self.stop.is_set():
                raise Stopped
            try:
                return attempt()
            except Transient as error:
                if tries >= options.retries:
                    raise GaveUp(f"{self._where()}: {error}, {tries + 1} times. {_KEPT}") from None
                doubled = min(options.backoff * 2**tries, options.max_backoff)
                wait = random.uniform(doubled / 2, doubled)
                if error.after is not None:
                    wait = max(wait, error.after)
                    self.client.hold(error.after)
                tries += 1
                self.retries += 1
                self.client.say_once(
                    f"{self._where()}: {error}; again in {wait:.1f} s (retry {tries} of {options.retries})"
                )
                self.wait(wait, str(error))
            except GaveUp:
                raise
            except ServiceError as error:
                raise GaveUp(f"{self.name}: {error}. {_KEPT}") from None

    def wait(self, seconds: float, reason: str) -> None:
        """Waits, unless the image's budget would then be used up (`ServiceError`) or the batch ends (`Stopped`)."""
        if time.monotonic() + seconds > self.until:
            more = f"{seconds:.3g} s more would go beyond its {self.client.options.budget:g} s (client.budget)"
            raise GaveUp(f"{self._where()}: {reason}; {more}. {_KEPT}")
        if self.stop.wait(seconds):
            raise Stopped

    def patient(self) -> Job:
        """The same job, but finished even if the batch ends meanwhile: the image is being made."""
        other = Job(self.client, self.name, threading.Event())
        other.until = self.until
        return other

    def _where(self) -> str:
        return f"{self.client.base_url}, {self.name}"


_KEPT = "What was fetched is kept: the same command goes on from there"


def _read(response: Any, end: float) -> bytes:
    """The whole body.

    Raises:
        TimeoutError: it is not whole at `end`, however steadily it drips.
        Transient: it was cut, or is too large.
    """
    parts = []
    size = 0
    while chunk := response.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise Transient(f"the answer is larger than {MAX_BYTES // 2**20} MB")
        if time.monotonic() > end:
            raise TimeoutError
    if getattr(response, "length", None):  # bytes that were announced and did not come; read1 does not tell
        raise Transient("the connection was cut")
    return b"".join(parts)


def _why(error: BaseException) -> str:
    """A connection's error in a few words."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        error = reason
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, ConnectionError | http.client.IncompleteRead | http.client.BadStatusLine):
        return "the connection was cut"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):
        return "there is no such host"
    return " ".join(str(error).split())[:160] or type(error).__name__


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        return max(float(value), 0.0) if re.fullmatch(r"\s*[\d.]+\s*", value) else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds_until(date: str) -> float:
    return max(email.utils.parsedate_to_datetime(date).timestamp() - time.time(), 0.0)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _place(url: str | None) -> str:
    """An address without what may be secret: signed addresses carry tokens in their query."""
    parts = urllib.parse.urlsplit(url or "")
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
