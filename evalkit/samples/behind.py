"""What is left to do of a shard while the next one is made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)


class Behind:
    """Runs one piece of work at a time in a thread, in the order given."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="evalkit-behind")
        self._last: Future[Any] | None = None

    def hand(self, work: Callable[[], object]) -> None:
        """Has `work` run once what was handed before is done; raises what that raised."""
        self.wait()
        self._last = self._pool.submit(work)

    def wait(self) -> None:
        """Until the last piece of work is done; raises what it raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self, error: BaseException | None = None) -> None:
        """Waits for the last piece of work, since what is made is not to be lost.

        Args:
            error: that is on its way already; what the work raises is then logged.
        """
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            log.warning("the shard before could not be written: %s", late)
        finally:
            self._pool.shutdown(wait=True)
