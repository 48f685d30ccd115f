"""A server on the loopback that answers with whatever bytes a test gives it, at its own speed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8") + body


def as_json(value: object) -> bytes:
    return answer(json.dumps(value).encode())


def dripping(data: bytes, pause: float) -> Iterator[bytes]:
    """The bytes one by one, for ever again."""
    while True:
        for i in range(len(data)):
            time.sleep(pause)
            yield data[i : i + 1]


@contextmanager
def answering(respond: Callable[[int, str], bytes | Iterator[bytes]]) -> Iterator[str]:
    """A server's address; `respond` gets the request's number (from 0) and its first line."""
    server = socket.create_server(("127.0.0.1", 0))
    numbers = iter(range(1_000_000))
    lock = threading.Lock()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = connection.recv(65536)
                    if not more:  # closed without a request: reading on would spin, for as long as the tests run
                        return
                    head += more
                with lock:
                    number = next(numbers)
                made = respond(number, head.split(b"\r\n", 1)[0].decode())
                for part in [made] if isinstance(made, bytes) else made:
                    connection.sendall(part)
            except OSError:
                pass  # the client gave up

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
