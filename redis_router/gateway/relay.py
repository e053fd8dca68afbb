"""One request: in through the checks, out through the failover transport, and its answer back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import httpx

from redis_router.gateway.errors import Refusal, error_body, error_event
from redis_router.gateway.metrics import Metrics
from redis_router.gateway.question import (
    REQUEST_ID,
    Receive,
    Scope,
    forwarded,
    headers_of,
    presented_key,
    question_of,
    read_body,
    request_id_of,
    times_of,
)
from redis_router.gateway.service import Service
from redis_router.runtime.log import log

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

TAKE_SECONDS = 60.0
"""For a client to take what was sent: one that takes nothing for so long has gone."""
_RETURNED = frozenset(
    (
        b"content-encoding", b"content-length", b"content-type", b"openai-model", b"openai-processing-ms",
        b"openai-version", b"retry-after", b"retry-after-ms", b"x-redis-router-attempts", b"x-redis-router-provider",
        b"x-should-retry",
    )
)  # fmt: skip
_RETURNED_FAMILIES = (b"x-ratelimit-", b"anthropic-ratelimit-")
_THEIR_IDS = (b"x-request-id", b"request-id")
UPSTREAM_ID = b"x-upstream-request-id"
_CLIENT_CLOSED = 499
"""nginx's word, in the log alone: nobody is there to be told."""


class Relay:
    """An endpoint in ASGI. `path` is that of the API, which all its providers have."""

    def __init__(self, service: Service, metrics: Metrics, path: str, api: str) -> None:
        self._service = service
        self._metrics = metrics
        self._path = path
        self._url = httpx.URL(f"http://gateway{path}")
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(send, request_id_of(headers := headers_of(scope)))
        self._metrics.begun()
        try:
            await self._answer(scope, headers, receive, exchange)
        except Refusal as refusal:
            await exchange.say(refusal.status, refusal.body(self._api), closes=refusal.closes)
        except Exception as error:
            log.exception("%s: the gateway itself failed", exchange.id.decode())
            if exchange.status:
                raise  # the connection is cut off, so that half an answer is not taken for a whole one
            text = f"the gateway failed: {type(error).__name__}"
            await exchange.say(500, error_body(self._api, 500, "gateway_failed", text))
        finally:
            seconds = time.perf_counter() - exchange.began
            self._metrics.ended(self._path, exchange.status, seconds)
            log.info(
                "%s %s %d %.0f ms key=%s provider=%s attempts=%s",
                exchange.id.decode(), self._path, exchange.status, seconds * 1000,
                exchange.key, exchange.provider or "-", exchange.attempts or "-",
            )  # fmt: skip

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: "Exchange") -> None:
        service = self._service
        settings = service.settings
        exchange.leaves = service.is_draining
        exchange.key = self._who(headers)
        body = await read_body(headers, receive, settings.max_body)
        question_of(body, self._api, settings)
        request = httpx.Request(
            "POST",
            self._url.copy_with(query=scope["query_string"]) if scope["query_string"] else self._url,
            headers=[*forwarded(headers, self._api, settings), (REQUEST_ID, exchange.id)],
            content=body,
            extensions={"redis_router": times_of(headers, settings)},
        )
        await _while_there(receive, exchange, self._pass(service.transport, request, exchange))

    def _who(self, headers: dict[bytes, bytes]) -> str:
        """The name of the key. Raises Refusal."""
        keys = self._service.keys
        if keys is None:
            return "-"
        shown = presented_key(headers)
        name = None if shown is None else keys.named(shown)
        if name is None:
            text = "no key" if shown is None else "this key is not known"
            raise Refusal(
                401, "invalid_api_key", f"{text}: send `Authorization: Bearer` and a key of this gateway", closes=True
            )
        return name

    async def _pass(self, transport: Any, request: httpx.Request, exchange: "Exchange") -> None:
        response = await transport.handle_async_request(request)
        try:
            await exchange.begin(response.status_code, _returned(response.headers.raw))
            is_events = response.headers.get("content-type", "").startswith("text/event-stream")
            try:
                async for part in response.stream:
                    await exchange.part(part)
            except httpx.TransportError as error:
                if not is_events:
                    raise _BrokeOff from error
                text = f"the provider's answer broke off: {type(error).__name__}"
                await exchange.part(error_event(self._api, "stream_broke_off", text))
            await exchange.end()
        finally:
            await response.stream.aclose()


class _BrokeOff(Exception):
    """An answer with a length, without its end: only a cut connection says so."""


class Exchange:
    """What goes back to one client, and what is told of it."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self.id = request_id
        self.began = time.perf_counter()
        self.status = 0
        self.key = self.provider = self.attempts = ""
        self.leaves = False

    async def begin(self, status: int, headers: list[Header]) -> None:
        """Status and headers."""
        for name, value in headers:
            if name == b"x-redis-router-provider":
                self.provider = value.decode("latin-1")
            elif name == b"x-redis-router-attempts":
                self.attempts = value.decode("latin-1")
        headers.append((REQUEST_ID, self.id))
        if self.leaves:
            headers.append((b"connection", b"close"))
        self.status = status
        await self._take({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, body: bytes) -> None:
        """Some bytes of the answer."""
        await self._take({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """There are no more."""
        await self._take({"type": "http.response.body", "body": b""})

    async def say(self, status: int, body: bytes, *, closes: bool = False) -> None:
        """An answer of our own."""
        self.leaves = self.leaves or closes
        length = str(len(body)).encode()
        await self.begin(status, [(b"content-type", b"application/json"), (b"content-length", length)])
        await self._take({"type": "http.response.body", "body": body})

    async def _take(self, message: MutableMapping[str, Any]) -> None:
        async with asyncio.timeout(TAKE_SECONDS):
            await self._send(message)


def _returned(headers: list[Header]) -> list[Header]:
    """Of a provider's headers, those that its client gets."""
    kept: list[Header] = []
    for name, value in headers:
        name = name.lower()
        if name in _RETURNED or name.startswith(_RETURNED_FAMILIES):
            kept.append((name, value))
        elif name in _THEIR_IDS:
            kept.append((UPSTREAM_ID, value))
    return kept


async def _while_there(receive: Receive, exchange: Exchange, answering: Any) -> None:
    """Answer, until the client hangs up: then the call to the provider ends, too, and says nothing about it."""
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
        exchange.status = _CLIENT_CLOSED
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
