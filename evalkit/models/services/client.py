"""The HTTP client of models behind a service: retries, limits on time and size, and keys never shown."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from evalkit.errors import ConfigError, DataError, ServiceError, nearest, whole_number
from evalkit.models.services.keys import Key
from evalkit.utils.json_files import parse_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import httpcore
    import httpx
    from tenacity import RetryCallState

log = logging.getLogger(__name__)
for _name in ("httpx", "httpcore"):  # they log addresses and headers, in which there may be tokens
    logging.getLogger(_name).setLevel(logging.WARNING)

Value = TypeVar("Value")

MAX_BYTES = 256 * 2**20  # of an answer: a 4096x4096 PNG in base64 takes 64 MB at most
_REDIRECTS = 5
_QUOTED = 160  # characters of an answer that an error repeats
_LOOKED_AT = 1 << 16  # characters of which these are the start
_RETRIED = (408, 425, 429)  # and all from 500 on
_REDIRECTING = (301, 302, 303, 307, 308)
_FINAL = ("insufficient_quota", "billing_hard_limit_reached")  # OpenAI's 429s that no waiting fixes


class Transient(Exception):
    """An answer that may be right the next time."""


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
        known = [f.name for f in fields(cls)]
        for name, value in (values or {}).items():
            if name not in known:
                raise ConfigError(f"client.{name}: there is no such setting. {nearest(name, known)}")
            if name in ("concurrency", "retries"):
                whole_number(value, f"client.{name}", 1 if name == "concurrency" else 0)
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf or (value == 0 and name in ("timeout", "budget")):
                raise ConfigError(f"client.{name}={value!r}: give seconds, more than 0")
        return cls(**(values or {}))


@dataclass
class Client:
    """Sends requests to one service. Safe to use from several threads.

    Each request has a connection of its own: one that is kept open may be closed by the service just as the next
    request leaves, and nobody then knows whether that image was made.
    """

    base_url: str
    key: Key
    options: ClientOptions
    _held_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _warned: bool = False

    def probe(self) -> None:
        """ConfigError where nothing listens at the address (not asked where there is a proxy)."""
        from evalkit.models.services.exchange import parse_address, proxy_of

        try:
            url = parse_address(self.base_url)
        except ValueError:
            raise ConfigError(f"{self.base_url} is no address of http(s): check base_url") from None
        if proxy_of(url):
            return
        try:
            socket.create_connection(_origin(url)[1:], timeout=min(10.0, self.options.timeout)).close()
        except OSError as error:
            raise ConfigError(f"{self.base_url} cannot be reached ({_reason(error)}): is it running?") from error

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, deadline: float) -> dict[str, Any]:
        """A JSON object from the service.

        Args:
            method: "GET" or "POST".
            path: behind base_url, with a leading slash.
            body: a JSON value to send.
            deadline: `time.monotonic()` at which to give up.

        Raises:
            Transient: it may go better another time.
            ServiceError: it will not.
        """
        answer = self.send(method, path, body, deadline=deadline)
        try:
            value = parse_json(answer, "the answer")
        except DataError:
            raise Transient(f"the answer is no JSON ({self.quote(answer)})") from None
        if not isinstance(value, dict):
            raise Transient(f"the answer is no JSON object ({self.quote(answer)})")
        return value

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, deadline: float) -> bytes:
        """The answer's bytes; otherwise as `json`."""
        answer, location = self._send(method, self.base_url + path, body, "application/json", deadline)
        if location is not None:
            raise ServiceError(
                f"{self._place(self.base_url + path)} sends on to {self._place(location)}: set base_url to where it is"
            )
        return answer

    def download(self, url: str, *, deadline: float) -> bytes:
        """A file, perhaps from elsewhere (a cloud's storage): the key goes to the service's own origin alone.

        Raises:
            Transient, ServiceError: as `json`; also an address that is not http(s).
        """
        for _ in range(_REDIRECTS):
            answer, location = self._send("GET", url, None, "*/*", deadline)
            if location is None:
                return answer
            url = location
        raise Transient(f"the image's address sends on more than {_REDIRECTS} times")

    def _send(
        self, method: str, url: str, body: Mapping[str, Any] | None, accept: str, deadline: float
    ) -> tuple[bytes, str | None]:
        """The answer's body, and where it redirects to, if it does: the key must not go along."""
        import httpcore

        from evalkit.models.services.exchange import exchange, header, parse_address

        try:
            address = parse_address(url)
            own = _origin(address) == _origin(parse_address(self.base_url))
        except ValueError:
            raise Transient("the image's address is broken, or not http(s)") from None
        began = time.monotonic()
        end = min(deadline, began + self.options.timeout)
        headers = {"User-Agent": "evalkit", "Accept": accept, "Accept-Encoding": "identity", "Connection": "close"}
        headers |= self.key.headers() if own else {}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        try:
            with exchange(method, address, headers, content, end=end) as response:
                location = header(response, "location")
                if response.status in _REDIRECTING and location:
                    return b"", _joined(address, location)
                if not 200 <= response.status < 300:
                    raise self._refusal(response, address)
                return _read(response), None
        except httpcore.TimeoutException:
            limit = "timeout" if end < deadline else "budget"
            raise Transient(f"no whole answer within {end - began:.3g} s (client.{limit})") from None
        except httpcore.ProtocolError:
            raise Transient("the connection was cut") from None
        except (httpcore.NetworkError, httpcore.ProxyError) as error:
            cause = _system_error(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                trust = f"its certificate is not trusted: {cause.verify_message}"
                raise ServiceError(f"{self._place(url)}: {trust}") from None
            raise Transient(self.shown(_reason(cause))) from None

    def _refusal(self, response: httpcore.Response, url: httpx.URL) -> Transient | ServiceError:
        """What a status other than 2xx means."""
        import httpcore
        import httpx

        from evalkit.models.services.exchange import header

        code, place = response.status, self._place(url)
        status = f"{code} {httpx.codes.get_reason_phrase(code)}".strip()
        if code in (401, 403):  # services like to repeat the key
            name = f"the key in {self.key.env}" if self.key.env else "a request without a key (api_key_env)"
            return ServiceError(f"{place} refuses {name}: {status}")
        try:
            body = _read(response)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, Transient):
            body = b""
        quoted = self.quote(body)
        message = f"{status} ({quoted})" if quoted else status
        final = any(f'"{word}"'.encode() in body for word in _FINAL)
        if not final and (code in _RETRIED or code >= 500):
            self._hold(_retry_after(header(response, "retry-after")))
            return Transient(message)
        return ServiceError(f"{place}: {message}")

    def quote(self, body: bytes) -> str:
        """The start of an answer, as `shown`; of a JSON error, its message."""
        text = body[:_LOOKED_AT].decode("utf-8", "replace")
        try:
            value = parse_json(body, "the answer")
            error = value.get("error") or value.get("detail") or value.get("message")
            text = error if isinstance(error, str) else str(error["message"])
        except (DataError, TypeError, KeyError, AttributeError):
            pass
        return self.shown(text)

    def shown(self, text: str) -> str:
        """Another program's text as messages repeat it: its start, on one line, without the key."""
        whole = one_line(text[:_LOOKED_AT], _LOOKED_AT)  # first: a key in which what cannot be seen stands is one, too
        return one_line(self.key.redact(whole), _QUOTED)

    def _place(self, url: httpx.URL | str) -> str:
        """An address without what may be secret: the key, and the query, where signed addresses carry tokens."""
        import httpx

        try:
            return self.shown(str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None)))
        except (httpx.InvalidURL, ValueError):
            return "a place that is no address"

    def _hold(self, seconds: float) -> None:
        """No request leaves for so long: the service asked one of them to wait."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)

    def held(self) -> float:
        """Seconds until requests may leave."""
        return max(self._held_until - time.monotonic(), 0.0)

    def warn_once(self, message: str) -> None:
        """Logs the first trouble; all retries are counted in the run's notes."""
        with self._lock:
            first, self._warned = not self._warned, True
        log.log(logging.WARNING if first else logging.DEBUG, "%s", self.key.redact(message))


@dataclass
class Job:
    """One image's requests: its time (`deadline`), its retries, and whether the batch still wants it (`stop`)."""

    client: Client
    name: str  # "sample 17"
    stop: threading.Event
    deadline: float
    retries: int = 0

    def retrying(self, attempt: Callable[[], Value]) -> Value:
        """What `attempt` returns, after as many retries as the options allow.

        Raises:
            ServiceError: it failed for good, or retries or budget are used up.
            Stopped: the batch ended meanwhile.
        """
        import tenacity

        options = self.client.options
        half = options.backoff / 2, options.max_backoff / 2
        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(Transient),
                stop=tenacity.stop_after_attempt(options.retries + 1),
                wait=tenacity.wait_exponential(*half) + tenacity.wait_random_exponential(*half),
                before=lambda _: self._wait_for_turn(),
                before_sleep=self._wait_after,
                sleep=lambda _: None,  # `_wait_after` has waited: it knows the reason
                reraise=True,
            )(attempt)
        except Transient as error:
            raise ServiceError(f"{error}, {options.retries + 1} times") from None

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
            raise ServiceError(f"{reason}; {seconds:.3g} s more would go beyond {budget}")
        if self.stop.wait(seconds):
            raise Stopped

    def unstoppable(self) -> Job:
        """The same job, but finished even if the batch ends meanwhile: the image is being made."""
        return replace(self, stop=threading.Event(), retries=0)


def _read(response: httpcore.Response) -> bytes:
    """The whole body, as it was sent. Raises Transient where it is too large."""
    body = bytearray()
    for chunk in response.iter_stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Transient(f"the answer is larger than {MAX_BYTES // 2**20} MB")
    return bytes(body)


def _joined(url: httpx.URL, location: str) -> str:
    """Where an answer sends on to. Transient: to what is no address."""
    import httpx

    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError):
        raise Transient("the answer sends on to what is no address") from None


def _system_error(error: BaseException) -> BaseException:
    """What httpcore wraps; the error itself where it comes from neither system nor network."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _reason(error: BaseException) -> str:
    """A connection's error in a few words."""
    reasons = {
        ConnectionRefusedError: "the connection was refused",
        ConnectionError: "the connection was cut",
        TimeoutError: "no answer",
        socket.gaierror: "there is no such host",
    }
    return next((words for kind, words in reasons.items() if isinstance(error, kind)), one_line(error))


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, section 10.2.3); 0 where it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
