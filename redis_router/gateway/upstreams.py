"""The connections to the providers: aiohttp, beneath the interface of httpx. It takes a third of httpx's own time."""

from collections.abc import AsyncIterator
from functools import lru_cache
from urllib.request import getproxies

import aiohttp
import httpx
from yarl import URL

_IDLE_SECONDS = 60.0


class Upstreams(httpx.AsyncBaseTransport):
    """As many connections as there are calls: how many a provider takes is what the router learns.

    Of a request's time-outs only that for connecting is used: the router bounds every other wait.
    """

    def __init__(self) -> None:
        self._ssl = httpx.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    def _made(self) -> aiohttp.ClientSession:
        """In the event loop that uses it."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS, ssl=self._ssl)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=bool(getproxies()),  # it looks into the environment for each request, and into ~/.netrc
            auto_decompress=False,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx's errors alone. The request has its whole body."""
        if self._session is None:
            self._session = self._made()
        try:
            response = await self._session.request(
                request.method,
                _parsed(str(request.url)),
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                data=request.content or None,
                allow_redirects=False,
                timeout=_time_out(request.extensions.get("timeout", {}).get("connect")),
            )
        except aiohttp.ClientError as error:
            raise _as_httpx(error) from error
        if not 200 <= response.status <= 599:
            response.close()
            raise httpx.RemoteProtocolError(f"the provider answers with status {response.status}")
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Stream(response))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


@lru_cache(maxsize=256)
def _parsed(url: str) -> URL:
    return URL(url, encoded=True)


def _time_out(connect: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect)


class _Stream(httpx.AsyncByteStream):
    """The bytes of an answer, as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            while part := await content.readany():
                yield part
        except aiohttp.ClientError as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        self._response.release()  # where there is more to come, the connection ends


def _as_httpx(error: aiohttp.ClientError) -> httpx.TransportError:
    kind: type[httpx.TransportError] = httpx.RemoteProtocolError
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        kind = httpx.ConnectTimeout
    elif isinstance(error, aiohttp.ServerTimeoutError):
        kind = httpx.ReadTimeout
    elif isinstance(error, aiohttp.ClientConnectorError):
        kind = httpx.ConnectError
    elif isinstance(error, (aiohttp.ClientOSError, aiohttp.ClientPayloadError)):
        kind = httpx.ReadError
    elif isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        kind = httpx.UnsupportedProtocol
    if isinstance(error, aiohttp.ClientResponseError):  # its words have what came in place of HTTP, and the URL
        return kind(f"its answer is no HTTP ({type(error).__name__})")
    return kind(str(error) or type(error).__name__)
