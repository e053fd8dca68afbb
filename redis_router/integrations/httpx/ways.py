"""How a request waits: in a thread, or in asyncio. Everything else is written once, as coroutines.

The thread's coroutines wait inside an ordinary call, never at an `await`, so that `run` gets through in one step.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
LEAST = 0.001
"""Seconds: an attempt that has no more time left says this."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits at an `await`."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise RuntimeError("a transport for threads was given an inner one for asyncio")


class Threads:
    """In a thread. Here the inner transport's own time-outs bound a wait, which begin anew with each byte."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def each(self, attempts: Any) -> Any:
        return iter(attempts)

    async def next(self, attempts: Any) -> Any:
        """The next attempt; None at the end."""
        return next(attempts, None)

    async def leave(self, attempts: Any) -> None:
        attempts.close()

    async def send(self, transport: Any, request: Any, seconds: float | None) -> Any:
        return transport.handle_request(request)

    def parts(self, response: Any) -> Any:
        return iter(response.stream)

    async def read(self, parts: Any, seconds: float | None) -> bytes | None:
        """The next bytes; None at the end. Raises the library's ReadTimeout where no time is left."""
        if seconds is not None and seconds <= LEAST:
            raise too_late(self.library)
        part: bytes | None = next(parts, None)
        return part

    async def close(self, response: Any, parts: Any) -> None:
        response.stream.close()

    def silence(self, usual: float | None, left: float | None) -> float | None:
        """Seconds that a body may be silent for, of what the client allows and what is left of the attempt."""
        return shorter(usual, left)


class Asyncio(Threads):
    """In asyncio: `asyncio.timeout` bounds each wait."""

    def each(self, attempts: Any) -> Any:
        return aiter(attempts)

    async def next(self, attempts: Any) -> Any:
        return await anext(attempts, None)

    async def leave(self, attempts: Any) -> None:
        await attempts.aclose()

    async def send(self, transport: Any, request: Any, seconds: float | None) -> Any:
        if seconds is None:
            return await transport.handle_async_request(request)
        return await self._within(seconds, transport.handle_async_request(request))

    def parts(self, response: Any) -> Any:
        return aiter(response.stream)

    async def read(self, parts: Any, seconds: float | None) -> bytes | None:
        part: bytes | None
        if seconds is None:
            part = await anext(parts, None)
        else:
            part = await self._within(seconds, anext(parts, None))
        return part

    async def close(self, response: Any, parts: Any) -> None:
        await response.stream.aclose()

    def silence(self, usual: float | None, left: float | None) -> float | None:
        return usual

    async def _within(self, seconds: float, waiting: Any) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await waiting
        except TimeoutError:
            if limit.expired():
                raise too_late(self.library) from None
            raise


def too_late(library: Any) -> Exception:
    """What the library raises for a time-out of its own."""
    error: Exception = library.ReadTimeout("the time that this attempt had is over")
    return error


def shorter(*seconds: float | None) -> float | None:
    """Of several limits; None is no limit."""
    return min((each for each in seconds if each is not None), default=None)
