"""Tells a user's callback of transitions, on a thread of its own: whatever the callback does, it holds up nobody."""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from redis_router.model import Transition

log = logging.getLogger("redis_router")

TransitionListener = Callable[[Transition], None]


class Herald:
    """Calls `listener` once for each transition, in their order; what it raises is logged."""

    def __init__(self, listener: TransitionListener | None) -> None:
        self._listener = listener
        self._news: SimpleQueue[Transition | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, change: Transition) -> None:
        """Pass a transition on; returns at once."""
        if self._listener is not None:
            self._news.put(change)

    def start(self) -> None:
        """Begin, in a daemon thread; without a listener there is none."""
        if self._listener is not None:
            self._thread = threading.Thread(target=self._run, name="redis-router-herald", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """End after what was told so far; a callback that takes longer than `timeout` seconds is left behind."""
        self._news.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (change := self._news.get()) is not None:
            try:
                if self._listener is not None:
                    self._listener(change)
            except Exception:
                log.exception("on_transition failed for %s", change)
