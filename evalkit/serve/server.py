"""The command: `python -m evalkit.serve metric=[...]`, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from evalkit.config.compose import compose, resolve
from evalkit.errors import EXIT_DONE, ConfigError, EvalkitError
from evalkit.utils.signals import sigterm_is_ctrl_c

TOKEN = "EVALKIT_SERVE_TOKEN"  # the environment variable
LOCAL = ("127.0.0.1", "localhost", "::1")

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; an error is one line, and the exit code its own."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return serve(_parser().parse_args(arguments))
    except EvalkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evalkit.serve",
        description="Serves each image's value by some metrics over HTTP: a reward for training loops.",
        epilog=f"With {TOKEN} in the environment, requests must bring it as a bearer token.",
    )
    parser.add_argument("words", nargs="+", metavar="KEY=VALUE", help="metric=[...], extractor.x.key=..., device=...")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (this machine's own)")
    parser.add_argument("--port", type=int, default=8800, help="0: one that is free")
    parser.add_argument("--window-ms", type=float, default=5.0, help="how long a request waits for others (5)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch of several requests (64)")
    parser.add_argument("--config-dir", help="a folder with YAMLs of your own")
    return parser


def make(options: argparse.Namespace) -> tuple[Any, Any]:
    """The scores, loaded, and the application. ConfigError: an option is wrong, or weights are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError("evalkit.serve needs two packages: pip install 'evalkit[view]'") from None
    if not any(word.lstrip("+~").startswith("metric") for word in options.words):
        raise ConfigError("which metrics? give metric=[NAME, ...]")
    if not 0 <= options.window_ms <= 60_000:
        raise ConfigError(f"--window-ms {options.window_ms:g}: give milliseconds, 0 to 60000")
    if options.batch < 1:
        raise ConfigError(f"--batch {options.batch}: give a number of images >= 1")
    from evalkit.serve.app import make_app
    from evalkit.serve.batcher import Batcher
    from evalkit.serve.scores import ImageScores

    config = resolve(compose(["~experiment", *options.words], options.config_dir))
    scores = ImageScores(config)
    scores.load()
    batcher = Batcher(scores, window=options.window_ms / 1000, max_images=options.batch)
    return scores, make_app(scores, batcher, os.environ.get(TOKEN) or None)


def serve(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: an option is wrong, weights are missing, or the port is taken.
    """
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((options.host, options.port))
        except OSError as error:
            where = f"--host {options.host} --port {options.port}"
            raise ConfigError(f"{where}: {error.strerror or error}: --port 0 takes a free one") from None
        scores, app = make(options)
        import uvicorn

        listening.listen()
        host = f"[{options.host}]" if ":" in options.host else options.host
        if options.host not in LOCAL and not os.environ.get(TOKEN):
            print(f"warning: whoever reaches {options.host} may ask: set {TOKEN} for a token", file=sys.stderr)
        place = f"http://{host}:{listening.getsockname()[1]}"
        print(f"{place} serves {', '.join(scores.metrics)} on {scores.device}; Ctrl-C ends it", flush=True)
        config = uvicorn.Config(app, log_level="warning", server_header=False)
        try:
            with contextlib.suppress(KeyboardInterrupt), sigterm_is_ctrl_c():
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            scores.unload()
    return EXIT_DONE
