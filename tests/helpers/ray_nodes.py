"""A real Ray cluster on this host: `ray start` per node, in a process group of its own, all files in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START = 120.0  # seconds that a node has to come up: Ray's own programs start several interpreters


@dataclass
class Nodes:
    """A cluster; `environment` is for drivers, `address` what they give."""

    folder: Path
    address: str
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self, cpus: int = 1, within: Sequence[str] = (), ip: str = "127.0.0.1", **environment: str) -> int:
        """Starts a node, the head first; returns its number once it is up."""
        head = not self.processes
        port = self.address.rpartition(":")[2]
        where = ["--head", "--port", port, "--include-dashboard=false", f"--temp-dir={self.folder}"]
        log = self.folder / f"node{len(self.processes)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(*within, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
                    *(where if head else ["--address", self.address]),
                    *(f"--node-ip-address={ip}", f"--num-cpus={cpus}", "--num-gpus=0"),
                    f"--object-store-memory={80 * 2**20}",
                ],
                env={**self.environment, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        end = time.monotonic() + START
        while b"Ray runtime started" not in log.read_bytes():
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"no node of Ray came up: {log.read_text()[-1000:]}")
            time.sleep(0.2)
        return len(self.processes) - 1

    def end(self, number: int) -> None:
        """A node goes, without a word."""
        for process in _family(self.processes[number].pid):
            process.kill()
        self.processes[number].wait()

    def left(self) -> list[str]:
        """Actors that run on this host now."""
        import psutil

        return [process.name() for process in psutil.process_iter() if "ray::Actor" in _name(process)]


def _family(pid: int) -> list[object]:
    import psutil

    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]  # type: ignore[list-item]
    except psutil.NoSuchProcess:
        return []


def _name(process: object) -> str:
    try:
        return " ".join(process.cmdline())  # type: ignore[attr-defined]
    except Exception:  # it has ended
        return ""


@contextmanager
def ray_nodes(cpus: Sequence[int] = (1, 1), **environment: str) -> Iterator[Nodes]:
    """A cluster of nodes with so many CPUs each; all ended, and its folder removed, on the way out."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # short: sockets' paths have 107 bytes at most
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")])
    base = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    nodes = Nodes(folder, f"127.0.0.1:{port}", base | environment)
    try:
        for count in cpus:
            nodes.add(count)
        yield nodes
    finally:
        family = [process for number in nodes.processes for process in _family(number.pid)]
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
            except Exception:  # it has ended
                continue
        for number in nodes.processes:
            number.wait()
        shutil.rmtree(folder, ignore_errors=True)
