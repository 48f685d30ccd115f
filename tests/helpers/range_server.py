"""A server of files on the loopback that gives parts of them, lists folders, and misbehaves on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Files:
    """What is served.

    Attributes:
        files: by path, "/a/b.zip".
        ranges: whether parts are given.
        fault: told of each GET (its number, path); returns "500", "cut", "403", or "" for an answer as it should be.
        head: as `fault`, of all HEADs and of the GETs that ask for no part.
        gets: paths of the GETs so far.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.ranges = True
        self.fault: Callable[[int, str], str] = lambda number, path: ""
        self.head = ""
        self.gets: list[str] = []
        self.lock = threading.Lock()


@contextmanager
def serving(files: Files) -> Iterator[str]:
    """The server's URL, without a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            fault = "" if self.headers.get("Range") else files.head
            if body and not fault:
                with files.lock:
                    files.gets.append(path)
                    fault = files.fault(len(files.gets), path)
            data, kind = files.files.get(path), "application/octet-stream"
            if data is None and any(name.startswith(f"{path.rstrip('/')}/") for name in files.files):
                data, kind = self.index(path.rstrip("/")), "text/html"
            if data is None or fault in ("403", "500"):
                self.send_response(int(fault or 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.give(data, kind, body, fault == "cut")

        def index(self, folder: str) -> bytes:
            inside = {name[len(folder) + 1 :].partition("/") for name in files.files if name.startswith(f"{folder}/")}
            return "".join(f'<a href="{first}{slash}">x</a>' for first, slash, _ in sorted(inside)).encode()

        def give(self, data: bytes, kind: str, body: bool, cut: bool) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            whole = len(data)
            if asked and files.ranges:
                first, last = int(asked[1]), min(int(asked[2]), whole - 1)
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes" if files.ranges else "none")
            self.send_header("Content-Type", kind)
            self.send_header("ETag", f'"{hash(files.files.get(unquote(self.path)))}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
