"""How the library runs what it does in the background: daemon threads that nothing ends but their owner."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from redis_router.runtime.log import log

PAUSE = 1.0
"""Seconds after a turn that failed."""


class CountsFailures(Protocol):
    """Who is told that a thread failed."""

    def background_failed(self, thread: str) -> None: ...


class Background:
    """A daemon thread that calls `turn` again and again, until that gives False.

    What a turn raises is logged and counted, and the next turn follows: a log handler of the application's own may
    raise anything, SystemExit included.
    """

    def __init__(self, name: str, turn: Callable[[], bool], metrics: CountsFailures) -> None:
        self.name = name
        self._turn = turn
        self._metrics = metrics
        self._thread = threading.Thread(target=self._run, name=f"redis-router-{name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's, None before it was started."""
        return self._thread.ident

    @property
    def is_alive(self) -> bool:
        """Does it run?"""
        return self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Is it the one that asks?"""
        return self._thread is threading.current_thread()

    def join(self, timeout: float) -> None:
        """Wait until it ended, at most so many seconds; not on itself, and not for one that never began."""
        if self._thread.ident is not None and not self.is_current:
            self._thread.join(max(0.0, timeout))

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except BaseException:
                with suppress(BaseException):
                    self._metrics.background_failed(self.name)
                    log.exception("the %s thread failed, and goes on", self.name)
                time.sleep(PAUSE)
