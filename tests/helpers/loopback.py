"""HTTP servers of tests: on the loopback, in a thread, whose connections may be cut on purpose."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *args: Any) -> None:
        pass  # connections are cut on purpose


@contextmanager
def listening(
    handler: type[BaseHTTPRequestHandler], service: Any, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """The port on which `handler` answers, with `service` as its attribute; 0: a free one."""
    server = _Server(("127.0.0.1", port), type("Bound", (handler,), {"service": service}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
