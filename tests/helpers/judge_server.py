"""A chat endpoint on the loopback that looks at images: a judge that knows the truth about the embedded digits.

    python tests/helpers/judge_server.py --port 8000        # then, elsewhere: evalkit experiment=judge_digits ...

It speaks /v1/chat/completions with image parts and logprobs, and /v1/models; and misbehaves when tests tell it to.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
from loopback import listening
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evalkit.judges.asker import Answer, digest_of
from evalkit.judges.digits_truth import answer_of, facts_of

SLOW = 0.6  # seconds, more than the tests' time-out
PROBE = "Is this image grey? Please answer yes or no."


def truth(images: Sequence[np.ndarray], text: str) -> Answer:
    return answer_of(text, facts_of(images)[0])


class JudgeService:
    """What the server knows and counts.

    Attributes:
        function: (images, text) -> the answer.
        model: its name in lists and answers; `alias` in answers alone.
        faults: what goes wrong with the n-th question; popped as it happens. `always`: with each.
        asked: bodies of the questions (but the client's own first one), in order.
        answered: (image's digest, text) -> whole right answers sent.
    """

    def __init__(
        self, function: Callable[[Sequence[np.ndarray], str], Answer] = truth, model: str = "truth-7b"
    ) -> None:
        self.function, self.model, self.alias = function, model, model
        self.faults: dict[int, str] = {}
        self.always: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.probes = 0
        self.answered: Counter[tuple[str, str]] = Counter()
        self.headers: list[dict[str, str]] = []
        self.root = "/models/truth-7b"
        self.digest = ""  # of the weights, as Ollama lists it
        self.others: list[str] = []  # models that are listed, too
        self.delay = 0.0
        self.logprobs = True
        self.lock, self.looking = threading.Lock(), threading.Lock()
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    service: JudgeService

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        service = self.service
        if self.path == "/v1/models":
            entry = {"id": service.model, "object": "model", "created": int(time.time()), "root": service.root}
            entry |= {"owned_by": "library"} if service.digest else {}
            self._json({"object": "list", "data": [entry, *({"id": name} for name in service.others)]})
        elif self.path == "/api/tags" and service.digest:
            self._json({"models": [{"name": service.model, "digest": service.digest}]})
        else:
            self._json({"error": {"message": "no such path"}}, 404)

    def do_POST(self) -> None:
        service = self.service
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images, text = parts_of(body)
        with service.lock:
            service.headers.append(dict(self.headers))
            fault = None
            if text == PROBE:
                service.probes += 1
            else:
                fault = service.faults.pop(len(service.asked), service.always)
                service.asked.append(body)
        try:
            if not self._misbehave(fault):
                time.sleep(service.delay)
                self._complete(body, images, text, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up

    def _misbehave(self, fault: str | None) -> bool:
        """Whether the fault is the whole answer."""
        codes = {"400": 400, "401": 401, "429": 429, "500": 500, "503": 503}
        if fault in codes:
            after = {"Retry-After": "0.1"} if fault == "429" else {}
            given = self.headers.get("Authorization", "")
            self._json({"error": {"message": f"it went wrong for {given}"}}, codes[fault], after)
        elif fault == "filter":
            self._json(
                {"error": {"message": "filtered by the content management policy", "code": "content_filter"}}, 400
            )
        elif fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif fault == "garbage":
            self._send(b'{"choices": [')
        elif fault == "no_choices":
            self._json({"choices": []})
        elif fault == "slow":
            time.sleep(SLOW)
            return False
        else:
            return False
        return True

    def _complete(self, body: dict[str, Any], images: list[np.ndarray], text: str, fault: str | None) -> None:
        service = self.service
        with service.looking:
            answer = Answer("Yes", {"Yes": -0.1, "No": -2.4}) if text == PROBE else service.function(images, text)
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        if body.get("logprobs") and service.logprobs and answer.first is not None:
            top = [{"token": token, "logprob": value, "bytes": None} for token, value in answer.first.items()]
            choice["logprobs"] = {"content": [{**max(top, key=lambda one: one["logprob"]), "top_logprobs": top}]}
        if fault == "strange":
            message["content"] = "Well, let me think about that."
            choice["logprobs"] = None
        elif fault == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        usage = {
            "prompt_tokens": 10 + len(text.split()),
            "completion_tokens": 1,
            "total_tokens": 11 + len(text.split()),
        }
        value = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "other-8b" if fault == "other_model" else service.alias,
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(value).encode()
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if text != PROBE:
            with service.lock:
                service.answered[digest_of(images[0]), text] += fault is None
        self._send(data)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, headers)

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def parts_of(body: dict[str, Any]) -> tuple[list[np.ndarray], str]:
    """The images u8 [H,W,3] of a request, and its text."""
    images, texts = [], []
    for part in body["messages"][-1]["content"]:
        if part["type"] == "image_url":
            kind, _, data = part["image_url"]["url"].partition(";base64,")
            assert kind.startswith("data:image/")
            images.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))
        else:
            texts.append(part["text"])
    return images, "\n".join(texts)


@contextmanager
def judging(service: JudgeService, port: int = 0) -> Iterator[JudgeService]:
    """A server on the loopback; port 0: a free one."""
    with listening(Handler, service, port) as port:
        service.url = f"http://127.0.0.1:{port}/v1"
        yield service


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    with judging(JudgeService(), parser.parse_args().port) as running:
        print(f"a judge of digits at {running.url}; Ctrl-C stops it", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
