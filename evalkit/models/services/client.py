"""The HTTP client of models behind a service, on httpx and tenacity: limits on time and size, and keys never shown."""

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
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.request import getproxies, proxy_bypass

from evalkit.errors import ConfigError, ServiceError, nearest, whole_number
from evalkit.models.services.keys import Key
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

log = logging.getLogger(__name__)
for _name in ("httpx", "httpcore"):  # they log addresses and headers, in which there may be tokens
    logging.getLogger(_name).setLevel(logging.WARNING)

Value = TypeVar("Value")

MAX_BYTES = 256 * 2**20  # of an answer: a 4096x4096 PNG in base64 takes 64 MB at most
_REDIRECTS = 5
_QUOTED = 160  # characters of an answer that an error repeats
_RETRIED = (408, 425, 429)  # and all from 500 on
_FINAL = ("insufficient_quota", "billing_hard_limit_reached")  # OpenAI's 429s that no waiting fixes
_certificates = cache(ssl.create_default_context)  # this machine's; httpx by itself trusts certifi's


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
        import httpx

        url = httpx.URL(self.base_url)
        if _proxy(url):
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
            value = json.loads(answer)
        except ValueError:
            raise Transient(f"the answer is no JSON ({self.quote(answer)})") from None
        if not isinstance(value, dict):
            raise Transient(f"the answer is no JSON object ({self.quote(answer)})")
        return value

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, deadline: float) -> bytes:
        """The answer's bytes; otherwise as `json`."""
        answer, location = self._send(method, self.base_url + path, body, "application/json", deadline)
        if location is not None:
            place = f"{self.base_url}{path} sends on to {_without_secrets(location)}"
            raise ServiceError(f"{place}: set base_url to where it is")
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
        """The answer's body, and where it redirects to, if it does: httpx would take some keys along."""
        import httpx

        began = time.monotonic()
        end = min(deadline, began + self.options.timeout)
        headers = {"User-Agent": "evalkit", "Accept": accept, "Accept-Encoding": "identity", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            address = httpx.URL(url)
            if _origin(address) == _origin(httpx.URL(self.base_url)):
                headers |= self.key.headers()
            with httpx.stream(
                method,
                address,
                content=None if body is None else json.dumps(body),
                headers=headers,
                timeout=max(end - began, 0.001),
                proxy=_proxy(address),
                verify=_certificates(),
                trust_env=False,  # `_proxy` looks there
            ) as response:
                if response.has_redirect_location:
                    return b"", str(address.join(response.headers["Location"]))
                if not response.is_success:
                    raise self._refusal(response, end)
                return _read(response, end), None
        except (httpx.TimeoutException, TimeoutError):
            limit = "timeout" if end < deadline else "budget"
            raise Transient(f"no whole answer within {end - began:.3g} s (client.{limit})") from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Transient("the image's address is not http(s)") from None
        except httpx.RemoteProtocolError:
            raise Transient("the connection was cut") from None
        except httpx.HTTPError as error:
            cause = _system_error(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                trust = f"its certificate is not trusted: {cause.verify_message}"
                raise ServiceError(f"{_without_secrets(url)}: {trust}") from None
            raise Transient(self.key.redact(_reason(cause))) from None

    def _refusal(self, response: httpx.Response, end: float) -> Transient | ServiceError:
        """What a status other than 2xx means."""
        import httpx

        code, place = response.status_code, _without_secrets(response.url)
        status = f"{code} {httpx.codes.get_reason_phrase(code)}".strip()
        if code in (401, 403):  # services like to repeat the key
            name = f"the key in {self.key.env}" if self.key.env else "a request without a key (api_key_env)"
            return ServiceError(f"{place} refuses {name}: {status}")
        try:
            body = _read(response, end)
        except (httpx.HTTPError, TimeoutError, Transient):
            body = b""
        quoted = self.quote(body)
        message = f"{status} ({quoted})" if quoted else status
        final = any(f'"{word}"'.encode() in body for word in _FINAL)
        if not final and (code in _RETRIED or code >= 500):
            self._hold(_retry_after(response.headers.get("Retry-After", "")))
            return Transient(message)
        return ServiceError(f"{place}: {message}")

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
        return words if len(words) <= _QUOTED else words[: _QUOTED - 3] + "..."

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
        log.log(logging.WARNING if first else logging.DEBUG, "%s", message)


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


def _read(response: httpx.Response, end: float) -> bytes:
    """The whole body, as it was sent.

    Raises:
        TimeoutError: it is not whole at `end`, however steadily it drips.
        Transient: it is too large.
    """
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Transient(f"the answer is larger than {MAX_BYTES // 2**20} MB")
        if time.monotonic() > end:
            raise TimeoutError
    return bytes(body)


def _proxy(url: httpx.URL) -> str | None:
    """The proxy that http_proxy, https_proxy and no_proxy name for an address; httpx would heed all_proxy as well.

    Raises:
        ConfigError: it is no http(s) proxy.
    """
    proxy = getproxies().get(url.scheme)
    if not proxy or proxy_bypass(url.netloc.decode()):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise ConfigError(f"{url.scheme}_proxy names no http(s) proxy: services are asked through no other kind")
    return proxy


def _system_error(error: BaseException) -> BaseException:
    """What httpcore wraps, which httpx wraps; the error itself where it comes from neither system nor network."""
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


def _without_secrets(url: httpx.URL | str) -> str:
    """An address without what may be secret: signed addresses carry tokens in their query."""
    import httpx

    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
