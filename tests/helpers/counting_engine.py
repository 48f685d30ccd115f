"""An engine that notes which units ran, for tests of stages."""

from __future__ import annotations

from evalkit.engines.base import Run, Work, missing


class Counting:
    """An engine whose worker is not the driver's; counts the units, and stops after some of a kind."""

    in_process = False
    leads = True
    many = True

    def __init__(self, stop_after: int = 99, kind: str = "pairs") -> None:
        self.kind = kind
        self.ran: list[str] = []
        self.left = stop_after
        self._run: Run | None = None

    def map(self, work: Work) -> None:
        for unit in missing(work):
            if unit.key.startswith(f"{self.kind}/"):
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            self._run = self._run or work.open()
            self._run(unit, lambda name, count: None)
            self.ran.append(unit.key)
        assert missing(work) == []

    def close(self) -> None:
        self._run = None

    def of(self, kind: str) -> list[str]:
        return [key for key in self.ran if key.startswith(f"{kind}/")]
