"""An S3 on the loopback (moto), which counts requests, and fails as the real one does."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


@dataclass
class S3:
    """A server; its settings may be changed while it serves.

    Attributes:
        url: where it serves.
        counts: requests by kind: GET, HEAD, PUT, DELETE, LIST (a page of one).
        busy: share of requests that are answered by a 503 and do nothing.
        lost: share of PUTs that are done, and whose answer is a 503.
        lose: so many of the next PUTs likewise.
        careless: whether If-None-Match is ignored.
    """

    app: Callable[..., Iterable[bytes]]
    url: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    lost: float = 0.0
    lose: int = 0
    careless: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._random, self._lock, self._puts = random.Random(self.seed), threading.Lock(), threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which s3fs, in this process or another, comes here."""
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true", **keys}

    def mend(self) -> None:
        """No faults from here on, and no requests counted so far."""
        self.busy, self.lost, self.lose, self.careless = 0.0, 0.0, 0, False
        self.counts.clear()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        with self._lock:
            self.counts["LIST" if method == "GET" and "list-type=2" in query else method] += 1
            busy, lost = self._random.random() < self.busy, self._random.random() < self.lost
            if method == "PUT" and self.lose:
                lost, self.lose = True, self.lose - 1
        if busy:
            return self._refuse(start)
        if self.careless:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if method != "PUT":
            return self.app(environ, start)

        with self._puts:  # moto looks, then writes: two of its threads may both be first, which S3's are not
            answer = list(self.app(environ, (lambda *_, **__: None) if lost else start))
        return self._refuse(start) if lost else answer

    def _refuse(self, start: Callable[..., Any]) -> Iterable[bytes]:
        start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]


@contextmanager
def serve_s3(bucket: str = "bucket", host: str = "127.0.0.1") -> Iterator[S3]:
    """A server in a thread of this process, with one bucket; other processes reach it by `environment`."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            pass

    s3 = S3(DomainDispatcherApplication(create_backend_app))
    server = make_server(host, 0, s3, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    s3.url = f"http://{host}:{server.server_port}"
    try:
        import httpx

        httpx.put(f"{s3.url}/{bucket}", headers={"Host": "s3.amazonaws.com"}).raise_for_status()
        s3.counts.clear()
        yield s3
    finally:
        server.shutdown()
        thread.join(5)


@contextmanager
def s3_of_this_process() -> Iterator[S3]:
    """A server that s3fs comes to, in this process and in those that it starts."""
    with serve_s3() as s3, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield s3
