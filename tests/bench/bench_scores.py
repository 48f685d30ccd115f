"""The scorer server asked by several clients at once: images per second with and without a window, and batches' sizes.

python tests/bench/bench_scores.py
"""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import uvicorn

from evalkit.data.codec import encode_png
from evalkit.serve.server import _parser, make

WORDS = ["metric=[clip_score_digits]", "device=cpu"]
SECONDS = 4.0  # per line


def ask(url: str, clients: int) -> tuple[float, float]:
    """Requests of one image per second, and images per batch, of so many clients that each wait for their answer."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    body = {"images": [base64.b64encode(encode_png(pixels)).decode()], "prompts": ["a red seven"]}

    def client(_: int) -> tuple[int, int]:
        done, together = 0, 0
        with httpx.Client(timeout=60) as http:
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                together += http.post(f"{url}/score", json=body).json()["batch"]
                done += 1
        return done, together

    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    done = sum(count for count, _ in found)
    return done / SECONDS, sum(together for _, together in found) / done


def main() -> None:
    print("window [ms]  clients  images/s  images per batch")
    for window in ("0", "5"):
        scores, app = make(_parser().parse_args([*WORDS, "--window-ms", window]))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        for clients in (1, 4, 16):
            rate, together = ask(url, clients)
            print(f"{window:>11}  {clients:>7}  {rate:>8.1f}  {together:>16.1f}", flush=True)
        server.should_exit = True
        thread.join()
        scores.unload()


if __name__ == "__main__":
    main()
