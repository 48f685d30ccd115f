"""Small real servers on the loopback that speak the protocols of image services, and misbehave when told to."""

from __future__ import annotations

import base64
import io
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
from loopback import listening
from PIL import Image

KEY = "sk-very-secret-4711/+="  # with characters that are quoted in addresses

SHORT = 0.5  # seconds: a client's time-out, where the service is slow
RETRY_AFTER = 0.3  # seconds, more than the tests' back-off


def pixels_of(prompt: str, seed: int | None, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """The image that a service makes of a prompt and a seed: u8 [H,W,3]."""
    rng = np.random.default_rng([seed or 0, *prompt.encode()])
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class FakeService:
    """What a server knows and counts.

    Attributes:
        faults: what goes wrong with the n-th request for an image; popped as it happens.
        asked, asked_at: bodies of the requests for images, and their times.
        delivered: (prompt, seed) -> whole right answers sent.
        headers: of every request.
        draw: makes the pixels.
    """

    def __init__(self, draw: Callable[..., np.ndarray] = pixels_of) -> None:
        self.faults: dict[int, str] = {}
        self.always: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.asked_at: list[float] = []
        self.delivered: Counter[tuple[str, int | None]] = Counter()
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.files: dict[str, bytes] = {}
        self.draw = draw
        self.by_url = False
        self.moves_to = ""  # files: the address in front of their names
        self.delay = 0.0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""
        # ComfyUI
        self.takes_ids = True
        self.dropped = 0  # workflows taken out of the queue
        self.polls = 1  # looks at the history before an image is there
        self.queue: dict[str, dict[str, Any]] = {}
        self.history: dict[str, dict[str, Any]] = {}

    def fault(self) -> str | None:
        """The fault of the request that was just noted."""
        return self.faults.pop(len(self.asked) - 1, self.always)


class Handler(BaseHTTPRequestHandler):
    service: FakeService

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._note()
        path, _, query = self.path.partition("?")
        service = self.service
        if path.startswith("/history/"):
            self._json(self._look(path.removeprefix("/history/")))
        elif path == "/queue":
            pending = [[0, name, job["graph"], {}, []] for name, job in service.queue.items()]
            self._json({"queue_running": pending[:1], "queue_pending": pending[1:]})
        elif path == "/view":
            self._file(urllib.parse.parse_qs(query)["filename"][0])
        elif path.startswith("/files/"):
            self._file(path.removeprefix("/files/"))
        else:
            self._json({"error": "no such path"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note()
        service = self.service
        with service.lock:
            service.at_once += 1
            service.most_at_once = max(service.most_at_once, service.at_once)
        try:
            if self.path == "/queue":
                for name in body["delete"]:
                    service.dropped += service.queue.pop(name, None) is not None
                self._send(b"")
            elif self.path in ("/v1/images/generations", "/sdapi/v1/txt2img", "/prompt"):
                with service.lock:
                    service.asked.append(body)
                    service.asked_at.append(time.monotonic())
                    fault = service.fault()
                if not self._misbehave(fault):
                    time.sleep(service.delay)
                    {"/v1/images/generations": self._openai, "/prompt": self._comfy}.get(self.path, self._webui)(
                        body, fault
                    )
            else:
                self._json({"error": "no such path"}, 404)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up
        finally:
            with service.lock:
                service.at_once -= 1

    def _note(self) -> None:
        with self.service.lock:
            self.service.headers.append(dict(self.headers))
            self.service.paths.append(self.path)
        self.path = re.sub("^http://[^/]+", "", self.path)  # a proxy is told the host as well

    def _misbehave(self, fault: str | None) -> bool:
        """Whether the fault is the whole answer."""
        given = self.headers.get("Authorization", "")
        status = {"echo": 500, "quota": 429, "429-long": 429, **{str(code): code for code in (400, 401, 429, 500, 503)}}
        if fault in status:
            code = "insufficient_quota" if fault == "quota" else "some_code"
            message = f"you sent {given}" if fault in ("echo", "401") else "it went wrong"
            after = {"429": {"Retry-After": str(RETRY_AFTER)}, "429-long": {"Retry-After": "3600"}}.get(fault, {})
            self._json({"error": {"message": message, "code": code}}, status[fault], after)
        elif fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif fault == "redirect":
            self._send(b"", 307, {"Location": "http://elsewhere.invalid/x?token=abc"})
        elif fault == "garbage":
            self._send(b'{"data": [', 200)
        elif fault == "list":
            self._json([1, 2])
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(400):
                self.wfile.write(b" ")
                time.sleep(SHORT / 10)
        else:
            return False
        return True

    def _draw(self, prompt: str, seed: int | None, size: tuple[int, int], fault: str | None) -> bytes:
        if fault == "slow":
            time.sleep(2 * SHORT)
        if fault == "not_image":
            return b"<html>not an image</html>"
        if fault == "broken_image":
            return png_of(self.service.draw(prompt, seed, size))[:-40]
        return png_of(self.service.draw(prompt, seed, (size[0], size[1] + 8) if fault == "wrong_size" else size))

    def _answer(self, value: Any, key: tuple[str, int | None], fault: str | None) -> None:
        data = json.dumps(value).encode()
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self._send(data)
        if fault is None:
            with self.service.lock:
                self.service.delivered[key] += 1

    def _openai(self, body: dict[str, Any], fault: str | None) -> None:
        width, height = (int(n) for n in body.get("size", "16x16").split("x"))
        key = (body["prompt"], body.get("seed"))
        data = self._draw(*key, (height, width), fault)
        if self.service.by_url:
            name = f"{len(self.service.files)}.png"
            self.service.files[name] = data
            item = {"url": f"{self.service.url}/files/{name}?signature=abc"}
        else:
            item = {"b64_json": base64.b64encode(data).decode()}
        if fault == "file_url":
            item = {"url": "file:///etc/passwd"}
        if fault == "not_base64":
            item = {"b64_json": "%%%"}
        item |= {"revised_prompt": "something else"} if fault == "revised" else {}
        items = {"two": [item, item], "none": []}.get(str(fault), [item])
        self._answer({"created": 1, "data": items}, key, None if fault == "revised" else fault)

    def _webui(self, body: dict[str, Any], fault: str | None) -> None:
        key = (body["prompt"], body["seed"])
        size = (body.get("height", 16), body.get("width", 16))
        images = [base64.b64encode(self._draw(*key, size, fault)).decode()]
        images = {"two": images * 2, "none": []}.get(str(fault), images)
        info = json.dumps({"seed": 7 if fault == "other_seed" else body["seed"]})
        self._answer({"images": images, "parameters": body, "info": info}, key, fault)

    def _comfy(self, body: dict[str, Any], fault: str | None) -> None:
        service = self.service
        name = body["prompt_id"] if service.takes_ids else f"own-{uuid.uuid4()}"
        service.queue[name] = {"graph": body["prompt"], "fault": fault, "polls": service.polls}
        if fault == "lost_answer":  # it is in the queue, and nobody is told
            self.close_connection = True
            self.connection.close()
        else:
            self._json({"prompt_id": name, "number": 1, "node_errors": {}})

    def _look(self, name: str) -> dict[str, Any]:
        service = self.service
        with service.lock:
            job = service.queue.get(name)
            if job is not None:
                job["polls"] -= 1
            if job is not None and job["fault"] == "forgotten":
                service.queue.pop(name)
                self.close_connection = True
                raise BrokenPipeError  # this look fails, and the workflow is gone: ComfyUI was started again
            if job is not None and job["polls"] < 0:
                service.history[name] = self._execute(service.queue.pop(name))
            return {name: service.history[name]} if name in service.history else {}

    def _execute(self, job: dict[str, Any]) -> dict[str, Any]:
        inputs = job["graph"]["3"]["inputs"]
        key = (job["graph"]["6"]["inputs"]["text"], inputs["seed"])
        size = job["graph"]["5"]["inputs"]
        if job["fault"] == "execution":
            error = ["execution_error", {"node_type": "KSampler", "exception_message": "out of\nmemory"}]
            return {"outputs": {}, "status": {"status_str": "error", "completed": False, "messages": [error]}}
        file = f"{len(self.service.files)}.png"
        self.service.files[file] = self._draw(*key, (size["height"], size["width"]), job["fault"])
        self.service.delivered[key] += 1
        images = [{"filename": file, "subfolder": "", "type": "output"}]
        images *= {"two": 2, "none": 0}.get(str(job["fault"]), 1)
        preview = {"images": [{"filename": file, "subfolder": "", "type": "temp"}] if images else []}
        return {
            "outputs": {"8": preview, "9": {"images": images}},
            "status": {"status_str": "success", "completed": True},
        }

    def _file(self, name: str) -> None:
        if self.service.moves_to:
            self._send(b"", 302, {"Location": f"{self.service.moves_to}/files/{name}"})
            return
        self._send(self.service.files[name], 200, {"Content-Type": "image/png"})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, headers)

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(service: FakeService, *, tls: bool = False) -> Iterator[FakeService]:
    """A server on a free port of the loopback; with `tls` its certificate is one that nobody trusts."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    with listening(Handler, service, tls=context) as port:
        service.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield service
