"""How a request waits for a provider that comes back: in threads and in asyncio alike."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from redis_router.request.context import Context
from redis_router.request.tried import Tried

MAX_WAIT = 60.0
"""Seconds that a request waits for a provider where it has no deadline."""
LEAST_PAUSE = 1.0
"""Seconds until a provider is asked again that is rate limited, whatever it said."""
LOOK_UP = 1.0
"""Seconds after which a request that waits looks up, also where nobody woke it."""

WaitT = TypeVar("WaitT", bound=Callable[[float], Awaitable[None] | None])


@dataclass(slots=True)
class Place(Generic[WaitT]):
    """Of a request among those that wait: `wait` sleeps until it is woken, or for so many seconds at most."""

    wait: WaitT
    found: bool = False


class Waiting:
    """For one request, until a moment of the monotonic clock; 0 where it does not wait."""

    def __init__(self, context: Context, models: Sequence[str], until: float) -> None:
        self._context = context
        self._models = models
        self.until = until

    @property
    def is_over(self) -> bool:
        """Is there no time left for it?"""
        return self._context.now() >= self.until

    def is_worth_it(self, tried: Tried) -> bool:
        """Is there time, and a provider that may be asked again?"""
        return not (self._context.engine.closed or self.is_over) and any(
            tried.may_be_asked_again(model, record)
            for model in self._models
            for record in self._context.chooser.serving(model)
        )

    def pause(self, tried: Tried) -> float:
        """Seconds until the next look."""
        now = self._context.now()
        return max(0.001, min(self.until, now + LOOK_UP, tried.next_moment()) - now)

    @contextmanager
    def in_thread(self) -> Iterator[Place[Callable[[float], None]]]:
        """A place among those that wait."""
        with self._context.engine.waiters.in_thread(self._models) as wait, self._passing_on(Place(wait)) as place:
            yield place

    @contextmanager
    def in_loop(self) -> Iterator[Place[Callable[[float], Awaitable[None]]]]:
        """The same for asyncio: what `wait` returns is to be awaited."""
        with self._context.engine.waiters.in_loop(self._models) as wait, self._passing_on(Place(wait)) as place:
            yield place

    @contextmanager
    def _passing_on(self, place: Place[WaitT]) -> Iterator[Place[WaitT]]:
        """Who was woken for a call and leaves without it leaves it to the next one."""
        try:
            yield place
        finally:
            if not place.found:
                self._context.engine.waiters.ring(self._models, 1)


def in_event_loop() -> bool:
    """Does an event loop run in this thread?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
