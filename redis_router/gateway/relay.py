"""One request: in through the checks, out through the failover transport, and its answer back."""

import asyncio
import re
import time
from typing import Any

import httpx

from redis_router.gateway.errors import Refusal, error_body, error_event
from redis_router.gateway.exchange import CLIENT_CLOSED, Exchange, Header, HungUp, Send, while_there
from redis_router.gateway.metrics import Metrics
from redis_router.gateway.question import (
    REQUEST_ID,
    Receive,
    Scope,
    forwarded,
    headers_of,
    question_of,
    read_body,
    request_id_of,
    times_of,
)
from redis_router.gateway.service import Service
from redis_router.gateway.settings import ANTHROPIC
from redis_router.integrations.httpx.answering import ANSWER
from redis_router.integrations.httpx.exchange import OPTIONS
from redis_router.integrations.httpx.question import SAID
from redis_router.runtime.log import log

_RETURNED = frozenset(
    (
        b"content-encoding", b"content-length", b"content-type", b"openai-model", b"openai-processing-ms",
        b"openai-version", b"retry-after", b"retry-after-ms", b"x-redis-router-attempts", b"x-redis-router-provider",
        b"x-should-retry",
    )
)  # fmt: skip
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""A header with one of them cannot be passed on."""
_RETURNED_FAMILIES = (b"x-ratelimit-", b"anthropic-ratelimit-")
_THEIR_IDS = (b"x-request-id", b"request-id")
UPSTREAM_ID = b"x-upstream-request-id"


class Relay:
    """An endpoint in ASGI. `path` is that of the API, which all its providers have."""

    def __init__(self, service: Service, metrics: Metrics, path: str, api: str) -> None:
        self._service = service
        self._metrics = metrics
        self._path = path
        self._url = httpx.URL(f"http://gateway{path}")
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        exchange = Exchange(scope, send, request_id_of(headers), self._service)
        self._metrics.begun()
        try:
            with self._service.in_trace_of(headers):
                await self._answer(scope, headers, receive, exchange)
        except Refusal as refusal:
            await exchange.say(refusal.status, refusal.body(self._api), closes=refusal.closes)
        except HungUp:
            if not exchange.is_whole:
                exchange.status = CLIENT_CLOSED
                exchange.cut_off()
        except (_BrokeOff, asyncio.CancelledError):  # the latter where the server ends, and waits no longer
            exchange.cut_off()
        except Exception as error:
            await self._failed(exchange, error)
        finally:
            self._tell(exchange)

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, exchange: Exchange) -> None:
        settings, transport = self._service.settings, self._service.transport
        exchange.key = self._service.who(headers)
        body = await read_body(headers, receive, settings.max_body)
        said = question_of(body, self._api, settings)
        query = scope["query_string"]
        request = httpx.Request(
            "POST",
            self._url.copy_with(query=query) if query else self._url,
            headers=[*forwarded(headers, self._api, settings), (REQUEST_ID, exchange.id)],
            content=body,
            extensions={OPTIONS: times_of(headers, settings), SAID: said},
        )
        await while_there(receive, self._pass(transport, request, exchange))

    async def _pass(self, transport: Any, request: httpx.Request, exchange: Exchange) -> None:
        response = await transport.handle_async_request(request)
        answer = response.extensions.get(ANSWER)
        is_events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        headers = self._returned(response.headers.raw, exchange.id)
        if is_events or response.status_code == 204:  # an error event may follow, and without a body there is no length
            headers = [header for header in headers if header[0] != b"content-length"]
        try:
            await exchange.begin(response.status_code, headers)
            try:
                async for part in response.stream:
                    await exchange.part(part)
            except httpx.TransportError as error:
                if not is_events:
                    raise _BrokeOff from error
                await self._end_early(exchange, f"the provider's answer broke off: {type(error).__name__}")
            else:
                if answer is not None and answer.is_cut_short:
                    await self._end_early(exchange, "the provider's answer ended before its end")
            await exchange.end()
        finally:
            exchange.is_whole |= answer is not None and answer.has_ended
            await response.stream.aclose()

    async def _end_early(self, exchange: Exchange, text: str) -> None:
        await exchange.part(error_event(self._api, "stream_broke_off", text))

    def _returned(self, headers: list[Header], request_id: bytes) -> list[Header]:
        """Of a provider's headers, those that its client gets."""
        kept: list[Header] = [(b"request-id", request_id)] if self._api == ANTHROPIC else []
        for name, value in headers:
            name = name.lower()
            if _CONTROLS.search(value):
                continue
            if name in _RETURNED or name.startswith(_RETURNED_FAMILIES):
                kept.append((name, value))
            elif name in _THEIR_IDS:
                kept.append((UPSTREAM_ID, value))
        return kept

    async def _failed(self, exchange: Exchange, error: Exception) -> None:
        log.exception("%s: the gateway itself failed", exchange.id.decode())
        if exchange.status:
            exchange.cut_off()
            return
        text = f"the gateway failed: {type(error).__name__}"
        await exchange.say(500, error_body(self._api, 500, "gateway_failed", text))

    def _tell(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        self._metrics.ended(self._path, exchange.status, exchange.key, seconds)
        log.info(
            "%s %s %d %.0f ms key=%s provider=%s attempts=%s",
            exchange.id.decode(), self._path, exchange.status, seconds * 1000,
            exchange.key, exchange.provider, exchange.attempts,
        )  # fmt: skip


class _BrokeOff(Exception):
    """An answer with a length, without its end: only a cut connection says so."""
