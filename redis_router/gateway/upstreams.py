"""The connections to the providers: aiohttp, beneath the interface of httpx. It takes a third of httpx's own time."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from redis_router import Verdict, classify

_IDLE_SECONDS = 60.0


class Upstreams(AiohttpTransport):
    """As many connections as there are calls: how many a provider takes is what the router learns."""

    def get_client(self) -> aiohttp.ClientSession:
        """The session, made in the event loop that uses it."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, ssl=self.ssl_context)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
            response_class=_Response,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=bool(getproxies()),  # it looks into the environment for each request, and into ~/.netrc
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's errors alone."""
        try:
            response = await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            # aiohttp's words have the URL, and what came: a client has no business with either
            raise httpx.RemoteProtocolError(f"its answer is no HTTP ({type(error).__name__})") from error
        assert isinstance(response.stream, httpx.AsyncByteStream)
        if not 200 <= response.status_code <= 599:
            await response.stream.aclose()
            raise httpx.RemoteProtocolError(f"the provider answers with status {response.status_code}")
        response.stream = _Stream(response.stream)
        return response


class _Response(aiohttp.ClientResponse):
    """Its reason phrase is dropped: it may be in any encoding, and nobody reads it."""

    async def start(self, connection: Any) -> "_Response":
        await super().start(connection)
        self.reason = None
        return self


class _Stream(httpx.AsyncByteStream):
    """The bytes of an answer; whatever aiohttp raises is httpx's, too."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except aiohttp.ClientError as error:
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def by_cause(said: object) -> Verdict | None:
    """For `Router(classify=…)`: aiohttp knows that a server hung up, which the layer between calls a time-out."""
    cause = said.__cause__ if isinstance(said, httpx.TransportError) else None
    if isinstance(cause, aiohttp.ClientConnectionError) and not isinstance(cause, TimeoutError):
        return classify(cause)
    return None
