"""The HTTP client of all that asks a service: retries, limits on time and size, and keys never shown."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from evalkit.errors import ConfigError, DataError, ServiceError, nearest, whole_number
from evalkit.http.form import Form
from evalkit.http.keys import Key
from evalkit.utils.json_files import parse_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import httpcore
    import httpx

log = logging.getLogger(__name__)
for _name in ("httpx", "httpcore"):  # they log addresses and headers, in which there may be tokens
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_BYTES = 256 * 2**20  # of an answer: a 4096x4096 PNG in base64 takes 64 MB at most
_REDIRECTS = 5
_QUOTED = 160  # characters of an answer that an error repeats
_LOOKED_AT = 1 << 16  # characters of which these are the start
_RETRIED = (408, 425, 429)  # and all from 500 on
_REDIRECTING = (301, 302, 303, 307, 308)
_FINAL = ("insufficient_quota", "billing_hard_limit_reached")  # OpenAI's 429s that no waiting fixes


class Transient(Exception):
    """An answer that may be right the next time.

    Attributes:
        kind: what went wrong, for statistics: a status ("503"), "timeout", "refused", "cut", "unreachable", "broken"
            (an answer that is not what it should be).
        after: seconds that the service asked to wait (Retry-After); 0 where it did not.
    """

    def __init__(self, message: str, kind: str = "broken", after: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.after = kind, after


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
    patient: bool = True  # false: Retry-After holds no request back (a load goes on whatever is answered)
    _held_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _warned: bool = False

    def probe(self) -> None:
        """ConfigError where nothing listens at the address (not asked where there is a proxy)."""
        from evalkit.http.exchange import parse_address, proxy_of

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

    def json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Form | None = None,
        *,
        deadline: float,
        timing: Callable[[str], None] = lambda header: None,
    ) -> dict[str, Any]:
        """A JSON object from the service.

        Args:
            method: "GET" or "POST".
            path: behind base_url, with a leading slash.
            body: a JSON value to send, or a form.
            deadline: `time.monotonic()` at which to give up.
            timing: is given the answer's Server-Timing header, if it has one.

        Raises:
            Transient: it may go better another time.
            ServiceError: it will not.
        """
        answer = self.send(method, path, body, deadline=deadline, timing=timing)
        try:
            value = parse_json(answer, "the answer")
        except DataError:
            raise Transient(f"the answer is no JSON ({self.quote(answer)})") from None
        if not isinstance(value, dict):
            raise Transient(f"the answer is no JSON object ({self.quote(answer)})")
        return value

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Form | None = None,
        *,
        deadline: float,
        timing: Callable[[str], None] = lambda header: None,
    ) -> bytes:
        """The answer's bytes; otherwise as `json`."""
        answer, location = self._send(method, self.base_url + path, body, "application/json", deadline, timing)
        if location is not None:
            raise ServiceError(
                f"{self._place(self.base_url + path)} sends on to {self._place(location)}: set base_url to where it is"
            )
        return answer

    def download(self, url: str, *, deadline: float) -> bytes:
        """A file, perhaps from elsewhere (a cloud's storage): the key goes to the service's own origin alone.

        An address without a host ("/v1/images/ID/content", as SGLang gives) is the service's own.

        Raises:
            Transient, ServiceError: as `json`; also an address that is not http(s).
        """
        if url.startswith("/") and not url.startswith("//"):
            url = self._origin_of_service() + url
        for _ in range(_REDIRECTS):
            answer, location = self._send("GET", url, None, "*/*", deadline)
            if location is None:
                return answer
            url = location
        raise Transient(f"the image's address sends on more than {_REDIRECTS} times")

    def _origin_of_service(self) -> str:
        parts = urllib.parse.urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}"

    def _send(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | Form | None,
        accept: str,
        deadline: float,
        timing: Callable[[str], None] = lambda header: None,
    ) -> tuple[bytes, str | None]:
        """The answer's body, and where it redirects to, if it does: the key must not go along."""
        import httpcore

        from evalkit.http.exchange import exchange, header, parse_address

        try:
            address = parse_address(url)
            own = _origin(address) == _origin(parse_address(self.base_url))
        except ValueError:
            raise Transient("the image's address is broken, or not http(s)") from None
        began = time.monotonic()
        end = min(deadline, began + self.options.timeout)
        headers = {"User-Agent": "evalkit", "Accept": accept, "Accept-Encoding": "identity", "Connection": "close"}
        headers |= self.key.headers() if own else {}
        content = None
        if isinstance(body, Form):
            content, headers["Content-Type"] = body.encode()
        elif body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with exchange(method, address, headers, content, end=end) as response:
                location = header(response, "location")
                if response.status in _REDIRECTING and location:
                    return b"", _joined(address, location)
                if not 200 <= response.status < 300:
                    raise self._refusal(response, address)
                whole = _read(response)
                timing(header(response, "server-timing"))
                return whole, None
        except httpcore.TimeoutException:
            limit = "timeout" if end < deadline else "budget"
            raise Transient(f"no whole answer within {end - began:.3g} s (client.{limit})", "timeout") from None
        except httpcore.ProtocolError:
            raise Transient("the connection was cut", "cut") from None
        except (httpcore.NetworkError, httpcore.ProxyError) as error:
            cause = _system_error(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                trust = f"its certificate is not trusted: {cause.verify_message}"
                raise ServiceError(f"{self._place(url)}: {trust}") from None
            raise Transient(self.shown(_reason(cause)), _kind(cause)) from None

    def _refusal(self, response: httpcore.Response, url: httpx.URL) -> Transient | ServiceError:
        """What a status other than 2xx means."""
        import httpcore
        import httpx

        from evalkit.http.exchange import header

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
            after = _retry_after(header(response, "retry-after"))
            self._hold(after)
            return Transient(message, str(code), after)
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
        return max(self._held_until - time.monotonic(), 0.0) if self.patient else 0.0

    def warn_once(self, message: str) -> None:
        """Logs the first trouble; all retries are counted in the run's notes."""
        with self._lock:
            first, self._warned = not self._warned, True
        log.log(logging.WARNING if first else logging.DEBUG, "%s", self.key.redact(message))


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


def _kind(error: BaseException) -> str:
    """A connection's error as statistics count it."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "cut" if isinstance(error, ConnectionError) else "unreachable"


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
