"""A small image server with a queue, to put under load: so many workers, so many seconds per image, so many places.

It speaks OpenAI's images API (generations and edits), AUTOMATIC1111's and ComfyUI's, says how long a request waited
(Server-Timing; ComfyUI's own times), and misbehaves as a busy one does: it is slow, turns requests away (503 with
Retry-After), or dies with all that it was doing and comes back.

    python tests/helpers/queue_server.py --port 8000 --workers 2 --seconds 0.2 --places 8 --dies-after 40 --down 2
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import queue
import socket
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
from fake_services import pixels_of, png_of  # noqa: E402

Draw = Callable[..., np.ndarray]  # (prompt, seed, size), and latent=... where a request carries one


@dataclass
class Job:
    """An image to make."""

    prompt: str
    seed: int
    size: tuple[int, int]
    latent: np.ndarray | None = None
    came: float = field(default_factory=time.time)
    began: float = 0.0
    ended: float = 0.0
    png: bytes = b""
    done: threading.Event = field(default_factory=threading.Event)


class QueueServer:
    """The server's state.

    Args:
        workers: images at a time.
        seconds: that an image takes, besides drawing it.
        places: requests that may wait or be made; more are turned away with 503. None: any number.
        retry_after: what Retry-After then says, in seconds.
        dies_after: at so many requests it cuts all connections and listens no more (several: again); empty: it lives.
        down: seconds until it is back.
        tells: whether it says how long a request waited.
        draw: makes the pixels u8 [H,W,3].
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        seconds: float = 0.02,
        places: int | None = None,
        retry_after: float = 0.02,
        dies_after: Collection[int] = (),
        down: float = 0.3,
        tells: bool = True,
        draw: Draw = pixels_of,
    ) -> None:
        self.workers, self.seconds, self.places, self.retry_after = workers, seconds, places, retry_after
        self.dies_after, self.down, self.tells, self.draw = dies_after, down, tells, draw
        self.came: list[tuple[float, str, int]] = []  # when, and for what, requests for images came
        self.turned_away = self.inside = self.most_inside = self.deaths = 0
        self.jobs: queue.Queue[Job | None] = queue.Queue()
        self.workflows: dict[str, Job] = {}
        self.forms: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self, port: int = 0) -> None:
        server = _Server(("127.0.0.1", port), type("Bound", (_Handler,), {"state": self}))
        self.port, self._server = server.server_port, server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._hang_up()
        for _ in self._threads:
            self.jobs.put(None)

    def take(self, prompt: str, seed: int, size: tuple[int, int], latent: np.ndarray | None = None) -> Job | None:
        """A place in the queue; none: all are taken, or the server dies of it."""
        with self.lock:
            self.came.append((time.time(), prompt, seed))
            if len(self.came) in self.dies_after:
                threading.Thread(target=self._die, daemon=True).start()
            if self.places is not None and self.inside >= self.places:
                self.turned_away += 1
                return None
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        job = Job(prompt, seed, size, latent)
        self.jobs.put(job)
        return job

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            job.began = time.time()
            self._ended.wait(self.seconds)
            noise = {} if job.latent is None else {"latent": job.latent}
            job.png = png_of(self.draw(job.prompt, job.seed, job.size, **noise))
            job.ended = time.time()
            with self.lock:
                self.inside -= 1
            job.done.set()

    def _die(self) -> None:
        """Cuts all connections, forgets its queue, and is back after a while."""
        self.deaths += 1
        self._hang_up()
        with self.lock:
            self.workflows.clear()
        while True:
            with contextlib.suppress(queue.Empty):
                self.jobs.get_nowait()
                with self.lock:
                    self.inside -= 1
                continue
            break
        if not self._ended.wait(self.down):
            self.listen(self.port)

    def _hang_up(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()  # at once: what comes now is refused
            server.shutdown()
            server.server_close()
        with self.lock:
            open_ones, self.connections = self.connections, set()
        for connection in open_ones:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    allow_reuse_address = True

    def handle_error(self, *args: Any) -> None:
        pass  # connections are cut on purpose

    def _handle_request_noblock(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # its socket was closed under it
            super()._handle_request_noblock()


class _Handler(BaseHTTPRequestHandler):
    state: QueueServer

    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with self.state.lock:
            self.state.connections.add(self.connection)
        try:
            with contextlib.suppress(OSError, ValueError):
                super().handle()
        finally:
            with self.state.lock:
                self.state.connections.discard(self.connection)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/images/edits":
            self._edit(data)
            return
        body = json.loads(data)
        if self.path == "/prompt":
            self._comfy(body)
        elif self.path == "/queue":
            for name in body["delete"]:
                self.state.workflows.pop(name, None)
            self._answer(200, {})
        elif self.path == "/v1/images/generations":
            width, height = (int(n) for n in body.get("size", "16x16").split("x"))
            asked = (body["prompt"], body.get("seed", 0), (height, width))
            self._image(*asked, lambda b: {"data": [{"b64_json": b}]}, _latent(body.get("latents")))
        elif self.path == "/sdapi/v1/txt2img":
            size = (body.get("height", 16), body.get("width", 16))
            self._image(body["prompt"], body["seed"], size, lambda b: {"images": [b], "info": "{}"})
        else:
            self._answer(404, {"error": {"message": f"there is no {self.path}"}})

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path.startswith("/history/"):
            name = path.removeprefix("/history/")
            job = self.state.workflows.get(name)
            self._answer(200, {name: self._history(name, job)} if job is not None and job.done.is_set() else {})
        elif path == "/queue":
            names = [name for name, job in self.state.workflows.items() if not job.done.is_set()]
            self._answer(200, {"queue_running": [], "queue_pending": [[0, name, {}, {}, []] for name in names]})
        elif path == "/view":
            name = urllib.parse.parse_qs(query)["filename"][0]
            self._send(200, self.state.workflows[name].png, {"Content-Type": "image/png"})
        else:
            self._answer(200, {})

    def _image(
        self,
        prompt: str,
        seed: int,
        size: tuple[int, int],
        wrap: Callable[[str], Any],
        latent: np.ndarray | None = None,
    ) -> None:
        job = self._place(prompt, seed, size, latent)
        if job is None:
            return
        job.done.wait()
        queued, made = 1000 * (job.began - job.came), 1000 * (job.ended - job.began)
        timing = f"queue;dur={queued:.3f}, generate;dur={made:.3f}" if self.state.tells else ""
        self._answer(200, wrap(base64.b64encode(job.png).decode()), {"Server-Timing": timing} if timing else {})

    def _place(self, prompt: str, seed: int, size: tuple[int, int], latent: np.ndarray | None = None) -> Job | None:
        job = self.state.take(prompt, seed, size, latent)
        if job is None:
            after = {"Retry-After": f"{self.state.retry_after:g}"}
            self._answer(503, {"error": {"message": "all places are taken"}}, after)
        return job

    def _edit(self, data: bytes) -> None:
        """The source, inverted where the mask is transparent; its form is noted."""
        import email

        from PIL import Image

        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + data).get_payload()
        form: dict[str, Any] = {}
        for part in parts:
            name, file = part.get_param("name", header="content-disposition"), part.get_filename()
            value = part.get_payload(decode=True)
            form[str(name)] = value if file is not None else value.decode()
        self.state.forms.append(form)
        source = np.asarray(Image.open(io.BytesIO(form["image"])).convert("RGB"))
        out = 255 - source
        if "mask" in form:
            mask = np.asarray(Image.open(io.BytesIO(form["mask"])).convert("RGBA"))[..., 3:] == 0
            out = np.where(mask, out, source)
        self._answer(200, {"data": [{"b64_json": base64.b64encode(png_of(out.astype(np.uint8))).decode()}]})

    def _comfy(self, body: dict[str, Any]) -> None:
        nodes = body["prompt"]
        size = (nodes["5"]["inputs"]["height"], nodes["5"]["inputs"]["width"])
        job = self._place(nodes["6"]["inputs"]["text"], nodes["3"]["inputs"]["seed"], size)
        if job is not None:
            name = body.get("prompt_id") or str(uuid.uuid4())
            self.state.workflows[name] = job
            self._answer(200, {"prompt_id": name, "number": 1, "node_errors": {}})

    def _history(self, name: str, job: Job) -> dict[str, Any]:
        times = [("execution_start", job.began), ("execution_success", job.ended)] if self.state.tells else []
        messages = [[kind, {"prompt_id": name, "timestamp": int(1000 * at)}] for kind, at in times]
        image = {"filename": name, "subfolder": "", "type": "output"}
        status = {"status_str": "success", "completed": True, "messages": messages}
        return {"outputs": {"9": {"images": [image]}}, "status": status}

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _latent(text: str | None) -> np.ndarray | None:
    """Starting noise from a float32 .npy in base64."""
    return None if text is None else np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)


@contextlib.contextmanager
def queueing(**options: Any) -> Iterator[QueueServer]:
    """A server on a free port of the loopback."""
    server = QueueServer(**options)
    server.listen()
    try:
        yield server
    finally:
        server.close()


def real_digits() -> Draw:
    """Draws a digit of the reference as a caption of the embedded prompts says; other captions get noise."""
    from evalkit.digits.data import PROMPTS, colourise, reference_digits

    grey, labels = reference_digits()
    captions = {caption.text: caption for caption in PROMPTS}

    def draw(prompt: str, seed: int, size: tuple[int, int]) -> np.ndarray:
        caption = captions.get(prompt)
        if caption is None:
            return pixels_of(prompt, seed, size)
        choices = np.flatnonzero(labels == caption.digit)
        chosen = grey[choices[seed % len(choices)]][None]
        image = colourise(chosen, np.array([caption.ink_index]), np.array([caption.background_index]))[0]
        return np.ascontiguousarray(image.transpose(1, 2, 0))

    return draw


def digits_ldm() -> Draw:
    """Draws with the embedded digits LDM: 8 steps of DDIM at guidance 4, one image at a time."""
    from evalkit.models.base import Request, Sampler
    from evalkit.models.diffusers.model import DiffusersModel

    model, lock = DiffusersModel("pkg://evalkit.digits/weights/ldm"), threading.Lock()
    model.load("cpu")
    sampler = Sampler("DDIMScheduler", {}, 8)

    def draw(prompt: str, seed: int, size: tuple[int, int], latent: np.ndarray | None = None) -> np.ndarray:
        request = Request(0, seed, prompt, latent=latent)
        with lock:  # a pipeline is not to be called from two threads
            made = model.generate([request], sampler=sampler, settings={"guidance_scale": 4.0})
        return np.asarray(made.images[0])

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--places", type=int)
    parser.add_argument("--retry-after", type=float, default=1.0)
    parser.add_argument("--dies-after", type=int, nargs="+", default=())
    parser.add_argument("--down", type=float, default=2.0)
    parser.add_argument("--draw", choices=["noise", "digits", "ldm"], default="noise")
    options = vars(parser.parse_args())
    port, draw = options.pop("port"), options.pop("draw")
    options["draw"] = {"noise": lambda: pixels_of, "digits": real_digits, "ldm": digits_ldm}[draw]()
    server = QueueServer(**options)
    server.listen(port)
    print(f"serving on {server.url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
