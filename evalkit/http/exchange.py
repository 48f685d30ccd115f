"""One HTTP exchange with a deadline for all of it, on httpcore (which httpx is made of).

httpx gives each wait for bytes a time of its own, and hands on no network backend: a server that drips the bytes of its
headers, or `100 Continue` lines, holds it as long as it likes. Here every wait ends at the deadline.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from evalkit.errors import ConfigError

certificates = cache(ssl.create_default_context)  # this machine's; httpcore by itself trusts certifi's


@contextmanager
def exchange(
    method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None, *, end: float
) -> Iterator[httpcore.Response]:
    """Sends a request and waits for the answer's headers; its body is read with `iter_stream`.

    Args:
        method: "GET" or "POST".
        url: an address of http(s), as `parse_address` gives it.
        headers: besides Host and Content-Length.
        content: the body.
        end: `time.monotonic()` at which whatever is under way ends.

    Raises:
        httpcore.TimeoutException: it is not over at `end`; here, or while the body is read.
        httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError: as httpcore.
        ConfigError: the environment names no http(s) proxy.
    """
    proxy = proxy_of(url)
    backend = _InTime(end)
    pool: httpcore.ConnectionPool
    if proxy is None:
        pool = httpcore.ConnectionPool(ssl_context=certificates(), network_backend=backend)
    else:
        given = httpx.Proxy(proxy)
        pool = httpcore.HTTPProxy(
            _address_of(given.url),
            proxy_auth=given.raw_auth,
            ssl_context=certificates(),
            proxy_ssl_context=certificates() if given.url.scheme == "https" else None,
            network_backend=backend,
        )
    with pool, pool.stream(method, _address_of(url), headers=list(headers.items()), content=content) as response:
        yield response


def parse_address(url: str) -> httpx.URL:
    """An address of http(s). Raises ValueError where it is none that can be asked."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    address.raw_host.decode().encode("idna")  # UnicodeError, a ValueError: a label of more than 63 letters
    if address.scheme not in ("http", "https") or not address.host or not 0 < (address.port or 80) < 2**16:
        raise ValueError("no address of http(s)")
    return address


def header(response: httpcore.Response, name: str) -> str:
    """An answer's header; "" where it has none."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name.encode()), "")


def proxy_of(url: httpx.URL) -> str | None:
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


def _address_of(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _left(end: float) -> float:
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise httpcore.ReadTimeout
    return seconds


class _InTime(httpcore.NetworkBackend):
    """Connections whose waits all end at one time."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        refused: Exception = httpcore.ConnectError("the host has no address")
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):  # one by one: each could take all the time
            try:
                stream = self._backend.connect_tcp(address, port, _left(self._end), local_address, socket_options)
                return _StreamInTime(stream, self._end)
            except httpcore.ConnectError as error:
                refused = error
        raise refused


class _StreamInTime(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, end: float) -> None:
        self._stream, self._end = stream, end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._end))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), 65536):  # a wait is for a part: what takes few bytes at a time takes longer
            self._stream.write(buffer[start : start + 65536], _left(self._end))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _StreamInTime(self._stream.start_tls(ssl_context, server_hostname, _left(self._end)), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
