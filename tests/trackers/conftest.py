"""A finished run to push, and a watch on the network."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_run import make_folder

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(scope="module")
def offline() -> Iterator[list[bytes]]:
    """Puts a proxy in every client's way that answers nobody; what it heard is the list. Nothing asked: it is empty."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            heard.append(client.recv(200))
            client.close()

    threading.Thread(target=listen, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in PROXIES:
            for spelled in (name, name.lower()):
                patch.setenv(spelled, f"http://127.0.0.1:{server.getsockname()[1]}")
        patch.delenv("NO_PROXY", raising=False)
        patch.delenv("no_proxy", raising=False)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.build_opener().open("http://canary.invalid/", timeout=5)
        assert len(heard) == 1
        heard.clear()
        yield heard
    server.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home and working folder: what a tracker leaves there is seen."""
    folder, before = tmp_path_factory.mktemp("home"), Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "MLFLOW_TRACKING_URI", "WANDB_DIR"):
            patch.delenv(name, raising=False)
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("runs") / "night")
