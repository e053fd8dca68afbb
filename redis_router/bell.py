"""Rings when a provider may be back: for requests that wait, in threads and in asyncio alike."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress


class Bell:
    """Rung by the background threads; costs nothing while nobody listens."""

    def __init__(self) -> None:
        self._listeners: set[Callable[[], None]] = set()
        self._lock = threading.RLock()  # the garbage collector may end a loop that waits, on the thread that rings

    def ring(self) -> None:
        """Wake everybody who listens."""
        if self._listeners:
            with self._lock:
                listeners = list(self._listeners)
            for wake in listeners:
                wake()

    @contextmanager
    def _heard_by(self, wake: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._listeners.add(wake)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.discard(wake)

    @contextmanager
    def in_thread(self) -> Iterator[Callable[[float], None]]:
        """Gives a function that waits for the next ring since its last call, at most so many seconds."""
        rung = threading.Event()

        def wait(seconds: float) -> None:
            rung.wait(seconds)
            rung.clear()

        with self._heard_by(rung.set):
            yield wait

    @contextmanager
    def in_loop(self) -> Iterator[Callable[[float], Awaitable[None]]]:
        """The same for asyncio: what it gives is to be awaited."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(rung.set)

        async def wait(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), seconds)
            rung.clear()

        with self._heard_by(wake):
            yield wait
