"""What goes back to one client, for as long as it is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from redis_router.gateway.question import REQUEST_ID, Receive, Scope
from redis_router.gateway.service import Service

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

CUT_OFF = "redis_router.cut_off"
"""In the extensions of a scope: ends the connection at once, so that half an answer is not taken for a whole one."""
CLIENT_CLOSED = 499
"""nginx's word, in the log and the metrics alone: nobody is there to be told."""


class HungUp(Exception):
    """The client has gone, or takes nothing any more, so that its connection was cut off."""


class Exchange:
    """One answer.

    status    that was sent; 0 before
    is_whole  its end was sent: for a stream, the one that its events have
    key       the name of the client's key
    provider, attempts  who answered, and how many were asked
    """

    def __init__(self, scope: Scope, send: Send, request_id: bytes, service: Service) -> None:
        self._send = send
        self._cut_off = scope.get("extensions", {}).get(CUT_OFF)
        self._service = service
        self.id = request_id
        self.began = time.perf_counter()
        self.status = 0
        self.is_whole = False
        self.key = self.provider = self.attempts = "-"

    async def begin(self, status: int, headers: list[Header], *, closes: bool = False) -> None:
        """Status and headers."""
        for name, value in headers:
            if name == b"x-redis-router-provider":
                self.provider = value.decode("latin-1")
            elif name == b"x-redis-router-attempts":
                self.attempts = value.decode("latin-1")
        headers.append((REQUEST_ID, self.id))
        if closes or self._service.is_draining:
            headers.append((b"connection", b"close"))
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, body: bytes) -> None:
        """Some bytes of the answer."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """There are no more."""
        await self._send({"type": "http.response.body", "body": b""})
        self.is_whole = True

    async def say(self, status: int, body: bytes, *, closes: bool = False) -> None:
        """An answer of our own."""
        length = str(len(body)).encode()
        await self.begin(status, [(b"content-type", b"application/json"), (b"content-length", length)], closes=closes)
        await self._send({"type": "http.response.body", "body": body})

    def cut_off(self) -> None:
        """End the connection in the middle of the answer."""
        if self._cut_off is not None:
            self._cut_off()


async def while_there(receive: Receive, answering: Awaitable[None]) -> None:
    """Answer, until the client hangs up: then this raises HungUp, and the call to the provider ends, too."""
    task = asyncio.current_task()
    assert task is not None
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        has_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        await answering
    except asyncio.CancelledError:
        if not has_gone:
            raise
        task.uncancel()
        raise HungUp from None
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
