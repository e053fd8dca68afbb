"""Waking a thread, from anywhere: from a signal handler or a finalizer, too, which may interrupt whoever wakes it.

`threading.Event.set` takes a lock that it does not give to the same thread twice; `SimpleQueue.put` is re-entrant by
contract.
"""

import time
from contextlib import suppress
from queue import Empty, SimpleQueue


class Alarm:
    """Wakes the one thread that waits for it; rung before, it wakes at once. Several rings are one."""

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake it."""
        if self._rung.empty():  # else it wakes anyway: what is not waited for does not pile up
            self._rung.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; was it rung?"""
        try:
            self._rung.get(timeout=max(0.0, seconds))
        except Empty:
            return False
        with suppress(Empty):
            while True:
                self._rung.get_nowait()
        return True


class Flag:
    """Set once, and seen by every thread that waits for it."""

    def __init__(self) -> None:
        self._set = False
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """From now on nobody waits."""
        self._set = True
        self._tokens.put(None)

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; is it set?"""
        deadline = time.monotonic() + seconds
        while not self._set and (left := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                self._tokens.get(timeout=left)
        if self._set:
            self._tokens.put(None)  # for the next one that waits
        return self._set
