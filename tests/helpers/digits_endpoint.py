"""The digits LDM behind an OpenAI-compatible images endpoint, to try `experiment=api_endpoint` on this machine.

    python tests/helpers/digits_endpoint.py --port 8000        # then, elsewhere: evalkit experiment=api_endpoint

It makes one image at a time, in 8 steps of DDIM at guidance 4, and stops with Ctrl-C. Where the environment variable
IMAGES_API_KEY is set, requests must carry its value.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evalkit.data.codec import encode_png
from evalkit.models.base import Model, Request, Sampler
from evalkit.models.diffusers.model import DiffusersModel

SAMPLER = Sampler("DDIMScheduler", {}, 8)


class Handler(BaseHTTPRequestHandler):
    """POST /v1/images/generations with prompt, seed, and latents: an .npy file of f32 [4,8,8] in base64."""

    model: Model
    lock = threading.Lock()  # a pipeline is not to be called from two threads

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = os.environ.get("IMAGES_API_KEY")
        if self.path != "/v1/images/generations":
            self._answer(404, {"error": {"message": f"there is no {self.path}"}})
        elif key and self.headers.get("Authorization") != f"Bearer {key}":
            self._answer(401, {"error": {"message": "a wrong key"}})
        elif body.get("size") not in (None, "32x32"):
            self._answer(400, {"error": {"message": "size is 32x32"}})
        else:
            latent = np.load(io.BytesIO(base64.b64decode(body["latents"]))) if "latents" in body else None
            request = Request(index=0, seed=int(body.get("seed", 0)), prompt=str(body["prompt"]), latent=latent)
            with self.lock:
                made = self.model.generate([request], sampler=SAMPLER, settings={"guidance_scale": 4.0})
            image = base64.b64encode(encode_png(made.images[0])).decode()
            self._answer(200, {"created": 0, "data": [{"b64_json": image}]})

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    model = DiffusersModel("pkg://evalkit.digits/weights/ldm")
    model.load("cpu")
    Handler.model = model
    port = parser.parse_args().port
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"serving on http://127.0.0.1:{port}/v1", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
