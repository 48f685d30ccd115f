"""Serves the pages on this machine's own address until it is stopped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EXIT_DONE, ConfigError
from evalkit.view.app import Viewer, make_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST = "127.0.0.1"


def serve(place: Path, *, port: int = 0, also: Sequence[Path] = ()) -> int:
    """Serves until Ctrl-C.

    Args:
        place: the folder with runs.
        port: of 127.0.0.1; 0: one that is free.
        also: further folders whose images may be shown.

    Raises:
        ConfigError: a package or a folder is missing, or the port is taken.
    """
    check_packages("evalkit view")
    for folder in also:
        if not folder.is_dir():
            raise ConfigError(f"--also {folder}: there is no such folder")
    viewer = Viewer(place, also)
    viewer.registry().say()
    return run_app(make_app(viewer), port, f"shows {place}")


def check_packages(command: str) -> None:
    """Raises ConfigError where the two packages that pages need are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError(f"{command} needs two packages: pip install 'evalkit[view]'") from None


def run_app(app: Starlette, port: int, doing: str) -> int:
    """Serves an application on 127.0.0.1 until Ctrl-C, once its address and what it does are printed."""
    import uvicorn

    with contextlib.closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # whoever reads the address may come at once
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror or error}: leave it out for a free one") from None
        print(f"http://{HOST}:{listening.getsockname()[1]}/ {doing}; Ctrl-C ends it", flush=True)
        config = uvicorn.Config(app, log_level="warning", server_header=False, lifespan="off")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return EXIT_DONE
