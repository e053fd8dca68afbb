"""The connections to the providers: aiohttp, beneath the interface of httpx. It takes a third of httpx's own time."""

from collections.abc import AsyncIterator
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
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=bool(getproxies()),  # it looks into the environment for each request, and into ~/.netrc
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's errors alone."""
        try:
            response = await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(response.stream)
        return response


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
