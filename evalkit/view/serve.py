"""Serves the pages on this machine's own address until it is stopped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from evalkit.errors import EXIT_DONE, ConfigError
from evalkit.view.app import Viewer, make_app

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
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise ConfigError("evalkit view needs two packages: pip install 'evalkit[view]'") from None
    for folder in also:
        if not folder.is_dir():
            raise ConfigError(f"--also {folder}: there is no such folder")
    viewer = Viewer(place, also)
    viewer.registry().say()
    with contextlib.closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # whoever reads the address may come at once
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror or error}: leave it out for a free one") from None
        print(f"http://{HOST}:{listening.getsockname()[1]}/ shows {place}; Ctrl-C ends it", flush=True)
        config = uvicorn.Config(make_app(viewer), log_level="warning", server_header=False, lifespan="off")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return EXIT_DONE
