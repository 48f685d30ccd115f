"""Two network namespaces with a bridge between them, which can be cut: packets are lost, and neither end is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESSES = ("10.213.7.1", "10.213.7.2")  # known in these namespaces alone


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=not check)


def can_cut() -> bool:
    """Whether this process may make network namespaces."""
    if os.geteuid() or not shutil.which("ip"):
        return False
    name = f"evalkit-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    _ip("netns", "del", name, check=False)
    return made


@dataclass(frozen=True)
class Link:
    """`sides`: the namespaces; a command runs in one by `[*link.within(side), *command]`."""

    sides: tuple[str, str]
    middle: str

    def within(self, side: int) -> list[str]:
        return ["ip", "netns", "exec", self.sides[side]]

    def cut(self) -> None:
        _ip("-n", self.middle, "link", "set", "bridge", "down")

    def mend(self) -> None:
        _ip("-n", self.middle, "link", "set", "bridge", "up")


@contextmanager
def link() -> Iterator[Link]:
    names = [f"evalkit-{os.getpid()}-{part}" for part in ("a", "b", "m")]
    made = Link((names[0], names[1]), names[2])
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", made.middle, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        for side, address in enumerate(ADDRESSES):
            port = f"port{side}"
            _ip("-n", made.middle, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", names[side])
            _ip("-n", made.middle, "link", "set", port, "master", "bridge", "up")
            _ip("-n", names[side], "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", names[side], "link", "set", "eth0", "up")
        made.mend()
        yield made
    finally:
        for name in names:
            _ip("netns", "del", name, check=False)
