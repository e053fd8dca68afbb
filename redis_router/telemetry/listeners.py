"""Tells a user's callback of transitions, on a thread of its own: whatever the callback does, it holds up nobody."""

from collections.abc import Callable
from queue import SimpleQueue

from redis_router.circuit.record import Transition
from redis_router.runtime.background import Background, CountsFailures
from redis_router.runtime.log import log

TransitionListener = Callable[[Transition], None]


class Listener:
    """Calls `listener` once for each transition, in their order; what it raises is logged."""

    def __init__(self, listener: TransitionListener | None, metrics: CountsFailures) -> None:
        self._listener = listener
        self._news: SimpleQueue[Transition | None] = SimpleQueue()
        self._thread = Background("listener", self._pass_on, metrics)

    def tell(self, change: Transition) -> None:
        """Pass a transition on; returns at once."""
        if self._listener is not None:
            self._news.put(change)

    def start(self) -> None:
        """Begin; without a listener there is no thread."""
        if self._listener is not None:
            self._thread.start()

    @property
    def thread(self) -> Background:
        return self._thread

    def stop(self, timeout: float) -> None:
        """End after what was told so far; a callback that takes longer than `timeout` seconds is left behind."""
        self._news.put(None)
        self._thread.join(timeout)

    def _pass_on(self) -> bool:
        change = self._news.get()
        if change is None:
            return False
        try:
            if self._listener is not None:
                self._listener(change)
        except BaseException:  # SystemExit, too: it is not for this thread to end anything
            log.exception("on_transition failed for %s", change)
        return True
