"""Wakes requests that wait for a provider, in threads and in asyncio alike: the longest waiting first, and as many as
there may be calls for."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from redis_router.provider import ANY_MODEL
from redis_router.runtime.alarm import Alarm


class _Waiter:
    """A request that waits for one of these models."""

    __slots__ = ("is_rung", "models", "wake")

    def __init__(self, models: Collection[str], wake: Callable[[], None]) -> None:
        self.models = frozenset(models)
        self.wake = wake
        self.is_rung = False


class Waiters:
    """Rung by the background threads; costs nothing while nobody listens."""

    def __init__(self) -> None:
        self._waiters: dict[_Waiter, None] = {}  # in the order in which they came
        self._lock = threading.RLock()  # the garbage collector may end a loop that waits, on the thread that rings

    def ring(self, models: Collection[str] | None = None, most: int | None = None) -> None:
        """Wake those who wait for one of these models, or for any; `most` of them, or all.

        Who was woken and does not go keeps the place; a ring that comes while one looks is not lost.
        """
        if not self._waiters:
            return
        wanted = None if models is None or ANY_MODEL in models else frozenset(models)
        chosen: list[_Waiter] = []
        with self._lock:
            for waiter in self._waiters:
                if most is not None and len(chosen) >= most:
                    break
                if not waiter.is_rung and (wanted is None or not wanted.isdisjoint(waiter.models)):
                    waiter.is_rung = True
                    chosen.append(waiter)
        for waiter in chosen:
            waiter.wake()

    @property
    def is_heard(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiters)

    @contextmanager
    def _heard_by(self, waiter: _Waiter) -> Iterator[None]:
        with self._lock:
            self._waiters[waiter] = None
        try:
            yield
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)
            if waiter.is_rung:  # once more, while it was leaving
                self.ring(waiter.models, 1)

    @contextmanager
    def in_thread(self, models: Collection[str]) -> Iterator[Callable[[float], None]]:
        """Gives a function that waits for the next ring since its last call, at most so many seconds."""
        alarm = Alarm()
        waiter = _Waiter(models, alarm.ring)

        def wait(seconds: float) -> None:
            alarm.wait(seconds)
            waiter.is_rung = False  # before it looks

        with self._heard_by(waiter):
            yield wait

    @contextmanager
    def in_loop(self, models: Collection[str]) -> Iterator[Callable[[float], Awaitable[None]]]:
        """The same for asyncio: what it gives is to be awaited."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(rung.set)

        waiter = _Waiter(models, wake)

        async def wait(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), seconds)
            rung.clear()
            waiter.is_rung = False  # before it looks

        with self._heard_by(waiter):
            yield wait
